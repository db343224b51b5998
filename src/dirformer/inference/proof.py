"""The proof on the user's own photo: streamed against whole, and memory against its limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dirformer.ground.mask import read_mask
from dirformer.ground.photo import read_photo
from dirformer.inference.files import Job
from dirformer.inference.plan import available_memory, forget_peak_memory, process_memory
from dirformer.inference.restorer import Restorer, pad_to_multiple

WHOLE = 160
"""Bytes per pixel and channel of level 1 that the plain modules take at most, measured, rounded up."""


@dataclass(frozen=True)
class Proof:
    """What one photo showed."""

    photo: Path
    difference: float | None
    """Largest difference of the streamed from the whole result, pixels in [0, 1]; None: not compared."""
    peak: int | None
    """Most bytes held while streaming, above those with the weights loaded; None where unknown."""
    planned: int
    """Bytes the plan expected."""
    limit: int | None
    """Bytes it was given."""
    in_windows: bool = False
    """Context windows give another result than the whole photo; there is nothing to compare."""

    def __str__(self) -> str:
        if self.in_windows:
            exact = "in context windows, so not the whole photo's result"
        elif self.difference is None:
            exact = "too large to be restored as a whole here"
        else:
            exact = f"largest difference to the whole photo's result {self.difference:.1e}"
        peak = "unknown" if self.peak is None else f"{self.peak / 2**20:.0f} MiB"
        limit = "none" if self.limit is None else f"{self.limit / 2**20:.0f} MiB"
        memory = f"peak memory {peak} (planned {self.planned / 2**20:.0f} MiB, limit {limit})"
        return f"{self.photo}: {exact}; {memory}"


def prove(restorer: Restorer, job: Job, *, seed: int = 0) -> Proof:
    """Restore one photo by the engine and, where that fits into memory, as a whole by the plain modules."""
    pixels = read_photo(job.photo).pixels
    mask = None if job.mask is None else read_mask(job.mask)
    forget_peak_memory()
    streamed = restorer.restore(pixels, mask, seed)
    sizes = process_memory("VmHWM"), restorer.loaded_memory
    peak = None if sizes[0] is None or sizes[1] is None else sizes[0] - sizes[1]
    config = restorer.config
    height, width = pad_to_multiple(pixels[None], config.multiple).shape[2:]
    needed = (
        WHOLE * config.dim * height * width // config.unshuffle**2 + 64 * 3 * height * width * config.scale**2
    )
    free = available_memory()
    difference = None
    in_windows = restorer.window is not None
    if not in_windows and (free is None or needed < 0.9 * free):
        difference = float((streamed - restorer.restore_whole(pixels, mask, seed)).abs().max())
    return Proof(
        job.photo, difference, peak, restorer.engine.plan.peak, restorer.engine.max_memory, in_windows
    )
