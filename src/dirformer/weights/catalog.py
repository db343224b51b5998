"""The shipped weights: one row for each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dirformer.ground.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Entry:
    """A shipped model."""

    name: str
    task: str
    scale: int
    licence: str
    summary: str

    @property
    def path(self) -> Path:
        """Where its weights lie."""
        return _weights(self.name)


CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="sr-x4-compact",
            task="sr",
            scale=4,
            licence="Apache-2.0",
            summary="enlarges clean small photos ×4 (bicubic reductions)",
        ),
        Entry(
            name="realsr-x4-compact",
            task="realsr",
            scale=4,
            licence="Apache-2.0",
            summary="enlarges small photos ×4 and cleans them (blur, noise, JPEG)",
        ),
        Entry(
            name="realsr-x1-compact",
            task="realsr",
            scale=1,
            licence="Apache-2.0",
            summary="cleans photos at their own size (blur, noise, JPEG)",
        ),
        Entry(
            name="deblurring-compact",
            task="deblurring",
            scale=1,
            licence="Apache-2.0",
            summary="removes motion blur of a shaken camera",
        ),
        Entry(
            name="inpainting-compact",
            task="inpainting",
            scale=1,
            licence="Apache-2.0",
            summary="fills holes that a mask marks",
        ),
    )
}


def find_weights(model: str | Path) -> Path:
    """Return the file of a shipped name (models, and the stage-1 networks behind them) or the file itself.

    Raises:
        CheckpointError: if neither is there.
    """
    shipped = _weights(str(model))
    path = shipped if shipped.is_file() else Path(model)
    if not path.is_file():
        raise CheckpointError(
            f"no model {str(model)!r}; give a file or one of: {', '.join(CATALOG)} (`dirformer models`)"
        )
    return path


def _weights(name: str) -> Path:
    return Path(str(resources.files("dirformer") / "weights" / "files" / f"{name}.safetensors"))


LARGE = 1024
"""Long side in pixels above which a photo keeps its size: one of 12 megapixels must not become one of 192."""


def default_model(task: str | None, *, has_mask: bool, scale: int | None = None, long_side: int = 0) -> Entry:
    """Choose the shipped model for a photo.

    A mask means inpainting, no task real-world restoration: ×4 up to a long side of `LARGE` pixels, ×1 above.

    Raises:
        ConfigError: if no shipped model does that.
    """
    wanted = task or ("inpainting" if has_mask else "realsr")
    able = [entry for entry in CATALOG.values() if entry.task == wanted and scale in (None, entry.scale)]
    if able:
        fitting = [entry for entry in able if (entry.scale == 1) == (long_side > LARGE)]
        return (fitting or able)[0]
    asked = f"{wanted} ×{scale}" if scale else wanted
    shipped = ", ".join(f"{e.name} ({e.task} ×{e.scale})" for e in CATALOG.values())
    raise ConfigError(f"no shipped model for {asked}; give one with --model FILE. Shipped: {shipped}")
