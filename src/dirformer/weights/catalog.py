"""The shipped weights: one row for each."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dirformer.ground import checks
from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.paths import is_file
from dirformer.tasks import TASKS
from dirformer.weights import hub

SHARP = "-sharp"
"""End of the names of models that are trained to look sharp, at a loss in PSNR."""


@dataclass(frozen=True)
class Entry:
    """A shipped model."""

    name: str
    task: str
    scale: int
    licence: str
    summary: str

    @property
    def plain(self) -> str:
        """Name of the model without `-sharp`: its preset, its recipes and its teacher have that name."""
        return self.name.removesuffix(SHARP)

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
            summary="enlarges small photos ×4; cleans them where they are damaged",
        ),
        Entry(
            name="realsr-x1-compact",
            task="realsr",
            scale=1,
            licence="Apache-2.0",
            summary="cleans photos at their own size; leaves clean ones as they are",
        ),
        Entry(
            name="realsr-x4-compact-sharp",
            task="realsr",
            scale=4,
            licence="Apache-2.0",
            summary="the same ×4 with crisp edges and more texture, at a loss in PSNR (--sharp)",
        ),
        Entry(
            name="realsr-x1-compact-sharp",
            task="realsr",
            scale=1,
            licence="Apache-2.0",
            summary="the same ×1 with crisp edges and more texture, at a loss in PSNR (--sharp)",
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
    """Return the weight file that a name stands for.

    Args:
        model: a shipped name (models, and the stage-1 networks behind them), a weight file, a folder that
            `save_pretrained` wrote, or `owner/name` on the Hugging Face Hub. What is on disk comes first; a
            `Path` is never asked for on the hub.

    Raises:
        CheckpointError: if nothing of that name is there.
        ConfigError: if it is no name.
        MissingExtraError: if it can only be on the hub, and the extra `hub` is not installed.
    """
    checks.path("model", model)
    shipped = _weights(str(model))
    path = shipped if is_file(shipped) else Path(model)
    if is_file(path):
        return path
    if is_file(path / hub.FILE):
        return path / hub.FILE
    if isinstance(model, str) and hub.is_hub_name(model):
        return hub.fetch(model)
    raise CheckpointError(
        f"no model {str(model)!r}; give a file or one of: {', '.join(CATALOG)} (`dirformer models`)"
    )


def _weights(name: str) -> Path:
    return Path(str(resources.files("dirformer") / "weights" / "files" / f"{name}.safetensors"))


LARGE = 1024
"""Long side in pixels above which a photo keeps its size: one of 12 megapixels must not become one of 192."""
OWN_SIZE = {"denoise": "realsr", "jpeg": "realsr"}
"""Other words for tasks, at the photo's own size."""


def task_of(name: str | None) -> str | None:
    """Return the task that a word stands for: its own name, `denoise` or `jpeg`; None stays None.

    Raises:
        ConfigError: with the words there are.
    """
    if name is None or checks.text("task", name) in TASKS:
        return name
    if name not in OWN_SIZE:
        words = (*TASKS, *OWN_SIZE)
        near = difflib.get_close_matches(name, words, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no task {name[:40]!r}; the nearest is {near!r}, of {', '.join(words)}")
    return OWN_SIZE[name]


def default_model(
    task: str | None,
    *,
    has_mask: bool,
    scale: float | None = None,
    long_side: int = 0,
    sharp: bool = False,
) -> Entry:
    """Choose the shipped model for a photo.

    A mask means inpainting, no task real-world restoration: ×4 up to a long side of `LARGE` pixels, ×1 above.
    A factor that no model has is reached from a larger one, ×1 from a model that keeps the size.

    Args:
        task: as in `tasks.TASKS`, or `denoise` or `jpeg`.
        has_mask: whether the photo has holes.
        scale: factor from the photo to the result; None leaves it to task and photo.
        long_side: of the photo, in pixels.
        sharp: whether the model whose name ends in `-sharp` is wanted.

    Raises:
        ConfigError: if no shipped model does that.
    """
    wanted = task_of(task) or ("inpainting" if has_mask else "realsr")
    if task in OWN_SIZE:
        if scale is not None and scale > 1:
            raise ConfigError(f"--task {task} keeps the size, but ×{scale:g} is asked for; use --task realsr")
        scale = scale or 1.0
    able = [entry for entry in CATALOG.values() if entry.task == wanted and not entry.name.endswith(SHARP)]
    if scale is None:
        fitting = [entry for entry in able if (entry.scale == 1) == (long_side > LARGE)] or able
    else:
        fitting = sorted((e for e in able if e.scale > 1 or scale <= 1), key=lambda e: _distance(e, scale))
    if fitting:
        return sharp_of(fitting[0].name) if sharp else fitting[0]
    asked = f"{wanted} ×{scale:g}" if scale else wanted
    shipped = ", ".join(f"{e.name} ({e.task} ×{e.scale})" for e in CATALOG.values())
    raise ConfigError(f"no shipped model for {asked}; give one with --model FILE. Shipped: {shipped}")


def _distance(entry: Entry, scale: float) -> tuple[bool, float]:
    """Order models by the factor they are asked for: first those that reach it, the nearest first."""
    return entry.scale < scale, abs(entry.scale - scale)


def sharp_of(name: str) -> Entry:
    """Return the sharp sister of a shipped model. Raises ConfigError if there is none."""
    found = CATALOG.get(name if name.endswith(SHARP) else name + SHARP)
    if found is None:
        sharp = [known for known in CATALOG if known.endswith(SHARP)]
        raise ConfigError(
            f"no shipped model {name}{SHARP}; sharp ones are: {', '.join(sharp) or 'none yet'}; "
            "leave --sharp out"
        )
    return found
