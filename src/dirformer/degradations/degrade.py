"""`dirformer.degrade`: clean photos in memory → degraded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import PhotoError
from dirformer.ground.photo import read_rgb


def degrade(
    photo: str | Path | np.ndarray | Tensor, kind: str, *, scale: int | None = None, seed: int = 0
) -> Float[Tensor, "*b 3 h w"]:
    """Degrade a clean photo, or a batch of equal sizes.

    Args:
        photo: a file; a tensor `3 H W` or `b 3 H W`; or an array `H W 3`. Values are uint8,
            or floats in [0, 1].
        kind: a name of `degradations.table.DEGRADATIONS`, such as `realsr-graded`.
        scale: size of the clean photo over the degraded one; None is the kind's first.
        seed: the same seed gives the same result; photos of a batch have draws of their own.

    Returns:
        `3 h w` or `b 3 h w`, float32 in [0, 1], `scale` times as small. Sides are cut to multiples
        of the scale.

    Raises:
        ConfigError: for a kind or scale that does not exist.
        PhotoError: if the file cannot be read, or shape, type or values are none of the above.
    """
    clean = _clean(photo)
    make = degradation(kind, scale)
    batch = clean if clean.ndim == 4 else clean[None]
    height, width = (side // make.scale * make.scale for side in batch.shape[2:])
    generators = [seeded_generator(seed, "degrade", number) for number in range(len(batch))]
    lq = make(batch[:, :, :height, :width], generators).float()
    return lq if clean.ndim == 4 else lq[0]


def _clean(photo: str | Path | np.ndarray | Tensor) -> Tensor:
    if isinstance(photo, str | Path):
        photo = read_rgb(Path(photo))
    values = torch.from_numpy(photo).movedim(-1, -3) if isinstance(photo, np.ndarray) else photo
    if values.ndim not in (3, 4) or values.shape[-3] != 3:
        raise PhotoError(
            f"photo has shape {tuple(photo.shape)}; expected a tensor 3 H W or b 3 H W, or an array H W 3"
        )
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.is_floating_point():
        raise PhotoError(f"photo has dtype {values.dtype}; expected uint8, or floats in [0, 1]")
    low, high = (float(v) for v in (values.min(), values.max()))
    if not (low >= 0 and high <= 1):
        raise PhotoError(
            f"photo has values from {low:g} to {high:g}; expected floats in [0, 1]: divide by 255"
        )
    return values.float()
