"""Compare, on the user's own photo: streamed with whole, and memory with its limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dirformer.ground.memory import available_memory, forget_peak_memory, peak_memory
from dirformer.inference.layers import Progress
from dirformer.inference.plan import whole_memory
from dirformer.inference.restorer import Restorer, pad_to_multiple


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
    """Context windows give another result than the whole photo does, so nothing is compared."""

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


def restore_and_prove(
    restorer: Restorer,
    photo: Path,
    pixels: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"] | None,
    seed: int = 0,
    progress: Progress | None = None,
    prior: Float[Tensor, "p"] | None = None,
) -> tuple[Float[Tensor, "3 H W"], Proof]:
    """Restore a photo and measure memory; where that fits, also restore it as a whole.

    `photo` is the photo's name, for the proof; the rest is as in `Restorer.restore`.
    """
    forget_peak_memory()
    streamed = restorer.restore(pixels, mask, seed, prior=prior, progress=progress)
    highest, loaded = peak_memory(), restorer.loaded_memory
    peak = None if highest is None or loaded is None else highest - loaded
    config, engine = restorer.config, restorer.engine
    needed = whole_memory(config, *pad_to_multiple(pixels[None], config.multiple).shape[2:])
    free, in_windows = available_memory(), restorer.window is not None
    difference = None
    if prior is None and not in_windows and (free is None or needed < 0.9 * free):
        difference = float((streamed - restorer.restore_whole(pixels, mask, seed)).abs().max())
    return streamed, Proof(photo, difference, peak, engine.plan.peak, engine.max_memory, in_windows)
