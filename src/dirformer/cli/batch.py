"""The work of `restore`: check the request, plan, skip what is finished, restore, say what became of it.

Everything that can be checked without torch is checked before it is imported.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from dirformer.cli.pipes import Pipe, piped
from dirformer.cli.terminal import complain, progress_bar, say, say_aside
from dirformer.ground.errors import ConfigError, DirformerError, OutputError
from dirformer.ground.paths import is_file, is_folder, is_there, remove_leftovers, require_place
from dirformer.inference.choice import Keys, by_model, influences, split_finished
from dirformer.inference.done import DoneLog, passed_over
from dirformer.inference.jobs import FileOptions, Job, Planned, Replace, parse_extend, plan_jobs
from dirformer.inference.options import MOST_WORKERS, RestoreOptions
from dirformer.inference.sizes import parse_box
from dirformer.weights.catalog import task_of

if TYPE_CHECKING:
    from dirformer.inference.files import FileRun, Restored
    from dirformer.inference.restorer import Restorer


@dataclass
class Request:
    """The arguments of `restore`, as they were given."""

    out: Path
    inputs: list[Path] | None
    list_files: list[Path] | None
    task: str | None
    model: str | None
    sharp: bool
    mask: Path | None
    scale: float | None
    size: str | None
    strength: float
    consistent: bool
    fill: str | None
    samples: int
    prior: Path | None
    save_prior: Path | None
    seed: int
    device: str
    precision: str
    max_memory: str | None
    storage: str
    context: str
    window: int | None
    self_ensemble: bool
    prove_it: bool
    quality: int | None
    file_format: str
    pages: bool
    strip_metadata: bool
    max_pixels: int
    dilate: int
    feather: int
    extend: str | None
    workers: int
    skip_existing: bool | None
    overwrite: bool
    in_place: bool
    frames: bool = False
    shot_prior: bool = False
    steady: bool = False

    @property
    def sequence(self) -> dict[str, bool]:
        """What frames have beside the options of photos, where any of it is asked for."""
        how = {"shot_prior": self.shot_prior, "steady": self.steady}
        return how if any(how.values()) else {}

    @property
    def names(self) -> list[Path]:
        """Photos, folders and lists."""
        return [*(self.inputs or []), *(path.with_name(f"@{path.name}") for path in self.list_files or [])]

    def file_options(self) -> FileOptions:
        """Return how to read and write. Raises ConfigError."""
        return FileOptions(
            quality=self.quality,
            format=self.file_format.lower(),
            pages=self.pages,
            strip_metadata=self.strip_metadata,
            max_pixels=self.max_pixels,
            dilate=self.dilate,
            feather=self.feather,
            extend=parse_extend(self.extend),
            scale=self.scale,
            box=parse_box(self.size),
        )

    def restore_options(self, noise: str | None = None) -> RestoreOptions:
        """Return how to restore; `noise` is what Z_T is drawn from. Raises ConfigError."""
        return RestoreOptions(
            device=self.device,
            precision=self.precision,
            max_memory=self.max_memory,
            storage=self.storage,
            context=self.context,
            window=self.window,
            self_ensemble=self.self_ensemble,
            strength=self.strength,
            consistent=self.consistent,
            fill=self.fill,
            samples=self.samples,
            noise=noise or ("seed" if self.frames else "photo"),
        )

    def check(self) -> None:
        """Raise ConfigError for what no option alone shows."""
        task_of(self.task)
        if not self.names:
            raise ConfigError(
                "no photos are given; name photos, folders, @LIST, --list FILE, or - for a pipe"
            )
        if not 0 <= self.workers <= MOST_WORKERS:
            raise ConfigError(f"workers is {self.workers}; expected 0 to {MOST_WORKERS}")
        if self.prior is not None and not is_file(self.prior):
            raise ConfigError(f"--prior {self.prior} is not there; expected a file of --save-prior")
        if self.consistent and (self.scale is not None or self.size is not None or self.strength != 1):
            raise ConfigError(
                "--consistent holds at the network's own size and full strength; leave --scale, --size and "
                "--strength out"
            )
        several = self.self_ensemble or self.samples > 1 or self.context == "window-prior"
        if several and (self.prior is not None or self.save_prior is not None):
            raise ConfigError(
                "--prior and --save-prior are for one prior; leave --self-ensemble, --samples and "
                "--context window-prior out"
            )
        if self.shot_prior and several:
            raise ConfigError(
                "--shot-prior is for one prior; leave --self-ensemble, --samples and --context window-prior "
                "out"
            )
        if self.sequence and (self.in_place or self.prior is not None or self.save_prior is not None):
            raise ConfigError(
                "--in-place, --prior and --save-prior do not go with --shot-prior and --steady, whose "
                "results depend on the frames before; leave them out"
            )
        if self.prove_it and self.samples > 1:
            raise ConfigError("--prove compares one draw; leave --samples out")


@dataclass
class Tally:
    """What has become of the photos so far."""

    restored: int = 0
    skipped: int = 0
    errors: list[DirformerError] = field(default_factory=list)

    def closing(self, planned: Planned) -> str:
        """Return the closing line."""
        return closing_line(self.restored, self.skipped, len(self.errors), planned.passed)


def closing_line(restored: int, skipped: int, failed: int, passed: Counter[str]) -> str:
    """Return what every run of `restore` ends with; `passed` counts files that are no photos by suffix."""
    line = f"{restored} restored, {skipped} skipped, {failed} failed"
    count = sum(passed.values())
    return f"{line}; {count} passed over: {passed_over(passed.items())}" if count else line


def flicker_line(shots: int, scores: tuple[float, float]) -> str:
    """Return what every run over frames says of them: shots, and the flicker of frames and results."""
    before, after = scores
    change = f"{before:.2f} → {after:.2f} (root mean square change, of 255)"
    return f"{shots} shots, flicker of still parts {change}"


def run(request: Request) -> None:
    """Restore what was asked for.

    Raises:
        DirformerError: if nothing can be done.
        typer.Exit: with 2 if a photo failed.
        KeyboardInterrupt: by Ctrl-C or SIGTERM, behind the closing line.
    """
    request.check()
    files, options = request.file_options(), request.restore_options()
    with piped(request.names, request.out, files.format) as pipe, terminable():
        request.out = pipe.out
        _Run(request, files, options, pipe).go()
        pipe.send()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


class _Run:
    """One call of `restore`."""

    def __init__(self, request: Request, files: FileOptions, options: RestoreOptions, pipe: Pipe) -> None:
        self.request, self.files, self.options, self.pipe = request, files, options, pipe
        inputs = pipe.inputs
        self.tally, self.folders = Tally(), set[Path]()
        many = request.list_files or any(is_folder(path) or path.name.startswith("@") for path in inputs)
        self.skip = bool(many) if request.skip_existing is None else request.skip_existing
        self.log = DoneLog(request.out) if many or self.skip else None
        self.rules = Replace(overwrite=request.overwrite, in_place=request.in_place, log=self.log)

    def say(self, line: str) -> None:
        """Print a line where it does not disturb a photo on standard output."""
        (say_aside if self.pipe.aside else say)(self.pipe.named(line))

    def go(self) -> None:
        """Plan and restore; say at the end what has become of it, also when interrupted."""
        planned = plan_jobs(
            self.pipe.inputs,
            self.request.out,
            mask=self.request.mask,
            replace=self.rules,
            options=self.files,
            # A pipe has no place for a second file.
            spread=self.options.samples > 1 and not self.pipe.aside,
        )
        self.tally.errors = planned.errors
        self.folders = {job.output.parent for job in planned.jobs}
        for folder in self.folders:
            remove_leftovers(folder)
        for note in planned.notes:
            self.say(note)
        self._check_save_prior(planned)
        try:
            self._restore(self._todo(planned))
        except KeyboardInterrupt:
            for folder in self.folders:
                remove_leftovers(folder, own=True)
            self._close(planned)
            raise
        self._close(planned)
        if self.tally.errors:
            raise typer.Exit(2)

    def _check_save_prior(self, planned: Planned) -> None:
        place, jobs = self.request.save_prior, planned.jobs
        if place is None:
            return
        if len(jobs) > 1:
            raise ConfigError(f"--save-prior is for one photo, but {len(jobs)} are given")
        require_place(place)
        if place.resolve() in {path.resolve() for job in jobs for path in job.named}:
            raise ConfigError(f"--save-prior {place} is also a photo, mask or result; give another name")
        if is_there(place) and not self.request.overwrite:
            raise OutputError(f"{place} exists already; add --overwrite to replace it")

    def _close(self, planned: Planned) -> None:
        for error in self.tally.errors:
            complain(self.pipe.named(str(error)))
        self.say(self.tally.closing(planned))

    def _todo(self, planned: Planned) -> list[tuple[str, list[Job], Keys | None]]:
        """Return for each model its jobs that are not finished."""
        request, errors = self.request, self.tally.errors
        groups = by_model(
            planned.jobs,
            request.model,
            task=request.task,
            files=self.files,
            sharp=request.sharp,
            errors=errors,
        )
        if self.log is None:
            return [(name, jobs, None) for name, jobs in groups.items()]
        changes = influences(self.options, self.files, seed=request.seed, prior=request.prior)
        changes |= request.sequence
        found: list[tuple[str, list[Job], Keys | None]] = []
        for name, jobs in groups.items():
            keys = Keys(name, changes)
            if request.sequence:  # what a frame depends on shows when those before it are read
                found.append((name, jobs, keys))
                continue
            with progress_bar(len(jobs), "looking for finished ones") as show:
                todo, finished = split_finished(
                    jobs, self.log, keys, self.rules, skip=self.skip, errors=errors, told=show
                )
            self.tally.skipped += finished
            found.append((name, todo, keys))
        return found

    def _restore(self, groups: list[tuple[str, list[Job], Keys | None]]) -> None:
        groups = [group for group in groups if group[1]]
        if not groups:
            return
        from dirformer.inference.files import FileRun, prior_for, restore_files
        from dirformer.inference.restorer import open_restorer

        request = self.request
        run = FileRun(
            seed=request.seed,
            files=self.files,
            prove=request.prove_it,
            save_prior=request.save_prior,
            log=self.log,
        )
        for name, jobs, keys in groups:
            restorer = open_restorer(name, self.options, task=request.task, scale=self.files.scale)
            self.say(f"{name}: {restorer.description}")
            prior = None if request.prior is None else prior_for(restorer, request.prior)
            own = replace(run, keys=keys, prior=prior)
            if request.sequence:
                self._restore_frames(restorer, jobs, own)
                continue
            with progress_bar(len(jobs), "restoring") as show:
                records = restore_files(restorer, jobs, own, workers=request.workers, progress=show)
                with contextlib.closing(records):
                    for record in records:
                        self._tell(record, restorer)

    def _restore_frames(self, restorer: Restorer, jobs: list[Job], run: FileRun) -> None:
        from dirformer.video.frames import FrameRun, Frames, in_order

        frames = Frames(restorer, run, FrameRun(**self.request.sequence, skip=self.skip), self.rules)
        with progress_bar(len(jobs), "restoring frames") as show:
            records = frames.restore(in_order(jobs), workers=self.request.workers, progress=show)
            with contextlib.closing(records):
                for record in records:
                    self._tell(record, restorer)
        self.say(flicker_line(frames.shots.count, frames.flicker.scores()))

    def _tell(self, record: Restored, restorer: Restorer) -> None:
        if record.error is not None:
            self.tally.errors.append(record.error)
            return
        if record.skipped:
            self.tally.skipped += 1
            return
        self.tally.restored += 1
        self.say(f"{record.job.photo} → {record.job.output} ({record.seconds:.1f} s)")
        for note in record.notes:
            self.say(f"  {note}")
        if self.request.max_memory is not None:
            self.say(f"  {restorer.engine.plan}")
        if record.proof is not None:
            self.say(f"  {record.proof}")
