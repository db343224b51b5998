"""What is done to a result behind the network: agreement with the input, strength, another size."""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.resize import resize_matrix

EPS = 0.25 / 255
"""Largest difference that `make_consistent` leaves; rounding to 8 bit adds to it, and stays below a half."""
ROUNDS = 12
STEPS = 12


def make_consistent(restored: Float[Tensor, "3 H W"], lq: Float[Tensor, "3 h w"], scale: int) -> Tensor:
    """Correct an enlarged photo until shrinking it gives the input back (back-projection).

    Each round adds the smallest correction that removes the difference, and cuts values to [0, 1], which
    makes a new, smaller one.

    Args:
        restored: the enlarged photo.
        lq: the input.
        scale: factor between them.

    Returns:
        The corrected photo; shrunk by `shrink` it differs from the input by at most `EPS`, as far as
        `ROUNDS` rounds reach: they do where the result resembles the input, and need more where most values
        are cut.
    """
    off = inconsistency(restored, lq, scale)
    for _ in range(ROUNDS):
        if off <= EPS:
            break
        missing = lq - shrink(restored, scale)
        push = _spread(missing, scale)
        # What lies at the end of the range and is pushed on cannot take part. Where too little else is left
        # that leads astray, and a step with all pixels goes on more slowly.
        free = ~((restored <= 0) & (push < 0) | (restored >= 1) & (push > 0))
        steps = (_corrected(restored, missing, each, scale) for each in (free, torch.ones_like(free)))
        tried = ((inconsistency(step, lq, scale), step) for step in steps)
        better = next(((error, step) for error, step in tried if error < off), None)
        if better is None:
            break
        off, restored = better
    return restored


def _corrected(restored: Tensor, missing: Tensor, free: Tensor, scale: int) -> Tensor:
    """Add the smallest correction of the free pixels that removes what is missing; cut to [0, 1]."""
    return (restored + _spread(_solved(missing, free, scale), scale) * free).clamp_(0, 1)


def _solved(
    missing: Float[Tensor, "c h w"], free: Bool[Tensor, "c H W"], scale: int
) -> Float[Tensor, "c h w"]:
    """Return x with shrink(_spread(x) * free) ≈ missing, by conjugate gradients."""
    x, rest = torch.zeros_like(missing), missing.clone()
    along, square = rest.clone(), rest.square().sum()
    for _ in range(STEPS):
        if float(rest.abs().max()) <= EPS / 4:
            break
        image = shrink(_spread(along, scale) * free, scale)
        step = square / (along * image).sum()
        x.add_(along * step)
        rest.sub_(image * step)
        square, before = rest.square().sum(), square
        along = rest + along * (square / before)
    return x


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
        index = _mirrored(photo.shape[axis], scale, offset, len(kernel))
        shape, stride = _along(axis, scale)
        photo = F.conv2d(photo.index_select(axis, index)[:, None], kernel.view(shape), stride=stride)[:, 0]
    return photo


def _spread(photo: Float[Tensor, "c h w"], scale: int) -> Float[Tensor, "c H W"]:
    """Return the transpose of `shrink`: each small pixel goes back to those it was made of."""
    kernel, offset = _kernel(scale)
    for axis in (2, 1):
        size = photo.shape[axis] * scale
        shape, stride = _along(axis, scale)
        wide = F.conv_transpose2d(photo[:, None], kernel.view(shape), stride=stride)[:, 0]
        sides = list(photo.shape)
        sides[axis] = size
        index = _mirrored(size, scale, offset, len(kernel))
        photo = photo.new_zeros(sides).index_add_(axis, index, wide)
    return photo


def _mirrored(size: int, scale: int, offset: int, taps: int) -> Int[Tensor, "n"]:
    """Return where each tap along a side reads: mirrored with the edge repeated."""
    index = torch.arange(offset, size - scale + offset + taps) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def _along(axis: int, scale: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return shape of the kernel and stride of a convolution along rows (2) or columns (1)."""
    return ((1, 1, -1, 1), (scale, 1)) if axis == 1 else ((1, 1, 1, -1), (1, scale))


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
