"""Folders of frames, restored as a film is: in the order of their names, shot by shot.

All that a frame's result depends on goes into its record: its own file, and with `steady` those before it in
the shot, with `shot_prior` the first of the shot. So a run that was stopped goes on, and a changed frame has
those behind it done again. Frames that are finished are read again, and not restored again.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dirformer.inference.choice import is_finished
from dirformer.inference.done import DoneLog, Key, digest_of
from dirformer.inference.files import (
    FileRun,
    Ready,
    Restored,
    Worked,
    job_weight,
    named_error,
    read_job,
    work_on,
    write_result,
)
from dirformer.inference.jobs import Job, Replace
from dirformer.inference.layers import Progress
from dirformer.inference.pipeline import Pipeline
from dirformer.inference.proof import Proof
from dirformer.inference.restorer import Restorer
from dirformer.video.shots import Flicker, Shots
from dirformer.video.steady import Steady

_NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class FrameRun:
    """What frames have beside the options of photos."""

    shot_prior: bool = False
    """Restore all frames of a shot under the IPR of its first."""
    steady: bool = False
    """Average still parts over the last frames, see `Steady`."""
    skip: bool = True
    """Leave frames alone that are finished."""


def in_order(jobs: list[Job]) -> list[Job]:
    """Return frames as they follow each other: by folder, then by name, in which numbers count as such."""

    def place(job: Job) -> tuple[str, list[tuple[int, str]], str, int]:
        photo = job.photo
        parts = [(int(p), p) if p.isdecimal() and p.isascii() else (-1, p) for p in _NUMBER.split(photo.stem)]
        return str(photo.parent), parts, photo.suffix, job.page

    return sorted(jobs, key=place)


class Frames:
    """The frames of a run, in order; afterwards, how many shots there were and how they flicker."""

    def __init__(self, restorer: Restorer, run: FileRun, how: FrameRun, rules: Replace | None = None) -> None:
        """Take the network (with the option `noise="seed"`), what holds for all, and what may be replaced."""
        self._restorer, self._run, self._how, self._rules = restorer, run, how, rules or Replace()
        self.shots, self.flicker = Shots(), Flicker()
        self._steady = Steady() if how.steady else None
        self._last: tuple[Path, tuple[int, ...]] | None = None
        self._first: Ready | None = None
        self._prior: Float[Tensor, "p"] | None = None
        self._chain = ""

    def restore(
        self, jobs: list[Job], *, workers: int, progress: Progress | None = None
    ) -> Generator[Restored, None, None]:
        """Restore all jobs and yield what became of each, `skipped` for those that are finished.

        Args:
            jobs: frames; see `in_order`.
            workers: as in `restore_files`; results do not depend on it.
            progress: told the number of frames done.
        """
        alone = self._run.prove or self._restorer.options.limit is not None
        line = Pipeline(
            functools.partial(read_job, self._restorer, self._run),
            self._work,
            self._write,
            workers=0 if alone else workers,
            weight=functools.partial(job_weight, self._restorer.scale),
        )
        with contextlib.closing(line.run(jobs)) as outcomes:
            for number, outcome in enumerate(outcomes, start=1):
                error = None if outcome.error is None else named_error(outcome.job, outcome.error)
                proof, notes = outcome.result or (None, ())
                skipped = error is None and outcome.result is None
                yield Restored(outcome.job, outcome.seconds, error, proof, notes, skipped)
                if progress is not None:
                    progress(float(number))

    def _work(self, job: Job, read: Ready, number: int) -> Worked | None:
        """Restore a frame; None if it is finished."""
        del number
        frame = read.prepared.seen
        first = self._seen(job, read)
        seen = frame if self._steady is None else self._steady(frame)
        key = self._key(read)
        if key is not None and self._finished(job, key):
            self.flicker.cut()
            return None
        run = self._run
        if self._how.shot_prior:
            if self._prior is None:
                self._prior = self._restorer.prior(first.prepared.seen, first.prepared.hole, run.seed)
            run = replace(run, prior=self._prior)
        worked = work_on(
            self._restorer, job, run, Ready(replace(read.prepared, seen=seen), key), progress=None
        )
        self.flicker.add(frame, worked.photo.pixels)
        return worked

    def _write(
        self, job: Job, worked: Worked | None, turn: Callable[[], None]
    ) -> tuple[Proof | None, tuple[str, ...]] | None:
        return None if worked is None else write_result(self._run, job, worked, turn)

    def _seen(self, job: Job, read: Ready) -> Ready:
        """Look whether a frame begins a shot; return the first frame of its shot."""
        frame = read.prepared.seen
        place = (job.photo.parent, tuple(frame.shape))
        if place != self._last:
            self.shots.cut()
        self._last = place
        if self.shots.begins(frame) or self._first is None:
            self._first, self._prior, self._chain = read, None, ""
            self.flicker.cut()
            if self._steady is not None:
                self._steady.cut()
        return self._first

    def _key(self, read: Ready) -> Key | None:
        """Return what the result of a frame depends on; None where nothing is recorded."""
        if read.key is None:
            return None
        own, first = read.key.input, self._first
        self._chain = digest_of(self._chain.encode(), own.encode())
        parts = [own]
        if self._how.shot_prior and first is not None and first.key is not None:
            parts.append(first.key.input)
        if self._how.steady:
            parts.append(self._chain)
        return replace(read.key, input=digest_of(*(part.encode() for part in parts)))

    def _finished(self, job: Job, key: Key) -> bool:
        log: DoneLog | None = self._run.log
        return log is not None and is_finished(job, log, lambda _: key, self._rules, skip=self._how.skip)
