"""Which model restores which photo, and which photos are finished already; torch is not needed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError, DirformerError, OutputError, PhotoError
from dirformer.ground.formats import photo_size
from dirformer.ground.paths import is_there
from dirformer.inference.done import DoneLog, Key, digest_file, digest_files, digest_options
from dirformer.inference.jobs import FileOptions, Job, Replace
from dirformer.inference.options import RestoreOptions
from dirformer.weights.catalog import CATALOG, OWN_SIZE, default_model, find_weights, sharp_of, task_of

_NO_INFLUENCE = ("device", "max_memory", "max_pixels", "format")
"""Options that change nothing in a result, or show in its name."""


def by_model(
    jobs: list[Job],
    model: str | Path | None,
    *,
    task: str | None,
    files: FileOptions | None = None,
    sharp: bool = False,
    errors: list[DirformerError] | None = None,
) -> dict[str, list[Job]]:
    """Group jobs by the model that does them: `model`, or what the catalog chooses for each photo.

    Photos whose size cannot be had are put into `errors`, or raised without it.

    Raises:
        ConfigError: if no shipped model does what is asked.
        CheckpointError: if the model is not there.
    """
    files = files or FileOptions()
    task_of(task)
    if model is not None:
        checks.path("model", model)
        name = sharp_of(str(model)).name if sharp else str(model)
        find_weights(name)
        if name in CATALOG:
            entry = CATALOG[name]
            require_fit(name, (entry.task, entry.scale), task=task, scale=files.scale)
        return {name: jobs}
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        try:
            name = _chosen(job, task, files, sharp=sharp)
        except PhotoError as error:
            if errors is None:
                raise
            errors.append(error)
        else:
            groups.setdefault(name, []).append(job)
    return groups


def _chosen(job: Job, task: str | None, files: FileOptions, *, sharp: bool) -> str:
    try:
        size = photo_size(job.photo)
    except PhotoError:
        size = None  # restoring it will say why
    factor = files.scale if size is None else files.factor(*size)
    masked = any(files.extend) or job.mask is not None
    long_side = 0 if size is None else max(size)
    return default_model(task, has_mask=masked, scale=factor, long_side=long_side, sharp=sharp).name


def require_fit(name: str, has: tuple[str, int], *, task: str | None, scale: float | None) -> None:
    """Raise ConfigError if a model named by the user does not do the task or scale that was asked for.

    Args:
        name: of the model.
        has: task and scale of the model.
        task: what was asked for, as in `default_model`; None is anything.
        scale: factor that was asked for; None is anything.
    """
    network = f"{name} is a {has[0]} ×{has[1]} network"
    if task_of(task) not in (None, has[0]) or (task in OWN_SIZE and has[1] != 1):
        raise ConfigError(f"--task is {task}, but {network}")
    if scale is not None and scale > 1 and has[1] == 1:
        raise ConfigError(f"--scale is {scale:g}, but {network}")


def influences(
    options: RestoreOptions, files: FileOptions, *, seed: int, prior: Path | None = None
) -> dict[str, Any]:
    """Return all options that change a result, beside photo, mask and weights."""
    every = {"seed": seed, "prior": None if prior is None else digest_file(prior)}
    every |= asdict(options) | asdict(files)
    if options.noise == "photo":
        del every["noise"]  # results of versions that knew no other stay finished
    if options.fill is None:
        del every["fill"]
    return {name: value for name, value in every.items() if name not in _NO_INFLUENCE}


class Keys:
    """What each result of a model depends on."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        """Take the digest of the model's weights. Raises CheckpointError if they are not there."""
        self.model, self._options = digest_file(find_weights(model)), options

    def of(self, job: Job) -> Key:
        """Return what the result of a job depends on.

        Raises:
            PhotoError: if the photo or its mask cannot be read.
        """
        try:
            read = digest_files(job.photo, job.mask)
        except OSError as error:
            raise PhotoError(f"{job.photo} cannot be read: {error.strerror or error}") from None
        return Key(read, self.model, digest_options(self._options | {"page": job.page}))


def is_finished(
    job: Job, log: DoneLog, key_of: Callable[[Job], Key], replace: Replace, *, skip: bool
) -> bool:
    """Return whether a job's result is there already, made from the same photo, model and options.

    Raises:
        OutputError: if something else lies there that may not be replaced.
        PhotoError: if the photo cannot be read.
    """
    found = [(path, log.key_of(path)) for path in job.written if is_there(path)]
    for path, made_from in found:
        if made_from is None and not replace.allows(job, path):
            raise OutputError(
                f"{path} exists already and is not as dirformer wrote it; add --overwrite to replace it"
            )
    if not skip or len(found) < len(job.written) or any(made_from is None for _, made_from in found):
        return False
    # A photo that was replaced by its result is that result.
    return found[0][1] == key_of(job) or replace.puts_in_place(job, job.output)


def split_finished(
    jobs: list[Job],
    log: DoneLog,
    keys: Keys,
    replace: Replace,
    *,
    skip: bool,
    errors: list[DirformerError],
    told: Callable[[float], None] | None = None,
) -> tuple[list[Job], int]:
    """Return the jobs that are to be done, and how many are finished; what cannot be done goes to `errors`.

    `told` hears the number of jobs looked at.
    """
    todo, finished = list[Job](), 0
    for number, job in enumerate(jobs, start=1):
        try:
            if is_finished(job, log, keys.of, replace, skip=skip):
                finished += 1
            else:
                todo.append(job)
        except DirformerError as error:
            errors.append(error)
        if told is not None:
            told(float(number))
    return todo, finished
