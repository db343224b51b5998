"""Photos on disk → restored photos on disk, one record each; a bad photo never stops the others."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dirformer.ground.errors import ConfigError, DirformerError, PhotoError
from dirformer.ground.formats import photo_size
from dirformer.ground.photo import write_photo
from dirformer.inference.jobs import FileOptions, Job, plan_jobs
from dirformer.inference.layers import Progress
from dirformer.inference.prepared import prepare
from dirformer.inference.proof import Proof, restore_and_prove
from dirformer.inference.restorer import Restorer
from dirformer.weights.catalog import default_model


@dataclass(frozen=True)
class Restored:
    """What became of one photo: written to `output`, or the error that stopped it."""

    job: Job
    seconds: float
    error: DirformerError | None = None
    proof: Proof | None = None
    """Of the photos that were restored with `prove`."""
    notes: tuple[str, ...] = ()
    """Lines on what reading and writing have changed or left out."""


def by_model(
    jobs: list[Job],
    model: str | Path | None,
    *,
    task: str | None,
    scale: int | None = None,
    files: FileOptions | None = None,
) -> dict[str, list[Job]]:
    """Group jobs by the model that does them: `model`, or what the catalog chooses for each photo.

    Raises:
        ConfigError: if no shipped model does what is asked.
    """
    groups: dict[str, list[Job]] = {}
    extended = files is not None and any(files.extend)
    for job in jobs:
        name = (
            model
            or default_model(
                task, has_mask=extended or job.mask is not None, scale=scale, long_side=_long_side(job.photo)
            ).name
        )
        groups.setdefault(str(name), []).append(job)
    return groups


def require_fit(restorer: Restorer, *, task: str | None, scale: int | None) -> None:
    """Raise ConfigError if a model named by the user does not do the task or scale that was asked for."""
    for field, wanted, has in (("--task", task, restorer.task), ("--scale", scale, restorer.scale)):
        if wanted not in (None, has):
            raise ConfigError(
                f"{field} is {wanted}, but {restorer.name} is a {restorer.task} ×{restorer.scale} network"
            )


def restore(
    photo: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    task: str | None = None,
    mask: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    files: FileOptions | None = None,
) -> Path:
    """Restore one photo file to another, as `dirformer restore` does; return the file written.

    Args:
        photo: file to read.
        out: file to write, or a folder.
        model: a shipped model's name or a weight file; None chooses by task, mask and the photo's size.
        task: `sr`, `realsr`, `deblurring` or `inpainting`.
        mask: file of holes, for inpainting.
        seed: another seed is another draw of the diffusion's start.
        overwrite: replace a result that exists.
        files: how to read and write; see `FileOptions`.

    Raises:
        DirformerError: of the kind that fits, in one line.
    """
    if Path(photo).is_dir():
        raise ConfigError(f"{photo} is a folder; expected one photo: use `dirformer restore` for folders")
    files = files or FileOptions()
    if files.pages:
        raise ConfigError("pages is set; expected one photo in, one out: use `dirformer restore --pages`")
    hole = None if mask is None else Path(mask)
    jobs, errors = plan_jobs([Path(photo)], Path(out), mask=hole, overwrite=overwrite, options=files)
    if errors:
        raise errors[0]
    restorer = Restorer(next(iter(by_model(jobs, model, task=task, files=files))))
    require_fit(restorer, task=task, scale=None)
    restore_file(restorer, jobs[0], seed=seed, files=files)
    return jobs[0].output


def restore_files(
    restorer: Restorer,
    jobs: list[Job],
    *,
    seed: int = 0,
    files: FileOptions | None = None,
    prove: bool = False,
    progress: Progress | None = None,
) -> Iterator[Restored]:
    """Restore each job in turn and yield what became of it.

    `progress` is told the number of photos done, with the share of the one at work.
    """
    for number, job in enumerate(jobs):
        start, error = time.perf_counter(), None
        proof, notes = None, tuple[str, ...]()
        told = None if progress is None else functools.partial(_add, progress, number)
        try:
            proof, notes = restore_file(restorer, job, seed=seed, files=files, prove=prove, progress=told)
        except DirformerError as problem:
            error = problem
        except (MemoryError, RuntimeError) as problem:
            # torch says by RuntimeErrors of several names that there is no memory left.
            if not isinstance(problem, MemoryError) and "memory" not in str(problem):
                raise
            error = PhotoError(f"{job.photo} does not fit into memory; give --max-memory or a smaller photo")
        yield Restored(job, time.perf_counter() - start, error, proof, notes)


def restore_file(
    restorer: Restorer,
    job: Job,
    *,
    seed: int = 0,
    files: FileOptions | None = None,
    prove: bool = False,
    progress: Progress | None = None,
) -> tuple[Proof | None, tuple[str, ...]]:
    """Restore one photo. Depth, grey, alpha, profile and metadata are kept; outside of holes all pixels are.

    Returns:
        With `prove`, how the result compares with the whole photo's, see `restore_and_prove`; and lines on
        what reading and writing have changed or left out.

    Raises:
        PhotoError: if the photo or its mask cannot be read or do not suit the network.
        OutputError: if the result cannot be written.
    """
    files = files or FileOptions()
    ready = prepare(job, restorer.scale, files, restorer.options.limit)
    proof = None
    if prove:
        pixels, proof = restore_and_prove(restorer, job.photo, ready.seen, ready.hole, seed, progress)
    else:
        pixels = restorer.restore(ready.seen, ready.hole, seed, progress=progress)
    result = ready.finished(pixels, restorer.scale)
    written = write_photo(job.output, result, quality=files.quality, strip_metadata=files.strip_metadata)
    # What the format cannot hold is said before the work and again by the writer.
    return proof, tuple(dict.fromkeys((*ready.notes, *written)))


def _add(progress: Progress, done: int, share: float) -> None:
    progress(done + share)


def _long_side(photo: Path) -> int:
    """Return the longer side in pixels; 0 for what cannot be read, which restoring it will say."""
    try:
        return max(photo_size(photo))
    except PhotoError:
        return 0
