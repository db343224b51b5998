"""What the parts of a network cost: parameters, multiplications and values written, counted as it is drawn.

For one photo of any size: a convolution at stride 1 multiplies its weights once per pixel, a linear layer
once per photo, an attention c·(c/heads) numbers per pixel for Q·Kᵀ and as many for the product with V.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from torch import nn

from dirformer.networks.config import LEVELS
from dirformer.networks.diffir import DiffIR, DiffIRS2
from dirformer.networks.dirformer import Attention, Block, DIRformer
from dirformer.networks.prior import CPEN, Denoiser


@dataclass(frozen=True)
class Part:
    """Cost of one part of a network for one photo. Mult-Adds and values are plain counts."""

    name: str
    parameters: int = 0
    convolutions: int = 0
    linear: int = 0
    matmul: int = 0
    elementwise: int = 0

    @property
    def mult_adds(self) -> int:
        """Convolutions + linear layers + matrix products."""
        return self.convolutions + self.linear + self.matmul

    def __add__(self, other: Part) -> Part:
        counts = {k: v + getattr(other, k) for k, v in asdict(self).items() if k != "name"}
        return Part(self.name, **counts)


def count_parts(model: DiffIR, height: int, width: int) -> list[Part]:
    """Count a network of either stage at an LQ size, padded up to the multiple the network needs.

    Returns:
        CPEN, in stage 2 the denoiser (one step), and the DIRformer level by level.
    """
    height, width = (-(-n // model.config.multiple) * model.config.multiple for n in (height, width))
    parts = [count_cpen(model.cpen, height * width)]
    if isinstance(model, DiffIRS2) and model.denoiser is not None:
        parts.append(_denoiser(model.denoiser))
    return parts + count_dirformer(model.dirformer, height, width)


def count_dirformer(dirformer: DIRformer, height: int, width: int) -> list[Part]:
    """Count a DIRformer level by level; both sides must suit the network."""
    config = dirformer.config
    full = height * width // config.unshuffle**2
    pixels = [full // 4**i for i in range(LEVELS)]
    encoder = [
        _level(f"encoder level {i + 1}", level, pixels[i]) for i, level in enumerate(dirformer.encoder)
    ]
    decoder = [
        _level(f"decoder level {i + 1}", level, pixels[i]) for i, level in enumerate(dirformer.decoder)
    ]
    # Convolutions between levels are booked at the level they lead to.
    encoder[0] += _convolution(dirformer.embed, pixels[0])
    for i, down in enumerate(dirformer.down):
        encoder[i + 1] += _convolution(down, pixels[i])
    for i, up in enumerate(dirformer.up):
        decoder[i] += _convolution(up, pixels[i + 1])
    for i, reduce in enumerate(dirformer.reduce, start=1):
        decoder[i] += _convolution(reduce, pixels[i])
    refinement = _level("refinement", dirformer.refinement, pixels[0])
    return [*encoder, *reversed(decoder), refinement, _tail(dirformer, full, height * width)]


def _convolution(module: nn.Module, pixels: int) -> Part:
    assert isinstance(module, nn.Conv2d)
    return Part("", _parameters(module), convolutions=module.weight.numel() * pixels)


def _level(name: str, level: nn.Module, pixels: int) -> Part:
    part = Part(name, _parameters(level))
    for module in level.modules():
        if isinstance(module, nn.Conv2d):
            part += Part("", convolutions=module.weight.numel() * pixels)
        elif isinstance(module, nn.Linear):
            part += Part("", linear=module.weight.numel())
        elif isinstance(module, Attention):
            dim = module.project.out_channels
            # Unit length of q and k, softmax; the products Q·Kᵀ and A·V.
            square = dim * dim // module.heads
            part += Part("", matmul=2 * square * pixels, elementwise=2 * dim * pixels + square)
        elif isinstance(module, Block):
            dim = module.attention.project.out_channels
            hidden = module.feed_forward.project.in_channels
            # Two norms, two modulations, two sums; GELU and gate.
            part += Part("", elementwise=(6 * dim + 2 * hidden) * pixels)
    return part


def _tail(dirformer: DIRformer, full: int, lq: int) -> Part:
    part = Part("tail", _parameters(dirformer.tail))
    pixels = full
    for layer in dirformer.tail:
        if isinstance(layer, nn.Conv2d):
            part += Part("", convolutions=layer.weight.numel() * pixels)
            width = layer.out_channels
        elif isinstance(layer, nn.PixelShuffle):
            pixels *= layer.upscale_factor**2
        elif isinstance(layer, nn.Upsample):
            pixels *= int(float(str(layer.scale_factor))) ** 2
        elif isinstance(layer, nn.LeakyReLU):
            part += Part("", elementwise=width * pixels)
    skip = 0 if dirformer.config.skip == "none" else 3 * lq * dirformer.config.scale**2
    return part + Part("", elementwise=skip)


def count_cpen(cpen: CPEN, lq_pixels: int) -> Part:
    pixels = lq_pixels // cpen.lq_factor**2
    part = Part("cpen", _parameters(cpen))
    for module in cpen.modules():
        if isinstance(module, nn.Conv2d):
            part += Part(
                "", convolutions=module.weight.numel() * pixels, elementwise=module.out_channels * pixels
            )
        elif isinstance(module, nn.Linear):
            part += Part("", linear=module.weight.numel(), elementwise=module.out_features)
    return part


def _denoiser(denoiser: Denoiser) -> Part:
    linears = [module for module in denoiser.modules() if isinstance(module, nn.Linear)]
    return Part(
        "denoiser, per step",
        _parameters(denoiser),
        linear=sum(module.weight.numel() for module in linears),
        elementwise=sum(module.out_features for module in linears),
    )


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def total(parts: Iterable[Part], timesteps: int) -> Part:
    """Add parts up: the denoiser's work `timesteps` times, its parameters once."""
    result = Part("total")
    for part in parts:
        times = timesteps if part.name.startswith("denoiser") else 1
        work = {k: v * times for k, v in asdict(part).items() if k not in ("name", "parameters")}
        result += replace(part, **work)
    return replace(result, name="total")


def published(parts: list[Part], timesteps: int, stage: int = 2) -> int:
    """Mult-Adds as the paper counts them: layers alone, and in stage 2 CPEN and denoiser twice."""
    twice = [part for part in parts if part.name == "cpen" or part.name.startswith("denoiser")]
    once, again = total(parts, timesteps), total(twice if stage == 2 else [], timesteps)
    return once.convolutions + once.linear + again.convolutions + again.linear
