"""Read, work, write: three stages that overlap, in order, with few things in flight.

Reading and writing run in threads (decoders and encoders leave Python's lock), the work in the caller's. What
is in flight is bounded by number and by bytes, so memory does not depend on how many things there are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

J = TypeVar("J")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")

ROOM = 2**30
"""Bytes of photos that may wait, unless a single one is larger."""
PATIENCE = 1.0
"""Seconds that an interrupted run waits for what is being written."""


class StoppedError(Exception):
    """The run was interrupted: what is not yet written is not written any more."""


@dataclass(frozen=True)
class Outcome(Generic[J, R]):
    """What became of one thing."""

    job: J
    seconds: float
    """Of its own stages, without waiting."""
    result: R | None = None
    error: Exception | None = None


class Turns:
    """Lets writers end in the order in which they were begun, however long each takes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next, self._over, self._stopped = 0, set[int](), False

    def wait(self, number: int) -> None:
        """Return when all earlier ones are over. Raises StoppedError when the run is interrupted."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next >= number)
            if self._stopped:
                raise StoppedError

    def over(self, number: int) -> None:
        """Say that this one has ended, well or not."""
        with self._changed:
            self._over.add(number)
            while self._next in self._over:
                self._over.remove(self._next)
                self._next += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody go on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


@dataclass
class _Flying(Generic[J]):
    job: J
    number: int
    weight: int
    future: Future[Any]
    spent: float = 0.0


class Pipeline(Generic[J, A, B, R]):
    """The three stages.

    Args:
        read: job → what the work needs; in a thread.
        work: job, what was read, number of the job → what is to be written; in the caller's thread.
        write: job, what the work returned, and a function to call just before the result becomes visible,
            which waits for its turn; in a thread.
        workers: threads that read, and as many that write. 0: all in the caller's thread, one by one.
        weight: bytes that a job holds in flight.
    """

    def __init__(
        self,
        read: Callable[[J], A],
        work: Callable[[J, A, int], B],
        write: Callable[[J, B, Callable[[], None]], R],
        *,
        workers: int,
        weight: Callable[[J], int],
    ) -> None:
        self._read, self._work, self._write = read, work, write
        self._workers, self._weight = workers, weight
        self._held = 0

    def run(self, jobs: Sequence[J]) -> Generator[Outcome[J, R], None, None]:
        """Yield what became of each job, in order. An error of one job does not stop the others."""
        if self._workers == 0:
            for number, job in enumerate(jobs):
                yield self._alone(job, number)
            return
        readers = ThreadPoolExecutor(self._workers, "read")
        writers = ThreadPoolExecutor(self._workers, "write")
        turns = Turns()
        reading, writing = deque[_Flying[J]](), deque[_Flying[J] | Outcome[J, R]]()
        try:
            yield from self._overlapped(jobs, readers, writers, turns, reading, writing)
        finally:
            # Nothing is left in a run that ended well.
            turns.stop()
            readers.shutdown(wait=False, cancel_futures=True)
            writers.shutdown(wait=False, cancel_futures=True)
            wait([one.future for one in writing if isinstance(one, _Flying)], timeout=PATIENCE)

    def _overlapped(
        self,
        jobs: Sequence[J],
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
        turns: Turns,
        reading: deque[_Flying[J]],
        writing: deque[_Flying[J] | Outcome[J, R]],
    ) -> Iterator[Outcome[J, R]]:
        begun = written = 0
        while begun < len(jobs) or reading:
            while begun < len(jobs) and len(reading) < self._workers:
                weight = self._weight(jobs[begun])
                if self._held and self._held + weight > ROOM:
                    break
                self._held += weight
                future = readers.submit(_timed, self._read, jobs[begun])
                reading.append(_Flying(jobs[begun], begun, weight, future))
                begun += 1
            if not reading:  # no room: something must be written first
                yield self._ended(writing.popleft())
                continue
            one = reading.popleft()
            outcome = self._worked(one)
            if isinstance(outcome, Outcome):
                writing.append(outcome)
            else:
                one.future = writers.submit(self._written, one.job, outcome, turns, written)
                written += 1
                writing.append(one)
                del outcome
            while writing and (len(writing) > self._workers or _is_over(writing[0])):
                yield self._ended(writing.popleft())
        while writing:
            yield self._ended(writing.popleft())

    def _worked(self, one: _Flying[J]) -> Outcome[J, R] | tuple[B]:
        """Do the work on what was read; return it in a tuple, or the outcome of a job that failed."""
        try:
            seconds, value = one.future.result()
            one.spent += seconds
            # The future keeps its result, and with it the photo.
            one.future = Future()
            seconds, result = _timed(self._work, one.job, value, one.number)
            one.spent += seconds
        except Exception as error:  # noqa: BLE001
            self._held -= one.weight
            return Outcome(one.job, one.spent, error=error)
        return (result,)

    def _written(self, job: J, result: tuple[B], turns: Turns, number: int) -> tuple[float, R]:
        try:
            return _timed(self._write, job, result[0], lambda: turns.wait(number))
        finally:
            turns.over(number)

    def _ended(self, one: _Flying[J] | Outcome[J, R]) -> Outcome[J, R]:
        if isinstance(one, Outcome):
            return one
        try:
            seconds, result = one.future.result()
        except Exception as error:  # noqa: BLE001
            return Outcome(one.job, one.spent, error=error)
        finally:
            self._held -= one.weight
        return Outcome(one.job, one.spent + seconds, result)

    def _alone(self, job: J, number: int) -> Outcome[J, R]:
        start = time.perf_counter()
        result, failed = None, None
        try:
            result = self._write(job, self._work(job, self._read(job), number), lambda: None)
        except Exception as error:  # noqa: BLE001
            failed = error
        return Outcome(job, time.perf_counter() - start, result, failed)


def _is_over(one: _Flying[J] | Outcome[J, R]) -> bool:
    return isinstance(one, Outcome) or one.future.done()


def _timed(function: Callable[..., R], *arguments: object) -> tuple[float, R]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result
