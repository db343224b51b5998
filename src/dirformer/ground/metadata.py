"""EXIF, XMP and resolution of a photo: taken from one format, handed to another.

What describes the picture is kept: camera, date, place, author, copyright, resolution. What describes the
old file is not: its size, its layout, its thumbnail, the maker's note. Orientation becomes 1, as pixels are
turned upright.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

from dirformer.ground.formats import EXIF_IFD, GPS, ORIENTATION, Source, empty_tags, parse_exif, raw_exif

XMP = 700
_IFD0 = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
"""Tags of the first directory that describe the picture; the others describe a file."""
_DROPPED = (0x927C, 0xA002, 0xA003, 0xA005)
"""Maker's note (its offsets would be wrong), width, height and interoperability pointer."""
_JPEG_EXIF, _JPEG_XMP = 65_500, 65_400


@dataclass(frozen=True)
class Metadata:
    """What a file says of its picture, beside pixels and colour profile."""

    exif: bytes | None = None
    """A clean EXIF block, without orientation and thumbnail."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Dots per inch across and down."""


def metadata_of(image: Image.Image, source: Source) -> Metadata:
    """Return the metadata of an opened photo; damaged parts are left out, the rest is kept."""
    exif = None
    with contextlib.suppress(Exception):
        exif = _clean(parse_exif(raw_exif(image, source)))
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return Metadata(exif, _clean_xmp(xmp), _dpi(image.info.get("dpi")))


def metadata_of_tiff(tags: TiffImagePlugin.ImageFileDirectory_v2, source: Source) -> Metadata:
    """Return the metadata of one page of a TIFF."""
    exif = Image.Exif()
    for tag in (*_IFD0, EXIF_IFD, GPS):
        with contextlib.suppress(Exception):
            if tag in (EXIF_IFD, GPS) and tag in tags:
                exif.get_ifd(tag).update(_directory(tags, tag, source))
            elif tag in tags:
                exif[tag] = tags[tag]
    clean, xmp, dpi = None, None, None
    with contextlib.suppress(Exception):
        clean = _clean(exif)
    with contextlib.suppress(Exception):
        xmp = _clean_xmp(tags.get(XMP))
    with contextlib.suppress(Exception):
        unit = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
        if unit is not None and 282 in tags:
            dpi = _dpi((float(tags[282]) * unit, float(tags.get(283, tags[282])) * unit))
    return Metadata(clean, xmp, dpi)


def _directory(
    tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, source: Source
) -> TiffImagePlugin.ImageFileDirectory_v2:
    order = b"II" if tags._endian == "<" else b"MM"  # noqa: SLF001
    directory = empty_tags(order, big=tags._bigtiff)  # noqa: SLF001
    source.seek(int(tags[tag]))
    directory.load(source)
    return directory


def _clean(old: Image.Exif) -> bytes | None:
    """Copy tag by tag what can be written again: one tag of a wrong type must not cost the others."""
    new = Image.Exif()
    for tag in _IFD0:
        if tag in old and _can_be_written({tag: old[tag]}):
            new[tag] = old[tag]
    for pointer in (EXIF_IFD, GPS):
        with contextlib.suppress(Exception):
            for tag, value in old.get_ifd(pointer).items():
                if tag not in _DROPPED and _can_be_written({tag: value}):
                    new.get_ifd(pointer)[tag] = value
    if not len(new) and not any(new.get_ifd(pointer) for pointer in (EXIF_IFD, GPS)):
        return None
    new[ORIENTATION] = 1
    return new.tobytes()


def _can_be_written(tags: dict[int, Any]) -> bool:
    trial = Image.Exif()
    for tag, value in tags.items():
        trial[tag] = value
    try:
        back = parse_exif(trial.tobytes())
        numbers = [value for tag in tags if tag in (282, 283) for value in (float(back[tag]),)]
        return all(tag in back for tag in tags) and all(math.isfinite(n) and n > 0 for n in numbers)
    except Exception:  # noqa: BLE001
        return False


def _clean_xmp(xmp: object) -> bytes | None:
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes) or not xmp.strip(b"\0 \r\n\t"):
        return None
    # Some readers turn a photo by its XMP; the pixels are upright already.
    return re.sub(rb"""(tiff:Orientation(?:\s*=\s*["']|>))\s*[1-8]""", rb"\g<1>1", xmp)


def _dpi(value: object) -> tuple[float, float] | None:
    try:
        across, down = (float(number) for number in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # 1 dpi is what readers say of files that name no unit.
    usable = all(math.isfinite(number) and 1 < number < 1e6 for number in (across, down))
    return (across, down) if usable else None


def options_for(metadata: Metadata, kind: str) -> tuple[dict[str, Any], list[str]]:
    """Return Pillow's options that write `metadata` into a file of that format, and notes on what is lost."""
    notes: list[str] = []
    if kind in ("BMP", "JPEG2000"):
        lost = metadata.exif is not None or metadata.xmp is not None
        return _with_dpi({}, metadata, kind), [f"{kind} holds no EXIF and no XMP; left out"] if lost else []
    exif, xmp = parse_exif(metadata.exif), metadata.xmp
    if kind in ("WEBP", "AVIF") and metadata.dpi is not None and 282 not in exif:
        exif[282], exif[283], exif[296] = *metadata.dpi, 2
    if xmp is not None and kind == "TIFF":
        exif[XMP] = xmp
    options: dict[str, Any] = {}
    if len(exif):
        exif[ORIENTATION] = 1
        data = exif.tobytes()
        if kind == "JPEG" and len(data) > _JPEG_EXIF:
            notes.append(f"JPEG holds no EXIF of {len(data)} bytes; left out")
        else:
            options["exif"] = exif if kind == "TIFF" else data
    if xmp is not None and kind != "TIFF":
        if kind == "JPEG" and len(xmp) > _JPEG_XMP:
            notes.append(f"JPEG holds no XMP of {len(xmp)} bytes; left out")
        elif kind == "PNG":
            options["pnginfo"] = _png_text(xmp)
        else:
            options["xmp"] = xmp
    return _with_dpi(options, metadata, kind), notes


def _with_dpi(options: dict[str, Any], metadata: Metadata, kind: str) -> dict[str, Any]:
    if metadata.dpi is not None and kind in ("PNG", "JPEG", "TIFF", "BMP"):
        options["dpi"] = metadata.dpi
    return options


def _png_text(xmp: bytes) -> object:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return text
