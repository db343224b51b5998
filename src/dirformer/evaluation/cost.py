"""What a network costs: parameters, Mult-Adds, time and memory, part by part.

Counted as the architecture is drawn, for one photo of any size: a convolution at stride 1 multiplies its
weights once per pixel, a linear layer once per photo, an attention c·(c/heads) numbers per pixel for Q·Kᵀ
and as many for the product with V. Three columns beside that total:

* `published`: how the paper's inpainting and super-resolution figures arise. A module counter sees layers
  only, so the attention products are missing, and it meets CPEN and denoiser under two names each and
  counts both. (With this column sr-x4 gives 0.74 T; the total is 0.72 T.)
* `elementwise`: values written by what only touches elements: norms, modulation, activations, softmax,
  gates, sums.
* `executed`: multiplications that this package really performs; it merges attention and projection into
  one matrix, which saves one product per block.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dirformer.ground.device import choose_device
from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.memory import PeakMemory
from dirformer.networks.config import LEVELS, ModelConfig
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.dirformer import Attention, Block, DIRformer
from dirformer.networks.presets import PRESETS
from dirformer.networks.prior import CPEN, Denoiser
from dirformer.weights.catalog import find_weights
from dirformer.weights.load import load_stage2

RESTORMER = ModelConfig(task="deblurring", dim=48, blocks=(4, 6, 6, 8), refinement_blocks=4, ffn_factor=2.66)
"""Restormer is a DIRformer of these sizes without guidance."""

PAPER = {
    "inpainting": (
        "paper: 51.63 G at 256×256 (quoted)",
        "it leaves out the attention products and counts CPEN and denoiser twice: column `published`",
    ),
    "sr-x4": (
        "paper: 0.74 T at 256×256 (quoted)",
        "it leaves out the attention products and counts CPEN and denoiser twice: column `published`",
    ),
    "deblurring": (
        "paper: 78 % of Restormer's (quoted)",
        "the same counting of both networks, convolutions + matrix products, gives the ratio below",
    ),
}
"""What the paper prints for a preset, and how it comes about."""


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


def count_parts(model: DiffIRS2, height: int, width: int) -> list[Part]:
    """Count a stage-2 network at an LQ size, padded up to the multiple the network needs.

    Returns:
        CPEN, the denoiser (one step), and the DIRformer level by level.
    """
    height, width = (-(-n // model.config.multiple) * model.config.multiple for n in (height, width))
    parts = [count_cpen(model.cpen, height * width)]
    if model.denoiser is not None:
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


def published(parts: list[Part], timesteps: int) -> int:
    """Mult-Adds as the paper counts them (see the head of this file)."""
    twice = [part for part in parts if part.name == "cpen" or part.name.startswith("denoiser")]
    once, again = total(parts, timesteps), total(twice, timesteps)
    return once.convolutions + once.linear + again.convolutions + again.linear


def executed(config: ModelConfig, height: int, width: int) -> int:
    """Multiplications of convolutions and matrix products that a forward pass performs here."""
    height, width = (-(-n // config.multiple) * config.multiple for n in (height, width))
    with torch.device("meta"):
        model = DiffIRS2(config).eval()
        lq, noise = (
            torch.empty(1, config.in_channels, height, width),
            torch.empty(*model.noise_shape)[:, None],
        )
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(lq, noise)
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two


def cost(
    model: str, size: tuple[int, int] = (256, 256), *, measure: bool = True, device: str = "auto"
) -> dict[str, Any]:
    """Return all costs of a preset or a model, as JSON values.

    Args:
        model: a preset (`networks.config.PRESETS`; shipped models have the name of theirs) or a weight file.
        size: height and width of the LQ photo.
        measure: also run it once on `device` (random weights for a preset): seconds and peak memory.
        device: where to measure.

    Raises:
        ConfigError: if there is no such preset or file, or the size is not positive.
    """
    if min(size) < 1:
        raise ConfigError(f"size is {size[0]}×{size[1]}; expected at least 1×1")
    config = _config(model)
    with torch.device("meta"):
        network = DiffIRS2(config)
    parts, steps = count_parts(network, *size), config.timesteps
    whole = total(parts, steps)
    denoiser = total((part for part in parts if part.name.startswith("denoiser")), steps)
    result: dict[str, Any] = {
        "schema": 1,
        "model": model,
        "size": list(size),
        "timesteps": steps,
        "parts": [{**asdict(part), "mult_adds": part.mult_adds} for part in parts],
        "total": {**asdict(whole), "mult_adds": whole.mult_adds},
        "published": published(parts, steps),
        "executed": executed(config, *size),
        "denoiser_share": denoiser.mult_adds / whole.mult_adds,
        "paper": list(PAPER.get(model, ())),
    }
    if config.task == "deblurring":
        with torch.device("meta"):
            restormer = total(count_dirformer(DIRformer(RESTORMER), *_padded(size, RESTORMER.multiple)), 0)
        reference = restormer.convolutions + restormer.matmul
        result |= {"restormer_mult_adds": reference, "of_restormer": whole.mult_adds / reference}
    if measure:
        result["measured"] = _measure(config, size, device)
    return result


def _config(model: str) -> ModelConfig:
    if model in PRESETS:
        return PRESETS[model]
    try:
        path = find_weights(model)
    except CheckpointError:
        raise ConfigError(f"no preset or weight file {model!r}; presets: {', '.join(PRESETS)}") from None
    return load_stage2(path).config


def _padded(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def _measure(config: ModelConfig, size: tuple[int, int], device: str) -> dict[str, Any]:
    place = choose_device(device)
    network = DiffIRS2(config).eval().to(place)
    lq = torch.zeros(1, config.in_channels, *_padded(size, config.multiple), device=place)
    noise = torch.zeros(*network.noise_shape, device=place)[:, None]
    with torch.inference_mode(), PeakMemory(place) as memory:
        start = time.perf_counter()
        network(lq, noise)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds = time.perf_counter() - start
    return {
        "device": str(place),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_mib": memory.mib,
        "note": "one run, the first, random weights",
    }


def cost_table(result: dict[str, Any]) -> str:
    """Lay a result of `cost` out for people; G is 10⁹ Mult-Adds."""
    height, width = result["size"]
    columns = f"{'part':20} {'parameters':>12} {'conv G':>9} {'linear G':>9} {'matmul G':>9}"
    columns += f" {'Mult-Adds G':>12} {'element-wise G':>15}"
    lines = [f"{result['model']} at {width}×{height}, T = {result['timesteps']}", columns]
    for part in [*result["parts"], result["total"]]:
        numbers = [
            part[key] / 1e9 for key in ("convolutions", "linear", "matmul", "mult_adds", "elementwise")
        ]
        conv, linear, matmul, mult_adds, elementwise = numbers
        lines.append(
            f"{part['name']:20} {part['parameters']:>12,} {conv:>9.3f} {linear:>9.4f} {matmul:>9.3f} "
            f"{mult_adds:>12.3f} {elementwise:>15.3f}"
        )
    lines += [
        f"as published (no attention products, CPEN and denoiser twice): {result['published'] / 1e9:.3f} G",
        f"executed here (attention merged with its projection): {result['executed'] / 1e9:.3f} G",
        f"the denoiser's {result['timesteps']} steps: {100 * result['denoiser_share']:.4f} % of the total",
    ]
    lines += ["; ".join(result["paper"])] if result["paper"] else []
    if "of_restormer" in result:
        lines.append(
            f"{100 * result['of_restormer']:.1f} % of Restormer's {result['restormer_mult_adds'] / 1e9:.3f} G"
        )
    if "measured" in result:
        run = result["measured"]
        lines.append(
            f"measured on {run['device']} ({run['threads']} threads): {run['seconds']:.2f} s, "
            f"peak {run['peak_mib']:.0f} MiB ({run['note']})"
        )
    return "\n".join(lines)
