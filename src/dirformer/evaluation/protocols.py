"""The protocols of the field: everything between a restored photo and a number in a table.

Papers disagree in the channel, the border, the rounding and the window before they disagree in quality.
Each protocol here is one row of a literal table and is named in every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.errors import ConfigError
from dirformer.evaluation.metrics import psnr, rgb_to_y, ssim


@dataclass(frozen=True)
class Protocol:
    """How one kind of table is filled."""

    name: str
    metrics: tuple[str, ...]
    """Names of METRICS, in the order of the columns."""
    border: int
    """GT pixels cut off along each side before scoring."""
    rounding: Literal["round", "truncate"]
    """How a restored photo becomes 8-bit before it is scored."""
    sentence: str
    """What a reader of the table must know."""

    def quantise(self, restored: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """Return 8-bit values as float64 in [0, 1]: scores are those of the photo that would be saved."""
        values = restored.double().clamp(0, 1) * 255
        return (values.round() if self.rounding == "round" else values.floor()) / 255

    def scores(self, restored: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> dict[str, float]:
        """Score a restored photo against its GT, both in [0, 1]."""
        # The GT came from 8 bits through float32: back to exact values, so that equal photos are equal.
        result, gt = self.quantise(restored), (gt.double() * 255).round() / 255
        return {metric: METRICS[metric](result, gt, self.border) for metric in self.metrics}


def _psnr_y(result: Tensor, gt: Tensor, border: int) -> float:
    return psnr(rgb_to_y(result), rgb_to_y(gt), border)


def _ssim_y(result: Tensor, gt: Tensor, border: int) -> float:
    return ssim(rgb_to_y(result), rgb_to_y(gt), border)


METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "psnr": psnr,
    "psnr_y": _psnr_y,
    "ssim": ssim,
    "ssim_y": _ssim_y,
}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="sr",
            metrics=("psnr_y", "ssim_y"),
            border=4,
            rounding="round",
            sentence="8-bit results, Y of BT.601, 4 border pixels cut, SSIM with the 11×11 Gaussian window",
        ),
    )
}


def protocol(name: str) -> Protocol:
    """Return the protocol of that name; ConfigError lists the names there are."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def as_float(photo: Tensor) -> Float[Tensor, "3 h w"]:
    """8-bit photo → float32 in [0, 1], as the networks take it."""
    return photo.to(torch.float32) / 255
