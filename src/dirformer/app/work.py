"""The work behind the page: files in a folder of their own.

A photo is restored by the functions that the command line calls, so the bytes are the same.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dirformer.app.wishes import Limits, Wishes
from dirformer.ground.errors import ConfigError, DirformerError, PhotoError
from dirformer.ground.formats import photo_size
from dirformer.inference.choice import by_model
from dirformer.inference.files import FileRun, restore_file, restore_files
from dirformer.inference.jobs import FileOptions, Job, plan_jobs
from dirformer.inference.layers import Progress
from dirformer.inference.restorer import open_restorer


@dataclass(frozen=True)
class Result:
    """A restored photo, in the folder of its request."""

    output: Path
    model: str
    seconds: float
    notes: tuple[str, ...] = ()
    spread: Path | None = None


@dataclass(frozen=True)
class BatchResult:
    """Restored photos in a zip, and lines on those that failed."""

    archive: Path | None
    restored: int
    errors: tuple[str, ...]
    seconds: float

    @property
    def lines(self) -> tuple[str, ...]:
        """What became of the photos, in words."""
        return (
            f"{self.restored} restored, {len(self.errors)} failed, {self.seconds:.1f} s",
            *self.errors,
        )


@contextlib.contextmanager
def folder(limits: Limits) -> Iterator[Path]:
    """Yield a new folder that is removed behind it."""
    place = Path(tempfile.mkdtemp(prefix="request-", dir=limits.scratch))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def restore_upload(
    photo: Path,
    place: Path,
    wishes: Wishes,
    limits: Limits,
    *,
    mask: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Restore an uploaded photo into a folder, as `dirformer restore` does.

    Raises:
        DirformerError: in one line, without the server's folders.
    """
    started = time.perf_counter()
    try:
        files, options = wishes.file_options(limits), wishes.restore_options(limits)
        planned = plan_jobs([photo], place, mask=mask, options=files, spread=options.samples > 1)
        if planned.errors:
            raise planned.errors[0]
        job, task = planned.jobs[0], wishes.task_word
        name = next(iter(by_model([job], None, task=task, files=files, sharp=wishes.sharp)))
        restorer = open_restorer(name, options, task=task, scale=files.scale)
        if (error := _too_large(job, files, restorer.scale, limits)) is not None:
            raise error
        _, notes = restore_file(restorer, job, FileRun(wishes.seed_number, files), progress=progress)
    except DirformerError as error:
        error.args = (without_folders(str(error), photo, place, mask),)
        raise
    # Beside the visitor's own photo a result of the same name would be taken for it.
    output = job.output.rename(job.output.with_stem(f"{job.output.stem}_restored"))
    return Result(output, name, time.perf_counter() - started, notes, job.spread)


def restore_batch(
    photos: list[Path],
    place: Path,
    wishes: Wishes,
    limits: Limits,
    *,
    progress: Progress | None = None,
) -> BatchResult:
    """Restore several photos into one zip; one that fails never stops the rest.

    Raises:
        ConfigError: if nothing can be done.
    """
    started = time.perf_counter()
    if not photos:
        raise ConfigError("no photos were given; drop some here first")
    if len(photos) > limits.max_photos:
        raise ConfigError(f"{len(photos)} photos were given; expected at most {limits.max_photos} at a time")
    files, options = wishes.file_options(limits), wishes.restore_options(limits)
    errors = list[DirformerError]()
    jobs = _batch_jobs(photos, place, files, errors)
    groups = by_model(jobs, None, task=wishes.task_word, files=files, sharp=wishes.sharp, errors=errors)
    archive, done, taken = place / "restored.zip", 0, set[str]()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for name, group in groups.items():
            restorer = open_restorer(name, options, task=wishes.task_word, scale=files.scale)
            refused = {job: _too_large(job, files, restorer.scale, limits) for job in group}
            errors += filter(None, refused.values())
            small = [job for job, error in refused.items() if error is None]
            told = None if progress is None else _shifted(progress, done, len(jobs))
            run = FileRun(wishes.seed_number, files)
            with contextlib.closing(restore_files(restorer, small, run, progress=told)) as records:
                for record in records:
                    if record.error is not None:
                        errors.append(record.error)
                        continue
                    bundle.write(record.job.output, _free(record.job.output.name, taken))
                    record.job.output.unlink()
                    done += 1
    lines = tuple(without_folders(str(error), *photos, place) for error in errors)
    return BatchResult(archive if done else None, done, lines, time.perf_counter() - started)


def _batch_jobs(
    photos: list[Path], place: Path, files: FileOptions, errors: list[DirformerError]
) -> list[Job]:
    """Return a job for each photo, in a folder of its own: visitors hand over photos of the same name."""
    jobs = list[Job]()
    for number, photo in enumerate(photos):
        try:
            planned = plan_jobs([photo], place / "each" / str(number), options=files)
        except DirformerError as error:
            errors.append(error)
            continue
        jobs += planned.jobs
        errors += planned.errors
    return jobs


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done: progress((before + done) / total)


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it."""
    stem, dot, suffix = name.rpartition(".")
    free, number = name, 1
    while free.casefold() in taken:
        number += 1
        free = f"{stem}_{number}{dot}{suffix}"
    taken.add(free.casefold())
    return free


def _too_large(job: Job, files: FileOptions, scale: int, limits: Limits) -> DirformerError | None:
    """Return why a result would be too large, or its size cannot be told; None if it is not."""
    try:
        width, height = photo_size(job.photo)
        times = max(files.factor(width, height) or scale, 1.0)
    except PhotoError as error:
        return error
    pixels = round(width * height * times * times)
    if pixels <= limits.max_result:
        return None
    return PhotoError(
        f"{job.photo} would become {pixels:,} pixels; expected at most {limits.max_result:,}: "
        "give a smaller size"
    )


def without_folders(text: str, *paths: Path | None) -> str:
    """Take the server's folders out of a line: visitors know their photo by its name alone."""
    folders = {str(path.parent) for path in paths if path is not None}
    folders |= {str(path) for path in paths if path is not None and path.is_dir()}
    for each in sorted(folders, key=len, reverse=True):
        text = text.replace(each + "/", "")
    return text


def described(photo: Path, limits: Limits) -> str:
    """Return format and size of an uploaded photo, in words.

    Raises:
        PhotoError: if it is none or too large, without decoding it.
    """
    try:
        width, height = photo_size(photo)
        if width * height > limits.max_pixels:
            raise PhotoError(
                f"{photo} has {width}×{height} pixels, {width * height / 1e6:.0f} megapixels; expected at "
                f"most {limits.max_pixels / 1e6:.0f}: shrink it first"
            )
    except DirformerError as error:
        raise PhotoError(without_folders(str(error), photo)) from None
    return f"{photo.name}: {width}×{height} pixels"
