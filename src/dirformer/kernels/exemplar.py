"""The compiled search and vote of exemplar filling (`exemplar.cpp`), called by ctypes.

`holes/match.py` computes the same numbers with stock torch.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from dirformer.kernels import abi
from dirformer.kernels.build import compiled

SOURCE = Path(__file__).with_name("exemplar.cpp")


@functools.cache
def library() -> ctypes.CDLL:
    """Return the kernels, compiled now or found in the cache; CompilerMissingError if there are none."""
    functions = {"dirformer_search": (abi.Level, "pppnnn"), "dirformer_vote": (abi.Level, "pppnp")}
    return abi.declare(compiled(SOURCE), functions, abi.Level)


class NativeMatcher:
    """One level of a photo, matched by the compiled kernels; methods as of `holes.match.StockMatcher`.

    Raises:
        CompilerMissingError: if they cannot be built.
    """

    def __init__(
        self,
        weight: UInt8[Tensor, "h w"],
        source: UInt8[Tensor, "h w"],
        target: Int32[Tensor, "n"],
        index: Int32[Tensor, "h w"],
    ) -> None:
        self._library = library()
        # Held here: C++ reads them by their addresses.
        self._tensors = [t.contiguous() for t in (weight, source, target, index)]
        height, width = weight.shape
        self._level = abi.Level(height, width, len(target), torch.get_num_threads())
        names = ("weight", "source", "target", "index")
        for name, tensor in zip(names, self._tensors, strict=True):
            setattr(self._level, name, tensor.data_ptr())

    def search(
        self, colour: UInt8[Tensor, "h w 3"], nearest: Int32[Tensor, "n"], step: int, radius: int, seed: int
    ) -> tuple[Int32[Tensor, "n"], Int32[Tensor, "n"]]:
        """Return better sources of all targets, and how far they are."""
        colour = colour.contiguous()
        self._level.colour = colour.data_ptr()
        after, distances = torch.empty_like(nearest), torch.empty_like(nearest)
        self._library.dirformer_search(
            self._level, nearest.data_ptr(), after.data_ptr(), distances.data_ptr(), step, radius, seed
        )
        return after, distances

    def vote(
        self,
        colour: UInt8[Tensor, "h w 3"],
        nearest: Int32[Tensor, "n"],
        strength: Int32[Tensor, "n"],
        holes: Int32[Tensor, "k"],
    ) -> UInt8[Tensor, "k 3"]:
        """Return the colours of the pixels `holes`."""
        colour = colour.contiguous()
        self._level.colour = colour.data_ptr()
        voted = colour.new_empty(len(holes), 3)
        self._library.dirformer_vote(
            self._level,
            nearest.data_ptr(),
            strength.data_ptr(),
            holes.data_ptr(),
            len(holes),
            voted.data_ptr(),
        )
        return voted
