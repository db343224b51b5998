"""How much memory a photo takes, and what to do if it may take less.

The working set is small: a few rows of wide intermediates per thread. Only feature maps grow with the photo:
at most the four levels at once, or the decoder's at level 1. What does not fit waits on disk.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dirformer.ground.errors import ConfigError
from dirformer.kernels.protocol import WIDE
from dirformer.networks.config import LEVELS, ModelConfig

STEP = 8192
"""Pixels per turn of a pipeline of convolutions."""
PIECE = 2**23
"""Bytes of a map on disk that are worked on at a time, per thread."""
GPU_STEP, GPU_PIECE = 2**18, 2**28
"""The same on a GPU: few launches, and large ones. A map that does not fit there waits on the host."""


WHOLE, FUSED = 160, 48
"""Bytes per pixel and channel of level 1 that a whole photo takes at most, measured, rounded up: through the
plain modules, and through Triton's kernels, which write the wide maps part by part."""


@dataclass(frozen=True)
class Plan:
    """How one photo is restored."""

    threads: int
    storage: torch.dtype
    """Of feature maps; arithmetic on them is float32 whatever this is."""
    keep_packed: bool
    """Whether reordered weights stay in memory for the next photo."""
    resident: dict[str, int] = field(default_factory=dict)
    """Rows that stay in memory, of each map that does not stay as a whole."""
    peak: int = 0
    """Bytes needed beside the network, by estimate."""
    spilled: int = 0
    """Bytes of maps that wait on disk."""
    folder: Path | None = None
    """Where."""
    cells: tuple[int, int] = (1, 1)
    """Cells down and across, of context windows; see `context.py`."""
    step: int = STEP
    """Pixels per turn of a pipeline of convolutions."""
    piece: int = PIECE
    """Bytes of a map that does not stay that are worked on at a time."""

    def __str__(self) -> str:
        storage = "32-bit" if self.storage == torch.float32 else "16-bit"
        maps = f"{self.spilled / 2**20:.0f} MiB of maps on disk" if self.spilled else "all maps in memory"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"about {self.peak / 2**20:.0f} MiB: {threads}, {storage} maps, {maps}"


