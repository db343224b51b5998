"""A folder of this machine whose files are kept at an address: what needs files works on it as on any other.

Files are put one by one, each whole, so that whoever reads the address sees old and new ones, never parts.
"""

from __future__ import annotations

import atexit
import fnmatch
import hashlib
import shutil
import tempfile
from pathlib import Path

from dirformer.ground.places import Place

_ROOMS: dict[str, tempfile.TemporaryDirectory[str]] = {}


def room_of(url: str) -> Path:
    """Return the folder of this process that stands for an address; it is removed when the process ends."""
    if url not in _ROOMS:
        _ROOMS[url] = tempfile.TemporaryDirectory(prefix="dirformer-")
    return Path(_ROOMS[url].name)


@atexit.register
def leave_rooms() -> None:
    """Remove the folders of all addresses."""
    while _ROOMS:
        _ROOMS.popitem()[1].cleanup()


def fetched(url: str) -> Path:
    """Copy a file at an address to this machine, once in a process. Raises PhotoError if it cannot be had."""
    place = Place(url)
    # Two addresses may end in the same name.
    file = room_of(hashlib.blake2b(url.encode(), digest_size=8).hexdigest()) / place.name
    if not file.is_file():
        place.fetch(file)
    return file


class Mirror:
    """A folder, and the same at an address; without an address nothing is done."""

    def __init__(self, folder: Path, place: Place | None) -> None:
        self.folder, self.place = folder, place
        self._kept: dict[Path, tuple[int, int, int]] = {}
        """What is at the address, as far as this object knows, and how the files looked here."""

    def fetch(self, *names: str) -> None:
        """Make the folder anew, with the files directly below the address that have such names (`*.pt`).

        Raises:
            DataError, PhotoError: if they cannot be had.
        """
        if self.place is None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self._kept.clear()
        for entry in self.place.listed()[1]:
            if any(fnmatch.fnmatchcase(entry.name, name) for name in names):
                self.folder.mkdir(parents=True, exist_ok=True)
                self.place.below(entry.name).fetch(self.folder / entry.name)
        self._kept = self._seen()

    def put(self, last: str | None = None) -> None:
        """Put what is new or changed here, then remove there what is no longer here.

        Args:
            last: name of the file that is put behind all others: it speaks of them.

        Raises:
            OutputError: if a file cannot be written; those before it are there.
        """
        if self.place is None:
            return
        seen = self._seen()
        for path in sorted(seen, key=lambda path: (path.name == last, path)):
            if self._kept.get(path) != seen[path]:
                self._at(path).put(path)
                self._kept[path] = seen[path]
        for path in sorted(set(self._kept) - set(seen)):
            self._at(path).remove()
            del self._kept[path]

    def public(self, line: str) -> str:
        """Return a line for people: with the address in place of the folder."""
        return line if self.place is None else line.replace(str(self.folder), str(self.place))

    def _seen(self) -> dict[Path, tuple[int, int, int]]:
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):  # hidden: of a write on its way
                state = path.stat()
                found[path] = (state.st_mtime_ns, state.st_size, state.st_ino)
        return found

    def _at(self, path: Path) -> Place:
        assert self.place is not None
        return self.place.below(path.relative_to(self.folder).as_posix())
