"""Photo file → array of levels, upright, with all that goes around it.

Pillow decodes what has 8 bits a channel. Deeper PNG goes to imagecodecs and deeper TIFF to tifffile, since
Pillow reads 16-bit colour as 8-bit.
"""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dirformer.ground.colour import space_of, to_srgb, unpremultiplied
from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import (
    MAX_PIXELS,
    ORIENTATION,
    Header,
    Source,
    UnfitError,
    decoding,
    is_tiff,
    open_image,
    pixel_limit,
    read_header,
    require_file,
    tiff_page,
    valid_orientation,
    without_text,
)
from dirformer.ground.metadata import Metadata, metadata_of, metadata_of_tiff

# tifffile reports each oddity of a damaged file; the error that follows says enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

FLOAT_BYTES = 16
"""Bytes of a pixel as the network reads it: three float32 and alpha."""
OVERSHOOT = 0.01
"""Float values this far outside of 0…1 are clipped; resampling leaves such."""


@dataclass(frozen=True)
class Origin:
    """How the file was coded, as far as a new file should be coded likewise."""

    kind: str = ""
    tables: tuple[tuple[int, ...], ...] | None = None
    """Quantisation tables of a JPEG."""
    subsampling: int = 0
    """Of a JPEG: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0."""
    lossy: bool = False
    """Whether a WebP is lossy."""


@dataclass(frozen=True)
class Decoded:
    """A photo in levels: h w c, with 1 or 3 colours and perhaps alpha."""

    values: np.ndarray
    """uint8 or uint16 levels, or float32 in [0, 1]."""
    profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    origin: Origin = field(default_factory=Origin)
    notes: tuple[str, ...] = ()


def decode_file(
    path: Path, page: int = 0, *, max_pixels: int = MAX_PIXELS, max_bytes: int | None = None
) -> Decoded:
    """Decode a photo file; see `decode`. Raises PhotoError for every file that is not a whole photo."""
    require_file(path)
    with decoding(str(path)), path.open("rb") as source:
        return decode(source, str(path), page, max_pixels=max_pixels, max_bytes=max_bytes)


def checked_size(
    path: Path, page: int = 0, *, max_pixels: int = MAX_PIXELS, max_bytes: int | None = None
) -> tuple[int, int]:
    """Return width and height of a photo that `decode_file` would take, from its header alone.

    Raises:
        PhotoError: if it has no header of a photo, or is larger than allowed.
    """
    require_file(path)
    with decoding(str(path)), pixel_limit(max_pixels), path.open("rb") as source:
        header = read_header(source, str(path), page)
        _require_room(header, str(path), max_pixels, max_bytes)
    return header.width, header.height


def decode(
    source: Source,
    name: str,
    page: int = 0,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int | None = None,
) -> Decoded:
    """Decode one page of a photo.

    Args:
        source: an open file or the bytes of one.
        name: what errors call it.
        page: of a TIFF or an animation, from 0.
        max_pixels: larger photos are refused from their header.
        max_bytes: photos that need more memory, decoded and as floats, are refused from their header.

    Raises:
        PhotoError: whatever the decoder raised, in one line.
    """
    with decoding(name), pixel_limit(max_pixels):
        header = read_header(source, name, page)
        _require_room(header, name, max_pixels, max_bytes)
        if header.kind == "TIFF16":
            decoded = _deep_tiff(source, page)
        elif header.kind == "PNG16":
            decoded = _deep_png(source)
        else:
            decoded = _by_pillow(source, page, header.orientation)
        values = decoded.values[..., None] if decoded.values.ndim == 2 else decoded.values
        if 0 in values.shape or values.shape[2] > 4:
            raise ValueError(f"pixels of shape {values.shape}")
        # Pillow turns TIFFs itself.
        return replace(decoded, values=_turn(values, 1 if header.kind == "TIFF" else header.orientation))


def decode_image(image: Image.Image) -> Decoded:
    """Take an open picture of Pillow as `decode` takes a file: upright, in any of Pillow's modes.

    Raises:
        PhotoError: if it cannot be decoded, or nothing says what its values mean.
    """
    with decoding("the picture"):
        image.load()
        turn = valid_orientation(image.getexif().get(ORIENTATION))
        values, profile, notes = _levels(image)
        values = values[..., None] if values.ndim == 2 else values
        return Decoded(_turn(values, turn), profile, notes=tuple(notes))


