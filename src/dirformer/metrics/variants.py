"""The same photos under every PSNR and SSIM that papers print: why −1.2 dB may mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dirformer.metrics.psnr_ssim import psnr, rgb_to_y, ssim, ssim_uniform, ssim_volume


@dataclass(frozen=True)
class Variant:
    """One published way to compute a score of two 8-bit photos in [0, 1]."""

    name: str
    definition: str
    used_by: str
    score: Callable[[Tensor, Tensor], float]


def on_y(metric: Callable[..., float], border: int = 0, **options: Any) -> Callable[[Tensor, Tensor], float]:
    """Return `metric` on the Y channel."""
    return lambda result, gt: metric(rgb_to_y(result), rgb_to_y(gt), border, **options)


def on_rounded_y(metric: Callable[..., float], border: int) -> Callable[[Tensor, Tensor], float]:
    """Return `metric` on Y rounded to 8 bits, as MATLAB's `rgb2ycbcr` gives it for uint8 photos."""

    def luma(photo: Tensor) -> Tensor:
        return (rgb_to_y(photo) * 255).round() / 255

    return lambda result, gt: metric(luma(result), luma(gt), border)


VARIANTS = (
    Variant("psnr_rgb", "all channels, no border", "deblurring tables (DiffIR, Restormer, MPRNet)", psnr),
    Variant(
        "psnr_rgb_border4",
        "all channels, 4 px cut",
        "BasicSR configs that leave Y out",
        lambda a, b: psnr(a, b, 4),
    ),
    Variant("psnr_y", "Y, no border", "validation while DiffIR's SR trains", on_y(psnr)),
    Variant("psnr_y_border4", "Y, 4 px cut", "×4 SR tables (DiffIR, ESRGAN, SwinIR)", on_y(psnr, 4)),
    Variant(
        "psnr_y8_border4",
        "Y rounded to 8 bit, 4 px cut",
        "MATLAB scripts of the older SR papers",
        on_rounded_y(psnr, 4),
    ),
    Variant(
        "psnr_tensor",
        "all channels, 1e-8 added",
        "BasicSR's tensor version",
        lambda a, b: psnr(a, b, floor=1e-8),
    ),
    Variant(
        "ssim_rgb",
        "per channel, Gaussian, inside",
        "BasicSR on RGB; scikit-image with Gaussian weights",
        ssim,
    ),
    Variant("ssim_y", "Y, Gaussian, inside", "BasicSR on Y", on_y(ssim)),
    Variant(
        "ssim_y_border4", "Y, Gaussian, 4 px cut", "×4 SR tables (DiffIR, ESRGAN, SwinIR)", on_y(ssim, 4)
    ),
    Variant(
        "ssim_y8_border4",
        "Y rounded to 8 bit, 4 px cut",
        "MATLAB scripts of the older SR papers",
        on_rounded_y(ssim, 4),
    ),
    Variant(
        "ssim_replicate",
        "per channel, Gaussian, edges repeated",
        "MATLAB's ssim, channel by channel",
        lambda a, b: ssim(a, b, edges="replicate"),
    ),
    Variant(
        "ssim_replicate_y",
        "Y, Gaussian, edges repeated",
        "MATLAB's ssim on grey photos",
        on_y(ssim, edges="replicate"),
    ),
    Variant(
        "ssim_volume",
        "11×11×11 over height, width, channel",
        "GoPro and HIDE tables (MATLAB's ssim on an RGB array: DiffIR, Restormer, MPRNet)",
        ssim_volume,
    ),
    Variant("ssim_uniform", "7×7 flat window, unbiased", "scikit-image's defaults", ssim_uniform),
    Variant(
        "ssim_zero",
        "per channel, Gaussian, black around",
        "inpainting tables (LaMa, DiffIR)",
        lambda a, b: ssim(a, b, edges="zero"),
    ),
)


def variant_scores(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> dict[str, float]:
    """Score a pair (8-bit values in [0, 1]) under every variant."""
    # The GT may come through float32: back to exact values, so that equal photos are equal.
    result, gt = ((x.double() * 255).round() / 255 for x in (result, gt))
    return {variant.name: variant.score(result, gt) for variant in VARIANTS}


def variants_table(scores: dict[str, dict[str, float]]) -> str:
    """Lay variants out for people: a row each, a column per model, and who uses it."""
    names = list(scores)
    widths = [max(9, len(name)) for name in names]
    head = "  ".join(name.rjust(w) for name, w in zip(names, widths, strict=True))
    lines = [f"{'variant':18} {head}  {'definition':40} used by"]
    for variant in VARIANTS:
        values = (f"{scores[n][variant.name]:{w}.4f}" for n, w in zip(names, widths, strict=True))
        lines.append(f"{variant.name:18} {'  '.join(values)}  {variant.definition:40} {variant.used_by}")
    return "\n".join(lines)
