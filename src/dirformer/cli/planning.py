"""`plan` of photos: what restoring them will take."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dirformer.cli.terminal import complain, say, write_json
from dirformer.ground.errors import DirformerError
from dirformer.ground.formats import kind_of_name
from dirformer.ground.paths import is_folder
from dirformer.inference.choice import by_model
from dirformer.inference.jobs import FileOptions, Replace, plan_jobs
from dirformer.inference.options import RestoreOptions
from dirformer.weights.catalog import task_of

if TYPE_CHECKING:
    from dirformer.inference.forecast import Forecast

SHOWN = 20
"""Photos with a line of their own; all are in the sums and in the JSON."""
_NOWHERE = Path(".dirformer-plan")
"""Where results would go; nothing is written."""
Choice = tuple[str | None, str | None, bool, Path | None]
"""Task, model, sharp, mask."""


def are_photos(name: str) -> bool:
    """Return whether `plan` is asked for photos: files with the name of a picture, folders, and lists."""
    path = Path(name)
    if name.startswith("@") or kind_of_name(path) != "other":
        return True
    return is_folder(path) and not (resources.files("dirformer") / "recipes" / f"{name}.yaml").is_file()


def plan_photos(
    names: list[Path],
    options: RestoreOptions,
    files: FileOptions,
    *,
    choice: Choice,
    as_json: Path | None,
) -> None:
    """Say what restoring photos will take: each for itself, then all.

    Raises:
        DirformerError: if nothing can be planned.
        typer.Exit: with 2 if a photo cannot be restored.
    """
    task, model, sharp, mask = choice
    task_of(task)
    planned = plan_jobs(names, _NOWHERE, mask=mask, replace=Replace(overwrite=True), options=files)
    errors = planned.errors
    groups = by_model(planned.jobs, model, task=task, files=files, sharp=sharp, errors=errors)
    from dirformer.inference.forecast import forecasts

    found = list["Forecast"]()
    for name, jobs in groups.items():
        for each in forecasts(name, jobs, options, files, task=task):
            if isinstance(each, DirformerError):
                errors.append(each)
                continue
            found.append(each)
            if len(found) <= SHOWN:
                say(str(each))
    if len(found) > SHOWN:
        say(f"… and {len(found) - SHOWN} more")
    for error in errors:
        complain(str(error))
    if found:
        say(_sum(found))
    write_json(as_json, {"schema": 1, "photos": [_row(each) for each in found]})
    if errors:
        raise typer.Exit(2)


def _sum(found: list[Forecast]) -> str:
    from dirformer.inference.forecast import duration

    time = duration(sum(each.seconds for each in found))
    most = max(each.memory for each in found) / 2**20
    program = found[-1].program
    beside = "" if program is None else f" beside {program / 2**20:.0f} MiB of program and weights"
    models = ", ".join(f"{count} by {name}" for name, count in Counter(e.model for e in found).items())
    pixels = sum(each.after[0] * each.after[1] for each in found) / 1e6
    return (
        f"{len(found)} photo{'s' if len(found) > 1 else ''} ({models}): about {time} of the network, "
        f"at most {most:.0f} MiB{beside}, {pixels:.1f} megapixels of results"
    )


def _row(each: Forecast) -> dict[str, Any]:
    return {
        "photo": str(each.job.photo),
        "model": each.model,
        "before": list(each.before),
        "after": list(each.after),
        "seconds": each.seconds,
        "memory_bytes": each.memory,
        "disk_bytes": each.disk,
        "program_bytes": each.program,
    }
