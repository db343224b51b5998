"""Array of levels → photo file, in the format of its name.

What a format cannot hold is decided by `check_output`, before any work is done.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from dirformer.ground.colour import agreeing, levels_agree
from dirformer.ground.decode import Origin
from dirformer.ground.errors import OutputError
from dirformer.ground.formats import EXIF_IFD, GPS, WRITTEN, check_suffix, png_chunks
from dirformer.ground.metadata import Metadata, options_for

LIMITS = {"JPEG": 65_535, "WEBP": 16_383, "AVIF": 65_536, "PNG": 2**31 - 1, "BMP": 2**31 - 1}
"""The longest side a format can hold, in pixels."""
DEEP = ("PNG", "TIFF")
"""Formats that are written with 16 bits a channel."""
_PNG_LEVEL = 4
"""Of zlib: against 6, Pillow's own, two fifths of the time for files that are 2 % larger."""
QUALITY = 95
"""Of lossy formats, where neither the caller nor the input says otherwise."""
_NO_ALPHA, _NO_PROFILE, _NO_GREY = ("JPEG", "BMP"), ("BMP", "JPEG2000"), ("WEBP", "AVIF")
_BIG_TIFF = 2**32 - 2**25


def check_output(path: Path, width: int, height: int, *, depth: int = 8, alpha: bool = False) -> list[str]:
    """Decide before the work whether a photo can be written there, and what its format will lose.

    Args:
        path: file to write; its suffix is the format.
        width: of the result, in pixels.
        height: of the result, in pixels.
        depth: bits a channel, 8 or 16.
        alpha: whether the photo has an alpha channel.

    Returns:
        One line for each thing that the format cannot hold.

    Raises:
        OutputError: if the suffix names no format that can be written, or the sides are too long for it.
    """
    check_suffix(path)
    kind = WRITTEN[path.suffix.lower()]
    limit = LIMITS.get(kind)
    if limit is not None and max(width, height) > limit:
        raise OutputError(
            f"{path} would be {width}×{height} pixels, but {kind} holds {limit:,} on a side; "
            "write PNG or TIFF: --format png"
        )
    if kind == "TIFF" and width * height * (4 if alpha else 3) * depth // 8 > _BIG_TIFF:
        raise OutputError(f"{path} would be larger than the 4 GiB of a TIFF; write PNG: --format png")
    notes = []
    if depth == 16 and kind not in DEEP:
        notes.append(f"{kind} holds 8 bits a channel: 16 bits are rounded to 8 in {path.name}")
    if alpha and kind in _NO_ALPHA:
        notes.append(f"{kind} holds no transparency: the photo is laid on white in {path.name}")
    return notes


def encode_file(
    path: Path,
    kind: str,
    levels: np.ndarray,
    *,
    profile: bytes | None,
    metadata: Metadata,
    origin: Origin,
    quality: int | None = None,
) -> list[str]:
    """Write levels (h w c, uint8 or uint16) to `path` as that format; return notes on what was left out."""
    options, notes = options_for(metadata, kind)
    if levels.dtype == np.uint16:
        if not levels_agree(1 if levels.shape[2] < 3 else 3, profile):
            profile = None
        if levels.shape[2] > 1:
            write = _deep_png if kind == "PNG" else _deep_tiff
            write(path, levels, options | ({} if profile is None else {"icc_profile": profile}))
            return notes
        image = Image.fromarray(levels[..., 0])
    else:
        # A format without grey gets colours, and its profile must describe colours.
        image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
        image, profile = _colours(image, profile, kind)
    if profile is not None:
        options["icc_profile"] = profile
    image.save(path, format=kind, **options, **_coding(kind, image, origin, quality))
    return notes


def lacks_alpha(kind: str) -> bool:
    """Return whether a format has no transparency."""
    return kind in _NO_ALPHA


def _colours(image: Image.Image, profile: bytes | None, kind: str) -> tuple[Image.Image, bytes | None]:
    if kind not in _NO_GREY or image.mode not in ("L", "LA"):
        return agreeing(image, profile, has_profile=kind not in _NO_PROFILE)
    image, profile = agreeing(image, profile, has_profile=False)
    return image.convert("RGBA" if image.mode == "LA" else "RGB"), profile


def _coding(kind: str, image: Image.Image, origin: Origin, quality: int | None) -> dict[str, Any]:
    """Return Pillow's options for how much may be lost: as asked, else as in the input, else little."""
    if kind == "JPEG":
        if quality is not None:
            return {"quality": quality, "subsampling": 0}
        if origin.tables is not None:
            tables = origin.tables[: 1 if image.mode == "L" else 2]
            return {"qtables": [list(t) for t in tables], "subsampling": origin.subsampling}
        return {"quality": QUALITY, "subsampling": 0}
    if kind == "WEBP":
        # `exact` keeps the colours of transparent pixels.
        lossy = quality is not None or (origin.kind == kind and origin.lossy)
        return {"quality": quality or QUALITY} if lossy else {"lossless": True, "exact": True}
    if kind == "AVIF":
        return {"quality": quality or QUALITY, "subsampling": "4:4:4"}
    return {"compress_level": _PNG_LEVEL} if kind == "PNG" else {}


def _deep_png(path: Path, levels: np.ndarray, options: dict[str, Any]) -> None:
    """Write 16-bit colour: imagecodecs codes the pixels, Pillow the chunks around them."""
    import imagecodecs

    data = imagecodecs.png_encode(np.ascontiguousarray(levels))
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", **options)
    around = [chunk for kind, chunk in _chunks(small) if kind not in (b"IHDR", b"IDAT", b"IEND")]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, chunk in _chunks(io.BytesIO(data)):
            file.write(chunk)
            if kind == b"IHDR":
                file.writelines(around)


def _chunks(source: io.BytesIO) -> Iterator[tuple[bytes, bytes]]:
    for kind, offset, length in png_chunks(source):
        yield kind, source.getvalue()[offset - 8 : offset + length + 4]


def _deep_tiff(path: Path, levels: np.ndarray, options: dict[str, Any]) -> None:
    """Write 16-bit colour: Pillow writes the tags, with the EXIF and GPS directories; one strip follows."""
    height, width, channels = levels.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    exif: Image.Exif | dict[int, Any] = options.get("exif", {})
    for tag in exif:
        tags[tag] = (
            exif.get_ifd(tag) if isinstance(exif, Image.Exif) and tag in (EXIF_IFD, GPS) else exif[tag]
        )
    if "dpi" in options:
        tags[282], tags[283] = options["dpi"]
        tags[296] = 2
    if "icc_profile" in options:
        tags[34675] = options["icc_profile"]
    tags[256], tags[257], tags[258] = width, height, (16,) * channels
    tags[259], tags[262], tags[284] = 1, 2 if channels >= 3 else 1, 1
    tags[277], tags[278] = channels, height
    if channels in (2, 4):
        tags[338] = 2  # alpha that colours are not multiplied by
    # Pillow adds the place where the tags end.
    tags[273], tags[279] = 0, levels.nbytes
    with path.open("wb") as file:
        tags.save(file)
        file.write(levels.astype("<u2").tobytes())
