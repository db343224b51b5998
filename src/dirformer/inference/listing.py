"""Names, folders and list files → photos, each with its place in the tree; torch is not needed for it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dirformer.ground.errors import ConfigError, DirformerError, PhotoError
from dirformer.ground.formats import kind_of_name, left_out, require_file
from dirformer.ground.mask_names import split_masks
from dirformer.ground.paths import is_file, is_folder, is_there

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@dataclass(frozen=True)
class Found:
    """A photo, and the folder of its result below the folder of all results."""

    photo: Path
    place: Path = field(default_factory=Path)


@dataclass
class Listing:
    """What the names on the command line stand for."""

    photos: list[Found] = field(default_factory=list)
    errors: list[DirformerError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """A line for each kind of thing in a folder that is not restored: raw files, masks."""
    passed: Counter[str] = field(default_factory=Counter)
    """Files that are not photos, counted by suffix."""
    many: bool = False
    """Whether a folder or a list file was given, which may hold any number of photos."""


def require_local(path: Path) -> None:
    """Raise ConfigError for a URL: `s3://…`, `memory://…` would else become a local folder of that name."""
    match = _URL.match(str(path))
    if match:
        raise ConfigError(
            f"{match.group(1)}:// is not supported here; expected the name of a file or folder of this "
            "machine; `dirformer restore` and dirformer.fleet take addresses"
        )


def find_inputs(inputs: Iterable[Path], *, without: Iterable[Path] = ()) -> Listing:
    """Find the photos of files, folders (with all folders below) and list files (`@NAME`).

    Args:
        inputs: names.
        without: folders that are not entered: those of results and masks.

    Raises:
        ConfigError: for a URL.
    """
    inputs = list(inputs)
    # A folder that is asked for is entered, whatever else it is.
    closed = {_identity(path) for path in without} - {None, *(_identity(path) for path in inputs)}
    listing = Listing()
    for path in inputs:
        require_local(path)
        if path.name.startswith("@") and not is_there(path):
            listing.many = True
            _add_list(listing, path.with_name(path.name[1:]), closed)
        else:
            _add(listing, path, closed)
    return listing


def _add(listing: Listing, path: Path, closed: set[object]) -> None:
    if is_folder(path):
        listing.many = True
        _add_folder(listing, path, closed)
    elif kind_of_name(path) == "raw":
        # Many raw files are TIFFs, and what a TIFF reader finds in them is a thumbnail.
        listing.errors.append(PhotoError(f"{path} is a camera's raw file; develop it to TIFF or PNG first"))
    else:
        _add_file(listing, Found(path))


def _add_file(listing: Listing, found: Found) -> None:
    try:
        require_file(found.photo)
    except PhotoError as error:
        listing.errors.append(error)
    else:
        listing.photos.append(found)


def _add_list(listing: Listing, path: Path, closed: set[object]) -> None:
    for name in read_list(path):
        inside = not name.is_absolute() and ".." not in name.parts
        seen = name if name.is_absolute() or is_there(name) else path.parent / name
        if is_folder(seen) or kind_of_name(seen) == "raw":
            _add(listing, seen, closed)
        else:
            _add_file(listing, Found(seen, name.parent if inside else Path()))


def read_list(path: Path) -> list[Path]:
    """Return the names in a list file: one a line, in UTF-8 or the system's bytes; `#` begins a comment.

    Raises:
        PhotoError: if it is not there, is no file, or is empty.
    """
    require_local(path)
    if not is_file(path):
        raise PhotoError(f"the list {path} is not there; give a text file with the name of a photo a line")
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    # By hand: other characters that Python takes for ends of lines are parts of names.
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", os.fsdecode(data))]
    names = [Path(line) for line in lines if line and not line.startswith("#")]
    if not names or "\0" in os.fsdecode(data):
        raise PhotoError(f"the list {path} names no photos; expected the name of a photo a line")
    return names


def _add_folder(listing: Listing, top: Path, closed: set[object]) -> None:
    found: list[Path] = []
    for folder, files in _walk(top, set(closed), listing):
        for path in files:
            if kind_of_name(path) == "photo":
                found.append(path)
            else:
                listing.passed[path.suffix.lower() or "without suffix"] += 1
        line = left_out(folder)
        if line is not None:
            listing.notes.append(line)
    photos, masks = split_masks(found)
    listing.photos += [Found(path, path.parent.relative_to(top)) for path in photos]
    if masks:
        listing.notes.append(f"{top}: {len(masks)} masks (NAME_mask… beside NAME) are not restored as photos")


def _walk(folder: Path, seen: set[object], listing: Listing) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder with its files, by name; a circle of links ends, hidden names are left alone."""
    identity = _identity(folder)
    if identity in seen:
        return
    seen.add(identity)
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        listing.errors.append(PhotoError(f"{folder} cannot be opened: {error.strerror}; give another folder"))
        return
    folders = [path for path in entries if path.is_dir()]
    yield folder, [path for path in entries if path not in set(folders)]
    for below in folders:
        yield from _walk(below, seen, listing)


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    # Windows knows no numbers for some places.
    return (status.st_dev, status.st_ino) if status.st_ino else path.resolve()
