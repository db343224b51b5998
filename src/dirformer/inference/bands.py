"""Feature maps cut into bands of rows for threads, and bands into pieces for memory.

A band is a thread's share of a map. Where not all of a map is in memory, a band is worked on piece by piece.
Sums run over fixed blocks of rows, so results depend on neither the memory limit nor the number of threads.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dirformer.inference.maps import Map
from dirformer.inference.plan import Plan
from dirformer.inference.sources import Source
from dirformer.kernels.protocol import Kernels

Band = dict[str, Any]
"""Rows of a map and their neighbours as they were: `x`, `above`, `below`; see `kernels/protocol.py`."""


class Bands:
    """The maps of one photo at work, by one plan and one pool of threads."""

    def __init__(self, kernels: Kernels, plan: Plan, pool: ThreadPoolExecutor | None) -> None:
        self.kernels, self.plan, self._pool = kernels, plan, pool

    def cut(self, height: int, width: int = 1) -> list[tuple[int, int]]:
        """Return the bands of a map: first row, and the row behind the last."""
        rows = self.block_rows(height, width)
        blocks = -(-height // rows)
        count = self.kernels.bands(self.plan.threads, blocks)
        ends = [min(height, rows * (blocks * i // count)) for i in range(count + 1)]
        return list(itertools.pairwise(ends))

    def block_rows(self, height: int, width: int) -> int:
        """Return the rows per set of sums: a share of the height; even, for the pixel-unshuffles."""
        return max(8, 2 * math.ceil(height / 128), self.kernels.strip(width) // 2 * 2)

    def each(self, bands: list[tuple[int, int]], run: Callable[[int, int], Any]) -> list[Any]:
        """Call `run(lo, hi)` for each band, on the pool if there is one; results are in order."""
        if self._pool is None or len(bands) == 1:
            return [run(*band) for band in bands]

        @torch.inference_mode()  # is per thread
        def task(band: tuple[int, int]) -> Any:
            return run(*band)

        return list(self._pool.map(task, bands))

    def sweep(
        self,
        x: Map,
        work: Callable[[int, Band], Any],
        *,
        bands: list[tuple[int, int]] | None = None,
        cuts: list[int] | None = None,
    ) -> list[list[Any]]:
        """Call `work(y, band)` on every band of the map from its row y, in pieces if not all is in memory.

        Pieces also end at the rows of `cuts`.
        """
        piece = self._piece(x)
        bands = bands or self.cut(x.height, x.width)
        # The neighbours of a band as they are before anything is overwritten.
        edges = {y: (x.rows[y - 1 : y].clone(), x.rows[y : y + 1].clone()) for y, _ in bands if y}

        def run(lo: int, hi: int) -> list[Any]:
            above, results = edges[lo][0] if lo else None, []
            for y, end in _pieces(lo, hi, piece, cuts or []):
                below = None if end == x.height else edges[end][1] if end == hi else x.rows[end : end + 1]
                next_above = x.rows[end - 1 : end].clone()
                results.append(work(y, {"x": x.rows[y:end], "above": above, "below": below}))
                above = next_above
                x.evict(y, end)
            return results

        return self.each(bands, run)

    def fill(
        self,
        x: Map,
        source_of: Callable[[], Source],
        read: list[tuple[Map, float]] | None = None,
        used_up: list[tuple[Map, float]] | None = None,
    ) -> None:
        """Write the rows of a source into a map.

        Args:
            x: map to write.
            source_of: makes the source, once for each band.
            read: maps that the source reads, each with its rows per row of x.
            used_up: likewise, but their memory is given back as soon as their rows have been read.
        """
        step = max(1, self.plan.step // x.width) // 2 * 2 or 2

        def run(lo: int, hi: int) -> None:
            source = source_of()
            for y in range(lo, hi, step):
                end = min(hi, y + step)
                x.rows[y:end] = source.read(y, end)
                x.evict(y, end)
                for other, ratio in read or []:
                    other.evict(math.floor(lo * ratio), math.floor(end * ratio) - 2)
                for used, ratio in used_up or []:
                    # The neighbouring bands may still need this band's outer rows.
                    used.release(math.ceil(lo * ratio) + 1, math.floor(end * ratio) - 2)

        self.each(self.cut(x.height, x.width), run)

    def write(self, x: Map, out: Tensor, scale: int, source_of: Callable[[], Source]) -> None:
        """Add a source's rows to a photo `3 H W`, `scale` rows for each row of the map x that it reads."""
        step = max(1, self.plan.step // (x.width * scale))

        def run(lo: int, hi: int) -> None:
            source = source_of()
            for y in range(lo * scale, hi * scale, step):
                end = min(hi * scale, y + step)
                out[:, y:end] += source.read(y, end).movedim(2, 0)
                x.evict(lo, end // scale - 2)

        self.each(self.cut(x.height), run)

    def row_sums(self, height: int, source_of: Callable[[], Source], bounds: list[int]) -> Tensor:
        """Sum a source over each cell of columns, row by row: `y cells c`, float64."""

        def run(lo: int, hi: int) -> list[Tensor]:
            source = source_of()
            step = max(1, self.plan.step // 4 // source.width)  # many stages, each with rows of its own
            parts = (source.read(y, min(hi, y + step)) for y in range(lo, hi, step))
            return [line for part in parts for line in self._lines(part, list(itertools.pairwise(bounds)))]

        return torch.stack([line for part in self.each(self.cut(height), run) for line in part])

    def _lines(self, part: Tensor, cells: list[tuple[int, int]]) -> list[Tensor]:
        """Sum each row over each cell of columns: `cells c`, float64 on the CPU.

        Row by row and in float64, so that the mean does not depend on where bands end.
        """
        if self.kernels.device.type == "cuda":  # one wait for all rows
            return list(torch.stack([part[:, a:b].double().sum(1) for a, b in cells], dim=1).cpu())
        lines = (row.cpu().double() for row in part)
        return [torch.stack([line[a:b].sum(0) for a, b in cells]) for line in lines]

    def _piece(self, x: Map) -> int:
        if x.resident >= x.height:
            return x.height
        rows = math.lcm(self.block_rows(x.height, x.width), self.kernels.strip(x.width))
        return max(1, self.plan.piece // (rows * x.row_bytes)) * rows


def _pieces(lo: int, hi: int, rows: int, cuts: list[int]) -> Iterator[tuple[int, int]]:
    """Cut lo to hi at `cuts`, and each part into pieces of so many rows."""
    for start, stop in itertools.pairwise([lo, *(cut for cut in cuts if lo < cut < hi), hi]):
        for y in range(start, stop, rows):
            yield y, min(stop, y + rows)


@contextmanager
def workers(kernels: Kernels, threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """Give a photo its threads: one band each, with one torch thread inside each operator.

    On another device than the CPU, and for one thread, there is no pool. Several photos may be at work at
    once, each with a pool of its own.
    """
    if kernels.device.type != "cpu":
        yield None
        return
    with _one_torch_thread():
        if threads == 1:
            yield None
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool


class _Borrowed:
    """How many photos are at work, and torch's number of threads before the first of them."""

    lock = threading.Lock()
    photos = 0
    threads = 1


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    # The number is the process's: what one photo sets, another must not take for the user's own.
    with _Borrowed.lock:
        if _Borrowed.photos == 0:
            _Borrowed.threads = torch.get_num_threads()
        _Borrowed.photos += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _Borrowed.lock:
            _Borrowed.photos -= 1
            torch.set_num_threads(_Borrowed.threads)
