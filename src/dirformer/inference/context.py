"""Context windows: test-time local attention over overlapping windows (TLC: Chu et al., ECCV 2022).

In training a network sees patches; sums over a whole photo follow another distribution. So, at test time,
windows about as large as a training patch cover the photo. They overlap by half. Each window has an attention
of its own (and an IPR, if asked for). A pixel blends its neighbouring windows linearly, by its distance to
their centres.

Each side is cut into the same number of cells on every level, so that sums are taken once. A window is two
cells wide.
"""

from __future__ import annotations

import functools

import torch

from dirformer.ground.errors import ConfigError
from dirformer.kernels.protocol import Axis


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
