"""PSNR and SSIM as MATLAB and the field's tables define them. Photos are `c h w` in [0, 1]."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.errors import PhotoError


def rgb_to_y(photo: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 1 h w"]:
    """BT.601 luma in studio range, 16/255 to 235/255: the Y of the super-resolution tables."""
    weights = photo.new_tensor([65.481, 128.553, 24.966]) / 255
    return torch.einsum("...chw,c->...hw", photo, weights).unsqueeze(-3) + 16 / 255


def psnr(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB over all channels, peak 1; inf for equal photos.

    Args:
        result: photo to score.
        gt: clean photo of the same shape.
        border: pixels cut off along each side before scoring.
    """
    result, gt = _scored(result, gt, border)
    error = float((result - gt).square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """Structural similarity, mean over channels: 11×11 Gaussian window of σ 1.5, where it fits entirely.

    K₁ = 0.01, K₂ = 0.03, as in the authors' MATLAB code and in BasicSR. Raises PhotoError below 11×11.
    """
    result, gt = _scored(result, gt, border)
    if min(gt.shape[-2:]) < 11:
        raise PhotoError(
            f"SSIM needs 11×11 pixels inside the border; there are {gt.shape[-2]}×{gt.shape[-1]}"
        )
    position = torch.arange(-5, 6, dtype=torch.float64, device=gt.device)
    window = torch.exp(-position.square() / (2 * 1.5**2))
    window = window / window.sum()
    rows, columns = window.view(1, 1, 11, 1), window.view(1, 1, 1, 11)

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, rows), columns)

    x, y = result[:, None], gt[:, None]
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    map_ = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(map_.mean())


def _scored(result: Tensor, gt: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if result.shape != gt.shape:
        raise PhotoError(f"result is {_size(result)} and GT {_size(gt)}; expected the same size")
    inside = [-border] * 4
    return F.pad(result, inside).double(), F.pad(gt, inside).double()


def _size(photo: Tensor) -> str:
    return "×".join(str(n) for n in (photo.shape[-1], photo.shape[-2], photo.shape[-3]))
