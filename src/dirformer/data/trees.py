"""A downloaded data set as it lies on disk or at an address: folders, archives, or folders of archives.

zip and uncompressed tar files are read in place, member by member, at an address by ranges. Nothing is
unpacked, and no path of an archive is ever written to.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dirformer.ground.errors import DataError, PhotoError
from dirformer.ground.places import Place

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar", ".7z")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a data set, wherever it is."""

    name: str
    """Its path with forward slashes, as the set's makers laid it out."""
    container: Path | Place
    """The file itself, or the archive it is in."""
    kind: Literal["file", "zip", "tar"] = "file"
    offset: int = 0
    """Where its bytes begin in a tar file."""
    size: int = 0
    version: str = ""
    """At an address: what its store says of the container, which changes with the content."""

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            DataError: if it cannot be read whole.
        """
        try:
            if self.kind == "zip":
                return _zip(self.container).read(self.name)
            if isinstance(self.container, Place):
                return self._fetched(self.container)
            with self.container.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size if self.kind == "tar" else -1)
        except (OSError, zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
            raise DataError(f"{self.name} in {self.container} cannot be read: {error}") from None
        if self.kind == "tar" and len(data) < self.size:
            raise DataError(CUT_OFF.format(self.container, self.name))
        return data

    def _fetched(self, container: Place) -> bytes:
        try:
            if self.kind == "file":
                return container.read()
            return container.read(self.offset, self.offset + self.size)
        except PhotoError as error:
            raise DataError(str(error)) from None


CUT_OFF = "{} ends in the middle of {}; download it again"


@lru_cache(maxsize=8)
def _zip(container: Path | Place) -> zipfile.ZipFile:
    if isinstance(container, Path):
        return zipfile.ZipFile(container)
    file = container.file()
    try:
        return zipfile.ZipFile(file)
    except BaseException:
        file.close()
        raise


def _opened(container: Path | Place) -> Any:
    return container.open("rb") if isinstance(container, Path) else container.file()


def list_tree(root: Path | Place) -> list[Member]:
    """Return all files of a folder or archive, those inside archives included, by name.

    Raises:
        DataError: if there is nothing there, an archive is damaged, or nothing but compressed tar, rar or
            7z archives is found, which would have to be read from the start for every photo.
    """
    members: list[Member] = []
    compressed: list[Member] = []
    for file in _files_at(root) if isinstance(root, Place) else _files(root):
        name = file.name.lower()
        if name.endswith(".zip"):
            members += _in_zip(file)
        elif name.endswith(".tar"):
            members += _in_tar(file)
        elif name.endswith(COMPRESSED):
            compressed.append(file)
        else:
            members.append(file)
    if compressed and not members:
        raise DataError(f"{compressed[0].container} cannot be read in place; unpack it and give its folder")
    return sorted(members, key=lambda member: member.name)


NOT_THERE = "{} is not there; give the folder or archive that you downloaded"


def _files(root: Path) -> Iterator[Member]:
    if not root.exists():
        raise DataError(NOT_THERE.format(root))
    if root.is_file():
        yield Member(root.name, root)
        return
    for folder, _, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        for file in files:
            yield Member((inside / file).as_posix(), Path(folder) / file)


def _files_at(root: Place) -> Iterator[Member]:
    if not root.is_folder():
        one = root.entry()
        if one is None:
            raise DataError(NOT_THERE.format(root))
        yield Member(one.name, root, size=one.size, version=one.version)
        return
    for name, one in root.tree():
        yield Member(name, root.below(name), size=one.size, version=one.version)


def _in_zip(file: Member) -> list[Member]:
    try:
        entries = _zip(file.container).infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file.container} is damaged ({error}); download it again") from None
    return [replace(file, name=e.filename, kind="zip", size=e.file_size) for e in entries if not e.is_dir()]


def _in_tar(file: Member) -> list[Member]:
    try:
        with _opened(file.container) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
            members = []
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined] # or it keeps a kilobyte of every file
                if entry.isfile():
                    name, offset = entry.name.removeprefix("./"), entry.offset_data
                    members.append(replace(file, name=name, kind="tar", offset=offset, size=entry.size))
            end = opened.seek(0, io.SEEK_END)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{file.container} is damaged ({error}); download it again") from None
    for member in members:
        if member.offset + member.size > end:
            raise DataError(CUT_OFF.format(file.container, member.name))
    return members


def read_lines(member: Member) -> list[str]:
    """Return the lines of a list file that are not blank."""
    return [line.strip() for line in member.read().decode("utf-8", "replace").splitlines() if line.strip()]
