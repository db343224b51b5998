"""All metrics: one row each, and the scorer that opens those a table asks for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import ConfigError, MissingExtraError
from dirformer.metrics import perceptual, quality
from dirformer.metrics.alignment import psnr_aligned, psnr_matched, psnr_shifted, ssim_aligned
from dirformer.metrics.metric import Metric, Pairwise, Setting, learned, on_luma, pixels, whole, without_gt
from dirformer.metrics.perceptual import Inception, MissingWeightsError
from dirformer.metrics.protocols import Protocol
from dirformer.metrics.psnr_ssim import psnr, ssim, ssim_volume

_LPIPS_ALEX, _LPIPS_VGG = partial(perceptual.lpips, "alex"), partial(perceptual.lpips, "vgg")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", pixels(psnr), digits=2),
        Metric("psnr_y", "PSNR-Y", on_luma(psnr), digits=2),
        Metric("ssim", "SSIM", pixels(ssim)),
        Metric("ssim_y", "SSIM-Y", on_luma(ssim)),
        Metric("ssim_volume", "SSIM (volume)", pixels(ssim_volume)),
        Metric("ssim_zero", "SSIM", pixels(partial(ssim, edges="zero"))),
        Metric("psnr_matched", "PSNR (means matched)", pixels(psnr_matched), digits=2),
        Metric("psnr_shifted", "PSNR (best shift)", pixels(psnr_shifted), digits=2),
        Metric("psnr_aligned", "PSNR (aligned)", pixels(psnr_aligned), digits=2, needs="extra"),
        Metric("ssim_aligned", "SSIM (aligned)", pixels(ssim_aligned), needs="extra"),
        Metric("gmsd", "GMSD", whole(quality.gmsd), lower=True),
        Metric("flip", "FLIP", whole(quality.flip), lower=True, needs="extra"),
        Metric("ssimulacra2", "SSIMULACRA2", whole(quality.ssimulacra2), digits=2, needs="extra"),
        Metric(
            "lpips_alex",
            "LPIPS-Alex",
            learned(_LPIPS_ALEX),
            lower=True,
            needs="weights",
        ),
        Metric("lpips_vgg", "LPIPS-VGG", learned(_LPIPS_VGG), lower=True, needs="weights"),
        Metric("dists", "DISTS", learned(perceptual.dists), lower=True, needs="weights"),
        Metric("stlpips", "ST-LPIPS", learned(perceptual.stlpips), lower=True, needs="weights"),
        Metric("niqe", "NIQE", without_gt(quality.niqe), lower=True, needs="weights"),
        Metric("fid", "FID", lower=True, needs="sets"),
        Metric("seconds", "s/photo", digits=2, lower=True, needs="measurement"),
        Metric("peak_mib", "peak MiB", digits=0, lower=True, needs="measurement"),
    )
}


def find_metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        ConfigError: with the nearest name that can be asked for.
    """
    able = [metric.name for metric in METRICS.values() if metric.ranked]
    if name not in able:
        near = difflib.get_close_matches(str(name), able, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no metric {name!r}; the nearest is {near!r}, of {', '.join(able)}")
    return METRICS[name]


def described(name: str) -> Metric:
    """Return the metric of a column. A column of another version's file gets its name as title."""
    return METRICS.get(name) or Metric(name, name)


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
        return {name: score(result, gt) for name, score in self.pairwise.items()}

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
    scorer, setting = Scorer(rules), Setting(rules.border, weights, str(device))
    for name in dict.fromkeys((*rules.metrics, *extra)):
        metric = find_metric(name)
        try:
            if metric.open is None:
                scorer.inception = perceptual.inception(weights, device)
            else:
                scorer.pairwise[name] = metric.open(setting)
        except (MissingWeightsError, MissingExtraError) as error:
            scorer.missing.append(f"{name} is left out: {error}")
    return scorer