def make_plan(
    config: ModelConfig,
    height: int,
    width: int,
    *,
    max_memory: int | None = None,
    threads: int = 1,
    storage: torch.dtype = torch.float32,
    parameters: int = 0,
    cells: tuple[int, int] = (1, 1),
    mean: bool = False,
    folder: Path | None = None,
    gpu: bool = False,
) -> Plan:
    """Decide how to restore a photo of that (padded) size in at most `max_memory` bytes beside the network.

    With `mean`, a turned photo and the mean of several results are held beside.

    Raises:
        ConfigError: if no way is small enough; the message says which limit is.
    """
    maps = _maps(config, height, width, storage)
    photos = (
        4 * height * width * (2 * config.in_channels + 3 * config.scale**2 * (2 if config.scale > 1 else 1))
    )
    photos += 4 * height * width * (config.in_channels + 3 * config.scale**2) if mean else 0
    folder = folder or Path(tempfile.gettempdir())
    working = _gpu_working(config) if gpu else _working(config, height, width)
    step, piece = (GPU_STEP, GPU_PIECE) if gpu else (STEP, PIECE)
    moments = _GPU_MOMENTS if gpu else _MOMENTS

    def attempt(threads: int, *, keep_packed: bool) -> Plan:
        fixed = photos + _OVERHEAD + threads * working
        fixed += 0 if cells == (1, 1) else _context(config, cells, threads)
        fixed += parameters * 4 if keep_packed else _largest_block(config)
        if max_memory is None:
            peak = fixed + _most(maps, {}, moments)
            return Plan(threads, storage, keep_packed, peak=peak, cells=cells, step=step, piece=piece)
        kept = _fit(maps, max_memory - fixed - threads * piece, moments)
        spilled = sum(maps[name][0] * maps[name][1] for name in kept) - sum(
            rows * maps[name][1] for name, rows in kept.items()
        )
        peak = fixed + (threads * piece if kept else 0) + _most(maps, kept, moments)
        return Plan(threads, storage, keep_packed, kept, peak, spilled, folder, cells, step, piece)

    plans = [
        attempt(threads, keep_packed=True),
        attempt(threads, keep_packed=False),
        attempt(1, keep_packed=False),
    ]
    if max_memory is None:
        return plans[0]
    whole = [plan for plan in plans[:2] if not plan.spilled and plan.peak <= max_memory]
    fitting = [*whole, *(plan for plan in plans[1:] if plan.peak <= max_memory)]
    if not fitting:
        smallest = -(-plans[-1].peak // 2**20)
        raise ConfigError(
            f"a memory limit of {max_memory / 2**20:.0f} MiB is too small for {width}×{height} pixels; "
            f"the smallest that works is {smallest} MiB"
        )
    return fitting[0]


_OVERHEAD = 24 * 2**20
"""Bytes for the interpreter's and the allocator's own growth."""


def _maps(config: ModelConfig, height: int, width: int, storage: torch.dtype) -> dict[str, tuple[int, int]]:
    """Rows and bytes per row of each map that is ever held whole."""
    size, height, width = storage.itemsize, height // config.unshuffle, width // config.unshuffle
    maps = {f"level {i + 1}": (height >> i, (width >> i) * config.widths[i] * size) for i in range(LEVELS)}
    maps["decoder 1"] = (height, width * 2 * config.dim * size)
    return maps


# What is held at once; the decoder's reduced levels live in their skips' memory, and the decoder at
# level 1 grows at the pace at which what it is made of is given back.
_MOMENTS = (
    ("level 1",),
    ("level 1", "level 2"),
    ("level 1", "level 2", "level 3"),
    ("level 1", "level 2", "level 3", "level 4"),
    ("decoder 1",),
)
# A GPU gives no part of a map back.
_GPU_MOMENTS = (*_MOMENTS[:-1], ("level 1", "level 2", "decoder 1"))


def _bytes(maps: dict[str, tuple[int, int]], kept: dict[str, int], name: str) -> int:
    rows, row_bytes = maps[name]
    return kept.get(name, rows) * row_bytes


def _most(
    maps: dict[str, tuple[int, int]], kept: dict[str, int], moments: tuple[tuple[str, ...], ...]
) -> int:
    return max(sum(_bytes(maps, kept, name) for name in moment) for moment in moments)


def _fit(
    maps: dict[str, tuple[int, int]], budget: int, moments: tuple[tuple[str, ...], ...]
) -> dict[str, int]:
    """Return the rows that stay, of maps that must partly go, so that no moment exceeds the budget.

    Maps that wait for the decoder go first: they are written and read once, a map at work six times a block.
    """
    kept: dict[str, int] = {}
    for moment in moments:
        for name in moment:
            excess = sum(_bytes(maps, kept, other) for other in moment) - budget
            if excess > 0:
                rows, row_bytes = maps[name]
                kept[name] = max(0, kept.get(name, rows) - -(-excess // row_bytes))
    return kept


def _working(config: ModelConfig, height: int, width: int) -> int:  # noqa: ARG001
    """Bytes of rows and buffers one thread works on."""
    width //= config.unshuffle
    rings = []
    for level in range(LEVELS):
        channels, across = config.widths[max(level, 1)], max(1, width >> level)
        wide = 2 * (config.hidden(channels) + 16) + 3 * channels
        rings.append((across + 2) * wide * 4 * (3 + 128 // across) + 512 * wide * 4)
    # A pipeline holds a few rows of each of its stages, twice while they are joined; the last is the widest.
    tail = config.scale * config.unshuffle
    across = width * tail
    rows = max(1, STEP // across) + 4 * tail
    windows = (
        2 * rows * across * 2 * config.dim * 4 // (1 if config.tail in ("shuffle", "nearest") else tail**2)
    )
    return max(rings) + max(windows, 24 * 2**20)


def _gpu_working(config: ModelConfig) -> int:
    """Bytes of a turn's wide map with what is computed from it, and of a turn of convolutions."""
    return 3 * WIDE // 2 + GPU_STEP * 4 * 12 * config.dim


def _context(config: ModelConfig, cells: tuple[int, int], threads: int) -> int:
    """Bytes of the sums of all cells, and of the attentions of the rows of windows at work."""
    down, across = cells
    most = 0
    for width, heads in [*zip(config.widths, config.heads, strict=True), (2 * config.dim, config.heads[0])]:
        sums = width * (width // heads + 2) * 4
        # Of a row of cells: what its blocks of rows sum to, twice in float64; of two rows of windows:
        # the packed matrices, and those of one row before they are packed.
        working = (64 // down + 5) * sums + 5 * 4 * width**2
        most = max(most, down * across * sums + threads * across * working)
    return most


def _largest_block(config: ModelConfig) -> int:
    width = config.widths[-1]
    return 4 * (4 * width**2 + 3 * config.hidden(width) * width) * 2


def whole_memory(config: ModelConfig, height: int, width: int, *, fused: bool = False) -> int:
    """Return the bytes that a GPU takes at most for a photo of that (padded) size as a whole.

    Args:
        config: of the network.
        height: rows of the photo.
        width: columns of the photo.
        fused: whether Triton's kernels compute its blocks.
    """
    maps = (FUSED if fused else WHOLE) * config.dim * height * width // config.unshuffle**2
    maps += 3 * WIDE // 2 if fused else 0
    return maps + 64 * 3 * height * width * config.scale**2
