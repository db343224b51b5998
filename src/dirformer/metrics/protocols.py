"""The protocols of the field: everything between a restored photo and a number in a table.

Papers disagree in the channel, the border, the rounding and the window before they disagree in quality.
Each protocol here is one row of a literal table and is named in every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import ConfigError, MissingExtraError
from dirformer.metrics import perceptual, quality
from dirformer.metrics.alignment import psnr_aligned, psnr_matched, psnr_shifted, ssim_aligned
from dirformer.metrics.perceptual import Inception, MissingWeightsError
from dirformer.metrics.psnr_ssim import psnr, rgb_to_y, ssim, ssim_volume


@dataclass(frozen=True)
class Protocol:
    """How one kind of table is filled."""

    name: str
    metrics: tuple[str, ...]
    """Names of METRICS, in the order of the columns; `fid` compares sets, the others pairs."""
    sentence: str
    """What a reader of the table must know."""
    border: int = 0
    """GT pixels cut off along each side before PSNR and SSIM; networks see the whole photo."""
    rounding: Literal["round", "truncate"] = "round"
    """How a restored photo becomes 8-bit before it is scored."""
    needs_masks: bool = False
    """Holes are filled; what is outside the hole is the input's."""

    def quantise(self, restored: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """Return 8-bit values as float64 in [0, 1]: scores are those of the photo that would be saved."""
        values = restored.to(torch.float64, copy=True).clamp_(0, 1).mul_(255)
        # Truncation must not turn an exact value that went through float32 into the one below.
        return (values.round_() if self.rounding == "round" else values.add_(1e-4).floor_()).div_(255)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="sr",
            metrics=("psnr_y", "ssim_y", "lpips_alex", "dists"),
            border=4,
            sentence="8-bit results, Y of BT.601, 4 border pixels cut, SSIM with the 11×11 Gaussian window; "
            "LPIPS (AlexNet) and DISTS on the whole RGB photo",
        ),
        Protocol(
            name="realsr",
            metrics=("psnr_y", "ssim_y", "lpips_vgg", "dists"),
            border=4,
            sentence="8-bit results, Y of BT.601, 4 border pixels cut, SSIM with the 11×11 Gaussian window; "
            "LPIPS (VGG) and DISTS on the whole RGB photo",
        ),
        Protocol(
            name="deblurring",
            metrics=("psnr", "ssim_volume", "ssim"),
            sentence="8-bit results, RGB, no border; ssim_volume is MATLAB's ssim on the RGB array (GoPro, "
            "HIDE), ssim the mean over channels",
        ),
        Protocol(
            name="realblur",
            metrics=("psnr_aligned", "ssim_aligned"),
            sentence="8-bit results, RGB, aligned to the GT by an ECC homography and scaled in brightness; "
            "scores where both overlap (RealBlur tables)",
        ),
        Protocol(
            name="inpainting",
            metrics=("fid", "lpips_vgg", "ssim_zero", "psnr"),
            rounding="truncate",
            needs_masks=True,
            sentence="holes filled, the rest of the input kept, truncated to 8 bit; FID between the results "
            "and the GT of the same set; LPIPS (VGG); SSIM with black around the photo",
        ),
    )
}


