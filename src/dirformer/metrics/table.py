"""All metrics, one row each. Nothing here imports torch."""

from __future__ import annotations

import difflib

from dirformer.ground.errors import ConfigError
from dirformer.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "psnr_ssim:psnr", digits=2),
        Metric("psnr_y", "PSNR-Y", "psnr_ssim:psnr", "luma", digits=2),
        Metric("ssim", "SSIM", "psnr_ssim:ssim"),
        Metric("ssim_y", "SSIM-Y", "psnr_ssim:ssim", "luma"),
        Metric("ssim_volume", "SSIM (volume)", "psnr_ssim:ssim_volume"),
        Metric("ssim_zero", "SSIM", "psnr_ssim:ssim_zero"),
        Metric("psnr_matched", "PSNR (means matched)", "alignment:psnr_matched", digits=2),
        Metric("psnr_shifted", "PSNR (best shift)", "alignment:psnr_shifted", digits=2),
        Metric("psnr_aligned", "PSNR (aligned)", "alignment:psnr_aligned", digits=2, needs="extra"),
        Metric("ssim_aligned", "SSIM (aligned)", "alignment:ssim_aligned", needs="extra"),
        Metric("gmsd", "GMSD", "quality:gmsd", "photos", lower=True),
        Metric("flip", "FLIP", "quality:flip", "photos", lower=True, needs="extra"),
        Metric("ssimulacra2", "SSIMULACRA2", "quality:ssimulacra2", "photos", digits=2, needs="extra"),
        Metric("lpips_alex", "LPIPS-Alex", "perceptual:lpips_alex", "weights", lower=True, needs="weights"),
        Metric("lpips_vgg", "LPIPS-VGG", "perceptual:lpips_vgg", "weights", lower=True, needs="weights"),
        Metric("dists", "DISTS", "perceptual:dists", "weights", lower=True, needs="weights"),
        Metric("stlpips", "ST-LPIPS", "perceptual:stlpips", "weights", lower=True, needs="weights"),
        Metric("niqe", "NIQE", "quality:niqe", "result", digits=2, lower=True, needs="weights"),
        Metric("fid", "FID", takes="none", lower=True, needs="sets"),
        Metric("seconds", "s/photo", takes="none", digits=2, lower=True, needs="measurement"),
        Metric("peak_mib", "peak MiB", takes="none", digits=0, lower=True, needs="measurement"),
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
