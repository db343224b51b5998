"""JPEG compression as arithmetic on tensors: one quality per photo, any device.

`jpeg` follows libjpeg: standard tables in their standard orientation, rounded to integers; 4:2:0 chroma,
averaged going down and interpolated coming up; 8-bit values in and out. `released=True` is the simulation
that the published real-world models were trained with, which differs: tables not rounded, the luminance
table transposed, chroma repeated, black padding, and no rounding to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# ITU-T T.81, annex K: rows are vertical frequencies.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))

Round = Callable[[Tensor], Tensor]


def smooth_round(x: Tensor) -> Tensor:
    """Round with a gradient: x − round(x) to the third power is added."""
    nearest = x.round()
    return nearest + (x - nearest) ** 3


def jpeg(
    x: Float[Tensor, "b 3 h w"],
    quality: Float[Tensor, " b"],
    *,
    released: bool = False,
    rounding: Round = torch.round,
) -> Float[Tensor, "b 3 h w"]:
    """Compress and decompress photos in [0, 1].

    Args:
        x: photos; values outside [0, 1] are clamped (not in the released simulation).
        quality: libjpeg's 1 … 100, one per photo.
        released: the simulation of the published recipes instead of libjpeg's arithmetic.
        rounding: of the coefficients in the released simulation; `smooth_round` lets gradients through.
            libjpeg rounds halves away from zero, and the photo too, so no gradient gets through.
    """
    height, width = x.shape[-2:]
    exactly = rounding if released else None
    quality = quality.to(x).clamp(1, 100)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    tables = _tables(released).to(x)[None] * (scale if released else scale.floor())[:, None, None]
    tables = tables / 100 if released else ((tables + 50) / 100).floor().clamp(1, 255)
    x = x * 255 if released else x.clamp(0, 1).mul_(255).round_()
    # Whole blocks of 16: chroma has half the resolution.
    x = F.pad(x, (0, -width % 16, 0, -height % 16), mode="constant" if released else "replicate")
    luma, *chroma = _mix(x, TO_YCBCR).unbind(1)
    luma = _through_blocks(luma - 128, tables[:, 0], exactly) + 128
    if not released:
        luma = luma.clamp_(0, 255).round_()
    half = torch.stack([_through_blocks(_halved(plane), tables[:, 1], exactly) for plane in chroma], 1)
    if not released:
        half = half.clamp_(-128, 127).round_()
    colour = F.interpolate(half, scale_factor=2, **_ENLARGE[released])  # type: ignore[arg-type]
    out = _mix(torch.cat([luma[:, None], colour], 1), TO_RGB)[..., :height, :width].clamp(0, 255)
    return out / 255 if released else out.round_().div_(255)


_ENLARGE = {True: {"mode": "nearest"}, False: {"mode": "bilinear", "align_corners": False}}


@lru_cache(maxsize=2)
def _tables(released: bool) -> Tensor:
    """Return the quantisation tables of luma and chroma at quality 50, 2×64."""
    tables = torch.tensor((LUMINANCE, CHROMINANCE), dtype=torch.float64)
    return (tables.mT if released else tables).flatten(1)


@lru_cache(maxsize=1)
def _dct() -> Tensor:
    """Return the orthonormal 8×8 cosine transform as a 64×64 matrix on blocks read row by row."""
    n = torch.arange(8, dtype=torch.float64)
    rows = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) / 2
    rows[0] /= math.sqrt(2)
    return torch.kron(rows, rows)


def _through_blocks(plane: Tensor, table: Tensor, rounding: Round | None) -> Tensor:
    """Quantise a plane `b h w` around 0 in the cosine domain with a table `b 64`; None as libjpeg does."""
    batch, height, width = plane.shape
    dct = _dct().to(plane)
    blocks = plane.reshape(batch, height // 8, 8, width // 8, 8).transpose(2, 3).reshape(batch, -1, 64)
    table = table[:, None]
    if rounding is None:
        # libjpeg's transform delivers whole eighths, and halves, frequent then, are rounded away from
        # zero: what is enlarged by a millionth no longer ends on a half.
        coefficients = (blocks @ (8 * dct.T)).round_().mul_(1.000001 / (8 * table)).round_()
    else:
        coefficients = rounding(blocks @ dct.T / table)
    blocks = (coefficients * table) @ dct
    return blocks.reshape(batch, height // 8, width // 8, 8, 8).transpose(2, 3).reshape(plane.shape)


def _mix(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return (torch.tensor(matrix, dtype=x.dtype, device=x.device) @ x.flatten(2)).view_as(x)


def _halved(x: Tensor) -> Tensor:
    """Average 2×2 pixels; sums of slices are several times as fast as pooling on the CPU."""
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4
