"""Pipelines of convolutions that produce rows on demand, so that no stage is ever held whole.

A source has `height`, `width` and `read(lo, hi)`, which returns those rows `y x c` in float32 or as stored. A
reader moves downwards only: no `lo` may be smaller than an earlier one's by more than it kept.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from dirformer.inference.maps import Map


@runtime_checkable
class Source(Protocol):
    """Something with rows."""

    height: int
    width: int

    def read(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi, `y x c`."""


class MapRows:
    """The rows of a map."""

    def __init__(self, values: Map) -> None:
        self.height, self.width, self._rows = values.height, values.width, values.rows

    def read(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi."""
        return self._rows[lo:hi]


class PhotoRows:
    """The rows of a photo `1 c h w`, pixel-unshuffled."""

    def __init__(self, photo: Tensor, unshuffle: int) -> None:
        self.height, self.width = photo.shape[2] // unshuffle, photo.shape[3] // unshuffle
        self._photo, self._factor = photo, unshuffle

    def read(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi."""
        rows = self._photo[:, :, lo * self._factor : hi * self._factor]
        return F.pixel_unshuffle(rows, self._factor)[0].movedim(0, 2).float().contiguous()


class Joined:
    """Two sources side by side in channels."""

    def __init__(self, first: Source, second: Source) -> None:
        self.height, self.width = first.height, first.width
        self._first, self._second = first, second

    def read(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi."""
        first = self._first.read(lo, hi)
        return torch.cat([first, self._second.read(lo, hi).to(first)], dim=2)


class Doubled:
    """Nearest-neighbour enlargement by 2."""

    def __init__(self, source: Source) -> None:
        self.height, self.width, self._source = 2 * source.height, 2 * source.width, source

    def read(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi."""
        first = lo // 2
        rows = self._source.read(first, -(-hi // 2))
        rows = rows.repeat_interleave(2, 0).repeat_interleave(2, 1)
        return rows[lo - 2 * first : hi - 2 * first]


class Convolved:
    """A source behind a convolution, with its pixel-shuffle; `added` is a source to add to the result.

    Rows already computed are kept while a reader may still need them, so nothing is computed twice.
    """

    def __init__(
        self, kernels: Any, conv: Any, source: Source, shuffle: int = 0, added: Source | None = None
    ) -> None:
        up, down = max(1, shuffle), max(1, -shuffle)
        self.height, self.width = source.height * up // down, source.width * up // down
        self._kernels, self._conv, self._source, self._added = kernels, conv, source, added
        self._up, self._down = up, down
        self._start = self._stop = -1
        self._rows: Tensor | None = None

    def read(self, lo: int, hi: int) -> Tensor:
        """Return rows lo to hi; lo must not go back."""
        if self._rows is None:
            self._start = self._stop = lo // self._up * self._up
        if hi > self._stop:
            first, last = self._stop * self._down // self._up, -(-hi * self._down // self._up)
            new = self._compute(first, last)
            kept = [] if self._rows is None or lo >= self._stop else [self._rows[lo - self._start :]]
            self._rows = torch.cat([*kept, new]) if kept else new
            self._stop += len(new)
            self._start = self._stop - len(self._rows)
        assert self._rows is not None
        return self._rows[lo - self._start : hi - self._start]

    def _compute(self, lo: int, hi: int) -> Tensor:
        height = self._source.height
        first, last = max(0, lo - 1), min(height, hi + 1)
        rows = self._source.read(first, last)
        above, below = rows[:1] if lo else None, rows[-1:] if hi < height else None
        out = self._kernels.convolve(self._conv, rows[lo - first : hi - first], above, below)
        return out if self._added is None else out.add_(self._added.read(lo, hi))
