"""What restoring photos will take: time, memory, size, before a long run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from dirformer.ground.decode import checked_size
from dirformer.ground.errors import ConfigError, DirformerError
from dirformer.ground.memory import resident_memory
from dirformer.inference.jobs import FileOptions, Job
from dirformer.inference.options import RestoreOptions
from dirformer.inference.restorer import Restorer, open_restorer
from dirformer.inference.sizes import target_size
from dirformer.tasks import TASKS

SIDE = 160
"""Of the square that is restored to measure, in pixels; a quarter of it is a hole where holes are filled."""
SEARCH = 20
"""Bytes per pixel that filling from exemplars adds to the peak: 19 were measured at 12 megapixels."""


@dataclass(frozen=True)
class Forecast:
    """What one photo will take."""

    job: Job
    model: str
    before: tuple[int, int]
    """Width and height of the photo in pixels."""
    after: tuple[int, int]
    """Of the result."""
    seconds: float
    """Of the network, by the time that a small square took here; reading and writing come on top."""
    memory: int
    """Bytes beside program and weights, by the engine's plan; of a GPU that holds the photo, its own."""
    disk: int
    """Bytes of maps that wait on disk."""
    program: int | None
    """Bytes of program and weights; None where unknown."""
    how: str
    """Threads, storage of maps, bands."""

    def __str__(self) -> str:
        sizes = " → ".join("{}×{}".format(*size) for size in (self.before, self.after))
        return f"{self.job.photo}: {self.model}, {sizes}, about {duration(self.seconds)}, {self.how}"


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def forecasts(
    model: str, jobs: list[Job], options: RestoreOptions, files: FileOptions, *, task: str | None = None
) -> Iterator[Forecast | DirformerError]:
    """Yield what each photo will take, or why it cannot be restored. Measures once; decodes no photo.

    Args:
        model: that restores them.
        jobs: photos.
        options: how they are to be restored.
        files: how they are to be read and written.
        task: what was asked for, as in `require_fit`.

    Raises:
        CheckpointError: if the weights cannot be read.
        ConfigError: if the model does not do what is asked.
    """
    restorer = open_restorer(model, options, task=task, scale=files.scale)
    try:
        per_pixel = _seconds_per_pixel(restorer)
    except ConfigError:
        # A limit that is too small for the square may do for a smaller photo.
        free = replace(options, max_memory=None)
        per_pixel = _seconds_per_pixel(open_restorer(model, free, task=task, scale=files.scale))
    for job in jobs:
        try:
            yield _forecast(restorer, job, files, per_pixel)
        except DirformerError as error:
            yield error


def _seconds_per_pixel(restorer: Restorer) -> float:
    """Restore a small square twice; the first time packs the weights."""
    square = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = None
    if TASKS[restorer.task].has_mask:
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        mask[SIDE // 4 : SIDE // 2] = True
    restorer.restore(square, mask)
    start = time.perf_counter()
    restorer.restore(square, mask)
    return (time.perf_counter() - start) / SIDE**2


def _forecast(restorer: Restorer, job: Job, files: FileOptions, per_pixel: float) -> Forecast:
    width, height = checked_size(
        job.photo, job.page, max_pixels=files.max_pixels, max_bytes=restorer.options.limit
    )
    left, top, right, bottom = files.extend
    width, height = width + left + right, height + top + bottom
    factor = files.factor(width, height)
    after = (width * restorer.scale, height * restorer.scale)
    if factor is not None:
        after = target_size(factor, width, height)
    multiple, turns = restorer.config.multiple, restorer.options.self_ensemble
    down, across = (-(-side // multiple) * multiple for side in (height, width))
    several = turns or restorer.options.samples > 1
    whole = restorer.engine.whole_memory_for(down, across)
    program = resident_memory()
    seconds = per_pixel * down * across
    if whole is not None:
        how = f"about {whole / 2**20:.0f} MiB of the device, as a whole"
        return Forecast(job, restorer.name, (width, height), after, seconds, whole, 0, program, how)
    plan = restorer.engine.plan_for(down, across, mean=several)
    memory = plan.peak + (SEARCH * down * across if restorer.fill == "exemplar" else 0)
    return Forecast(
        job, restorer.name, (width, height), after, seconds, memory, plan.spilled, program, str(plan)
    )
