"""What is done to a result behind the network: agreement with the input, strength, another size."""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.resize import resize_matrix

EPS = 0.25 / 255
"""Largest difference that `make_consistent` leaves; rounding to 8 bit adds to it, and stays below a half."""
ITERATIONS = 60


def make_consistent(restored: Float[Tensor, "3 H W"], lq: Float[Tensor, "3 h w"], scale: int) -> Tensor:
    """Correct an enlarged photo until shrinking it gives the input back (back-projection).

    What shrinking leaves of the difference is enlarged and added, again and again; values stay in [0, 1].

    Args:
        restored: the enlarged photo.
        lq: the input.
        scale: factor between them.

    Returns:
        The corrected photo; shrunk by `shrink` it differs from the input by at most `EPS`, as far as
        `ITERATIONS` rounds reach.
    """
    restored = restored.clone()
    for _ in range(ITERATIONS):
        missing = lq - shrink(restored, scale)
        if float(missing.abs().max()) <= EPS:
            break
        restored.add_(_enlarged(missing, scale)).clamp_(0, 1)
    return restored


def inconsistency(restored: Float[Tensor, "3 H W"], lq: Float[Tensor, "3 h w"], scale: int) -> float:
    """Return the largest difference between the input and the result shrunk by `scale`, pixels in [0, 1]."""
    return float((shrink(restored, scale) - lq).abs().max())


@functools.lru_cache(maxsize=16)
def _kernel(scale: int) -> tuple[Float[Tensor, "k"], int]:
    """Return the weights of one shrunk pixel, and where its window begins, as seen from `scale` × place."""
    row = resize_matrix(16 * scale, 1 / scale)[8]
    used = row.nonzero()[:, 0]
    first, last = int(used[0]), int(used[-1])
    return row[first : last + 1].float(), first - 8 * scale


def shrink(photo: Float[Tensor, "c H W"], scale: int) -> Float[Tensor, "c h w"]:
    """Shrink as `degradations.resize.resize_bicubic(photo, 1 / scale)`; sides are multiples of `scale`."""
    kernel, offset = _kernel(scale)
    for axis in (1, 2):
        size = photo.shape[axis]
        # Mirrored with the edge repeated.
        index = torch.arange(offset, size - scale + offset + len(kernel)) % (2 * size)
        index = torch.where(index < size, index, 2 * size - 1 - index)
        shape = (1, 1, -1, 1) if axis == 1 else (1, 1, 1, -1)
        stride = (scale, 1) if axis == 1 else (1, scale)
        photo = F.conv2d(photo.index_select(axis, index)[:, None], kernel.view(shape), stride=stride)[:, 0]
    return photo


def _enlarged(photo: Float[Tensor, "c h w"], scale: int) -> Float[Tensor, "c H W"]:
    return F.interpolate(photo[None], scale_factor=float(scale), mode="bicubic")[0]


def blend(
    lq: Float[Tensor, "3 h w"], restored: Float[Tensor, "3 H W"], strength: float, scale: int
) -> Float[Tensor, "3 H W"]:
    """Return `strength` parts of the result and the rest of the input, enlarged bicubically.

    0 is exactly the (enlarged) input, 1 exactly the result.
    """
    if strength == 1:
        return restored
    before = lq.clone() if scale == 1 else _enlarged(lq, scale).clamp(0, 1)
    return before if strength == 0 else before.lerp(restored, strength)


def resized(photo: Float[Tensor, "c H W"], width: int, height: int) -> Float[Tensor, "c y x"]:
    """Bring a photo to a size in pixels by Pillow's Lanczos filter, which is widened when it shrinks."""
    if (height, width) == tuple(photo.shape[1:]):
        return photo
    planes = [
        np.asarray(Image.fromarray(plane.numpy()).resize((width, height), Image.Resampling.LANCZOS))
        for plane in photo.contiguous()
    ]
    return torch.from_numpy(np.stack(planes)).clamp(0, 1)
