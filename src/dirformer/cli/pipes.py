"""A photo from standard input, a photo to standard output: both by way of a temporary file."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dirformer.ground.errors import ConfigError, DirformerError, PhotoError
from dirformer.ground.formats import FORMAT_SUFFIXES, decoding, read_header, require_file
from dirformer.ground.paths import is_folder
from dirformer.inference.jobs import PIPE


@dataclass(frozen=True)
class Pipe:
    """What stands for `-` while the photo is restored."""

    inputs: list[Path]
    out: Path
    aside: bool
    """Whether standard output is the photo's, so that lines for people go to standard error."""
    folder: str | None = None
    """The temporary folder, which nobody knows."""

    def named(self, line: str) -> str:
        """Return a line without the temporary folder."""
        return line if self.folder is None else line.replace(f"{self.folder}/", "")

    def send(self) -> None:
        """Write the result to standard output, if that was asked for."""
        if self.aside and self.out.is_file():
            stream = _open(sys.stdout, "output")
            stream.write(self.out.read_bytes())
            stream.flush()


@contextlib.contextmanager
def piped(inputs: list[Path], out: Path, file_format: str) -> Iterator[Pipe]:
    """Read standard input to a file and give standard output a file, where `-` stands for them.

    Raises:
        ConfigError: if several photos are asked into one pipe.
        PhotoError: if standard input holds no photo.
    """
    if PIPE not in inputs and out != PIPE:
        yield Pipe(inputs, out, aside=False)
        return
    one = len(inputs) == 1 and (
        inputs[0] == PIPE or not (is_folder(inputs[0]) or inputs[0].name.startswith("@"))
    )
    if not one:
        raise ConfigError("- stands for one photo, but several are given; expected one photo in, one out")
    if inputs == [PIPE] and out != PIPE and is_folder(out):
        raise ConfigError(f"a photo from a pipe has no name for the folder {out}; give a file: -o out.png")
    if out == PIPE:
        _open(sys.stdout, "output")
    with tempfile.TemporaryDirectory(prefix="dirformer-") as folder:
        photo = inputs[0]
        try:
            if photo == PIPE:
                photo = Path(folder) / "stdin"
                photo.write_bytes(_open(sys.stdin, "input").read())
            result = out
            if out == PIPE:
                result = Path(folder) / f"stdout{_suffix(photo, file_format)}"
            yield Pipe([photo], result, aside=out == PIPE, folder=folder)
        except DirformerError as error:
            raise type(error)(str(error).replace(f"{folder}/", "")) from None


def _open(stream: Any, name: str) -> BinaryIO:
    """Return the bytes of a standard stream. Raises ConfigError if the caller has closed it."""
    buffer: BinaryIO | None = getattr(stream, "buffer", None)
    if buffer is None:
        raise ConfigError(f"- stands for standard {name}, which is closed; give the name of a file")
    return buffer


def _suffix(photo: Path, file_format: str) -> str:
    """Return the suffix that a result gets; with `same` that of the photo's own format, if it is written."""
    if file_format != "same":
        return FORMAT_SUFFIXES.get(file_format, ".png")
    require_file(photo)
    try:
        with decoding(str(photo)), photo.open("rb") as source:
            kind = read_header(source, str(photo)).kind
    except PhotoError:
        return ".png"
    kind = {"mpo": "jpeg"}.get(kind.lower(), kind.lower().removesuffix("16"))
    return FORMAT_SUFFIXES.get(kind, ".png")
