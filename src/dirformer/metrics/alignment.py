"""Scores behind an alignment: what a pair's camera got wrong is not held against a result.

`psnr_matched` forgives a difference in brightness, `psnr_shifted` a shift of whole pixels, as is usual for
Levin's set (2009). RealBlur's protocol forgives more: its pairs come from two cameras behind one lens, so
small shifts and a difference in brightness are nobody's fault. As in that data set's evaluation script,
brightness is scaled by least squares, an ECC homography found on grey photos, and scores are taken where
the warped result covers the GT.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.errors import MissingExtraError, PhotoError
from dirformer.metrics.psnr_ssim import (
    SIGMA,
    WINDOW,
    decibels,
    gaussian_window,
    psnr,
    separable,
    similarity_map,
)

SHIFT = 6
"""Largest shift in pixels that `psnr_shifted` tries along each axis."""
CUT = 16
"""Pixels it cuts off along each side."""


def psnr_matched(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """PSNR in dB after the result's mean has been set to the GT's: one number added to the whole photo.

    REDS averages frames through a camera curve, so its blurred photos are brighter than the sharp ones.
    """
    return psnr(result + (gt.mean() - result.mean()), gt, border)


def psnr_shifted(result: Float[Tensor, "c h w"], gt: Float[Tensor, "c h w"], border: int = 0) -> float:
    """Best PSNR in dB over whole-pixel shifts of up to 6, 16 pixels cut off; `border` is not used.

    NaN where a shift has NaN.

    Raises:
        PhotoError: if nothing is left behind the cut.
    """
    del border
    if min(gt.shape[1:]) <= 2 * CUT:
        raise PhotoError(f"a {gt.shape[2]}×{gt.shape[1]} photo is too small; shifts cut off {CUT} pixels")
    target, moves = F.pad(gt, [-CUT] * 4), range(-SHIFT, SHIFT + 1)
    shifts = (F.pad(result, [-CUT - x, x - CUT, -CUT - y, y - CUT]) for y in moves for x in moves)
    return float(torch.tensor([psnr(shift, target) for shift in shifts], dtype=torch.float64).max())


def psnr_aligned(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"], border: int = 0) -> float:
    """PSNR in dB of the aligned result, over covered pixels; `border` is not used by this protocol.

    Raises:
        MissingExtraError: without OpenCV (the extra `opencv`); PhotoError if no alignment is found.
    """
    del border
    aligned, target, covered = _align(result, gt)
    return decibels(float(((aligned - target) ** 2).sum() / covered.sum()))


def ssim_aligned(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"], border: int = 0) -> float:
    """SSIM of the aligned result with the 11×11 Gaussian window, over covered pixels; raises as above."""
    del border
    aligned, target, covered = (torch.from_numpy(a).permute(2, 0, 1).double() for a in _align(result, gt))
    window = gaussian_window(WINDOW, SIGMA)

    def local_mean(x: Tensor) -> Tensor:
        return separable(x, window)

    inside = F.pad(covered, [-(WINDOW // 2)] * 4)
    values = similarity_map(aligned, target, local_mean) * inside
    return float((values.sum((1, 2)) / inside.sum((1, 2))).mean())


def _align(result: Tensor, gt: Tensor) -> tuple[Any, Any, Any]:
    # Both scores of a photo need the same alignment, which takes most of the time.
    arrays = (np.ascontiguousarray(x.permute(1, 2, 0).numpy(), dtype=np.float32) for x in (result, gt))
    return _align_bytes(tuple(gt.shape[1:]), *(a.tobytes() for a in arrays))


@lru_cache(maxsize=1)
def _align_bytes(size: tuple[int, int], result: bytes, gt: bytes) -> tuple[Any, Any, Any]:
    try:
        cv2: Any = import_module("cv2")  # its stubs do not know the arguments behind the mask
    except ModuleNotFoundError:
        raise MissingExtraError("opencv-python-headless", "opencv") from None
    z, x = (np.frombuffer(data, dtype=np.float32).reshape(*size, 3) for data in (result, gt))
    z = z * np.float32((x * z).sum() / max(float((z * z).sum()), 1e-12))
    grey_x, grey_z = (cv2.cvtColor(a, cv2.COLOR_RGB2GRAY) for a in (x, z))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    try:
        _, warp = cv2.findTransformECC(
            grey_x, grey_z, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, 5
        )
    except cv2.error:
        raise PhotoError(
            f"no alignment found for a {size[1]}×{size[0]} photo; is it of the same scene?"
        ) from None
    whole = (size[1], size[0])
    options: dict[str, Any] = {
        "borderMode": cv2.BORDER_REFLECT,
        "flags": cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    }
    aligned = cv2.warpPerspective(z, warp, whole, **options)
    options = {"borderMode": cv2.BORDER_CONSTANT, "flags": cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP}
    covered = cv2.warpPerspective(np.ones_like(z), warp, whole, borderValue=0, **options)
    return aligned * covered, x * covered, covered
