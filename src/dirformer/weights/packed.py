"""Weights in 8 bits: each output channel's whole numbers of −127 to 127, times one factor.

A convolution or matrix `name` becomes int8 numbers `name` and factors `name:scale`, one for each output
channel (the first axis). Small tensors stay floats.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8, Shaped
from torch import Tensor

from dirformer.ground.errors import CheckpointError

SCALE = ":scale"
"""End of the names of factors; no tensor of a network has a colon in its name."""
LEAST = 1024
"""Tensors with fewer values stay floats: they weigh little and matter much."""
_TOP = 127
_CLIPS = tuple(1 - 0.05 * step for step in range(7))
"""Shares of the largest value that are tried as the largest number; the one with the least error is taken."""


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with the large ones as 8-bit numbers and factors, and the others as float16."""
    packed = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.numel() < LEAST or not bool(tensor.isfinite().all()):
            packed[name] = tensor.half()
            continue
        numbers, factors = _rounded(tensor.float().reshape(len(tensor), -1))
        packed[name], packed[name + SCALE] = numbers.reshape(tensor.shape), factors
    return packed


def _rounded(matrix: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, "o"]]:
    """Return numbers and factors with the least squared error of each row, of the clips tried."""
    most = matrix.abs().amax(1).clamp(min=1e-30)
    best = torch.full_like(most, torch.inf)
    numbers, factors = torch.zeros_like(matrix, dtype=torch.int8), most.clone()
    for clip in _CLIPS:
        factor = most * clip / _TOP
        tried = (matrix / factor[:, None]).round().clamp(-_TOP, _TOP)
        error = (tried * factor[:, None] - matrix).square().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        factors = torch.where(better, factor, factors)
        numbers = torch.where(better[:, None], tried.to(torch.int8), numbers)
    return numbers, factors


def is_packed(names: list[str]) -> bool:
    """Return whether some tensors of a file are packed, by their names."""
    return any(name.endswith(SCALE) for name in names)


def unpack(tensors: dict[str, Shaped[Tensor, "..."]], source: str) -> dict[str, Tensor]:
    """Return packed tensors as floats, all others as they are.

    Raises:
        CheckpointError: if factors do not fit their numbers.
    """
    unpacked = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    for name, factors in tensors.items():
        if not name.endswith(SCALE):
            continue
        own = name.removesuffix(SCALE)
        numbers = unpacked.get(own)
        if numbers is None or numbers.dtype != torch.int8 or factors.shape != numbers.shape[:1]:
            raise CheckpointError(
                f"{source} has factors {name[:100]} that fit no 8-bit tensor; the file is damaged or foreign"
            )
        if not factors.is_floating_point():
            raise CheckpointError(
                f"{source} has factors {name[:100]} that are no floats; the file is damaged"
            )
        shape = (-1, *(1,) * (numbers.ndim - 1))
        unpacked[own] = numbers.float() * factors.float().reshape(shape)
    return unpacked
