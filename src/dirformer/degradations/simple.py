"""Degradations of one step: bicubic reduction, Gaussian noise, JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.base import Degradation, integer, seed, uniform
from dirformer.degradations.jpeg import jpeg
from dirformer.degradations.noise import Noise, add_noise
from dirformer.degradations.resize import resize_bicubic


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
