"""Real-world damage of every strength: from nothing, over single light damages, to the second-order process.

A network that sees two heaps, light damage and heavy damage, learns to tell them apart and to leave the
light one alone. So there is no gap here: each kind of damage occurs alone and over its whole range, two or
three of them occur together, and the strongest of those reach into what the second-order process does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations import second_order
from dirformer.degradations.base import Degradation, choice, uniform
from dirformer.degradations.light import (
    REACH,
    REDUCERS,
    Blur,
    ChromaNoise,
    Damage,
    GaussianNoise,
    Jpeg,
    Resampler,
    Resizing,
    SensorNoise,
    Sharpening,
    Webp,
    draw_resampler,
    resample,
)
from dirformer.degradations.second_order import SecondOrder

Level = Literal["untouched", "single", "combined", "heavy"]
LEVELS: tuple[Level, ...] = ("untouched", "single", "combined", "heavy")

Kinds = dict[type[Damage], float]
"""Kinds of damage with weights."""
SINGLE: Kinds = {
    GaussianNoise: 0.30,
    Jpeg: 0.26,
    Blur: 0.10,
    SensorNoise: 0.08,
    Resizing: 0.08,
    ChromaNoise: 0.07,
    Webp: 0.06,
    Sharpening: 0.05,
}
"""What happens alone."""
GROUPS: tuple[tuple[float, Kinds], ...] = (
    (0.30, {Blur: 0.65, Resizing: 0.35}),
    (0.27, {GaussianNoise: 0.5, SensorNoise: 0.25, ChromaNoise: 0.25}),
    (0.08, {Sharpening: 1.0}),
    (0.35, {Jpeg: 0.85, Webp: 0.15}),
)
"""What happens together, at most one of each group, in this order: lens, sensor, editor, file."""
REDUCTION_REACH = 4
"""LQ pixels over which making the small photo carries the photo's border inwards."""


@dataclass(frozen=True)
class Reduction:
    """How the small photo is made."""

    resampler: Resampler
    sigma: float
    """Of the "gaussian" resampler, in LQ pixels; others do not look at it."""


@dataclass(frozen=True)
class Draws:
    """What is done to one photo: `damages` in their order, or the second-order process."""

    level: Level
    reduction: Reduction | None
    """None at scale 1, and in the second-order process, which reduces in its own way."""
    damages: tuple[Damage, ...]
    heavy: second_order.Draws | None


@dataclass(frozen=True)
class Graded(Degradation):
    """Damage of every strength. Photos are degraded one by one on the CPU, whatever device they are on.

    So results depend neither on the batch nor on the device. The second-order process has its own draws
    for every photo, as in `SecondOrder`.
    """

    scale: int
    shares: tuple[float, float, float, float] = (0.125, 0.475, 0.2, 0.2)
    """Weights of the levels: untouched, one damage, two or three, second order."""

    heavy: SecondOrder = field(init=False)
    margin: int = field(init=False)
    """Whole blocks of 16 pixels, so that the grid of JPEG blocks begins at a patch's corner."""
    eight_bit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "heavy", SecondOrder(self.scale))
        object.__setattr__(self, "margin", 2 * REACH if self.scale == 1 else REACH)

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> list[Draws]:
        """Draw each photo's level and damages from its generator."""
        return [self._drawn_for(generator, size) for generator in generators]

    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Draws]) -> Float[Tensor, "b 3 h w"]:
        """Degrade; the result lies on the 8-bit grid of [0, 1]."""
        return self._apply(gt, draws, 0)

    def apply_inside(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Draws]) -> Float[Tensor, "b 3 h w"]:
        """Degrade and cut the margin off; of the margin only what a damage reaches over is computed."""
        return self._apply(gt, draws, self.margin)

    def _drawn_for(self, generator: torch.Generator, size: tuple[int, int]) -> Draws:
        level = LEVELS[choice(self.shares, generator)]
        if level == "heavy":
            return Draws(level, None, (), self.heavy.draw([generator], size)[0])
        reduction = None
        if self.scale > 1:
            reduction = Reduction(draw_resampler(REDUCERS, generator), uniform(generator, 0.35, 0.6))
        damages: tuple[Damage, ...] = ()
        if level == "single":
            damages = (_kind(SINGLE, generator).drawn(uniform(generator), generator),)
        elif level == "combined":
            damages = draw_combination(generator)
        return Draws(level, reduction, damages, None)

    def _apply(self, gt: Tensor, draws: Sequence[Draws], margin: int) -> Tensor:
        photos = gt.detach().float().cpu()
        lq = [self._degraded(photo, draw, margin) for photo, draw in zip(photos, draws, strict=True)]
        return torch.stack(lq).to(gt)

    def _degraded(self, photo: Tensor, draws: Draws, margin: int) -> Tensor:
        if draws.heavy is not None:
            return F.pad(self.heavy.apply(photo[None], [draws.heavy])[0], [-margin] * 4)
        reach = max((damage.margin for damage in draws.damages), default=0)
        reach = min(margin, reach if draws.reduction is None else reach + REDUCTION_REACH)
        x = F.pad(photo, [(reach - margin) * self.scale] * 4)
        if draws.reduction is not None:
            size = x.shape[1] // self.scale, x.shape[2] // self.scale
            x = resample(x, size, draws.reduction.resampler, draws.reduction.sigma)
        for damage in draws.damages:
            x = damage(x)
        return F.pad(x, [-reach] * 4).clamp(0, 1).mul_(255).round_().div_(255)


def graded(scale: int) -> Graded:
    """Return the degradation at a scale; at 4 and 2 more photos are clean, but for an unknown reduction."""
    return Graded(scale) if scale == 1 else Graded(scale, (0.2, 0.4, 0.2, 0.2))


def draw_combination(generator: torch.Generator) -> tuple[Damage, ...]:
    """Draw two or three damages of different groups, which share a severity to a factor of three."""
    count, severity = 2 if uniform(generator) < 0.6 else 3, uniform(generator)
    weights = [weight for weight, _ in GROUPS]
    chosen: list[int] = []
    while len(chosen) < count:
        number = choice(weights, generator)
        weights[number] = 0.0
        chosen.append(number)
    return tuple(
        _kind(GROUPS[number][1], generator).drawn(severity * uniform(generator, 0.3, 1.0), generator)
        for number in sorted(chosen)
    )


def _kind(kinds: Kinds, generator: torch.Generator) -> type[Damage]:
    return list(kinds)[choice(list(kinds.values()), generator)]
