"""`dirformer.degrade`: clean photos in memory → degraded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.table import degradation
from dirformer.ground import checks
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import PhotoError
from dirformer.ground.photo import read_rgb
from dirformer.ground.values import floats_of, unreadable


def degrade(
    photo: str | Path | np.ndarray | Tensor, kind: str, *, scale: int | None = None, seed: int = 0
) -> Float[Tensor, "*b 3 h w"]:
    """Degrade a clean photo, or a batch of equal sizes.

    Args:
        photo: a file; a tensor `3 H W` or `b 3 H W`; or an array `H W 3`. Values are uint8,
            or floats in [0, 1].
        kind: a name of `degradations.table.DEGRADATIONS`, such as `realsr-graded`.
        scale: size of the clean photo over the degraded one; None is the kind's first.
        seed: a whole number of 64 bits; the same seed gives the same result. Photos of a batch have draws of
            their own.

    Returns:
        `3 h w` or `b 3 h w`, float32 in [0, 1], `scale` times as small. Sides are cut to multiples
        of the scale.

    Raises:
        ConfigError: for a kind, scale or seed that does not exist.
        PhotoError: if the file cannot be read, or shape, type or values are none of the above.
    """
    make, seed = degradation(kind, scale), checks.seed(seed)
    clean = _clean(photo)
    batch = clean if clean.ndim == 4 else clean[None]
    if min(batch.shape[2:]) < make.scale:
        shape = tuple(clean.shape)
        raise PhotoError(f"photo has shape {shape}; expected sides of at least {make.scale} pixels")
    height, width = (side // make.scale * make.scale for side in batch.shape[2:])
    generators = [seeded_generator(seed, "degrade", number) for number in range(len(batch))]
    lq = make(batch[:, :, :height, :width], generators).float()
    return lq if clean.ndim == 4 else lq[0]


def _clean(photo: str | Path | np.ndarray | Tensor) -> Tensor:
    if isinstance(photo, str | Path):
        photo = read_rgb(Path(photo))
    if isinstance(photo, Tensor):
        if (kind := unreadable(photo)) is not None:
            raise PhotoError(f"photo is a tensor that is {kind}; expected a plain one, such as .to_dense()")
        values = photo.detach()
    elif isinstance(photo, np.ndarray):
        values = _array(photo)
    else:
        raise PhotoError(f"photo is a {type(photo).__name__}; expected a file, a tensor or an array")
    if values.ndim not in (3, 4) or values.shape[-3] != 3 or 0 in values.shape:
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


def _array(photo: np.ndarray) -> Tensor:
    """Return a copy of an array `H W 3`, or of a batch of them, with the colours in front."""
    if photo.dtype.kind == "f":
        values = floats_of(photo)
    elif photo.dtype == np.uint8:
        values = torch.from_numpy(np.array(photo, order="C"))
    else:
        raise PhotoError(f"photo has dtype {photo.dtype}; expected uint8, or floats in [0, 1]")
    return values.movedim(-1, -3) if values.ndim in (3, 4) else values
