"""Three stages that overlap: order, bounds, failures, interruption."""

from __future__ import annotations

import threading
import time

import pytest

from dirformer.inference import pipeline
from dirformer.inference.pipeline import Pipeline, StoppedError, Turns


def line(workers: int, **stages):
    """A pipeline that doubles numbers; `stages` replaces stages."""
    plain = {
        "read": lambda job: job,
        "work": lambda job, value, number: 2 * value,
        "write": lambda job, value, turn: (turn(), value)[1],
        "weight": lambda job: 1,
    }
    return Pipeline(**(plain | stages), workers=workers)


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
def test_everything_is_done_in_order(workers: int) -> None:
    """Whatever each stage takes, results come and become visible in the order of the jobs."""
    visible = []

    def write(job, value, turn):
        time.sleep(0.001 * (job % 3))
        turn()
        visible.append(job)
        return value

    outcomes = list(line(workers, write=write).run(range(20)))
    assert [outcome.job for outcome in outcomes] == visible == list(range(20))
    assert [outcome.result for outcome in outcomes] == [2 * job for job in range(20)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_a_failure_is_one_job_s(workers: int, stage: str) -> None:
    """In any stage, at any place; the others go on."""

    def fail(job, *_):
        if job in (0, 4, 5, 9):
            raise MemoryError(f"job {job}")
        return job

    outcomes = list(line(workers, **{stage: fail}).run(range(10)))
    assert [outcome.job for outcome in outcomes if outcome.error] == [0, 4, 5, 9]
    assert all(isinstance(outcome.error, MemoryError) for outcome in outcomes if outcome.error)
    assert len(outcomes) == 10


def test_little_is_in_flight() -> None:
    """At most a few jobs are begun and not ended, however many there are."""
    lock, held, most = threading.Lock(), [0], [0]

    def read(job):
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        return job

    for outcome in line(2, read=read).run(range(100)):
        assert outcome.error is None
        with lock:
            held[0] -= 1
    assert 2 <= most[0] <= 6


def test_large_things_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside others goes alone; one that never fits goes, too."""
    monkeypatch.setattr(pipeline, "ROOM", 10)
    lock, held, most = threading.Lock(), [0], [0]

    def read(job):
        with lock:
            held[0] += job
            most[0] = max(most[0], held[0])
        return job

    def write(job, value, turn):
        turn()
        with lock:
            held[0] -= job
        return value

    jobs = [4, 5, 30, 6, 6, 3, 3, 3, 11]
    assert [o.job for o in line(3, read=read, write=write, weight=lambda job: job).run(jobs)] == jobs
    assert most[0] == 30


def test_an_interrupted_run_writes_no_more() -> None:
    """Whoever waits for its turn is told to stop; reading ends."""
    read, written = [], []

    def slow(job, value, turn):
        time.sleep(0.01)
        turn()
        written.append(job)
        return value

    running = line(2, read=lambda job: read.append(job) or job, write=slow).run(range(100))
    next(running)
    running.close()
    done = len(written)
    time.sleep(0.05)
    assert len(written) == done < 10 and len(read) < 12
    turns = Turns()
    turns.stop()
    with pytest.raises(StoppedError):
        turns.wait(0)


def test_stages_overlap() -> None:
    """While one is worked on, the next is read: the reader of job 1 is waited for by the work of job 0."""
    second = threading.Event()

    def read(job):
        if job == 1:
            second.set()
        return job

    def work(job, value, number):
        assert job != 0 or second.wait(30)
        return value

    assert all(outcome.error is None for outcome in line(2, read=read, work=work).run(range(3)))
