"""Photos of other programs, and our results as they read them: ImageMagick, ExifTool, libheif."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dirformer.ground.photo import read_photo
from helpers import dirformer, picture

pytestmark = pytest.mark.slow
PROFILES = Path("/usr/share/color/icc/ghostscript")
SIZE = (40, 28)


def tool(name: str) -> str:
    """A program of the system, or skip with its package."""
    package = {"exiftool": "libimage-exiftool-perl", "heif-enc": "libheif-examples"}
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine (apt-get install {package.get(name, 'imagemagick')})")
    return found


def magick(*arguments: object) -> bytes:
    """Run ImageMagick's convert."""
    command = [tool("convert-im6.q16"), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def tags(path: Path) -> dict[str, object]:
    """What ExifTool reads of a file."""
    command = [tool("exiftool"), "-json", "-n", "-G", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]


def levels(path: Path, depth: int = 8, *more: str) -> np.ndarray:
    """The upright RGB levels of a file, by ImageMagick."""
    data = magick(path, "-auto-orient", *more, "-alpha", "off", "-depth", depth, "rgb:-")
    return np.frombuffer(data, np.uint8 if depth == 8 else "<u2").astype(np.int64)


def profile(name: str) -> Path:
    """A colour profile of the system, or skip."""
    if not (PROFILES / name).is_file():
        pytest.skip(f"no {PROFILES / name} on this machine (apt-get install libgs9-common)")
    return PROFILES / name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A photo as a PNG."""
    picture(*SIZE).save(tmp_path / "source.png")
    return tmp_path / "source.png"


def test_sixteen_bit_tiff_comes_back_whole(source: Path, tmp_path: Path) -> None:
    """A 16-bit TIFF comes back upright, with depth, profile, GPS and dpi. With strength 0 its levels are the
    input's."""
    photo, out = tmp_path / "deep.tif", tmp_path / "out.tif"
    noise = ("-depth", 16, "-attenuate", 0.2, "+noise", "gaussian", "-depth", 16)
    magick(source, *noise, "-profile", profile("a98.icc"), "-units", "PixelsPerInch", "-density", 300, photo)
    given = (
        "-Orientation#=6",
        "-GPSLatitude=48.5",
        "-GPSLatitudeRef=N",
        "-Artist=Ana",
        "-overwrite_original",
    )
    subprocess.run([tool("exiftool"), *given, str(photo)], check=True, capture_output=True)
    told = dirformer("restore", photo, "-o", out, "--task", "denoise", "--strength", "0")
    assert told.returncode == 0, told.stderr
    before, after = tags(photo), tags(out)
    assert after["EXIF:BitsPerSample"] == before["EXIF:BitsPerSample"] == "16 16 16"
    assert after["ICC_Profile:ProfileDescription"] == before["ICC_Profile:ProfileDescription"]
    assert (after["EXIF:GPSLatitude"], after["EXIF:Artist"]) == (48.5, "Ana")
    assert (after["EXIF:XResolution"], after["EXIF:ResolutionUnit"]) == (300, before["EXIF:ResolutionUnit"])
    assert after.get("EXIF:Orientation", 1) == 1
    assert (after["EXIF:ImageWidth"], after["EXIF:ImageHeight"]) == SIZE[::-1]
    assert np.array_equal(levels(out, 16), levels(photo, 16))


def test_cmyk_is_read_through_its_profile(source: Path, tmp_path: Path) -> None:
    """CMYK with a profile is read as ImageMagick reads it (perceptual), within 2 levels on average."""
    srgb, cmyk = profile("srgb.icc"), profile("default_cmyk.icc")
    for name in ("c.tif", "c.jpg"):
        photo = tmp_path / name
        magick(source, "-profile", srgb, "-profile", cmyk, "-quality", 98, photo)
        ours = read_photo(photo)
        perceptual = ("-intent", "perceptual", "-black-point-compensation", "-profile", str(srgb))
        theirs = levels(photo, 8, *perceptual).reshape(SIZE[1], SIZE[0], 3)
        got = (ours.pixels.permute(1, 2, 0).numpy() * 255).round()
        assert np.abs(got - theirs).mean() < 2, name


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        ("p.png", ("-type", "Palette"), 0),
        ("g.png", ("-colorspace", "Gray"), 0),
        ("one.png", ("-monochrome",), 0),
        ("a.png", ("-alpha", "set", "-channel", "A", "-evaluate", "set", "100%"), 0),
        ("i.png", ("-interlace", "PNG"), 0),
        ("lzw.tif", ("-compress", "LZW"), 0),
        ("zip.tif", ("-compress", "Zip"), 0),
        ("big.tif", ("-endian", "MSB"), 0),
        ("planes.tif", ("-interlace", "plane"), 0),
        ("j.jpg", ("-quality", "90"), 1),
        ("prog.jpg", ("-interlace", "JPEG", "-sampling-factor", "4:4:4"), 1),
        ("grey.jpg", ("-colorspace", "Gray"), 1),
        ("w.webp", ("-define", "webp:lossless=true"), 0),
        ("b.bmp", (), 0),
        ("b3.bmp", ("-define", "bmp:format=bmp3"), 0),
        ("g.gif", (), 0),
        ("rle.bmp", ("-type", "Palette", "-compress", "RLE"), 0),
    ],
)
def test_files_of_imagemagick(
    source: Path, tmp_path: Path, name: str, options: tuple[str, ...], most: int
) -> None:
    """Files of many kinds are read as ImageMagick itself reads them."""
    photo = tmp_path / name
    magick(source, *options, photo)
    ours = (read_photo(photo).pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.int64)
    assert np.abs(ours.ravel() - levels(photo)).max() <= most


def test_heic_of_libheif(source: Path, tmp_path: Path) -> None:
    """A HEIC is read as libheif's own program reads it."""
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (extra `heif`)")
    photo = tmp_path / "h.heic"
    command = [tool("heif-enc"), "-q", "90", str(source), "-o", str(photo)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this heif-enc has no HEVC encoder")
    subprocess.run(
        [tool("heif-convert"), str(photo), str(tmp_path / "h.png")], check=True, capture_output=True
    )
    ours = (read_photo(photo).pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.int64)
    # Two decoders round the chroma's enlargement differently.
    assert np.abs(ours.ravel() - levels(tmp_path / "h.png")).mean() < 1.5


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_results_are_valid_for_exiftool(source: Path, tmp_path: Path, suffix: str) -> None:
    """ExifTool finds no error in a result with EXIF, XMP and GPS, and finds the tags again."""
    photo, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    magick(source, "-quality", 92, photo)
    given = (
        "-Artist=Ana",
        "-XMP-dc:Title=Boats",
        "-GPSLongitude=9.25",
        "-GPSLongitudeRef=E",
        "-Orientation#=8",
    )
    subprocess.run(
        [tool("exiftool"), "-overwrite_original", *given, str(photo)], check=True, capture_output=True
    )
    told = dirformer("restore", photo, "-o", out, "--task", "denoise")
    assert told.returncode == 0, told.stderr
    after = tags(out)
    assert (after["EXIF:Artist"], after["XMP:Title"], after["EXIF:GPSLongitude"]) == ("Ana", "Boats", 9.25)
    assert after.get("EXIF:Orientation", 1) == 1
    assert "ExifTool:Error" not in after, after["ExifTool:Error"]
