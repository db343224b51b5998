"""Photos out: metadata, profiles and coding are kept; what a format cannot hold is said before the work."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, JpegImagePlugin

from dirformer.ground.encode import check_output
from dirformer.ground.errors import OutputError
from dirformer.ground.metadata import Metadata
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import Photo, fill_transparent, read_photo, write_photo
from helpers import picture

DATA = Path(__file__).parent / "data"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A small CMYK profile is not at hand; grey and RGB ones show the rule.
GREY = bytearray(SRGB)
GREY[16:20] = b"GRAY"


def metadata() -> Metadata:
    exif = Image.Exif()
    exif[271], exif[306] = "Acme", "2020:01:02 03:04:05"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.0)
    exif[274] = 1
    return Metadata(exif.tobytes(), b"<x:xmpmeta>a title</x:xmpmeta>", (300.0, 300.0))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_metadata_goes_along(tmp_path: Path, suffix: str, depth: int) -> None:
    """Camera, date, place, XMP, resolution and profile, as Pillow reads them from the result."""
    photo = Photo(torch.rand(3, 12, 16), depth=depth, icc_profile=SRGB, metadata=metadata())
    write_photo(tmp_path / f"out{suffix}", photo)
    with Image.open(tmp_path / f"out{suffix}") as image:
        exif = image.getexif()
        assert (exif[271], exif[306]) == ("Acme", "2020:01:02 03:04:05")
        assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert exif.get_ifd(0x8825)[1] == "N" and exif.get_ifd(0x8825)[2] == (51.0, 30.0, 0.0)
        assert exif.get(274, 1) == 1
        assert image.info["icc_profile"] == SRGB
        dpi = image.info.get("dpi") or (exif[282], exif[283])
        assert [round(float(number)) for number in dpi] == [300, 300]
    assert b"a title" in (tmp_path / f"out{suffix}").read_bytes()
    write_photo(tmp_path / f"bare{suffix}", photo, strip_metadata=True)
    bare = read_photo(tmp_path / f"bare{suffix}")
    assert bare.metadata == Metadata() and bare.icc_profile == SRGB


def test_a_deep_tiff_comes_back_whole(tmp_path: Path) -> None:
    """16-bit RGB with profile, orientation, resolution: the same levels, upright, read by tifffile."""
    values = np.random.default_rng(0).integers(0, 65536, (7, 9, 3), dtype=np.uint16)
    tags = [(274, "H", 1, 6, True), (271, "s", 5, "Acme", True)]
    tifffile.imwrite(
        tmp_path / "in.tif",
        values,
        photometric="rgb",
        iccprofile=SRGB,
        resolution=(300, 300),
        resolutionunit=2,
        extratags=tags,
    )
    write_photo(tmp_path / "out.tif", read_photo(tmp_path / "in.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray(), np.rot90(values, -1))
        assert page.iccprofile == SRGB and page.tags[282].value == (300, 1)
        assert page.tags[271].value == "Acme" and page.tags[274].value == 1


def test_thumbnails_and_wrong_tags_stay_behind(tmp_path: Path) -> None:
    """The thumbnail shows the old photo; a tag of a wrong type costs only itself."""
    thumb = io.BytesIO()
    picture(16, 12).save(thumb, "JPEG")
    entries = struct.pack("<HHLL", 0x010F, 2, 5, 38) + struct.pack("<HHL4s", 0x011A, 2, 4, b"300\0")
    head = b"II*\0\x08\0\0\0\x02\0" + entries + struct.pack("<L", 44) + b"Acme\0\0"
    second = struct.pack("<HHHLLHHLL", 2, 0x0201, 4, 1, 74, 0x0202, 4, 1, len(thumb.getvalue())) + bytes(4)
    picture(16, 12).save(tmp_path / "in.jpg", exif=b"Exif\0\0" + head + second + thumb.getvalue())
    write_photo(tmp_path / "out.jpg", read_photo(tmp_path / "in.jpg"))
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif()[271] == "Acme" and 0x011A not in image.getexif()
        assert not image.getexif().get_ifd(1)


@pytest.mark.parametrize("quality", [30, 60, 75, 90])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_is_coded_as_the_one_it_came_from(tmp_path: Path, quality: int, subsampling: int) -> None:
    """Quantisation tables and subsampling are those of the input, unless a quality is asked for."""
    picture(48, 32).save(tmp_path / "in.jpg", quality=quality, subsampling=subsampling)
    photo = read_photo(tmp_path / "in.jpg")
    write_photo(tmp_path / "out.jpg", photo)
    write_photo(tmp_path / "fine.jpg", photo, quality=98)
    opened = [Image.open(tmp_path / name) for name in ("in.jpg", "out.jpg", "fine.jpg")]
    tables = [image.quantization for image in opened]
    assert tables[0] == tables[1] != tables[2]
    assert [JpegImagePlugin.get_sampling(image) for image in opened] == [subsampling, subsampling, 0]
    for image in opened:
        image.close()


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_is_lossy_only_where_the_input_was(tmp_path: Path, lossless: bool) -> None:
    """New WebP files are lossless."""
    picture(48, 32).save(tmp_path / "in.webp", lossless=lossless)
    write_photo(tmp_path / "out.webp", read_photo(tmp_path / "in.webp"))
    assert (b"VP8L" in (tmp_path / "out.webp").read_bytes()[:64]) == lossless


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("profile", [SRGB, bytes(GREY)])
@pytest.mark.parametrize("grey", [True, False])
def test_profile_and_pixels_agree(tmp_path: Path, suffix: str, profile: bytes, grey: bool) -> None:
    """A profile for grey is never written with RGB pixels, nor one for RGB with grey pixels."""
    picture(16, 12, mode="L" if grey else "RGB").save(tmp_path / "in.png", icc_profile=profile)
    write_photo(tmp_path / f"out{suffix}", read_photo(tmp_path / "in.png"))
    with Image.open(tmp_path / f"out{suffix}") as image:
        written = image.info.get("icc_profile")
        assert written is None or written[16:20] == (b"GRAY" if image.mode == "L" else b"RGB ")


def test_lab_and_cmyk_are_converted(tmp_path: Path) -> None:
    """Lab by littleCMS; CMYK without a profile plainly, with a note."""
    photo = picture(32, 24)
    lab = ImageCms.profileToProfile(
        photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    photo.convert("CMYK").save(tmp_path / "cmyk.tif")
    expected = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    assert (read_photo(tmp_path / "lab.tif").pixels - expected).abs().mean() < 0.02
    cmyk = read_photo(tmp_path / "cmyk.tif")
    assert (cmyk.pixels - expected).abs().mean() < 0.02 and "without a usable colour profile" in cmyk.notes[0]


def test_colours_beneath_transparency_do_not_bleed() -> None:
    """Dark or clean beneath the transparency: what a network sees is the same."""
    black, clean = (read_photo(DATA / f"disc_{name}.png") for name in ("black", "clean"))
    assert black.alpha is not None and clean.alpha is not None
    seen = [fill_transparent(photo.pixels, photo.alpha) for photo in (black, clean)]
    assert (seen[0] - seen[1]).abs().max() < 2 / 255
    visible = (black.alpha > 0).expand(3, -1, -1)
    assert torch.equal(seen[0][visible], black.pixels[visible])


def test_what_a_format_cannot_hold_is_known_before(tmp_path: Path) -> None:
    """Sides too long are errors; depth and transparency are notes."""
    for name, side in (("a.webp", 16_383), ("a.jpg", 65_535)):
        assert check_output(tmp_path / name, side, 4) == []
        with pytest.raises(OutputError, match=rf"{side + 1}×4 pixels, but .* holds {side:,}"):
            check_output(tmp_path / name, side + 1, 4)
    (depth, alpha) = check_output(tmp_path / "a.jpg", 4, 4, depth=16, alpha=True)
    assert "rounded to 8" in depth and "on white" in alpha
    assert check_output(tmp_path / "a.png", 4, 4, depth=16, alpha=True) == []


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    """The true error in one line, and nothing is replaced that is no file."""
    (tmp_path / "file").touch()
    photo = Photo(torch.zeros(3, 4, 4))
    for path, message in (
        (tmp_path / "file" / "x.png", "is no folder"),
        (tmp_path / ("x" * 252 + ".png"), "File name too long"),
        (Path("/dev/full"), "a device"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(OutputError, match=message), atomic_path(path):
            pass
    long = tmp_path / ("x" * 251 + ".png")
    write_photo(long, replace(photo, grey=True))
    assert long.is_file()


def test_deep_grey_with_alpha_is_read_by_others(tmp_path: Path) -> None:
    """PNG by libpng."""
    photo = Photo(torch.rand(1, 5, 6).expand(3, -1, -1), grey=True, alpha=torch.rand(1, 5, 6), depth=16)
    write_photo(tmp_path / "out.png", photo)
    values = imagecodecs.png_decode((tmp_path / "out.png").read_bytes())
    assert values.shape == (5, 6, 2) and values.dtype == np.uint16
