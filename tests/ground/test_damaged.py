"""Damaged files: every one is read or is a PhotoError of one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import count_pages, photo_size
from dirformer.ground.mask import read_mask
from dirformer.ground.photo import read_photo, read_rgb
from ground.damaged import damaged, whole_files

WHOLE = whole_files()


def try_all(path: Path) -> None:
    for read in (photo_size, read_photo, count_pages):
        message = ""
        try:
            read(path)
        except PhotoError as error:
            message = str(error)
        assert "\n" not in message and len(message) < 400 + len(str(path))


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    """Cut, changed and lying files raise nothing else, whatever their decoder raises."""
    (tmp_path / name).write_bytes(WHOLE[name])
    read_photo(tmp_path / name)
    for copy in damaged(WHOLE[name], 12, seed=0):
        (tmp_path / name).write_bytes(copy)
        try_all(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_many_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    """The same with 500 copies of each."""
    for copy in damaged(WHOLE[name], 500, seed=int(os.environ.get("FUZZ_SEED", "1"))):
        (tmp_path / name).write_bytes(copy)
        try_all(tmp_path / name)


@pytest.mark.parametrize(
    "error", [TypeError, KeyError, MemoryError, RecursionError, ZeroDivisionError, EOFError, SyntaxError]
)
@pytest.mark.parametrize("read", [read_photo, read_rgb, read_mask, photo_size])
def test_any_exception_of_a_decoder_is_that_photo_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], read
) -> None:
    """What a decoder may ever raise has the photo's name."""
    (tmp_path / "in.png").write_bytes(WHOLE["photo.png"])

    def fail(*_: object, **__: object) -> None:
        raise error("two\nlines")

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(PhotoError, match=r"in\.png") as caught:
        read(tmp_path / "in.png")
    assert "\n" not in str(caught.value)
