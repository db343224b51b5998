"""What a long run leaves behind: JSONL records for machines, one line now and then for people."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dirformer.ground.errors import DataError, OutputError

Report = Callable[[str], None]
"""Takes a line for people."""


class Journal:
    """Append-only JSONL file; each record carries the time it was written."""

    def __init__(self, path: Path) -> None:
        """Open a journal; its folder is made.

        Raises:
            OutputError: if the folder cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {error.strerror or error}") from error
        self.path = path

    def write(self, kind: str, **values: Any) -> None:
        """Append one record, flushed at once so that a killed run keeps it.

        Raises:
            OutputError: if it cannot be written, as on a full disk.
        """
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "kind": kind, **values}
        line = (json.dumps(record) + "\n").encode()
        try:
            with self.path.open("ab+") as file:
                if file.tell() and not self._ends_whole(file):
                    line = b"\n" + line  # behind a half-written line, which a killed run left
                file.write(line)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from error

    @staticmethod
    def _ends_whole(file: BinaryIO) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_journal(path: Path, report: Report | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a journal.

    A line that is no record is left out: half-written by a killed run, or damaged. A last line without its
    end is left out too. `report` is told how many lines are damaged, and the first of them.

    Raises:
        DataError: if the file cannot be read.
    """
    damaged: list[int] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _record(line)
                if record is not None:
                    yield record
                elif line.strip():
                    damaged.append(number)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if damaged and report is not None:
        report(f"{path}: {len(damaged)} damaged lines left out, the first is line {damaged[0]}")


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if it is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "kind" in record else None


class Pace:
    """Speed and remaining time from the steps done so far in this process."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total, self.since = start, total, time.monotonic()

    def seconds_per_step(self, step: int) -> float:
        """Mean over this process; 0 before the first step."""
        return (time.monotonic() - self.since) / (step - self.start) if step > self.start else 0.0

    def eta(self, step: int) -> str:
        """Return the time left, as h:mm:ss."""
        seconds = round(self.seconds_per_step(step) * (self.total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


class Waiting:
    """Passes things on and measures the share of the time that was spent waiting for them."""

    def __init__(self, things: Iterable[Any]) -> None:
        self.things = things
        self.reset()

    def reset(self) -> None:
        """Begin to count again."""
        self.since, self.waited = time.monotonic(), 0.0

    def __iter__(self) -> Iterator[Any]:
        things = iter(self.things)
        while True:
            start = time.monotonic()
            thing = next(things, None)
            self.waited += time.monotonic() - start
            if thing is None:
                return
            yield thing

    def share(self) -> float:
        """Return the share since the last reset, 0 to 1."""
        return self.waited / max(time.monotonic() - self.since, 1e-9)
