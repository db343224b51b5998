"""What a made folder holds: its settings, then one JSON line for each thing that is finished.

The manifest is what makes an interrupted run go on: what it names is done, anything else is made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dirformer.ground.errors import OutputError
from dirformer.ground.places import Place

FILE = "manifest.jsonl"


class Manifest:
    """The manifest of a folder, begun or gone on with."""

    def __init__(self, out: Path, settings: dict[str, Any], *, overwrite: bool = False) -> None:
        """Begin a manifest, or take up one of the same settings.

        Raises:
            OutputError: if the folder holds something of other settings, or cannot be written.
        """
        self.path, self.out = out / FILE, out
        self.done: dict[str, dict[str, Any]] = {}
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        if self.path.is_file() and not overwrite:
            self._take_up(settings)
        if not self.done:
            try:
                out.mkdir(parents=True, exist_ok=True)
                self.path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def _take_up(self, settings: dict[str, Any]) -> None:
        data = self.path.read_bytes()
        whole, lines = _parsed(data)
        if not lines:
            return
        _require_same(self.out, lines[0], settings)
        # Half-written files of a killed run; nothing reads them.
        for part in self.out.rglob(".*.part"):
            part.unlink()
        if whole < len(data):
            with self.path.open("rb+") as file:
                file.truncate(whole)
        self.done = {line["name"]: line for line in lines[1:]}

    def has(self, name: str, files: Iterable[Path]) -> bool:
        """Say whether this is finished and its files are still there."""
        return name in self.done and all(file.is_file() for file in files)

    def write(self, name: str, **values: Any) -> None:
        """Note what was just finished."""
        record = {"name": name, **values}
        if self.done.get(name) == json.loads(json.dumps(record)):
            return
        self.done[name] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _parsed(data: bytes) -> tuple[int, list[dict[str, Any]]]:
    """Return the whole lines of a manifest and how many bytes they have.

    A killed run can leave half a line; what it spoke of is made again.
    """
    whole = data.rfind(b"\n") + 1
    return whole, [json.loads(line) for line in data[:whole].splitlines()]


def _require_same(out: Path | Place, found: dict[str, Any], settings: dict[str, Any]) -> None:
    if found != settings:
        different = [key for key in settings if found.get(key) != settings[key]] or ["settings"]
        raise OutputError(
            f"{out} was made with another {different[0]}; give another folder or add --overwrite"
        )


def take_up(out: Place, settings: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Return what the manifest of a folder at any place names, by name; None where there is none.

    Raises:
        OutputError: if the folder holds something of other settings.
        PhotoError: if the manifest cannot be read.
    """
    place = out.below(FILE)
    _, lines = _parsed(place.read() if place.entry() is not None else b"")
    if not lines:
        return None
    _require_same(out, lines[0], json.loads(json.dumps(settings)))
    return {line["name"]: line for line in lines[1:]}


def write_manifest(out: Place, settings: dict[str, Any], records: Iterable[dict[str, Any]]) -> None:
    """Write a manifest as a whole, to any place. Raises OutputError if it cannot be."""
    lines = [json.dumps(line) + "\n" for line in (settings, *records)]
    out.below(FILE).write("".join(lines).encode())


def read_manifest(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the settings and the records of a manifest, a later record of a name replacing earlier ones."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return lines[0], list({line["name"]: line for line in lines[1:]}.values())
