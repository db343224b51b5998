"""Photos are read upright and written as they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.ground.errors import OutputError, PhotoError
from dirformer.ground.photo import Photo, read_photo, read_rgb, side_by_side, write_photo
from helpers import picture


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".bmp", ".PNG"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    """What is written is what is read, to the last level."""
    picture(31, 17).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    assert photo.size == (17, 31)
    write_photo(tmp_path / f"out{suffix}", photo)
    assert torch.equal(read_photo(tmp_path / f"out{suffix}").pixels, photo.pixels)


def test_jpeg_is_close(tmp_path: Path) -> None:
    """JPEG is written at a quality that keeps every pixel near."""
    photo = Photo(torch.full((3, 24, 24), 0.4))
    write_photo(tmp_path / "out.jpg", photo)
    assert (read_photo(tmp_path / "out.jpg").pixels - photo.pixels).abs().max() < 2 / 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    """A photo stored turned or mirrored is read as a viewer shows it."""
    upright = picture(24, 16)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert torch.equal(read_rgb(tmp_path / "photo.png"), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_channels_come_back(tmp_path: Path, mode: str) -> None:
    """Grey stays grey and alpha stays alpha, values untouched."""
    picture(20, 12, mode=mode).save(tmp_path / "in.png")
    write_photo(tmp_path / "out.png", read_photo(tmp_path / "in.png"))
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert after.mode == mode
        assert np.array_equal(np.array(before), np.array(after))


def test_sixteen_bit_grey_comes_back(tmp_path: Path) -> None:
    """All 65,536 levels of a 16-bit grey photo survive."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "in.png")
    write_photo(tmp_path / "out.png", read_photo(tmp_path / "in.png"))
    with Image.open(tmp_path / "out.png") as after:
        assert np.array_equal(np.array(after), values)


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "YCbCr"])
def test_other_modes_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    """Palette, CMYK, bilevel and YCbCr photos are read as colours in [0, 1]."""
    suffix = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    picture(20, 12).convert(mode).save(tmp_path / f"in{suffix}")
    photo = read_photo(tmp_path / f"in{suffix}")
    assert photo.pixels.shape == (3, 12, 20)
    assert photo.pixels.min() >= 0 and photo.pixels.max() <= 1


def test_profile_is_kept(tmp_path: Path) -> None:
    """The colour profile of the input is that of the output."""
    picture(16, 16).save(tmp_path / "in.png", icc_profile=b"a profile")
    write_photo(tmp_path / "out.png", read_photo(tmp_path / "in.png"))
    with Image.open(tmp_path / "out.png") as after:
        assert after.info["icc_profile"] == b"a profile"


def test_alpha_is_laid_on_white_where_a_format_has_none(tmp_path: Path) -> None:
    """A transparent photo written as JPEG shows white, not black."""
    photo = Photo(torch.zeros(3, 16, 16), alpha=torch.zeros(1, 16, 16))
    write_photo(tmp_path / "out.jpg", photo)
    assert read_photo(tmp_path / "out.jpg").pixels.min() > 0.99


def bad_files(folder: Path) -> dict[str, Path]:
    (folder / "text.png").write_text("this is not a photo")
    (folder / "empty.png").write_bytes(b"")
    picture(64, 64).save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:700])
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    return {
        name: folder / name
        for name in ("text.png", "empty.png", "truncated.jpg", "script.png", "missing.png")
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.png", "not a photo"),
        ("empty.png", "is empty"),
        ("truncated.jpg", "is damaged"),
        ("script.png", "not a photo"),
        ("missing.png", "is not there"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    """Each kind of bad file has an error that names the file and what is wrong; odd decoders never run."""
    with pytest.raises(PhotoError, match=message) as error:
        read_photo(bad_files(tmp_path)[name])
    assert name in str(error.value) and "\n" not in str(error.value)


def test_huge_photos_are_refused_before_decoding(tmp_path: Path) -> None:
    """A file that claims more pixels than memory should hold is refused from its header."""
    header = (
        b"BM"
        + (54).to_bytes(4, "little")
        + bytes(4)
        + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little")
    )
    size = (100_000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little")
    (tmp_path / "bomb.bmp").write_bytes(header + size + bytes(24))
    with pytest.raises(PhotoError, match="too large"):
        read_photo(tmp_path / "bomb.bmp")


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    """A result's format is that of its suffix, or there is none."""
    with pytest.raises(OutputError, match=r"expected one of \.png"):
        write_photo(tmp_path / "out.gif", Photo(torch.zeros(3, 4, 4)))


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, the old result is untouched and no temporary file is left."""
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def fail(image: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_photo(target, Photo(torch.zeros(3, 4, 4)))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_strips_join_photos_with_gaps() -> None:
    """Two photos of width 5 side by side are 5 + 8 + 5 wide, white between."""
    strip = side_by_side([torch.zeros(3, 4, 5)] * 2)
    assert strip.shape == (3, 4, 18)
    assert strip[:, :, 5:13].min() == 1 and strip[:, :, :5].max() == 0
