"""MATLAB's bicubic `imresize`, with which the field makes its low-resolution photos."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import ConfigError


def cubic(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Keys' cubic with a = −0.5 at distance x in pixels."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def resize_matrix(size: int, scale: float) -> Float[Tensor, "out in"]:
    """Return the matrix (float64) that resizes a row of `size` pixels to ⌈size·scale⌉.

    The kernel is widened by 1/scale when shrinking (antialiasing); borders are mirrored with the edge
    repeated.
    """
    out = math.ceil(size * scale)
    stretch = min(1.0, scale)
    taps = math.ceil(4 / stretch) + 2
    # Pixel centres, counted as MATLAB counts, from 1.
    centre = torch.arange(1, out + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)
    index = (centre - 2 / stretch).floor()[:, None] + torch.arange(taps, dtype=torch.float64)
    weights = stretch * cubic(stretch * (centre[:, None] - index))
    weights = weights / weights.sum(1, keepdim=True)
    mirrored = (index.long() - 1) % (2 * size)
    mirrored = torch.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    return torch.zeros(out, size, dtype=torch.float64).scatter_add_(1, mirrored, weights)


def resize_bicubic(
    x: Float[Tensor, "*b h w"], scale: float, *, levels: int | None = None
) -> Float[Tensor, "*b H W"]:
    """Resize as MATLAB's `imresize(x, scale, 'bicubic')`, rows first; not clamped.

    Args:
        x: photos, nominally in [0, 1].
        scale: output size over input size, rounded up to whole pixels.
        levels: 255 does as MATLAB does on uint8 images: clamps to [0, 1] and rounds to 1/255 behind each
            of the two passes. None computes in floating point throughout.

    Raises:
        ConfigError: if `scale` is not positive.
    """
    if scale <= 0:
        raise ConfigError(f"scale is {scale}; expected a positive number")
    rows, columns = (resize_matrix(n, scale).to(x) for n in x.shape[-2:])
    if levels is None:
        return rows @ x @ columns.T
    # In whole levels, so that sums which end in exactly one half are rounded as they should be: up.
    x = (x * levels).round()
    x = (rows @ x + 0.5).floor().clamp(0, levels)
    return (x @ columns.T + 0.5).floor().clamp(0, levels) / levels
