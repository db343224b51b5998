"""Which photos of a folder are finished: a log beside the results, by content and not by date.

Each result has a record of what it was made from: digests of the photo (and its mask), of the model's
weights, of the options, and of the result itself. A result is finished if such a record fits it. The record
is written just before the result gets its name, so that no result is without one, whenever a run is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirformer.ground.journal import Journal, read_journal

LOG = ".dirformer.jsonl"
KIND = "restored"


@dataclass(frozen=True)
class Key:
    """What a result depends on, as digests."""

    input: str
    model: str
    options: str


def digest_of(*parts: bytes) -> str:
    """Return the digest of bytes, as text."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """Return the digest of a file. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_files(*paths: Path | None) -> str:
    """Return one digest of several files; None stands for a file that was not given."""
    return digest_of(*(b"" if path is None else digest_file(path).encode() for path in paths))


def digest_options(options: dict[str, Any]) -> str:
    """Return the digest of options that are numbers, texts, tuples or None; their order has no influence."""
    return digest_of(json.dumps(options, sort_keys=True).encode())


class DoneLog:
    """The log of one folder of results. Several processes may write to it at once."""

    def __init__(self, folder: Path) -> None:
        """Read the log of a folder, if it has one.

        Raises:
            DataError: if it cannot be read.
        """
        self.folder, self.path = folder, folder / LOG
        self._journal: Journal | None = None
        self._known: dict[str, dict[str, Key]] = {}
        if self.path.is_file():
            for record in read_journal(self.path):
                self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        fields = [record.get(name) for name in ("output", "result", "input", "model", "options")]
        if record["kind"] != KIND or not all(isinstance(value, str) for value in fields):
            return
        output, result, *key = (str(value) for value in fields)
        self._known.setdefault(output, {})[result] = Key(*key)

    def knows(self, output: Path) -> bool:
        """Return whether this log has a record of such a name."""
        return self._name(output) in self._known

    def key_of(self, output: Path) -> Key | None:
        """Return what an existing result was made from; None if it is not as we wrote it."""
        try:
            return self._known.get(self._name(output), {}).get(digest_file(output))
        except OSError:
            return None

    def add(self, output: Path, written: Path, key: Key) -> None:
        """Record a result that lies ready at `written` and is about to get its name.

        Raises:
            OutputError: if the log cannot be written.
        """
        self._journal = self._journal or Journal(self.path)
        record = {
            "output": self._name(output),
            "result": digest_file(written),
            "input": key.input,
            "model": key.model,
            "options": key.options,
        }
        self._journal.write(KIND, **record)
        self._take({"kind": KIND, **record})

    def _name(self, output: Path) -> str:
        try:
            return output.relative_to(self.folder).as_posix()
        except ValueError:
            return output.as_posix()


def passed_over(passed: Iterable[tuple[str, int]]) -> str:
    """Return `3 .txt, 1 .cr2` of what was counted, the most first."""
    ordered = sorted(passed, key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {suffix}" for suffix, count in ordered)
