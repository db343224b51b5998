"""The folder of compiled kernels. Code is loaded from it, so only its user may be able to write there.

A library's name ends in the digest of its contents: one rename puts both in place, and damage shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

_SYSTEM = {0, 65534}
"""Owners of the system's own folders: root, which some containers show as 65534."""


class UntrustedError(Exception):
    """Folder or file may have been written by somebody else; the message says why."""


def cache_folder() -> Path:
    """Return the folder for compiled kernels, which may not be there yet.

    Raises:
        UntrustedError: if there is no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117 — a relative one is to be passed over, says its definition
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            raise UntrustedError("this user has no home folder") from None
    return Path(base) / "dirformer"


def prepare(folder: Path) -> None:
    """Make the cache folder, for its user alone.

    Raises:
        UntrustedError: if it is not the user's own.
        OSError: if it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise UntrustedError unless only this user can write to the folder, or put another in its place."""
    _check_own(folder, stat.S_ISDIR, "a folder")
    # With symbolic links there are two chains of folders above it, and either can be changed.
    for parent in {*folder.absolute().parents, *folder.resolve().parents}:
        status = parent.stat()
        open_to_all = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if open_to_all or status.st_uid not in {os.geteuid(), *_SYSTEM}:
            raise UntrustedError(f"{parent} lets others replace what is in it")


def find(folder: Path, stem: str) -> Path | None:
    """Return the whole, trusted library whose name begins with `stem`; damaged ones are removed."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        try:
            _check_own(path, stat.S_ISREG, "a file")
            whole = path.name == f"{stem}-{_digest(path.read_bytes())}.so"
        except (UntrustedError, OSError):
            continue
        if whole:
            return path
        with contextlib.suppress(OSError):  # a folder that is read only
            path.unlink()
    return None


def put(part: Path, folder: Path, stem: str) -> Path:
    """Move a compiled library into the folder; several processes may do so at once."""
    path = folder / f"{stem}-{_digest(part.read_bytes())}.so"
    part.chmod(0o700)
    # The contents reach the disk before the name does: a crash leaves no torn library behind.
    _sync(part)
    part.replace(path)
    with contextlib.suppress(OSError):  # not every file system syncs folders
        _sync(folder)
    return path


def working_folder(folder: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for this process alone, inside `folder` or the system's temporary one."""
    return tempfile.TemporaryDirectory(dir=folder, prefix="dirformer-", ignore_cleanup_errors=True)


def _check_own(path: Path, is_kind: Callable[[int], bool], what: str) -> None:
    status = path.lstat()
    if not is_kind(status.st_mode):
        raise UntrustedError(f"{path} is not {what}")
    if status.st_uid != os.geteuid():
        raise UntrustedError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise UntrustedError(f"{path} has mode {mode:o}, others can write to it; chmod go-w it")


def _digest(contents: bytes) -> str:
    return hashlib.blake2b(contents, digest_size=16).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
