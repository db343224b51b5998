"""Places that fsspec knows (`s3://`, `gs://`, `memory://`, `https://` …): read whole, written whole.

Credentials are fsspec's business: they come from its settings and from the environment. What an address holds
of them (`user:password@`, a signed query) goes to fsspec and into nothing that is printed or kept.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, final
from urllib.parse import unquote, urlsplit

from dirformer.ground.errors import (
    ConfigError,
    DataError,
    DirformerError,
    MissingExtraError,
    OutputError,
    PhotoError,
)
from dirformer.ground.paths import atomic_path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_IN_NAME = re.compile(r"((?:[^/]*[=:])?)([A-Za-z][A-Za-z0-9+.-]+://.*?)(\+?)")
_IN_TEXT = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]+://[^\s()'"]+""")
_SECRETS = re.compile(r"(://)[^/@]*@|[?#].*$")
_LOCAL = ("file", "local")
_READ_ONLY = ("http", "https")
_WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss")
"""Stores whose objects appear when they are complete, in one request or by the commit of a multipart one."""
_EXTRAS = {"s3": "s3", "s3a": "s3"}
_VERSIONS = ("ETag", "etag", "md5Hash", "content_settings")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


def is_url(name: str | Path) -> bool:
    """Return whether a name is an address for fsspec and not a file of this machine."""
    return _URL.match(str(name)) is not None


def shown(url: str) -> str:
    """Return an address for people: without user, password, query and fragment."""
    return _SECRETS.sub(r"\1", url) if is_url(url) else url


def shown_in(text: str) -> str:
    """Return a text for people, with all addresses in it as `shown` shows them."""
    return _IN_TEXT.sub(lambda match: shown(match[0]), text)


def address_in(name: str) -> tuple[str, str, str]:
    """Return what stands before an address in the name of a model, the address, and what stands behind it.

    `s3://a/b.pth+` → "", `s3://a/b.pth`, "+"; `results:NAME=s3://a` → "results:NAME=", `s3://a`, "". Without
    an address all is in the first.
    """
    match = _IN_NAME.fullmatch(name)
    return (match[1], match[2], match[3]) if match is not None else (name, "", "")


@dataclass(frozen=True)
class Entry:
    """A file in a folder."""

    name: str
    size: int
    """Bytes."""
    version: str
    """Changes when the content does: the store's own digest, or size and time."""


