"""Which files are films, by name, and which can be written; nothing is imported for it."""

from __future__ import annotations

from pathlib import Path

from dirformer.ground.errors import OutputError

WRITTEN = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""File name → container of the films that can be written."""
FILMS = frozenset(
    (
        *WRITTEN,
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".flv",
        ".ogv",
        ".3gp",
        ".mxf",
        ".nut",
    )
)


def is_film(path: Path) -> bool:
    """Return whether a file is named as a film is."""
    return path.suffix.lower() in FILMS


def container_of(path: Path) -> str:
    """Return the container of a film to write. Raises OutputError unless the suffix names one."""
    if path.suffix.lower() not in WRITTEN:
        raise OutputError(f"{path} is no film that can be written; expected one of {', '.join(WRITTEN)}")
    return WRITTEN[path.suffix.lower()]
