"""Levels: 16 bit in, 16 bit out; floats and large integers by stated rules."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dirformer.ground.errors import PhotoError
from dirformer.ground.photo import read_photo, read_rgb, write_photo

DATA = Path(__file__).parent / "data"


def levels(channels: int, height: int = 9, width: int = 7, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 65536, (height, width, channels), dtype=np.uint16)
    return values[..., 0] if channels == 1 else values


def save(path: Path, values: np.ndarray) -> None:
    channels = values.shape[2] if values.ndim == 3 else 1
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(values))
    else:
        photometric = "rgb" if channels >= 3 else "minisblack"
        extra = ["unassalpha"] if channels in (2, 4) else None
        tifffile.imwrite(path, values, photometric=photometric, extrasamples=extra, planarconfig="contig")


def load(path: Path) -> np.ndarray:
    return imagecodecs.png_decode(path.read_bytes()) if path.suffix == ".png" else tifffile.imread(path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("source", [".png", ".tif"])
@pytest.mark.parametrize("target", [".png", ".tif"])
def test_sixteen_bits_come_back(tmp_path: Path, channels: int, source: str, target: str) -> None:
    """Grey, grey with alpha, RGB and RGBA: every level is that of the input, read by another library."""
    values = levels(channels)
    save(tmp_path / f"in{source}", values)
    photo = read_photo(tmp_path / f"in{source}")
    assert (photo.depth, photo.grey, photo.alpha is not None) == (16, channels < 3, channels in (2, 4))
    write_photo(tmp_path / f"out{target}", photo)
    assert np.array_equal(load(tmp_path / f"out{target}"), values)


@settings(max_examples=15, deadline=None)
@given(
    channels=st.sampled_from([3, 4]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    options=st.fixed_dictionaries(
        {
            "byteorder": st.sampled_from("<>"),
            "bigtiff": st.booleans(),
            "compression": st.sampled_from([None, "zlib", "lzw"]),
            "predictor": st.booleans(),
            "planarconfig": st.sampled_from(["contig", "separate"]),
            "tile": st.sampled_from([None, (16, 16)]),
        }
    ),
)
def test_any_layout_of_a_tiff_is_read(
    tmp_path_factory: pytest.TempPathFactory, channels: int, height: int, width: int, options: dict
) -> None:
    """Byte order, size of offsets, compression, planes and tiles do not matter."""
    path = tmp_path_factory.mktemp("tiff") / "in.tif"
    values = levels(channels, height, width)
    if options["compression"] is None:
        options = options | {"predictor": False}
    planes = np.moveaxis(values, -1, 0) if options["planarconfig"] == "separate" else values
    extra = ["unassalpha"] if channels == 4 else None
    tifffile.imwrite(path, planes, photometric="rgb", extrasamples=extra, **options)
    photo = read_photo(path)
    colour = (photo.pixels * 65535).round().permute(1, 2, 0).numpy()
    assert np.array_equal(colour, values[..., :3])
    assert (photo.alpha is not None) == (channels == 4)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".png", ".tif", ".jp2", ".avif"])
def test_sixteen_bit_grey_is_right_in_every_format(tmp_path: Path, suffix: str) -> None:
    """What holds 8 bits gets the upper 8, and says so; it is not white."""
    photo = read_photo(DATA / "grey16.png")
    notes = write_photo(tmp_path / f"out{suffix}", photo)
    back = read_photo(tmp_path / f"out{suffix}")
    assert (back.pixels - photo.pixels).abs().mean() < 0.02
    assert any("16 bits are rounded to 8" in note for note in notes) == (suffix not in (".png", ".tif"))


def test_floats_from_0_to_1_are_taken_as_they_are(tmp_path: Path) -> None:
    """A float TIFF is neither black nor white, and is written with 16 bits."""
    expected = torch.from_numpy(tifffile.imread(DATA / "float01.tif"))
    photo = read_photo(DATA / "float01.tif")
    assert photo.pixels[0].equal(expected) and photo.depth == 16
    write_photo(tmp_path / "out.tif", photo)
    assert (read_photo(tmp_path / "out.tif").pixels - photo.pixels).abs().max() < 1 / 65535


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_colours_of_any_precision(tmp_path: Path, dtype: type) -> None:
    """Half, single and double; 1 % of overshoot is clipped."""
    values = np.linspace(-0.005, 1.005, 7 * 9 * 3).reshape(7, 9, 3).astype(dtype)
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="rgb")
    expected = torch.from_numpy(values.astype(np.float32)).clamp(0, 1).permute(2, 0, 1)
    assert torch.allclose(read_photo(tmp_path / "in.tif").pixels, expected)


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), 255, np.float32),
        np.full((4, 4), -1, np.float32),
        np.array([[0.5, np.nan]], np.float32),
        np.array([[0.5, np.inf]], np.float64),
        np.full((4, 4), 60_000, np.int32),
        np.full((4, 4), 2**31, np.uint32),
        np.full((4, 4), 100, np.int16),
        np.full((4, 4), -100, np.int8),
        np.full((4, 4), 2**40, np.uint64),
    ],
    ids=lambda values: f"{values.dtype}",
)
def test_values_without_a_stated_white_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    """Neither black nor white is written: one line says the range that was met."""
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack")
    with pytest.raises(PhotoError, match=r"nothing says what white is|NaN or infinite"):
        read_photo(tmp_path / "in.tif")


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32])
def test_a_stated_white_is_used(tmp_path: Path, dtype: type) -> None:
    """SMinSampleValue and SMaxSampleValue scale what has no range of its own."""
    values = np.array([[0, 500, 1000]], dtype)
    kind = "f" if dtype == np.float32 else "I"
    tags = [(340, kind, 1, 0, True), (341, kind, 1, 1000, True)]
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", extratags=tags)
    assert read_photo(tmp_path / "in.tif").pixels[0].tolist() == [[0, 0.5, 1]]


def test_16_bit_photos_keep_their_levels_whatever_the_tags_say(tmp_path: Path) -> None:
    """What has a range of its own is not scaled by the largest value that somebody met."""
    values = np.array([[0, 500, 1000, 65535]], np.uint16)
    tags = [(340, "H", 1, 0, True), (341, "H", 1, 1000, True)]
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", extratags=tags)
    levels = (read_photo(tmp_path / "in.tif").pixels[0] * 65535).round()
    assert levels.tolist() == values.tolist()


def test_white_is_zero_where_a_tiff_says_so(tmp_path: Path) -> None:
    """Deep TIFF of photometric 0 is turned over."""
    tifffile.imwrite(tmp_path / "in.tif", np.array([[0, 65535]], np.uint16), photometric="miniswhite")
    assert read_photo(tmp_path / "in.tif").pixels[0].tolist() == [[1, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiff_is_upright(tmp_path: Path, orientation: int) -> None:
    """The tag of a TIFF turns 16-bit photos as it turns 8-bit ones."""
    eight = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    for name, values in (("8.tif", eight), ("16.tif", eight.astype(np.uint16) * 257)):
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extratags=tags)
    assert read_rgb(tmp_path / "8.tif").equal(read_rgb(tmp_path / "16.tif"))
    with Image.open(tmp_path / "8.tif") as image:
        from PIL import ImageOps

        upright = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1)
    assert read_rgb(tmp_path / "8.tif").equal(upright)
