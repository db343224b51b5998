"""Journals survive what kills a run; speed, time left and waiting are counted right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dirformer.ground import journal
from dirformer.ground.errors import DataError, OutputError
from dirformer.ground.journal import Journal, Pace, Waiting, read_journal


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(journal.time, "monotonic", clock.monotonic)
    return clock


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A full disk or a folder in the way is an error of the package."""
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"journal.jsonl cannot be written: Is a directory"):
        Journal(tmp_path / "journal.jsonl").write("train", step=1)
    with pytest.raises(DataError, match=r"journal.jsonl cannot be read: Is a directory"):
        list(read_journal(tmp_path / "journal.jsonl"))


def test_half_written_lines_are_left_out(tmp_path: Path) -> None:
    """Records around a half-written line are read, wherever it is, and one line says how many are damaged."""
    path = tmp_path / "journal.jsonl"
    records = Journal(path)
    records.write("train", step=1)
    for half in (b'{"kind": "train", "st', b'{"kind": "train", "step": 3', b"\xff\x00"):
        with path.open("ab") as file:
            file.write(half)  # killed here
        records.write("train", step=2)
    with path.open("ab") as file:
        file.write(b'[1, 2]\n{"step": 4}\n' + b"[" * 100_000 + b'\n{"kind": "train", "step": 5}')
    lines: list[str] = []
    assert [record["step"] for record in read_journal(path, lines.append)] == [1, 2, 2, 2]
    assert lines == [f"{path}: 7 damaged lines left out, the first is line 2"]


def test_the_time_left_follows_from_the_steps_of_this_process(clock: Clock) -> None:
    """Ten steps in 20 s leave 1,790 × 2 s for the rest; steps of an earlier process do not count."""
    pace = Pace(200, 2000)
    assert pace.seconds_per_step(200) == 0.0
    clock.now = 20.0
    assert pace.seconds_per_step(210) == 2.0
    assert pace.eta(210) == "0:59:40"
    clock.now = 2000.0
    assert pace.eta(210) == "99:26:40"


def test_waiting_is_measured(clock: Clock) -> None:
    """The share of the time that passes while things are fetched, since the last reset."""

    def slow() -> Iterator[int]:
        for i in range(3):
            clock.now += 3.0
            yield i

    things = Waiting(slow())
    for number in things:
        clock.now += 1.0
        assert things.share() == pytest.approx(3 * (number + 1) / (4 * (number + 1)))
    things.reset()
    clock.now += 1.0
    assert things.share() == 0.0
