"""Photos on disk → restored photos on disk, one record each; a bad photo never stops the others."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError, DirformerError, PhotoError
from dirformer.ground.formats import photo_size
from dirformer.ground.paths import atomic_path, remove_leftovers
from dirformer.ground.photo import Photo, write_photo
from dirformer.inference.choice import Keys, by_model, influences, split_finished
from dirformer.inference.consistent import inconsistency
from dirformer.inference.done import DoneLog, Key, digest_file
from dirformer.inference.jobs import FileOptions, Job, Replace, plan_jobs
from dirformer.inference.layers import Progress
from dirformer.inference.options import MOST_WORKERS
from dirformer.inference.pipeline import Pipeline
from dirformer.inference.prepared import Prepared, prepare
from dirformer.inference.proof import Proof, restore_and_prove
from dirformer.inference.restorer import Restorer, open_restorer
from dirformer.weights.catalog import find_weights

log = logging.getLogger(__name__)

WORKERS = 2
"""Threads that decode, and as many that encode."""
PIXEL_BYTES = 16
"""Of a pixel in flight: three floats and alpha."""


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
    skipped: bool = False
    """Finished before, and left alone."""


@dataclass(frozen=True)
class FileRun:
    """What holds for all photos of a run."""

    seed: int = 0
    files: FileOptions = field(default_factory=FileOptions)
    prove: bool = False
    prior: Float[Tensor, "p"] | None = None
    """The IPR to restore all photos under."""
    save_prior: Path | None = None
    """Where to keep the IPR of the photo, for a run of one photo."""
    log: DoneLog | None = None
    """Where to record what is written."""
    keys: Keys | None = None
    """What goes into that record."""


@dataclass(frozen=True)
class KeptPrior:
    """An IPR as a file holds it: it says nothing to another network."""

    prior: Float[Tensor, "p"]
    model: str
    """Name of the network that found it."""
    weights: str
    """Digest of that network's file."""


@dataclass(frozen=True)
class Ready:
    """A job that was read: the first stage's result."""

    prepared: Prepared
    key: Key | None


