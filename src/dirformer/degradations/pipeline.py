"""Degradations by name: clean photos → what the network is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.base import Degradation, integer, seed, uniform
from dirformer.degradations.graded import graded
from dirformer.degradations.jpeg import jpeg
from dirformer.degradations.motion import Motion
from dirformer.degradations.noise import Noise, add_noise
from dirformer.degradations.resize import resize_bicubic
from dirformer.degradations.second_order import SecondOrder
from dirformer.ground.errors import ConfigError


@dataclass(frozen=True)
class Nothing:
    """The parameters of a degradation without any."""


@dataclass(frozen=True)
class Bicubic(Degradation):
    """MATLAB's bicubic reduction on 8-bit values: the LQ of the super-resolution benchmarks."""

    scale: int
    margin: int = 4
    eight_bit: ClassVar[bool] = True

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> list[Nothing]:
        """Return as many times nothing: nothing is random here."""
        del size
        return [Nothing()] * len(generators)

    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Nothing]) -> Float[Tensor, "b 3 h w"]:
        """Reduce."""
        del draws
        return resize_bicubic(gt, 1 / self.scale, levels=255)


@dataclass(frozen=True)
class GaussianNoise(Degradation):
    """Additive colour noise; each photo's sigma is drawn from a range."""

    scale: int = 1
    margin: int = 0
    sigma: tuple[float, float] = (0.0, 50.0)
    """In grey levels of 255; equal ends fix it."""

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> list[Noise]:
        """Draw each photo's sigma and noise seed."""
        del size
        return [Noise("gaussian", uniform(g, *self.sigma), grey=False, seed=seed(g)) for g in generators]

    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Noise]) -> Float[Tensor, "b 3 h w"]:
        """Add noise and clamp; not rounded, as is usual in denoising."""
        return add_noise(gt, list(draws))


@dataclass(frozen=True)
class Quality:
    """A photo's JPEG quality."""

    quality: int


@dataclass(frozen=True)
class Jpeg(Degradation):
    """JPEG compression with libjpeg's arithmetic; each photo's quality is drawn from a range."""

    scale: int = 1
    margin: int = 16
    quality: tuple[int, int] = (10, 40)
    eight_bit: ClassVar[bool] = True

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> list[Quality]:
        """Draw each photo's quality."""
        del size
        low, high = self.quality
        return [Quality(low + integer(g, high - low + 1)) for g in generators]

    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Quality]) -> Float[Tensor, "b 3 h w"]:
        """Compress and decompress."""
        return jpeg(gt, torch.tensor([float(d.quality) for d in draws]))


def degradation(kind: str, scale: int) -> Degradation:
    """Return the degradation of that name at that scale; ConfigError lists the names and scales there are."""
    if kind not in DEGRADATIONS:
        raise ConfigError(f"no degradation {kind!r}; there are: {', '.join(DEGRADATIONS)}")
    make, scales = DEGRADATIONS[kind]
    if scale not in scales:
        raise ConfigError(
            f"degradation {kind} has no scale {scale}; expected {' or '.join(map(str, scales))}"
        )
    return make(scale)


DEGRADATIONS: dict[str, tuple[Callable[[int], Degradation], tuple[int, ...]]] = {
    "bicubic": (Bicubic, (2, 3, 4, 8)),
    "realsr": (SecondOrder, (4, 2, 1)),
    "realsr-released": (lambda s: SecondOrder(s, draws="batch", released_jpeg=True), (4, 2, 1)),
    "realsr-graded": (graded, (4, 2, 1)),
    "motion": (Motion, (1,)),
    "motion-noisy": (lambda s: Motion(s, sigma=(0.0, 2.5)), (1,)),
    "motion-mixed": (lambda s: Motion(s, sigma=(0.0, 2.5), plain=0.3), (1,)),
    "motion-short": (lambda s: Motion(s, length=(2.0, 10.0), turn=(0.0, 0.004), sigma=(0.0, 2.5)), (1,)),
    "noise": (GaussianNoise, (1,)),
    "jpeg": (Jpeg, (1,)),
}
"""Name → how to make it, and the scales it knows; the first one is taken unless another is asked."""