@final
@dataclass(frozen=True, repr=False, order=True)
class Place:
    """A file or a folder at an address; prints without secrets."""

    url: str

    @classmethod
    def of(cls, name: str | Path) -> Place:
        """Return the place of an address, or of a name on this machine."""
        text = str(name)
        return cls(text if is_url(text) else f"file://{Path(text).absolute().as_posix()}")

    def __str__(self) -> str:
        return self.url.removeprefix("file://") if self.protocol in _LOCAL else shown(self.url)

    __repr__ = __str__

    @property
    def protocol(self) -> str:
        """What stands before `://`, in small letters."""
        match = _URL.match(self.url)
        return match[1].lower() if match else "file"

    @property
    def local(self) -> Path | None:
        """The file of this machine, if it is one."""
        return Path(self.url.split("://", 1)[1]) if self.protocol in _LOCAL else None

    @property
    def name(self) -> str:
        """The last part, without query."""
        path = urlsplit(self.url).path if self.protocol in _READ_ONLY else self.url.split("://", 1)[1]
        name = PurePosixPath(path).name
        return unquote(name) if self.protocol in _READ_ONLY else name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's suffix, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Place:
        """The folder it lies in."""
        return Place(self.url.rstrip("/").rpartition("/")[0])

    def below(self, relative: str) -> Place:
        """Return a place in this folder."""
        return Place(f"{self.url.rstrip('/')}/{relative}") if relative not in ("", ".") else self

    def beside(self, name: str) -> Place:
        """Return a place in the same folder."""
        return Place(f"{self.url.rstrip('/').rpartition('/')[0]}/{name}")

    def opened(self) -> tuple[Any, str]:
        """Return fsspec's file system and the path in it.

        Raises:
            ConfigError: if fsspec does not know the protocol.
            MissingExtraError: if the package for it is not installed.
        """
        try:
            import fsspec
        except ModuleNotFoundError:
            raise MissingExtraError("fsspec", "train") from None
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ValueError:
            raise ConfigError(
                f"{self.protocol}:// is not known; expected a file of this machine or an address that fsspec "
                "knows, such as s3:// or https://"
            ) from None
        except ImportError:
            if self.protocol in _EXTRAS:
                raise MissingExtraError("s3fs", _EXTRAS[self.protocol]) from None
            raise ConfigError(
                f"{self.protocol}:// needs fsspec's package for it, which is not installed; install it first"
            ) from None
        return found

    @contextmanager
    def _asking(self, kind: type[DirformerError], what: str) -> Iterator[None]:
        try:
            yield
        except DirformerError:
            raise
        except FileNotFoundError:
            raise kind(f"{self} is not there; give an address that exists") from None
        except Exception as error:  # noqa: BLE001
            # Stores raise as many kinds of errors as there are libraries for them.
            raise kind(f"{self} cannot be {what}: {_why(error)}") from None

    def info(self) -> dict[str, Any] | None:
        """Return what the store says of it; None if nothing is there. Raises DataError if it cannot say."""
        system, path = self.opened()
        with self._asking(DataError, "read"):
            try:
                return dict(system.info(path))
            except FileNotFoundError:
                return None

    def is_folder(self) -> bool:
        """Return whether something lies below. Raises DataError if the store cannot say."""
        found = self.info()
        return found is not None and found.get("type") == "directory"

    def entry(self) -> Entry | None:
        """Return the file that is there, or None. Raises DataError if the store cannot say."""
        found = self.info()
        return None if found is None or found.get("type") == "directory" else _entry(self.name, found)

    def listed(self) -> tuple[list[str], list[Entry]]:
        """Return the folders and files in a folder, by name, without hidden ones; it need not exist.

        Raises:
            DataError: if the store cannot say.
        """
        system, path = self.opened()
        with self._asking(DataError, "listed"):
            try:
                found = system.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return [], []
        folders, files = list[str](), list[Entry]()
        own = path.rstrip("/")
        for each in found:
            name = PurePosixPath(each["name"]).name
            # Some stores list the folder itself, as an empty object.
            if name.startswith(".") or not name or each["name"].rstrip("/") == own:
                continue
            if each.get("type") == "directory":
                folders.append(name)
            else:
                files.append(_entry(name, each))
        return sorted(folders), sorted(files, key=lambda one: one.name)

    def hidden(self) -> list[str]:
        """Return the names of all files in a folder, hidden or not. Raises DataError as `listed`."""
        system, path = self.opened()
        with self._asking(DataError, "listed"):
            try:
                return sorted(PurePosixPath(name).name for name in system.ls(path, detail=False))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def tree(self) -> Iterator[tuple[str, Entry]]:
        """Yield all files below a folder, by name, without hidden ones. Raises DataError as `listed`."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            inner, files = self.below(folder).listed()
            for one in files:
                yield f"{folder}/{one.name}".lstrip("/"), one
            waiting += [f"{folder}/{name}".lstrip("/") for name in inner]

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes, or those of a range. Raises PhotoError if they cannot be had."""
        system, path = self.opened()
        with self._asking(PhotoError, "read"):
            return bytes(system.cat_file(path, start=start, end=end))

    def file(self) -> Any:
        """Return the file opened to be read here and there, by ranges. Raises PhotoError if it cannot be."""
        system, path = self.opened()
        with self._asking(PhotoError, "read"):
            # A file in memory is one object, with one position for all who have it open.
            return io.BytesIO(system.cat_file(path)) if self.protocol == "memory" else system.open(path, "rb")

    def lines(self) -> Iterator[str]:
        """Yield the lines of a text, without holding it. Raises PhotoError if it cannot be read."""
        with self.file() as file, self._asking(PhotoError, "read"):
            for line in file:
                yield line.decode("utf-8-sig", "surrogateescape").strip()

    def fetch(self, to: Path, told: Callable[[int], None] | None = None) -> None:
        """Copy the file to this machine; `told` hears the bytes that have come. Raises PhotoError."""
        from fsspec.callbacks import Callback

        hooks = {} if told is None else {"told": lambda size, value, **_: told(value)}  # noqa: ARG005
        system, path = self.opened()
        with self._asking(PhotoError, "read"):
            system.get_file(path, str(to), callback=Callback(hooks=hooks))

    def fetch_all(self, to: Path, told: Callable[[int, int], None] | None = None) -> None:
        """Copy a file, or a folder with all below it, to this machine.

        Args:
            to: file or folder to write.
            told: hears the bytes that have come, and how many there are.

        Raises:
            PhotoError: if something cannot be had.
            DataError: if the store cannot say what there is.
        """
        found = self.info()
        if found is not None and found.get("type") == "directory":
            files = [(self.below(name), to / name, one.size) for name, one in self.tree()]
        else:
            files = [(self, to, int((found or {}).get("size") or 0))]
        done, total = 0, sum(size for *_, size in files)
        for place, path, size in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            before = done
            place.fetch(path, lambda come, before=before: told and told(before + come, total))  # type: ignore[misc]
            done += size

    def require_writable(self) -> None:
        """Raise ConfigError for an address that can only be read."""
        if self.protocol in _READ_ONLY:
            raise ConfigError(f"{self} can only be read; expected a folder, s3://, gs:// … for results")

    def put(self, local: Path) -> None:
        """Copy a file of this machine there; readers see the old one or the new one, never a part.

        Raises:
            OutputError: if it cannot be written.
        """
        self.require_writable()
        here = self.local
        if here is not None:
            with atomic_path(here) as whole:
                shutil.copyfile(local, whole)
            return
        system, path = self.opened()
        with self._asking(OutputError, "written"):
            if self.protocol in _WHOLE:
                system.put_file(str(local), path)
            elif self.protocol == "memory":
                system.pipe_file(path, local.read_bytes())
            else:
                folder, _, name = path.rpartition("/")
                system.makedirs(folder, exist_ok=True)
                part = f"{folder}/.{name[:180]}.{uuid.uuid4().hex}.part"
                system.put_file(str(local), part)
                system.mv(part, path)

    def write(self, data: bytes) -> None:
        """Write bytes as `put` does. Raises OutputError likewise."""
        with tempfile.TemporaryDirectory(prefix="dirformer-") as room:
            file = Path(room) / "file"
            file.write_bytes(data)
            self.put(file)

    def remove(self) -> None:
        """Remove a file, or a folder with all below it; nothing if it is not there. Raises OutputError."""
        self.require_writable()
        system, path = self.opened()
        with self._asking(OutputError, "removed"), contextlib.suppress(FileNotFoundError):
            system.rm(path, recursive=True)