@dataclass(frozen=True)
class Worked:
    """A job whose photo is restored: the second stage's result."""

    photo: Photo
    spread: Photo | None
    key: Key | None
    proof: Proof | None
    notes: tuple[str, ...]
    prior: KeptPrior | None
    """To be written, too."""


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
        task: `sr`, `realsr`, `deblurring`, `inpainting`, `denoise` or `jpeg`.
        mask: file of holes, for inpainting.
        seed: another seed is another draw of the diffusion's start.
        overwrite: replace a result that exists.
        files: how to read and write; see `FileOptions`.

    Raises:
        DirformerError: of the kind that fits, in one line.
    """
    photo, out, seed = checks.path("photo", photo), checks.path("out", out), checks.seed(seed)
    if photo.is_dir():
        raise ConfigError(
            f"{photo} is a folder; expected one photo: use dirformer.restore_folder for folders"
        )
    files = FileOptions() if files is None else checks.instance("files", files, FileOptions)
    if files.pages:
        raise ConfigError("pages is set; expected one photo in, one out: use `dirformer restore --pages`")
    hole = None if mask is None else checks.path("mask", mask)
    rules = Replace(overwrite=checks.flag("overwrite", overwrite))
    planned = plan_jobs([photo], out, mask=hole, replace=rules, options=files)
    if planned.errors:
        raise planned.errors[0]
    name = next(iter(by_model(planned.jobs, model, task=task, files=files)))
    restorer = open_restorer(name, task=task, scale=files.scale)
    restore_file(restorer, planned.jobs[0], FileRun(seed, files))
    return planned.jobs[0].output


def restore_folder(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    task: str | None = None,
    mask: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    files: FileOptions | None = None,
    workers: int = WORKERS,
) -> list[Path]:
    """Restore all photos of a folder and of those below it; return the results, finished ones included.

    Photos that are finished already are skipped, as by `dirformer restore FOLDER -o OUT`. The other arguments
    are those of `restore`.

    Args:
        folder: what to read.
        out: folder to write into; it gets the same tree.
        model: as in `restore`.
        task: as in `restore`.
        mask: one mask for all photos, or a folder of masks.
        seed: as in `restore`.
        overwrite: replace files that this function has not written.
        files: as in `restore`.
        workers: threads that decode, and as many that encode.

    Raises:
        DirformerError: the first error, behind all photos that can be restored.
    """
    folder, out, seed = checks.path("folder", folder), checks.path("out", out), checks.seed(seed)
    workers = checks.whole("workers", workers, 0, MOST_WORKERS)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; expected one: use dirformer.restore for a photo")
    files = FileOptions() if files is None else checks.instance("files", files, FileOptions)
    done = DoneLog(out)
    rules = Replace(overwrite=checks.flag("overwrite", overwrite), log=done)
    hole = None if mask is None else checks.path("mask", mask)
    planned = plan_jobs([folder], out, mask=hole, replace=rules, options=files)
    errors, failed = planned.errors, set[Path]()
    groups = by_model(planned.jobs, model, task=task, files=files, errors=errors)
    for name, group in groups.items():
        restorer = open_restorer(name, task=task, scale=files.scale)
        keys = Keys(name, influences(restorer.options, files, seed=seed))
        todo, _ = split_finished(group, done, keys, rules, skip=True, errors=errors)
        for record in restore_files(
            restorer, todo, FileRun(seed, files, log=done, keys=keys), workers=workers
        ):
            if record.error is not None:
                errors.append(record.error)
                failed.add(record.job.output)
    if errors:
        raise errors[0]
    return [job.output for job in planned.jobs if job.output not in failed]


def restore_files(
    restorer: Restorer,
    jobs: list[Job],
    run: FileRun | None = None,
    *,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> Generator[Restored, None, None]:
    """Restore all jobs and yield what became of each, in order; decoding, work and encoding overlap.

    Args:
        restorer: the network.
        jobs: photos.
        run: what holds for all of them.
        workers: threads that decode, and as many that encode; 0 overlaps nothing. Results and log do not
            depend on it. With a memory limit or a proof nothing overlaps either.
        progress: told the number of photos done, with the share of the one at work.
    """
    run = run or FileRun()
    for folder in {job.output.parent for job in jobs}:
        remove_leftovers(folder)

    def work(job: Job, read: Ready, number: int) -> Worked:
        told = None if progress is None else functools.partial(_add, progress, number)
        return work_on(restorer, job, run, read, told)

    alone = run.prove or restorer.options.limit is not None
    line = Pipeline(
        functools.partial(read_job, restorer, run),
        work,
        functools.partial(write_result, run),
        workers=0 if alone else workers,
        weight=functools.partial(job_weight, restorer.scale),
    )
    with contextlib.closing(line.run(jobs)) as outcomes:
        for outcome in outcomes:
            error = None if outcome.error is None else named_error(outcome.job, outcome.error)
            yield Restored(outcome.job, outcome.seconds, error, *(outcome.result or ()))


def restore_file(
    restorer: Restorer, job: Job, run: FileRun | None = None, *, progress: Progress | None = None
) -> tuple[Proof | None, tuple[str, ...]]:
    """Restore one photo. Depth, grey, alpha, profile and metadata are kept; outside of holes all pixels are.

    Returns:
        With `prove`, how the result compares with the whole photo's, see `restore_and_prove`; and lines on
        what reading and writing have changed or left out.

    Raises:
        PhotoError: if the photo or its mask cannot be read or do not suit the network.
        OutputError: if the result cannot be written.
    """
    run = run or FileRun()
    worked = work_on(restorer, job, run, read_job(restorer, run, job), progress)
    return write_result(run, job, worked, lambda: None)


def read_job(restorer: Restorer, run: FileRun, job: Job) -> Ready:
    """Read the photo of a job: the first of three stages. Raises PhotoError or OutputError."""
    ready = prepare(job, restorer.scale, run.files, restorer.options.limit)
    return Ready(ready, None if run.keys is None else run.keys.of(job))


def work_on(restorer: Restorer, job: Job, run: FileRun, read: Ready, progress: Progress | None) -> Worked:
    """Restore what was read: the second of three stages. Raises PhotoError or ConfigError."""
    ready, proof, spread, prior, kept = read.prepared, None, None, run.prior, None
    notes = list(ready.notes)
    if run.save_prior is not None:
        prior = restorer.prior(ready.seen, ready.hole, run.seed)
        kept = KeptPrior(prior, restorer.name, digest_file(find_weights(restorer.name)))
    if run.prove:
        pixels, proof = restore_and_prove(
            restorer, job.photo, ready.seen, ready.hole, run.seed, progress, prior
        )
    elif restorer.options.samples > 1:
        pixels, off = restorer.restore_with_spread(ready.seen, ready.hole, run.seed, progress=progress)
        spread, line = _spread_map(off)
        see = "" if job.spread is None else f", see {job.spread.name}"
        notes.append(f"{restorer.options.samples} draws: {line}{see}")
    else:
        pixels = restorer.restore(ready.seen, ready.hole, run.seed, prior=prior, progress=progress)
    result = ready.finished(pixels, restorer.scale)
    if restorer.options.consistent and ready.target is None:
        levels = 65535 if result.depth == 16 else 255
        off_by = inconsistency((result.pixels * levels).round() / levels, ready.seen, restorer.scale)
        notes.append(
            f"shrunk by {restorer.scale} it differs from the input by at most {255 * off_by:.2f}/255"
        )
    return Worked(result, spread, read.key, proof, tuple(notes), kept)


def write_result(
    run: FileRun, job: Job, worked: Worked, turn: Callable[[], None]
) -> tuple[Proof | None, tuple[str, ...]]:
    """Write what was restored: the last of three stages; `turn` is called before it gets its name.

    Raises:
        OutputError: if it cannot be written.
    """

    def before(output: Path, part: Path) -> None:
        turn()
        if run.log is not None and worked.key is not None:
            run.log.add(output, part, worked.key)

    if worked.spread is not None and job.spread is not None:
        write_photo(job.spread, worked.spread, before=functools.partial(before, job.spread))
    written = write_photo(
        job.output,
        worked.photo,
        quality=run.files.quality,
        strip_metadata=run.files.strip_metadata,
        before=functools.partial(before, job.output),
    )
    if run.save_prior is not None and worked.prior is not None:
        write_prior(run.save_prior, worked.prior)
    # What the format cannot hold is said before the work and again by the writer.
    return worked.proof, tuple(dict.fromkeys((*worked.notes, *written)))


def _spread_map(off: Float[Tensor, "h w"]) -> tuple[Photo, str]:
    most = float(off.max())
    shown = (off / most if most > 0 else off).expand(3, -1, -1)
    line = f"results spread by {255 * float(off.mean()):.2f}/255 on average, white is {255 * most:.2f}/255"
    return Photo(shown, grey=True), line


def write_prior(path: Path, kept: KeptPrior) -> None:
    """Write an IPR to a safetensors file. Raises OutputError if it cannot be written."""
    with atomic_path(path) as part:
        metadata = {"model": kept.model, "weights": kept.weights}
        save_file({"prior": kept.prior.contiguous().clone()}, part, metadata=metadata)


def read_prior(path: Path) -> KeptPrior:
    """Read an IPR that `write_prior` wrote; files of earlier versions hold no digest of the weights.

    Raises:
        ConfigError: if the file is none.
    """
    prior, metadata = None, dict[str, str]()
    wrong = (OSError, SafetensorError, ValueError, KeyError, RuntimeError)
    with contextlib.suppress(*wrong), safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        prior = file.get_tensor("prior")
    if prior is None or prior.ndim != 1:
        raise ConfigError(f"{path} is no prior; expected a file of --save-prior")
    return KeptPrior(prior.float(), metadata.get("model", ""), metadata.get("weights", ""))


def prior_for(restorer: Restorer, path: Path) -> Float[Tensor, "p"]:
    """Read an IPR to restore under.

    Raises:
        ConfigError: if the file is none, or another network found the IPR.
    """
    kept = read_prior(path)
    same = kept.model == restorer.name
    if kept.weights:
        same = kept.weights == digest_file(find_weights(restorer.name))
    if not same:
        raise ConfigError(
            f"--prior {path} was found by {kept.model or 'another network'}, and {restorer.name} cannot read "
            "it; give the same --model, or save a prior with this one"
        )
    return kept.prior


def named_error(job: Job, error: Exception, done: str = "restored") -> DirformerError:
    """Return an error as one of ours: whatever happens to a photo is that photo's."""
    if isinstance(error, DirformerError):
        return error
    # torch says by RuntimeErrors of several names that there is no memory left.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error):
        return PhotoError(f"{job.photo} does not fit into memory; give --max-memory or a smaller photo")
    log.debug("%s", job.photo, exc_info=error)
    what = " ".join(str(error).split())[:120]
    return PhotoError(f"{job.photo} cannot be {done}: {type(error).__name__}: {what}; please report it")


def job_weight(scale: int, job: Job) -> int:
    """Return the bytes a photo and its result take; 0 for what cannot be read, which reading it will say."""
    try:
        width, height = photo_size(job.photo, job.page)
    except PhotoError:
        return 0
    return PIXEL_BYTES * width * height * (1 + scale * scale)


def _add(progress: Progress, done: int, share: float) -> None:
    progress(done + share)
