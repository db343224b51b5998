"""Masks: which pixels are hole.

A mask is white where to fill. Where it has transparency that is not the same everywhere, transparency
decides instead: painted is hole, whatever the colour of the paint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import MAX_PIXELS
from dirformer.ground.paths import is_there
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
    if is_there(photo) and is_there(mask) and photo.samefile(mask):
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


def soften(
    hole: Float[Tensor, "1 h w"], dilate: int, feather: int
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Grow a hole, and return with it how much of the result is shown where.

    The hole grows by `dilate` pixels in all directions, corners too, and at least by `feather`, so that the
    blend lies in pixels that the user can see: what the mask covers is never shown. The time does not depend
    on either.

    Returns:
        The grown hole (0 or 1), and weights: 1 in the mask, 0 outside of the grown hole, and falling
        towards its edge over `feather` pixels.
    """
    by = max(dilate, feather)
    if by < 1:
        return hole, hole.clone()
    far = _distance(hole)
    return (far <= by).to(hole), ((by + 1 - far) / (feather + 1)).clamp(0, 1)


def _distance(hole: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Return how far each pixel is from the hole, the larger of rows and columns; infinite without a hole.

    A chessboard king's shortest way goes along the hole's row first, then aslant or straight to the pixel's.
    """
    index = torch.arange(hole.shape[2], dtype=torch.float32).expand_as(hole)
    left = torch.where(hole > 0, index, -torch.inf).cummax(2).values
    right = torch.where(hole > 0, -index, -torch.inf).flip(2).cummax(2).values.flip(2)
    far = torch.minimum(index - left, -right - index)
    rows = far[0].numpy()
    for order in (range(1, len(rows)), range(len(rows) - 2, -1, -1)):
        for y in order:
            # One more than the least of three neighbours in the row before.
            step = rows[y - order.step] + 1
            np.minimum(rows[y], step, out=rows[y])
            np.minimum(rows[y, 1:], step[:-1], out=rows[y, 1:])
            np.minimum(rows[y, :-1], step[1:], out=rows[y, :-1])
    return far
