"""Addresses for the verbs that work on files of this machine: copied here before, put there behind.

What is said and written meanwhile names them by their addresses. `restore`, `degrade`, `prepare` and
`evaluate` have their own way for photos, which never holds more than a few of them here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from dirformer.cli.terminal import named, naming, open_bar, progress
from dirformer.ground.errors import DirformerError, OutputError
from dirformer.ground.places import Place, address_in, is_url

_TEXTS = (".json", ".csv", ".md", ".html", ".txt")
"""Files whose text may name what was copied."""


class Source(type(Path())):  # type: ignore[misc]
    """An address to read from, where a path is expected."""

    url: str


class Target(type(Path())):  # type: ignore[misc]
    """An address to write to, where a path is expected."""

    url: str


class Report(Target):
    """An address for a file that replaces an older one unasked, as on this machine."""


class Text(str):
    """A name that holds an address, where a text is expected; see `places.address_in`."""

    __slots__ = ()

    @property
    def url(self) -> str:
        """The address."""
        return address_in(self)[1]


def source(name: str) -> Path:
    """Take a name of the command line; an address keeps its two slashes."""
    return _kept(Source, name)


def target(name: str) -> Path:
    """Take a name of the command line for results."""
    return _kept(Target, name)


def report(name: str) -> Path:
    """Take a name of the command line for a file of `--json` or `--table`."""
    return _kept(Report, name)


def weights(name: str) -> str:
    """Take the name of a model, which may hold an address."""
    return Text(name) if address_in(name)[1] else name


def text(name: str) -> str:
    """Take a name that may be an address, where names of other kinds are possible."""
    return Text(name) if is_url(name) else name


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
    with contextlib.ExitStack() as stack:
        rooms = _Rooms(stack, overwrite=bool(options.get("overwrite")))
        here = {name: rooms.staged(value) for name, value in options.items()}
        stack.enter_context(naming(rooms.names))
        try:
            yield here
        except typer.Exit as end:
            if end.exit_code == 2:
                rooms.send()
            raise
        except DirformerError as error:
            error.args = (named(str(error)),)
            raise
        rooms.send()


class _Rooms:
    """A folder of this machine for each address."""

    def __init__(self, stack: contextlib.ExitStack, *, overwrite: bool) -> None:
        self._stack, self._overwrite = stack, overwrite
        self._targets: list[tuple[Path, Place]] = []
        self.names: dict[str, str] = {}
        """File here → address."""

    def staged(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.staged(each) for each in value]
        if not isinstance(value, Source | Target | Text):
            return value
        place = Place(value.url)
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="dirformer-"))
        here = Path(folder) / (Path(str(place)).name or "files")
        if isinstance(value, Target):
            _require_free(place, overwrite=self._overwrite or isinstance(value, Report))
            self._targets.append((here, place))
        else:
            _fetch(place, here)
        # Behind the file its folder, for what is written beside it.
        self.names |= {str(here): str(place), folder: str(place.parent)}
        if isinstance(value, Text):
            before, _, behind = address_in(value)
            return f"{before}{here}{behind}"
        return here

    def send(self) -> None:
        """Put what was written: a folder with all below it, or a file with those that go with it."""
        for here, place in self._targets:
            if here.is_dir():
                found = {place.below(path.relative_to(here).as_posix()): path for path in here.rglob("*")}
            else:
                # A file may come with others beside it, such as the weights of a network.
                others = (path for path in here.parent.iterdir() if not path.name.startswith("."))
                found = {place if path == here else place.parent.below(path.name): path for path in others}
            files = [(to, path) for to, path in sorted(found.items()) if path.is_file()]
            for to, path in progress(files, len(files), "putting"):
                _put(to, path)


def _fetch(place: Place, to: Path) -> None:
    with open_bar(None, f"fetching {to.name}, kB") as bar:

        def told(done: int, total: int) -> None:
            bar.expect(total // 1000)
            bar(float(done // 1000))

        place.fetch_all(to, told)


def _put(place: Place, path: Path) -> None:
    if path.suffix in _TEXTS:
        path.write_text(named(path.read_text(encoding="utf-8")), encoding="utf-8")
    place.put(path)


def _require_free(place: Place, *, overwrite: bool) -> None:
    place.require_writable()
    if not overwrite and (place.listed() != ([], []) or place.entry() is not None):
        raise OutputError(f"{place} exists already; give another place, or --overwrite where there is one")
