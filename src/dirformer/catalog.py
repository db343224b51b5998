"""The shipped weights: one row for each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dirformer.errors import CheckpointError, ConfigError


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
    return Path(str(resources.files("dirformer") / "weights" / f"{name}.safetensors"))


def default_model(task: str | None, *, has_mask: bool, scale: int | None = None) -> Entry:
    """Choose the shipped model for a request.

    A mask means inpainting; otherwise the task named, or the first model there is.

    Raises:
        ConfigError: if no shipped model does that.
    """
    wanted = task or ("inpainting" if has_mask else None)
    for entry in CATALOG.values():
        if wanted in (None, entry.task) and scale in (None, entry.scale):
            return entry
    asked = " ".join(part for part in (wanted, f"×{scale}" if scale else None) if part)
    shipped = ", ".join(f"{e.name} ({e.task} ×{e.scale})" for e in CATALOG.values())
    raise ConfigError(f"no shipped model for {asked}; give one with --model FILE. Shipped: {shipped}")
