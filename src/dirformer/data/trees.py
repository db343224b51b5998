"""A downloaded data set as it lies on disk: folders, archives, or folders of archives.

zip and uncompressed tar files are read in place, member by member. Nothing is unpacked, and no path of an
archive is ever written to.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from dirformer.ground.errors import DataError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar", ".7z")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a data set, wherever it is."""

    name: str
    """Its path with forward slashes, as the set's makers laid it out."""
    container: Path
    """The file itself, or the archive it is in."""
    kind: Literal["file", "zip", "tar"] = "file"
    offset: int = 0
    """Where its bytes begin in a tar file."""
    size: int = 0

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            DataError: if it cannot be read whole.
        """
        try:
            if self.kind == "zip":
                return _zip(self.container).read(self.name)
            with self.container.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size if self.kind == "tar" else -1)
        except (OSError, zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
            raise DataError(f"{self.name} in {self.container} cannot be read: {error}") from None
        if self.kind == "tar" and len(data) < self.size:
            raise DataError(f"{self.container} ends in the middle of {self.name}; download it again")
        return data


@lru_cache(maxsize=8)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def list_tree(root: Path) -> list[Member]:
    """Return all files of a folder or archive, those inside archives included, by name.

    Raises:
        DataError: if there is nothing there, an archive is damaged, or nothing but compressed tar, rar or
            7z archives is found, which would have to be read from the start for every photo.
    """
    if not root.exists():
        raise DataError(f"{root} is not there; give the folder or archive that you downloaded")
    members: list[Member] = []
    compressed: list[Path] = []
    for path, name in [(root, root.name)] if root.is_file() else _walk(root):
        if name.lower().endswith(".zip"):
            members += _in_zip(path)
        elif name.lower().endswith(".tar"):
            members += _in_tar(path)
        elif name.lower().endswith(COMPRESSED):
            compressed.append(path)
        else:
            members.append(Member(name, path))
    if compressed and not members:
        raise DataError(f"{compressed[0]} cannot be read in place; unpack it and give its folder")
    return sorted(members, key=lambda member: member.name)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    for folder, _, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        for file in files:
            yield Path(folder) / file, (inside / file).as_posix()


def _in_zip(path: Path) -> list[Member]:
    try:
        entries = _zip(path).infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); download it again") from None
    return [Member(e.filename, path, "zip", size=e.file_size) for e in entries if not e.is_dir()]


def _in_tar(path: Path) -> list[Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            members = []
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined] # or it keeps a kilobyte of every file
                if entry.isfile():
                    name = entry.name.removeprefix("./")
                    members.append(Member(name, path, "tar", entry.offset_data, entry.size))
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); download it again") from None
    end = path.stat().st_size
    for member in members:
        if member.offset + member.size > end:
            raise DataError(f"{path} ends in the middle of {member.name}; download it again")
    return members


def read_lines(member: Member) -> list[str]:
    """Return the lines of a list file that are not blank."""
    return [line.strip() for line in member.read().decode("utf-8", "replace").splitlines() if line.strip()]
