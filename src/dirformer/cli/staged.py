"""Addresses for the verbs that work on files of this machine: copied here before, put there behind.

`restore` has its own way, which never holds more than a few photos here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from dirformer.ground.errors import DirformerError, OutputError
from dirformer.ground.places import Place, is_url


class Source(type(Path())):  # type: ignore[misc]
    """An address to read from, where a path is expected."""

    url: str


class Target(type(Path())):  # type: ignore[misc]
    """An address to write to, where a path is expected."""

    url: str


def source(name: str) -> Path:
    """Take a name of the command line; an address keeps its two slashes."""
    return _kept(Source, name)


def target(name: str) -> Path:
    """Take a name of the command line for results."""
    return _kept(Target, name)


def _kept(kind: Any, name: str) -> Path:
    if not is_url(name):
        return Path(name)
    kept: Any = kind(name)
    kept.url = name
    found: Path = kept
    return found


@contextlib.contextmanager
def staged(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options with files of this machine in place of addresses; put results there at the end.

    Results are put where the verb ends well, and where it says that some things failed.

    Raises:
        DirformerError: if an address cannot be read or written.
    """
    places = {name: value for name, value in options.items() if isinstance(value, Source | Target)}
    if not places:
        yield options
        return
    with tempfile.TemporaryDirectory(prefix="dirformer-") as folder:
        room = Path(folder)
        here = {name: room / name / (Place(value.url).name or "files") for name, value in places.items()}
        for name, value in places.items():
            here[name].parent.mkdir()
            if isinstance(value, Source):
                _fetch(Place(value.url), here[name])
            else:
                _require_free(Place(value.url), overwrite=bool(options.get("overwrite")))
        try:
            yield options | here
        except typer.Exit as end:
            if end.exit_code == 2:
                _send(places, here)
            raise
        except DirformerError as error:
            raise type(error)(_public(str(error), places, here)) from None
        _send(places, here)


def _public(line: str, places: dict[str, Any], here: dict[str, Path]) -> str:
    for name, value in places.items():
        line = line.replace(str(here[name]), str(Place(value.url)))
    return line


def _fetch(place: Place, to: Path) -> None:
    """Copy a file, or a folder with all below it."""
    if not place.is_folder():
        place.fetch(to)
        return
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        (to / folder).mkdir(exist_ok=True)
        inner, files = place.below(folder).listed()
        for one in files:
            place.below(folder).below(one.name).fetch(to / folder / one.name)
        waiting += [f"{folder}/{name}".lstrip("/") for name in inner]


def _require_free(place: Place, *, overwrite: bool) -> None:
    place.require_writable()
    if not overwrite and (place.listed() != ([], []) or place.entry() is not None):
        raise OutputError(f"{place} exists already; give another place, or --overwrite where there is one")


def _send(places: dict[str, Any], here: dict[str, Path]) -> None:
    for name, value in places.items():
        if not isinstance(value, Target):
            continue
        top = here[name]
        if top.is_file():
            Place(value.url).put(top)
        for path in sorted(path for path in top.rglob("*") if path.is_file()):
            Place(value.url).below(path.relative_to(top).as_posix()).put(path)
