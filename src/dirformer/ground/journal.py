"""What a long run leaves behind: JSONL records for machines, one line now and then for people."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dirformer.ground.errors import OutputError


class Journal:
    """Append-only JSONL file; each record carries the time it was written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, kind: str, **values: Any) -> None:
        """Append one record, flushed at once so that a killed run keeps it.

        Raises:
            OutputError: if it cannot be written, as on a full disk.
        """
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "kind": kind, **values}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from error


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a journal; a half-written last line (a killed run) is passed over."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


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
