"""PSNR and SSIM in every form that the field's tables use. Photos are `c h w` in [0, 1].

One name, many numbers: the variants differ in channel, border, window and averaging, by up to 5 dB and 0.3
of SSIM on one noisy pair. `variants.VARIANTS` lists them all with who uses which.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.errors import PhotoError

K1, K2 = 0.01, 0.03
WINDOW, SIGMA = 11, 1.5


def rgb_to_y(photo: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 1 h w"]:
    """BT.601 luma in studio range, 16/255 to 235/255: the Y of the super-resolution tables."""
    weights = photo.new_tensor([65.481, 128.553, 24.966]) / 255
    return torch.einsum("...chw,c->...hw", photo, weights).unsqueeze(-3) + 16 / 255


def psnr(
    result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0, *, floor: float = 0.0
) -> float:
    """Peak signal-to-noise ratio in dB over all channels, peak 1: inf for equal photos, NaN if one has NaN.

    Args:
        result: photo to score.
        gt: clean photo of the same shape.
        border: pixels cut off along each side before scoring.
        floor: added to the mean squared error; BasicSR's tensor version adds 1e-8 and so ends at 80 dB.

    Raises:
        PhotoError: if sizes differ, or no pixel is left inside the border.
    """
    result, gt = _scored(result, gt, border)
    return decibels(float((result - gt).square().mean()) + floor)


def decibels(error: float) -> float:
    """Return a mean squared error as dB below a peak of 1: inf for 0, NaN for NaN."""
    return -10 * math.log10(error) if error != 0 else math.inf


def ssim(
    result: Float[Tensor, "c h w"],
    gt: Float[Tensor, "c h w"],
    border: int = 0,
    *,
    edges: str = "valid",
) -> float:
    """Structural similarity, mean over channels: 11×11 Gaussian window of σ 1.5, K₁ = 0.01, K₂ = 0.03.

    Args:
        result: photo to score.
        gt: clean photo of the same shape.
        border: pixels cut off along each side before scoring.
        edges: `valid` takes windows that lie inside entirely (the authors' MATLAB code, BasicSR,
            scikit-image); `replicate` repeats the edge and scores every pixel (MATLAB's toolbox `ssim`);
            `zero` puts black around (the inpainting evaluation of LaMa and DiffIR).

    Raises:
        PhotoError: if less than 11×11 pixels are left.
    """
    result, gt = _scored(result, gt, border)
    _require_window(gt, WINDOW)
    window = gaussian_window(WINDOW, SIGMA).to(gt.device)

    def local_mean(x: Tensor) -> Tensor:
        return separable(_padded(x, edges), window)

    return float(similarity_map(result, gt, local_mean).mean())


def ssim_zero(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """SSIM with black around the photos, as inpainting tables have it (LaMa)."""
    return ssim(result, gt, border, edges="zero")


def ssim_volume(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """SSIM as MATLAB's `ssim` computes it on an H×W×3 array: an 11×11×11 window over height, width and
    channel, edges repeated.

    The call of the deblurring tables' script (`evaluate_gopro_hide.m`). Much higher than `ssim`, for the
    three channels are averaged before they are compared.
    """
    result, gt = _scored(result, gt, border)
    _require_window(gt, WINDOW)
    window = gaussian_window(WINDOW, SIGMA).to(gt.device)
    channels = gt.shape[0]
    # Repeating the edge along an axis of three is a 3×3 matrix: weights that fall outside go to the ends.
    mixing = torch.zeros(channels, channels, dtype=torch.float64, device=gt.device)
    for i in range(channels):
        for k in range(WINDOW):
            mixing[i, min(max(i + k - WINDOW // 2, 0), channels - 1)] += window[k]

    def local_mean(x: Tensor) -> Tensor:
        return torch.einsum("ij,jhw->ihw", mixing, separable(_padded(x, "replicate"), window))

    return float(similarity_map(result, gt, local_mean).mean())


def ssim_uniform(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """SSIM with scikit-image's defaults: 7×7 flat window, unbiased variances, windows inside only."""
    result, gt = _scored(result, gt, border)
    _require_window(gt, 7)
    window = torch.full((7,), 1 / 7, dtype=torch.float64, device=gt.device)

    def local_mean(x: Tensor) -> Tensor:
        return separable(x, window)

    return float(similarity_map(result, gt, local_mean, sample=49 / 48).mean())


def similarity_map(
    x: Float[Tensor, "c h w"],
    y: Float[Tensor, "c h w"],
    local_mean: Callable[[Tensor], Tensor],
    sample: float = 1.0,
) -> Float[Tensor, "c u v"]:
    """SSIM at each place; `local_mean` is the window, `sample` corrects variances for their sample size."""
    # Only the sum of both variances is needed: four means instead of five.
    mean_x, mean_y, squares, product = (local_mean(m) for m in (x, y, x * x + y * y, x * y))
    c1, c2 = K1**2, K2**2
    mean_product = mean_x * mean_y
    mean_squares = mean_x.square_() + mean_y.square_()
    covariance = (product - mean_product).mul_(2 * sample).add_(c2)
    variances = (squares - mean_squares).mul_(sample).add_(c2)
    luminance = mean_product.mul_(2).add_(c1).div_(mean_squares.add_(c1))
    return luminance.mul_(covariance).div_(variances)


def gaussian_window(size: int, sigma: float) -> Float[Tensor, "n"]:
    """Return a Gaussian row of `size` weights that add up to 1, float64."""
    position = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-position.square() / (2 * sigma**2))
    return window / window.sum()


def separable(x: Float[Tensor, "c h w"], window: Float[Tensor, "n"]) -> Float[Tensor, "c u v"]:
    """Weighted mean over n×n pixels, wherever the window lies inside."""
    return _along_rows(_along_rows(x, window).transpose(1, 2), window).transpose(1, 2)


_BLOCK = 32


def _along_rows(x: Float[Tensor, "c h w"], window: Float[Tensor, "n"]) -> Float[Tensor, "c h v"]:
    # A band matrix on overlapping blocks: float64 convolutions of one channel are several times slower.
    size = x.shape[-1] - len(window) + 1
    blocks = -(-size // _BLOCK)
    band = window.new_zeros(_BLOCK + len(window) - 1, _BLOCK)
    for i in range(_BLOCK):
        band[i : i + len(window), i] = window
    padded = F.pad(x, [0, blocks * _BLOCK - size])
    return (padded.unfold(-1, len(band), _BLOCK) @ band).flatten(-2)[..., :size]


def _padded(x: Float[Tensor, "c h w"], edges: str) -> Float[Tensor, "c u v"]:
    if edges == "valid":
        return x
    return F.pad(x[None], [WINDOW // 2] * 4, mode="constant" if edges == "zero" else edges)[0]


def _require_window(gt: Tensor, size: int) -> None:
    if min(gt.shape[-2:]) < size:
        raise PhotoError(
            f"SSIM needs {size}×{size} pixels inside the border; there are {gt.shape[-2]}×{gt.shape[-1]}"
        )


def _scored(result: Tensor, gt: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if result.shape != gt.shape:
        raise PhotoError(f"result is {_size(result)} and GT {_size(gt)}; expected the same size")
    height, width = gt.shape[-2:]
    if min(height, width) <= 2 * border:
        raise PhotoError(
            f"a {width}×{height} photo has no pixel inside a border of {border}; expected a larger one"
        )
    inside = (..., slice(border, height - border), slice(border, width - border))
    return result[inside].double(), gt[inside].double()


def _size(photo: Tensor) -> str:
    return "×".join(str(n) for n in (photo.shape[-1], photo.shape[-2], photo.shape[-3]))
