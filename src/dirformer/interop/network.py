"""A stage-2 network as ONNX nodes: `networks/` once more, in the words of `nodes.py`.

PyTorch's own exporter takes a minute for a compact network and several for a released one; this takes less
than a second. That both definitions agree is proved anew for every file that is written (`export.py`).
"""

from __future__ import annotations

from torch import Tensor, nn

from dirformer.interop.nodes import Nodes
from dirformer.networks.config import LEVELS
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.dirformer import NORM_EPS, Attention, Block, DIRformer, FeedForward, ModulatedNorm
from dirformer.networks.prior import CPEN, SLOPE, Denoiser


def network(g: Nodes, model: DiffIRS2, lq: str, noise: str | None) -> str:
    """Add `model(lq, noise)` and return the restored map."""
    condition = _cpen(g, model.cpen, lq, model.config.in_channels)
    return _dirformer(g, model.dirformer, lq, _estimate(g, model, condition, noise))


# The vector side --------------------------------------------------------------------------------------


def _cpen(g: Nodes, cpen: CPEN, lq: str, channels: int) -> str:
    x = g.unshuffle(lq, channels, cpen.lq_factor)
    x = g.leaky(g.conv("cpen.embed", cpen.embed, x), SLOPE)
    for i, block in enumerate(cpen.blocks):
        name = f"cpen.blocks.{i}"
        first, second = (block.get_submodule(part) for part in ("first", "second"))
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        inner = g.leaky(g.conv(f"{name}.first", first, x), SLOPE)
        x = g("Add", x, g.conv(f"{name}.second", second, inner))
    for i, widen in enumerate(cpen.widen):
        assert isinstance(widen, nn.Conv2d)
        x = g.leaky(g.conv(f"cpen.widen.{i}", widen, x), SLOPE)
    pooled = g("ReduceMean", x, g.integers(2, 3), keepdims=0)
    if cpen.constant:
        pooled = g("Mul", pooled, g.number(0.0))
    for i, linear in enumerate(cpen.mlp):
        assert isinstance(linear, nn.Linear)
        pooled = g.leaky(g.linear(f"cpen.mlp.{i}", linear, pooled), SLOPE)
    return pooled


def _estimate(g: Nodes, model: DiffIRS2, condition: str, noise: str | None) -> str:
    """Add the reverse chain from `noise`, `n 1 p`."""
    if model.denoiser is None:
        return condition
    assert noise is not None
    count = model.noise_shape[0]
    draws = [noise] if count == 1 else g.split(noise, count, axis=0)
    draws = [g("Squeeze", draw, g.integers(0)) for draw in draws]
    diffusion, z = model.diffusion, draws[0]
    for step in range(model.config.timesteps):
        index = model.config.timesteps - 1 - step
        prediction = _denoise(g, model.denoiser, condition, diffusion.times[index], z)
        if diffusion.target == "epsilon":
            scaled = g("Mul", prediction, g.number(float(diffusion.noise[index])))
            prediction = g("Div", g("Sub", z, scaled), g.number(float(diffusion.signal[index])))
        towards = g("Mul", prediction, g.number(float(diffusion.posterior_x0[index])))
        z = g("Add", towards, g("Mul", z, g.number(float(diffusion.posterior_z[index]))))
        if model.config.reverse_noise and index > 0:
            deviation = g.number(float(diffusion.posterior_deviation[index]))
            z = g("Add", z, g("Mul", draws[step + 1], deviation))
    return z


def _denoise(g: Nodes, denoiser: Denoiser, condition: str, time: Tensor, z: str) -> str:
    moment = g.weight(f"time_{float(time)!r}", time.reshape(1, 1))
    ends = (z, condition) if denoiser.noise_first else (condition, z)
    x = g("Concat", ends[0], moment, ends[1], axis=1)
    for i, linear in enumerate(denoiser.layers):
        assert isinstance(linear, nn.Linear)
        x = g.linear(f"denoiser.layers.{i}", linear, x)
        if not (denoiser.linear_end and linear is denoiser.layers[-1]):
            x = g.leaky(x, SLOPE)
    return x


# The photo side ---------------------------------------------------------------------------------------