def protocol(name: str) -> Protocol:
    """Return the protocol of that name; ConfigError lists the names there are."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


# Metrics by name --------------------------------------------------------------------------------------

Pairwise = Callable[[Tensor, Tensor], float]
"""(result, GT) → score; both 8-bit values as float64 in [0, 1], `3 h w`."""


@dataclass
class _Luma:
    """Y of the pair at hand, computed once for all metrics that ask for it."""

    pair: tuple[Tensor, Tensor] | None = None
    luma: tuple[Tensor, Tensor] | None = None

    def of(self, result: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        if self.luma is None or self.pair is None or self.pair[0] is not result or self.pair[1] is not gt:
            self.pair, self.luma = (result, gt), (rgb_to_y(result), rgb_to_y(gt))
        return self.luma


PIXEL_METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "psnr": psnr,
    "psnr_y": psnr,
    "ssim": ssim,
    "ssim_y": ssim,
    "ssim_volume": ssim_volume,
    "ssim_zero": partial(ssim, edges="zero"),
    "psnr_matched": psnr_matched,
    "psnr_shifted": psnr_shifted,
    "psnr_aligned": psnr_aligned,
    "ssim_aligned": ssim_aligned,
}
"""(result, GT, border) → score; need nothing but the package (aligned ones: OpenCV). `_y`: given Y."""

QUALITY_METRICS: dict[str, Pairwise] = {
    "gmsd": quality.gmsd,
    "flip": quality.flip,
    "ssimulacra2": quality.ssimulacra2,
}
"""Need no weights; the last two need the extra `eval`."""

WEIGHT_METRICS: dict[str, Callable[[Path | None, str], Pairwise]] = {
    "lpips_alex": partial(perceptual.lpips, "alex"),
    "lpips_vgg": partial(perceptual.lpips, "vgg"),
    "dists": perceptual.dists,
    "stlpips": perceptual.stlpips,
    "niqe": lambda folder, _: partial(_without_gt, quality.niqe(folder)),
}
"""(folder of weights, device) → metric."""

METRICS = (*PIXEL_METRICS, *QUALITY_METRICS, *WEIGHT_METRICS, "fid")

LOWER_IS_BETTER = {
    "lpips_alex",
    "lpips_vgg",
    "dists",
    "stlpips",
    "fid",
    "niqe",
    "gmsd",
    "flip",
    "seconds",
    "peak_mib",
}


def _without_gt(metric: Callable[[Tensor], float], result: Tensor, gt: Tensor) -> float:
    del gt
    return metric(result)


@dataclass
class Scorer:
    """The metrics of a protocol, opened: what a table can be filled with here."""

    rules: Protocol
    pairwise: dict[str, Pairwise] = field(default_factory=dict)
    inception: Inception | None = None
    """For FID, if it is asked for and its weights are there."""
    missing: list[str] = field(default_factory=list)
    """One line for each metric that cannot be computed: which file to put where."""

    @property
    def names(self) -> list[str]:
        """Metrics that will be computed, columns of the table."""
        return [*self.pairwise, *(["fid"] if self.inception is not None else [])]

    def scores(self, result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> dict[str, float]:
        """Score a result (as `Protocol.quantise` returns it) against its GT in [0, 1]."""
        # The GT came from 8 bits through float32: back to exact values, so that equal photos are equal.
        gt = gt.to(torch.float64, copy=True).mul_(255).round_().div_(255)
        return {name: metric(result, gt) for name, metric in self.pairwise.items()}

    def features(self, photo: Float[Tensor, "3 h w"]) -> Float[Tensor, "n"]:
        """Return FID's features of a photo in [0, 1], as it would be saved."""
        assert self.inception is not None
        return self.inception(self.rules.quantise(photo)).cpu()


def open_scorer(
    rules: Protocol,
    extra: tuple[str, ...] = (),
    *,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
) -> Scorer:
    """Open the metrics of a protocol and `extra` ones; what lacks its weights is noted and left out.

    Raises:
        ConfigError: if there is no metric of that name.
        CheckpointError: if a weight file is not the published one.
    """
    scorer, luma = Scorer(rules), _Luma()
    for name in dict.fromkeys((*rules.metrics, *extra)):
        if name not in METRICS:
            raise ConfigError(f"no metric {name!r}; there are: {', '.join(METRICS)}")
        try:
            if name == "fid":
                scorer.inception = perceptual.inception(weights, device)
            else:
                scorer.pairwise[name] = _open(name, rules.border, luma, weights, str(device))
        except (MissingWeightsError, MissingExtraError) as error:
            scorer.missing.append(f"{name} is left out: {error}")
    return scorer


def _open(name: str, border: int, luma: _Luma, weights: Path | None, device: str) -> Pairwise:
    if name in WEIGHT_METRICS:
        return WEIGHT_METRICS[name](weights, device)
    if name in QUALITY_METRICS:
        return QUALITY_METRICS[name]
    metric = PIXEL_METRICS[name]
    if name.endswith("_y"):
        return lambda result, gt: metric(*luma.of(result, gt), border)
    return lambda result, gt: metric(result, gt, border)


def as_float(photo: Tensor) -> Float[Tensor, "3 h w"]:
    """8-bit photo → float32 in [0, 1], as the networks take it."""
    return photo.to(torch.float32) / 255