def _require_room(header: Header, name: str, max_pixels: int, max_bytes: int | None) -> None:
    pixels, size = header.width * header.height, f"{header.width}×{header.height}"
    if pixels > max_pixels:
        raise PhotoError(
            f"{name} is too large: {size} is {pixels:,} pixels, more than {max_pixels:,}; "
            "raise --max-pixels to read it"
        )
    # Twice the levels: decoders hold a second copy for a while.
    needed = pixels * (2 * header.sample_bytes + FLOAT_BYTES)
    if max_bytes is not None and needed > max_bytes:
        raise PhotoError(
            f"{name} is {size}; decoding it takes {needed / 2**20:,.0f} MiB, more than the limit of "
            f"{max_bytes / 2**20:,.0f} MiB; raise --max-memory or make it smaller"
        )


def _turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as EXIF says: 2 to 4 keep the sides, 5 to 8 exchange them."""
    turned = {
        1: lambda: values,
        2: lambda: values[:, ::-1],
        3: lambda: values[::-1, ::-1],
        4: lambda: values[::-1],
        5: lambda: values.swapaxes(0, 1),
        6: lambda: values[::-1].swapaxes(0, 1),
        7: lambda: values[::-1, ::-1].swapaxes(0, 1),
        8: lambda: values[:, ::-1].swapaxes(0, 1),
    }[orientation]()
    return np.ascontiguousarray(turned)


def _by_pillow(source: Source, page: int, orientation: int) -> Decoded:
    source.seek(0)
    tiff = is_tiff(source.read(4))
    with open_image(source) as opened:
        if page or tiff:
            opened.seek(page)
        if tiff:
            # By its tag alone, when that is valid; Pillow would also look into the XMP.
            opened.getexif()[ORIENTATION] = orientation
        try:
            opened.load()
            image = opened
        except ValueError as error:
            if opened.format != "PNG" or "text" not in str(error).lower():
                raise
            image = Image.open(io.BytesIO(without_text(source)), formats=["PNG"])
            image.load()
        metadata = metadata_of_tiff(tiff_page(source, page), source) if tiff else metadata_of(image, source)
        values, profile, notes = _levels(image)
        return Decoded(values, profile, metadata, _origin(opened, source), tuple(notes))


def _levels(image: Image.Image) -> tuple[np.ndarray, bytes | None, list[str]]:
    """Return levels of 8 or 16 bit, the profile that still describes them, and notes."""
    profile, notes = image.info.get("icc_profile") or None, list[str]()
    mode, transparent = image.mode, "transparency" in image.info
    if mode in {"F", "I"}:
        return _stated(np.asarray(image), None), profile, notes
    if mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16), _fitting(profile, 1, notes), notes
    if mode in ("CMYK", "LAB"):
        image, note = to_srgb(image, profile)
        return np.array(image), None, [] if note is None else [note]
    if mode == "1":
        image = image.convert("L")
    elif mode in ("P", "PA"):
        image = image.convert("RGBA" if transparent or mode == "PA" else "RGB")
    elif mode in ("L", "RGB") and transparent:
        image = image.convert("LA" if mode == "L" else "RGBA")
    elif mode in ("La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    profile = _fitting(profile, 1 if image.mode in ("L", "LA") else 3, notes)
    return np.array(image), profile, notes


def _fitting(profile: bytes | None, colours: int, notes: list[str]) -> bytes | None:
    """Return the profile if it can describe these pixels: `RGB` ones may describe grey, but no others."""
    space = space_of(profile)
    if space in (None, "RGB", "GRAY" if colours == 1 else "RGB"):
        return profile
    notes.append(f"its colour profile is for {space}, its pixels are not; the profile is left out")
    return None


def _origin(image: Image.Image, source: Source) -> Origin:
    kind = str(image.format)
    if kind in ("JPEG", "MPO"):
        from PIL.JpegImagePlugin import get_sampling

        tables: Any = getattr(image, "quantization", None) or {}
        with contextlib.suppress(Exception):
            whole = tuple(tuple(tables[key]) for key in sorted(tables))[:2]
            if whole and all(len(t) == 64 and all(1 <= v <= 255 for v in t) for t in whole):
                sampling = get_sampling(image) if len(image.getbands()) == 3 else 0
                return Origin("JPEG", whole, max(0, sampling))
        return Origin("JPEG")
    if kind == "WEBP":
        source.seek(0)
        head = source.read(2**16)
        return Origin(kind, lossy=b"VP8L" not in head and b"VP8 " in head)
    return Origin(kind)


def _deep_png(source: Source) -> Decoded:
    import imagecodecs

    source.seek(0)
    # libpng has limits of its own on text; nothing here needs it.
    values = np.asarray(imagecodecs.png_decode(without_text(source)))
    if values.dtype != np.uint16:
        raise ValueError("16 bits a channel in the header, fewer in the pixels")
    with open_image(source) as image:
        notes: list[str] = []
        colours = 1 if values.ndim == 2 or values.shape[2] < 3 else 3
        profile = _fitting(image.info.get("icc_profile") or None, colours, notes)
        return Decoded(values, profile, metadata_of(image, source), Origin("PNG"), tuple(notes))


def _deep_tiff(source: Source, page: int) -> Decoded:
    import tifffile

    tags, notes = tiff_page(source, page), list[str]()
    source.seek(0)
    with tifffile.TiffFile(source, name="photo.tif", is_ome=False, is_imagej=False) as file:
        found: Any = file.pages[page]
        _require_plain(found)
        values = found.asarray(maxworkers=1)
    values = values.reshape(found.imagelength, found.imagewidth, -1) if found.planarconfig != 2 else values
    if found.planarconfig == 2 and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    values = _stated(values, found)
    colours = 3 if found.photometric == 2 else 1
    alpha = found.extrasamples[0] if found.extrasamples else 0
    values = values[..., : colours + (1 if alpha in (1, 2) and values.shape[2] > colours else 0)]
    if values.shape[2] not in (1, 2, 3, 4) or values.shape[2] < colours:
        raise ValueError(f"{values.shape[2]} channels a pixel")
    if found.photometric == 0:
        values[..., :1] = (65535 if values.dtype == np.uint16 else 1) - values[..., :1]
    if alpha == 1:
        values = unpremultiplied(_floats(values))
    profile = tags.get(34675)
    profile = _fitting(profile if isinstance(profile, bytes) else None, colours, notes)
    if found.dtype is not None and found.dtype.kind == "f":
        notes.append("float values are written with at most 16 bits")
    return Decoded(values, profile, metadata_of_tiff(tags, source), Origin("TIFF"), tuple(notes))


def _require_plain(page: Any) -> None:
    """Refuse what would decode to much more than the header's width × height, or to no colours."""
    pixels = page.imagewidth * page.imagelength
    tile = (page.tilewidth or 1) * (page.tilelength or 1)
    if page.imagedepth != 1 or page.samplesperpixel > 8 or tile > 4 * pixels + 2**22:
        raise ValueError("a TIFF of a layout that is not a photo's")
    if page.photometric not in (0, 1, 2):
        raise ValueError(f"a deep TIFF of colour kind {int(page.photometric)}; expected grey or RGB")
    if page.dtype is None or page.dtype.itemsize > 8:
        raise ValueError("samples of an unknown type")