def _dirformer(g: Nodes, net: DIRformer, lq: str, prior: str) -> str:
    config, widths = net.config, net.config.widths
    x = g.conv("dirformer.embed", net.embed, g.unshuffle(lq, config.in_channels, config.unshuffle))
    skips = []
    for i in range(LEVELS - 1):
        x = _level(g, f"dirformer.encoder.{i}", net.encoder[i], x, prior)
        skips.append(x)
        x = g.unshuffle(_conv(g, f"dirformer.down.{i}", net.down[i], x), widths[i] // 2, 2)
    x = _level(g, f"dirformer.encoder.{LEVELS - 1}", net.encoder[-1], x, prior)
    for i in reversed(range(LEVELS - 1)):
        up = g.shuffle(_conv(g, f"dirformer.up.{i}", net.up[i], x), 2)
        x = g("Concat", up, skips.pop(), axis=1)
        if i > 0:
            x = _conv(g, f"dirformer.reduce.{i - 1}", net.reduce[i - 1], x)
        x = _level(g, f"dirformer.decoder.{i}", net.decoder[i], x, prior)
    x = _level(g, "dirformer.refinement", net.refinement, x, prior)
    return _skip(g, net, lq, _tail(g, net.tail, x))


def _conv(g: Nodes, name: str, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, nn.Conv2d)
    return g.conv(name, layer, x)


def _level(g: Nodes, name: str, level: nn.Module, x: str, prior: str) -> str:
    for i, block in enumerate(level.children()):
        assert isinstance(block, Block)
        x = g("Add", x, _attention(g, f"{name}.{i}.attention", block.attention, x, prior))
        x = g("Add", x, _feed_forward(g, f"{name}.{i}.feed_forward", block.feed_forward, x, prior))
    return x


def _norm(g: Nodes, name: str, norm: ModulatedNorm, x: str, prior: str) -> str:
    """Add layer norm over channels with scale and shift from the prior, both vectors of c numbers."""
    both = g("Squeeze", g.linear(f"{name}.modulation", norm.modulation, prior), g.integers(0))
    first, shift = g.split(both, 2, axis=0)
    scale = g("Mul", first, g.weight(f"{name}.weight", norm.weight))
    if norm.bias is not None:
        shift = g("Add", shift, g("Mul", first, g.weight(f"{name}.bias", norm.bias)))
    centred = g("Sub", x, g("ReduceMean", x, g.integers(1)))
    variance = g("ReduceMean", g("Mul", centred, centred), g.integers(1))
    deviation = g("Sqrt", g("Add", variance, g.number(NORM_EPS)))
    normed = g("Div", x if norm.bias is None else centred, deviation)
    scale, shift = (g("Reshape", v, g.integers(1, -1, 1, 1)) for v in (scale, shift))
    return g("Add", g("Mul", normed, scale), shift)


def _attention(g: Nodes, name: str, attention: Attention, x: str, prior: str) -> str:
    heads, width = attention.heads, attention.project.out_channels
    normed = _norm(g, f"{name}.norm", attention.norm, x, prior)
    qkv = g.conv(f"{name}.qkv", attention.qkv, normed)
    qkv = g.conv(f"{name}.qkv_depthwise", attention.qkv_depthwise, qkv)
    rows = g("Reshape", qkv, g.integers(3, heads, width // heads, -1))
    q, k, v = g.split(rows, 3, axis=0)
    logits = g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2]))
    if attention.qk_norm:
        q_length, k_length = (_length(g, side) for side in (q, k))
        lengths = g("MatMul", q_length, g("Transpose", k_length, perm=[0, 1, 3, 2]))
        logits = g("Div", logits, lengths)
    temperature = g.weight(f"{name}.temperature", attention.temperature)
    logits = g("Div" if attention.divide else "Mul", logits, temperature)
    weights = g("Softmax", logits, axis=-1 if attention.key_axis else -2)  # 1 heads d d
    project = attention.project.weight.detach().view(width, heads, -1).transpose(0, 1)
    mixing = g("MatMul", g.weight(f"{name}.project.weight", project), weights)  # 1 heads c d
    mixing = g("Reshape", g("Transpose", mixing, perm=[0, 2, 1, 3]), g.integers(width, width))
    out = g("MatMul", mixing, g("Reshape", v, g.integers(width, -1)))
    if attention.project.bias is not None:
        out = g("Add", out, g.weight(f"{name}.project.bias", attention.project.bias[:, None]))
    return g("Reshape", out, g("Shape", x))


def _length(g: Nodes, rows: str) -> str:
    squared = g("ReduceSumSquare", rows, g.integers(3))
    return g("Sqrt", g("Max", squared, g.number(1e-24)))


def _feed_forward(g: Nodes, name: str, layer: FeedForward, x: str, prior: str) -> str:
    normed = _norm(g, f"{name}.norm", layer.norm, x, prior)
    wide = g.conv(f"{name}.depthwise", layer.depthwise, g.conv(f"{name}.expand", layer.expand, normed))
    gate, value = g.split(wide, 2, axis=1)
    return g.conv(f"{name}.project", layer.project, g("Mul", g("Gelu", gate), value))


def _tail(g: Nodes, tail: nn.Sequential, x: str) -> str:
    for i, layer in enumerate(tail):
        if isinstance(layer, nn.Conv2d):
            x = g.conv(f"dirformer.tail.{i}", layer, x)
        elif isinstance(layer, nn.PixelShuffle):
            x = g.shuffle(x, layer.upscale_factor)
        elif isinstance(layer, nn.LeakyReLU):
            x = g.leaky(x, layer.negative_slope)
        else:
            assert isinstance(layer, nn.Upsample)
            x = g.enlarge(x, 2, "nearest")
    return x


def _skip(g: Nodes, net: DIRformer, lq: str, out: str) -> str:
    config = net.config
    if config.skip == "none":
        return out
    rgb = lq
    if config.in_channels > 3:
        rgb = g("Slice", lq, g.integers(0), g.integers(3), g.integers(1))
    return g("Add", out, g.enlarge(rgb, config.scale, "nearest" if config.skip == "nearest" else "cubic"))