Named = TypeVar("Named", Path, Place)
"""What has a name, a stem and a suffix: a file of this machine, or a place."""


def entries(places: list[Place]) -> list[Entry]:
    """Return what the stores say of files, in order; one that is not there has no size and no version.

    Folders are listed once each, where their store can list.

    Raises:
        DataError: if a store cannot say.
    """
    known: dict[Place, dict[str, Entry]] = {}
    found = []
    for place in places:
        if place.protocol in (*_READ_ONLY, *_LOCAL):
            one = place.entry()
        else:
            folder = place.parent
            if folder not in known:
                known[folder] = {each.name: each for each in folder.listed()[1]}
            one = known[folder].get(place.name)
        found.append(one or Entry(place.name, 0, ""))
    return found


def _entry(name: str, info: dict[str, Any]) -> Entry:
    size = int(info.get("size") or 0)
    for key in _VERSIONS:
        if info.get(key):
            return Entry(name, size, str(info[key]).strip('"'))
    time = next((info[key] for key in _TIMES if info.get(key)), "")
    # A store may say it as a number here and as a date there.
    return Entry(name, size, f"{size} {time.timestamp() if isinstance(time, datetime) else time}".strip())


def _why(error: Exception) -> str:
    """Return the reason without the library's own text, which may quote an address with its secrets."""
    for kind, reason in (
        (PermissionError, "access is denied; check the credentials"),
        (TimeoutError, "the store does not answer"),
    ):
        if isinstance(error, kind):
            return reason
    return type(error).__name__
