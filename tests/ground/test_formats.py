"""Photos are known by name, kind and header, before anything is decoded."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from pathlib import Path

import pytest

from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import count_pages, left_out, list_photos, photo_size
from dirformer.ground.photo import read_photo, read_rgb
from helpers import picture, python

DATA = Path(__file__).parent / "data"


def test_names_are_checked_without_torch_and_numpy() -> None:
    """The file that the command line checks names with loads neither."""
    code = "import sys, dirformer.ground.formats; print({'torch', 'numpy', 'tifffile'} & set(sys.modules))"
    assert python("-c", code, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".gif", "GIF"),
        (".jfif", "JPEG"),
        (".jpe", "JPEG"),
        (".avif", "AVIF"),
        (".jp2", "JPEG2000"),
        (".HEIC", "HEIF"),
        (".heif", "HEIF"),
    ],
)
def test_less_common_formats_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    """What Pillow and pillow-heif read is found in folders and read, under any of its names."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    picture(40, 24).save(tmp_path / f"in{suffix}", kind)
    assert list_photos(tmp_path) == [tmp_path / f"in{suffix}"]
    assert photo_size(tmp_path / f"in{suffix}") == (40, 24)
    assert read_photo(tmp_path / f"in{suffix}").size == (24, 40)


def test_pictures_that_are_not_read_are_counted_and_named(tmp_path: Path) -> None:
    """Raw files are said; notes and folders are nobody's photos."""
    for name in ("a.NEF", "b.dng", "c.psd", "notes.txt", "fine.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    line = left_out(tmp_path)
    assert line is not None and "3 files are left out" in line
    assert all(name in line for name in ("a.NEF", "b.dng", "c.psd"))
    assert list_photos(tmp_path) == [tmp_path / "fine.png"]
    (tmp_path / "none").mkdir()
    assert left_out(tmp_path / "none") is None


def test_only_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be waited for without end; pipes, devices, sockets and folders are refused by kind."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        listener.bind("socket.png")
        for name, kind in (
            ("pipe.png", "is a pipe"),
            ("link.png", "is a device"),
            ("folder.png", "is a folder"),
            ("socket.png", "is a socket"),
            ("dangling.png", "is not there"),
            ("x" * 300, "cannot be opened"),
        ):
            for read in (photo_size, read_photo, read_rgb, count_pages):
                with pytest.raises(PhotoError, match=kind):
                    read(tmp_path / name)


@pytest.mark.parametrize("name", ["ori_ascii.jpg", "xres_ascii.jpg"])
def test_metadata_of_a_wrong_type_costs_no_photo(name: str) -> None:
    """Text where EXIF has a number: the size is right and the photo is read."""
    width, height = photo_size(DATA / name)
    assert read_photo(DATA / name).size == (height, width)


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (2, 2, b"6\0\0\0"),  # text
        (7, 1, b"\x06\0\0\0"),  # undefined
        (3, 1, b"\0\0\0\0"),
        (3, 1, b"\x09\0\0\0"),
        (4, 1, b"\0\0\x01\0"),
        (3, 2**31, b"\x06\0\0\0"),
        (5, 1, b"\x06\0\0\0"),
        (11, 1, b"\0\0\xc0\x40"),  # 6.0 as a float
        (99, 1, b"\x06\0\0\0"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_orientations_that_are_none_leave_a_photo_as_it_lies(
    tmp_path: Path, kind: int, count: int, value: bytes, suffix: str
) -> None:
    """Only one whole number from 1 to 8 turns a photo."""
    entry = struct.pack("<HHL", 0x0112, kind, count) + value
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    picture(24, 16).save(tmp_path / f"in{suffix}", exif=exif)
    assert photo_size(tmp_path / f"in{suffix}") == (24, 16)
    assert read_photo(tmp_path / f"in{suffix}").size == (16, 24)


def test_orientation_in_xmp_alone_turns_nothing(tmp_path: Path) -> None:
    """EXIF alone turns a photo, in its size as in its pixels."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    picture(24, 16).save(tmp_path / "in.jpg", xmp=xmp)
    assert photo_size(tmp_path / "in.jpg") == (24, 16)
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.size == (16, 24)
    assert photo.metadata.xmp is not None and b'tiff:Orientation="1"' in photo.metadata.xmp


def test_a_png_with_megabytes_of_text_is_read() -> None:
    """Text beside the pixels is no reason to refuse them."""
    assert photo_size(DATA / "bigtext.png") == (56, 40)
    assert read_photo(DATA / "bigtext.png").pixels.equal(read_photo(DATA / "photo.png").pixels)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_every_page_can_be_read(tmp_path: Path, kind: str) -> None:
    """Pages and frames are counted, and read by number."""
    frames = [picture(16, 12, seed=i) for i in range(3)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "in", kind, save_all=True, append_images=frames[1:], **lossless)
    assert count_pages(tmp_path / "in") == 3
    first, last = (read_photo(tmp_path / "in", page=page).pixels for page in (0, 2))
    assert not first.equal(last)
    if kind != "GIF":  # 256 colours
        frames[2].save(tmp_path / "last.png")
        assert last.equal(read_photo(tmp_path / "last.png").pixels)
    with pytest.raises(PhotoError):
        read_photo(tmp_path / "in", page=3)


def test_large_photos_are_refused_from_their_header(tmp_path: Path) -> None:
    """Pixels and memory have limits that are checked before decoding; the message says the number."""
    shutil.copy(DATA / "photo.png", tmp_path)
    with pytest.raises(PhotoError, match=r"56×40 is 2,240 pixels, more than 2,000; raise --max-pixels"):
        read_photo(tmp_path / "photo.png", max_pixels=2000)
    with pytest.raises(PhotoError, match=r"decoding it takes .* MiB, more than the limit.*--max-memory"):
        read_photo(tmp_path / "photo.png", max_bytes=40_000)
    assert read_photo(tmp_path / "photo.png", max_pixels=2240, max_bytes=100_000).size == (40, 56)
