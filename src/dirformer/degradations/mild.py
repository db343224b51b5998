"""The table of mild damage: does a model leave good photos alone, and help where there is a little damage?

Each row is one kind at one strength, the same for every photo but for the noise, which each photo draws anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dirformer.degradations.base import seed
from dirformer.degradations.light import Blur, ChromaNoise, Damage, GaussianNoise, Jpeg, resample
from dirformer.degradations.second_order import SecondOrder

SIDE = 256
"""Pixels of the clean photo: its middle, at most this many per side."""
HEAVY = "heavy"
"""The row that is the second-order process of real-world super-resolution."""

Make = Callable[[int], tuple[Damage, ...]]


def _noise(sigma: float) -> Make:
    return lambda number: (GaussianNoise(sigma, grey=False, seed=number),)


def _jpeg(quality: int) -> Make:
    return lambda _: (Jpeg(quality, "4:2:0", (0, 0)),)


MILD: dict[str, Make] = {
    "none": lambda _: (),
    "JPEG 90": _jpeg(90),
    "JPEG 70": _jpeg(70),
    "JPEG 40": _jpeg(40),
    "noise 3": _noise(3.0),
    "noise 10": _noise(10.0),
    "noise 25": _noise(25.0),
    "chroma noise 8": lambda number: (ChromaNoise(8.0, 2.0, 1.5, number),),
    "blur 0.7 + JPEG 85": lambda _: (Blur(0.7, 0.7, 0.0), Jpeg(85, "4:2:0", (0, 0))),
}
"""Name → what is done, given the seed of the noise. `HEAVY` comes behind these."""
ROWS = (*MILD, HEAVY)


def middle(photo: Float[Tensor, "3 h w"], scale: int) -> Float[Tensor, "3 y x"]:
    """Return the middle of a photo, at most `SIDE` pixels per side, a multiple of 8·scale."""
    step = 8 * scale
    height, width = (min(side, SIDE) // step * step for side in photo.shape[1:])
    top, left = (photo.shape[1] - height) // 2, (photo.shape[2] - width) // 2
    return photo[:, top : top + height, left : left + width]


def damage(row: str, gt: Float[Tensor, "3 h w"], scale: int, generator: torch.Generator) -> Any:
    """Return the LQ photo of a row: RGB in [0, 1] on the 8-bit grid, `3 h/scale w/scale`.

    Args:
        row: a name of `ROWS`.
        gt: clean photo; sides are multiples of 8·scale.
        scale: the small photo is made by Pillow's bicubic before it is damaged.
        generator: of the photo; draws the noise.
    """
    if row == HEAVY:
        return SecondOrder(scale)(gt[None], [generator])[0]
    lq = gt
    if scale > 1:
        size = gt.shape[1] // scale, gt.shape[2] // scale
        lq = resample(gt, size, "bicubic")
    for step in MILD[row](seed(generator)):
        lq = step(lq)
    return lq.clamp(0, 1).mul(255).round().div(255)


def save(photo: Float[Tensor, "3 h w"], path: Any) -> None:
    """Write a photo on the 8-bit grid as PNG, quickly: it is read again soon."""
    levels = (photo * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(levels).save(path, compress_level=1)
