"""Masks: which pixels are hole.

A mask is white where to fill. Where it has transparency that is not the same everywhere, transparency
decides instead: painted is hole, whatever the colour of the paint.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import MAX_PIXELS
from dirformer.ground.photo import Photo, read_photo

MOST = 0.99
"""The largest share of a photo that can be hole: a network needs something to go by."""
_LUMA = (0.299, 0.587, 0.114)


def read_mask(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Float[Tensor, "1 h w"]:
    """Read a mask of any kind of photo file by the rule of `mask_of`. Raises PhotoError as `read_photo`."""
    return mask_of(read_photo(path, max_pixels=max_pixels))


def mask_of(photo: Photo) -> Float[Tensor, "1 h w"]:
    """Return the mask that a photo is meant as: 1 in holes, else 0.

    Transparency decides where it varies: half opaque or more is hole. Else brightness decides: half of
    white (128 of 255) or more is hole. Soft and JPEG masks so have a sharp edge.
    """
    if photo.alpha is not None and bool((photo.alpha != photo.alpha[0, 0, 0]).any()):
        return (photo.alpha >= 0.5).float()
    luma = sum(weight * channel for weight, channel in zip(_LUMA, photo.pixels, strict=True))
    value = photo.pixels[:1] if photo.grey else torch.as_tensor(luma)[None]
    return (value >= 0.5).float()


def read_mask_for(photo: Path, mask: Path, size: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    """Read the mask of a photo, and refuse one that cannot be meant.

    Args:
        photo: file the mask belongs to.
        mask: file of the mask.
        size: height and width of the photo.

    Raises:
        PhotoError: if both are one file, the sizes differ, or the hole is nothing or all but nothing is left.
    """
    if photo.exists() and mask.exists() and photo.samefile(mask):
        raise PhotoError(f"{photo} is given as its own mask; give another file, or leave --mask out")
    hole = read_mask(mask)
    if hole.shape[1:] != size:
        sizes = [f"{w}×{h}" for h, w in (tuple(hole.shape[1:]), size)]
        raise PhotoError(f"the mask {mask} is {sizes[0]} and {photo} {sizes[1]}; expected the same size")
    require_hole(hole, str(mask))
    return hole


def require_hole(hole: Float[Tensor, "1 h w"], name: str) -> None:
    """Raise PhotoError if nothing is to be filled, or nearly everything."""
    share = float(hole.double().mean())
    if share == 0 or share > MOST:
        raise PhotoError(
            f"{name} marks {100 * share:.3g} % of the photo as hole; expected more than 0 and at most "
            f"{100 * MOST:.0f} %: white, or paint on transparency, is what to fill"
        )


def grow(hole: Float[Tensor, "1 h w"], by: int) -> Float[Tensor, "1 h w"]:
    """Grow a hole by so many pixels in all directions, corners too."""
    if by < 1:
        return hole
    # Across, then down: a square of any size costs two lines of it.
    by_row, by_column = min(by, hole.shape[2]), min(by, hole.shape[1])
    wide = F.max_pool2d(F.pad(hole[None], (by_row, by_row, 0, 0)), (1, 2 * by_row + 1), stride=1)
    return F.max_pool2d(F.pad(wide, (0, 0, by_column, by_column)), (2 * by_column + 1, 1), stride=1)[0]


def soften(
    hole: Float[Tensor, "1 h w"], dilate: int, feather: int
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Grow a hole, and return with it how much of the result is shown where.

    The hole grows by `dilate` pixels, and at least by `feather`, so that the blend lies in pixels that the
    user can see: what the mask covers is never shown.

    Returns:
        The grown hole (0 or 1), and weights: 1 in the mask, 0 outside of the grown hole, and falling
        towards its edge over `feather` pixels.
    """
    by = max(dilate, feather)
    step = grow(hole, by - feather)
    weights = step.clone()
    for _ in range(feather):
        step = grow(step, 1)
        weights += step
    return step, weights / (feather + 1)
