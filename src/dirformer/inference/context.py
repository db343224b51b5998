"""Context windows: how much of a photo an attention's sums, and the IPR, are taken over, if not all of it.

In training a network sees patches; c×c sums over a whole photo follow another distribution. So, at test time
only, the photo is covered by windows about as large as a training patch that overlap by half, each has an
attention (and an IPR) of its own, and every pixel blends those of the windows around it linearly, by its
distance to their centres. The idea is TLC's (Chu et al., ECCV 2022).

Each side is cut into cells, as many on every level, so that sums are taken once; a window is two cells wide.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dirformer.ground.errors import ConfigError


def count_cells(side: int, window: int) -> int:
    """Return into how many cells a photo's side is cut: half a window each, or 1 for the whole side.

    Cells are equal, so windows differ from the size asked for by a quarter at most.
    """
    cells = round(2 * side / window)
    return 1 if cells <= 2 else cells


def check_window(window: int, multiple: int) -> int:
    """Return the window's side, pixels of the photo; ConfigError if a level would have empty cells."""
    if window < 2 * multiple:
        raise ConfigError(f"window is {window} pixels; this network needs at least {2 * multiple}")
    return window


@dataclass(frozen=True)
class Axis:
    """One side of a map: cells, windows of two cells each (one cell has one window), and who blends which."""

    bounds: list[int]
    """Where cells begin, and where the last ends."""
    ends: list[int]
    """Where the spans end within which pixels blend the same two windows."""
    left: Int[Tensor, "n"]
    """Per pixel, the window before it; the window behind it is the next, where there is more than one."""
    share: Float[Tensor, "n"]
    """Per pixel, the weight of the window behind it; beyond the outer centres the outer window has it all."""

    @property
    def cells(self) -> int:
        """How many."""
        return len(self.bounds) - 1

    @property
    def windows(self) -> int:
        """How many."""
        return max(1, self.cells - 1)

    def cell(self, place: int) -> int:
        """Return the cell a pixel lies in."""
        return bisect.bisect_right(self.bounds, place) - 1

    def pairs(self, cells: Float[Tensor, "cells *rest"]) -> Float[Tensor, "windows *rest"]:
        """Sum each two neighbouring cells."""
        return cells if len(cells) == 1 else cells[:-1] + cells[1:]

    def blend(self, values: Float[Tensor, "windows *rest"], lo: int, hi: int) -> Float[Tensor, "n *rest"]:
        """Return what pixels lo to hi see of values per window; pixels outside see the outermost."""
        place = torch.arange(lo, hi).clamp(0, len(self.left) - 1)
        left = self.left[place]
        share = self.share[place].view(-1, *[1] * (values.ndim - 1)).to(values)
        left = left.to(values.device)
        return torch.lerp(values[left], values[(left + 1).clamp(max=self.windows - 1)], share)


@functools.lru_cache(maxsize=32)
def make_axis(length: int, cells: int) -> Axis:
    """Cut a side of `length` pixels into cells, equal to within a pixel."""
    bounds = [i * length // cells for i in range(cells + 1)]
    if cells == 1:
        return Axis(bounds, [length], torch.zeros(length, dtype=torch.int64), torch.zeros(length))
    centres = torch.tensor(bounds[1:-1], dtype=torch.float32)
    place = torch.arange(length) + 0.5
    left = (torch.searchsorted(centres, place, right=True) - 1).clamp(0, len(centres) - 2)
    share = ((place - centres[left]) / (centres[left + 1] - centres[left])).clamp(0, 1)
    return Axis(bounds, [*bounds[2:-2], length], left, share)


@dataclass(frozen=True)
class Modulation:
    """What a norm's result is scaled and shifted by."""

    scale: Float[Tensor, "*rest c"]
    """`c`; under an IPR per window `y windows c`: the band's rows and one more on each side."""
    shift: Float[Tensor, "*rest c"]
    columns: Axis | None = None
    """How pixels blend windows; None if there is one modulation for all."""

    def rows(self, lo: int, hi: int) -> tuple[Float[Tensor, "*rest c"], Float[Tensor, "*rest c"]]:
        """Return scale and shift for rows lo − 1 to hi + 1 of the band: `c`, or `y x c`."""
        if self.columns is None:
            return self.scale, self.shift
        parts = (values[lo : hi + 2].movedim(1, 0) for values in (self.scale, self.shift))
        scale, shift = (self.columns.blend(v, 0, len(self.columns.left)).movedim(0, 1) for v in parts)
        return scale, shift


@dataclass(frozen=True)
class Blend:
    """How the attentions of windows are blended over a band that lies between two rows of their centres."""

    below: Tensor
    """Packed mixing matrices of the lower row of windows; the upper's are the attention's first."""
    down: Float[Tensor, "y"]
    """Per row, the weight of the lower windows."""
    columns: Axis
