"""What `Restorer.restore` takes → tensors, by stated rules; everything else is one line.

Photos: a float tensor `3 h w` or `b 3 h w` in [0, 1]; a NumPy array `h w 3` or `h w` of uint8, uint16 or
floats in [0, 1]; a PIL image; the name of a file. Masks: `h w` or `1 h w`, true, or one half and
more, in holes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dirformer.ground.errors import PhotoError
from dirformer.ground.mask import mask_of, read_mask
from dirformer.ground.photo import photo_of, read_photo
from dirformer.ground.values import floats_of, unreadable

PhotoLike = Tensor | np.ndarray | Image.Image | str | Path
MaskLike = Tensor | np.ndarray | Image.Image | str | Path
MARGIN = 0.01
"""Floats may leave [0, 1] by so much: resampling and sharpening overshoot."""
_PHOTO = "3 h w or b 3 h w (tensor), h w 3 or h w (array), a PIL image or a file name"


def as_photo(photo: PhotoLike) -> Float[Tensor, "*b 3 h w"]:
    """Return a photo, or a batch of them, as RGB in [0, 1].

    Raises:
        PhotoError: for another type, shape, dtype or range, and for values that are not finite.
    """
    if isinstance(photo, str | Path):
        return read_photo(photo).pixels
    if isinstance(photo, Image.Image):
        return photo_of(photo).pixels
    if isinstance(photo, Tensor):
        return _photo_tensor(photo)
    if isinstance(photo, np.ndarray):
        return _photo_array(photo)
    raise PhotoError(f"the photo is a {type(photo).__name__}; expected {_PHOTO}")


def _photo_tensor(photo: Tensor) -> Tensor:
    _require_readable(photo, "photo")
    shape = tuple(photo.shape)
    if photo.ndim not in (3, 4) or shape[-3] != 3 or 0 in shape:
        advice = "; an array h w 3 must come as NumPy" if shape[-1:] == (3,) else ""
        raise PhotoError(f"the photo is a tensor of shape {shape}; expected 3 h w or b 3 h w{advice}")
    if not photo.is_floating_point():
        raise PhotoError(
            f"the photo is a tensor of {photo.dtype}; expected floats in [0, 1]: photo.float() / 255"
        )
    return _in_range(photo.detach().float().cpu(), "photo").clamp(0, 1)


def _photo_array(photo: np.ndarray) -> Tensor:
    if photo.ndim not in (2, 3) or 0 in photo.shape or (photo.ndim == 3 and photo.shape[2] != 3):
        raise PhotoError(f"the photo is an array of shape {photo.shape}; expected h w 3 or h w")
    values = _array_values(photo, "photo")
    if values.ndim == 2:
        return values.expand(3, -1, -1).contiguous()
    return values.permute(2, 0, 1).contiguous()


def _array_values(array: np.ndarray, name: str) -> Tensor:
    if array.dtype.kind != "f" and (array.dtype.kind, array.dtype.itemsize) not in (("u", 1), ("u", 2)):
        raise PhotoError(
            f"the {name} is an array of {array.dtype}; expected uint8, uint16 or floats in [0, 1]"
        )
    values = floats_of(array)
    if array.dtype.kind == "u":
        return values / (255 if array.dtype.itemsize == 1 else 65535)
    return _in_range(values, name).clamp(0, 1)


def _require_readable(tensor: Tensor, name: str) -> None:
    if (kind := unreadable(tensor)) is not None:
        raise PhotoError(f"the {name} is a tensor that is {kind}; expected a plain one, such as .to_dense()")


def _in_range(values: Tensor, name: str) -> Tensor:
    low, high = (float(v) for v in values.aminmax())
    # NaN compares false with everything.
    if not -MARGIN <= low <= high <= 1 + MARGIN:
        if not bool(values.isfinite().all()):
            raise PhotoError(f"the {name} has values that are not finite; expected numbers in [0, 1]")
        advice = ": divide by 255" if 1 < high <= 255 else ""
        raise PhotoError(f"the {name} has values of {low:.4g} to {high:.4g}; expected [0, 1]{advice}")
    return values


def as_mask(mask: MaskLike) -> Float[Tensor, "1 h w"]:
    """Return a mask: 1 in holes, else 0.

    Booleans, uint8 of 0 to 255, floats of 0 to 1: the middle and more is a hole. A uint8 mask of 0 and 1
    is one of holes, too.

    Raises:
        PhotoError: for another type, shape, dtype or range, and for values that are not finite.
    """
    if isinstance(mask, str | Path):
        return read_mask(mask)
    if isinstance(mask, Image.Image):
        return mask_of(photo_of(mask))
    if isinstance(mask, np.ndarray):
        mask = _mask_array(mask)
    if not isinstance(mask, Tensor):
        raise PhotoError(f"the mask is a {type(mask).__name__}; expected a tensor, array, PIL image or file")
    _require_readable(mask, "mask")
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.shape[0] != 1 or 0 in mask.shape:
        raise PhotoError(f"the mask has the shape {tuple(mask.shape)}; expected h w or 1 h w")
    mask = mask.detach().cpu()
    if mask.dtype == torch.bool:
        return mask.float()
    if mask.dtype == torch.uint8:
        return mask.gt(0 if int(mask.max()) <= 1 else 127).float()
    if not mask.is_floating_point():
        raise PhotoError(f"the mask has {mask.dtype} values; expected bool, uint8 or floats in [0, 1]")
    return _in_range(mask.float(), "mask").ge(0.5).float()


def _mask_array(mask: np.ndarray) -> Tensor:
    """Return a copy of an array's values as a tensor: arrays may be read-only, or in another byte order."""
    if mask.dtype.kind == "f":
        return floats_of(mask)
    if mask.dtype not in (np.bool_, np.uint8):
        raise PhotoError(f"the mask has {mask.dtype} values; expected bool, uint8 or floats in [0, 1]")
    return torch.from_numpy(np.array(mask, order="C"))
