"""Sensor-like noise with its values drawn on the CPU from a seed per photo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Noise of one photo."""

    kind: Literal["gaussian", "poisson"]
    strength: float
    """Gaussian: sigma in grey levels of 255. Poisson: factor on the shot noise."""
    grey: bool
    """The same noise in all channels."""
    seed: int
    """Of the generator that the values come from."""


def add_noise(x: Float[Tensor, "b 3 h w"], noises: list[Noise]) -> Float[Tensor, "b 3 h w"]:
    """Add each photo's noise and clamp to [0, 1]."""
    noisy = torch.empty_like(x)
    for photo, noise, out in zip(x, noises, noisy, strict=True):
        torch.add(photo, _values(photo, noise), out=out)
    return noisy.clamp_(0, 1)


def _values(photo: Tensor, noise: Noise) -> Tensor:
    """Return the noise of a photo `3 h w`, or `1 h w` when grey."""
    generator = torch.Generator().manual_seed(noise.seed)
    normal = torch.randn(1 if noise.grey else 3, *photo.shape[1:], generator=generator).to(photo)
    if noise.kind == "gaussian":
        return normal.mul_(noise.strength / 255)
    if noise.grey:
        red, green, blue = photo
        photo = (0.2989 * red + 0.587 * green + 0.114 * blue)[None]
    return shot_noise(photo, normal).mul_(noise.strength)


def shot_noise(x: Float[Tensor, "c h w"], normal: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Return Poisson noise of a photo: counts minus their mean, over counts per unit of brightness.

    As in the released pipeline, white stands for a power of two of counts, the first one that is not
    smaller than the number of grey levels the photo has, so a flat photo is noisier than a rich one.

    Args:
        x: photo; taken at 8 bits.
        normal: standard normal values that decide the counts. Each count is the Poisson quantile at the
            level of its normal value, so that the draws do not depend on the photo or the device.
    """
    levels = x.clamp(0, 1).mul_(255).round_()
    used = int(torch.bincount(levels.flatten().long(), minlength=256).count_nonzero())
    white = 1 << (used - 1).bit_length()
    mean = levels * (white / 255)
    return poisson_quantile(mean, normal).sub_(mean).div_(white)


def poisson_quantile(mean: Float[Tensor, "*s"], normal: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the Poisson counts at the probability of standard normal values.

    From a mean of 8 up by the expansion of the quantile in powers of mean^−½ (M. Giles, "Approximation
    of the inverse Poisson cumulative distribution function", 2016); below by summing probabilities.
    """
    large = mean.clamp_min(8)
    root = large.sqrt()
    inverse, w2 = 1 / root, normal * normal
    odd = torch.addcmul(root - inverse / 36, w2, inverse, value=-1 / 72)
    inverse.mul_(inverse)
    even = inverse * ((w2 / 270 + 7 / 810) * w2 - 8 / 405)
    even.add_(large).add_(w2, alpha=1 / 6).add_(1 / 3)
    counts = torch.addcmul(even, odd, normal).floor_().clamp_min_(0)
    small = (mean < 8).flatten().nonzero()[:, 0]
    if len(small):
        probability = 0.5 * torch.erfc(normal.flatten()[small] / -math.sqrt(2))
        counts.view(-1)[small] = _counts(mean.flatten()[small], probability)
    return counts


def _counts(mean: Tensor, probability: Tensor) -> Tensor:
    """Smallest counts whose cumulated probability is not below `probability`, for means under 8."""
    means, row = torch.unique(mean, return_inverse=True)
    table = _cumulated(tuple(means.tolist())).to(probability.device)
    # Rows lie one behind the other, each in an interval of its own: one search does for all.
    span = 2.0
    flat = (
        table + span * torch.arange(len(table), device=table.device, dtype=table.dtype)[:, None]
    ).flatten()
    found = torch.searchsorted(flat, probability.double() + span * row)
    return (found - row * table.shape[1]).to(mean)


@lru_cache(maxsize=32)
def _cumulated(means: tuple[float, ...]) -> Tensor:
    """Cumulated Poisson probabilities of 0 … 39 counts, one row for each mean below 8; float64."""
    rate = torch.tensor(means, dtype=torch.float64)[:, None]
    count = torch.arange(40, dtype=torch.float64)
    table = (torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)).exp().cumsum(1)
    table[:, -1] = 1.0
    return table
