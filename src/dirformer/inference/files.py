"""Photos on disk → restored photos on disk, one record each; a bad photo never stops the others."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dirformer.ground.errors import ConfigError, DirformerError, OutputError, PhotoError
from dirformer.ground.formats import SUFFIXES, check_suffix, list_photos, photo_size
from dirformer.ground.mask import read_mask
from dirformer.ground.photo import read_photo, write_photo
from dirformer.inference.layers import Progress
from dirformer.inference.proof import Proof, restore_and_prove
from dirformer.inference.restorer import Restorer, enlarge
from dirformer.weights.catalog import default_model


@dataclass(frozen=True)
class Job:
    """One photo to restore."""

    photo: Path
    output: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Restored:
    """What became of one photo: written to `output`, or the error that stopped it."""

    job: Job
    seconds: float
    error: DirformerError | None = None
    proof: Proof | None = None
    """Of the photos that were restored with `prove`."""


def plan_jobs(
    inputs: list[Path], out: Path, *, mask: Path | None = None, overwrite: bool = False
) -> tuple[list[Job], list[DirformerError]]:
    """Turn files and folders into jobs, and into errors for what cannot be one.

    A single file goes to the file `out` if `out` has a photo's suffix; otherwise `out` is a folder, and
    results keep their names (as PNG where the suffix cannot be written). `mask` is one mask for all, or a
    folder of masks named like the photos.

    Raises:
        ConfigError: if several photos are asked into one file.
    """
    photos: list[Path] = []
    for path in inputs:
        photos += list_photos(path) if path.is_dir() else [path]
    one_file = out.suffix.lower() in SUFFIXES and not out.is_dir()
    if one_file and (len(photos) > 1 or any(path.is_dir() for path in inputs)):
        raise ConfigError(f"{len(photos)} photos cannot go into the one file {out}; give a folder: -o DIR")
    if not one_file and out.suffix and not out.is_dir():
        check_suffix(out)
    jobs: list[Job] = []
    errors: list[DirformerError] = []
    taken: dict[Path, Path] = {}
    for photo in photos:
        suffix = photo.suffix if photo.suffix.lower() in SUFFIXES else ".png"
        output = out if one_file else out / f"{photo.stem}{suffix}"
        if output in taken:
            errors.append(
                OutputError(f"{photo} and {taken[output]} would both be written to {output}; rename one")
            )
        elif output.exists() and not overwrite:
            errors.append(OutputError(f"{output} exists already; add --overwrite to replace it"))
        elif mask is not None and mask.is_dir() and _mask_for(photo, mask) is None:
            errors.append(PhotoError(f"{photo} has no mask of the same name in {mask}"))
        else:
            taken[output] = photo
            jobs.append(Job(photo, output, _mask_for(photo, mask)))
    if not photos:
        errors.append(
            PhotoError(f"no photos in {', '.join(map(str, inputs))}; expected {', '.join(SUFFIXES)} files")
        )
    return jobs, errors


def by_model(
    jobs: list[Job], model: str | Path | None, *, task: str | None, scale: int | None = None
) -> dict[str, list[Job]]:
    """Group jobs by the model that does them: `model`, or what the catalog chooses for each photo.

    Raises:
        ConfigError: if no shipped model does what is asked.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        name = (
            model
            or default_model(
                task, has_mask=job.mask is not None, scale=scale, long_side=_long_side(job.photo)
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

    Raises:
        DirformerError: of the kind that fits, in one line.
    """
    hole = None if mask is None else Path(mask)
    jobs, errors = plan_jobs([Path(photo)], Path(out), mask=hole, overwrite=overwrite)
    if errors:
        raise errors[0]
    restorer = Restorer(next(iter(by_model(jobs, model, task=task))))
    require_fit(restorer, task=task, scale=None)
    restore_file(restorer, jobs[0], seed=seed)
    return jobs[0].output


def restore_files(
    restorer: Restorer,
    jobs: list[Job],
    *,
    seed: int = 0,
    prove: bool = False,
    progress: Progress | None = None,
) -> Iterator[Restored]:
    """Restore each job in turn and yield what became of it.

    `progress` is told the number of photos done, with the share of the one at work.
    """
    for number, job in enumerate(jobs):
        start, error, proof = time.perf_counter(), None, None
        told = None if progress is None else functools.partial(_add, progress, number)
        try:
            proof = restore_file(restorer, job, seed=seed, prove=prove, progress=told)
        except DirformerError as problem:
            error = problem
        yield Restored(job, time.perf_counter() - start, error, proof)


def restore_file(
    restorer: Restorer,
    job: Job,
    *,
    seed: int = 0,
    prove: bool = False,
    progress: Progress | None = None,
) -> Proof | None:
    """Restore one photo; grey stays grey, alpha and colour profile are kept (see `photo.write_photo`).

    Returns:
        With `prove`, how the result compares with the whole photo's; see `restore_and_prove`.

    Raises:
        PhotoError: if the photo or its mask cannot be read or do not suit the network.
        OutputError: if the result cannot be written.
    """
    photo = read_photo(job.photo)
    mask = None if job.mask is None else read_mask(job.mask)
    proof = None
    if prove:
        pixels, proof = restore_and_prove(restorer, job.photo, photo.pixels, mask, seed, progress)
    else:
        pixels = restorer.restore(photo.pixels, mask, seed, progress=progress)
    if photo.grey:
        pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
    alpha = None if photo.alpha is None else enlarge(photo.alpha, restorer.scale)
    write_photo(job.output, replace(photo, pixels=pixels, alpha=alpha))
    return proof


def _add(progress: Progress, done: int, share: float) -> None:
    progress(done + share)


def _long_side(photo: Path) -> int:
    """Return the longer side in pixels; 0 for what cannot be read, which restoring it will say."""
    try:
        return max(photo_size(photo))
    except PhotoError:
        return 0


def _mask_for(photo: Path, mask: Path | None) -> Path | None:
    if mask is None or not mask.is_dir():
        return mask
    return next((path for path in list_photos(mask) if path.stem == photo.stem), None)