def _floats(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.float32:
        return values
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def _stated(values: np.ndarray, page: Any) -> np.ndarray:
    """Return uint16 levels, or floats in [0, 1]: 8 and 16 bit by their own range, the rest by what is said.

    Floats are taken as they are where they lie in 0…1. Other floats and integers of 32 bits need the tags
    SMinSampleValue and SMaxSampleValue, since nobody can know what white is.
    """
    kind, bits = values.dtype.kind, 8 * values.dtype.itemsize
    if kind == "f" and not np.isfinite(values).all():
        raise UnfitError("holds NaN or infinite values; expected numbers in 0…1")
    if kind == "u" and bits <= 16:
        # Not by the tags: some writers put the largest value that they met there.
        depth = int(page.bitspersample) if page is not None else bits
        if depth == 16:
            return values.astype(np.uint16)
        top = 2**depth - 1
        return ((values.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
    low, high = _range(page)
    least, most = float(values.min()), float(values.max())
    if high is None and kind == "f" and least >= -OVERSHOOT and most <= 1 + OVERSHOOT:
        return values.astype(np.float32).clip(0, 1)
    if high is None or not high > low or kind not in "fui":
        what = "float" if kind == "f" else f"{bits}-bit integer"
        raise UnfitError(
            f"has {what} values from {least:g} to {most:g}, and nothing says what white is; expected floats "
            "in 0…1, or 8 or 16 bits; save it as 16-bit TIFF"
        )
    return ((values.astype(np.float64) - low) / (high - low)).clip(0, 1).astype(np.float32)


def _range(page: Any) -> tuple[float, float | None]:
    """Return what the tags say of black and white; (0, None) without a word."""
    stated: list[float | None] = []
    for tag in (340, 341):
        value = page.tags.valueof(tag) if page is not None else None
        value = value[0] if isinstance(value, tuple) and value else value
        stated.append(float(value) if isinstance(value, (int, float)) else None)
    return stated[0] or 0.0, stated[1]
