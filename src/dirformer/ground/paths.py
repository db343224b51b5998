"""Files: written so that an interruption leaves the old one or the new one, and found in other packages."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dirformer.ground.errors import OutputError

LONGEST = 180
"""Bytes of a file's name that its temporary name begins with."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; move it there when the block ends well, else remove it.

    Raises:
        OutputError: if the folder cannot be made or written, or `path` is a device or a folder.
    """
    part = _part_of(path)
    try:
        require_place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        # Some writers make private files; results are as readable as any other new file.
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; give another name"
        ) from error
    finally:
        # Where nothing could be written nothing can be removed, and the first error says why.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    """Return the temporary name, never longer than a file name may be."""
    name = path.name.encode(errors="surrogateescape")
    short = path.name
    if len(name) > LONGEST:
        # Two long names may begin alike.
        short = name[:LONGEST].decode(errors="ignore") + hashlib.blake2b(name, digest_size=4).hexdigest()
    return path.with_name(f".{short}.{os.getpid()}.part")


_UMASK = threading.Lock()


def _umask() -> int:
    """Return the process's mask of rights, which can only be read by setting it."""
    with _UMASK:  # or another thread takes the mask of this moment for the process's own
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


_PART = re.compile(r"\..+\.([0-9]+)\.part")


def remove_leftovers(folder: Path, *, own: bool = False) -> int:
    """Remove temporary files in a folder whose process is gone, as after a kill; return how many there were.

    Args:
        folder: where results are written; need not exist.
        own: remove those of this process instead, which is about to end.
    """
    if os.name != "posix":
        return 0  # a process cannot be asked for without the risk of ending it
    removed = 0
    with suppress(OSError):
        for path in folder.iterdir():
            match = _PART.fullmatch(path.name)
            if match is None or (int(match[1]) == os.getpid() if not own else int(match[1]) != os.getpid()):
                continue
            if own or not _runs(int(match[1])):
                with suppress(OSError):
                    path.unlink()
                    removed += 1
    return removed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    return True


def require_place(path: Path) -> None:
    """Check before the work that a file can be written there, as far as that shows without writing.

    Raises:
        OutputError: if `path` is a device or a folder, its name is too long, or a file stands in its way.
    """
    try:
        if path.exists() and not path.is_file():
            # A device must not be replaced by a file.
            kind = "a folder" if path.is_dir() else "a device or a pipe"
            raise OutputError(f"{path} is {kind}; expected the name of a file to write")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not folder.is_dir():
            raise OutputError(f"{path} cannot be written: {folder} is no folder; give another name")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; give another name") from error


def is_file(path: Path) -> bool:
    """Return whether there is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; a name that no folder can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Return whether there is anything of that name, as far as one may look."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # writing or reading it will say which


def installed_file(package: str, path: str) -> Path | None:
    """Return a file of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / path
    return found if found.is_file() else None
