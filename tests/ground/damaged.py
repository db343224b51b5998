"""Damaged copies of small photos of every format: cut, flipped bits, lies in headers."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from helpers import picture

DATA = Path(__file__).parent / "data"
LIES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\x80\0", b"\x01\0\0\0", b"\0\xff\xff\0")


def whole_files() -> dict[str, bytes]:
    """Small whole photos: the committed ones and one of each format and depth."""
    files = {path.name: path.read_bytes() for path in sorted(DATA.iterdir())}
    photo = picture(24, 18)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Acme"
    exif.get_ifd(0x8825)[1] = "N"
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"):
        buffer = io.BytesIO()
        options = {} if kind in ("BMP", "GIF", "JPEG2000") else {"exif": exif}
        photo.save(buffer, kind, **options)
        files[f"small.{kind.lower()}"] = buffer.getvalue()
    buffer = io.BytesIO()
    pillow_heif.from_pillow(photo).save(buffer, format="HEIF")
    files["small.heic"] = buffer.getvalue()
    buffer = io.BytesIO()
    photo.quantize(8).save(buffer, "GIF", save_all=True, append_images=[picture(24, 18, 1).quantize(8)])
    files["two.gif"] = buffer.getvalue()
    deep = (np.array(photo).astype(np.uint16) * 257).astype(np.uint16)
    files["deep.png"] = imagecodecs.png_encode(deep)
    for compression in (None, "zlib", "lzw"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, deep, photometric="rgb", compression=compression, tile=(16, 16))
        files[f"deep_{compression}.tif"] = buffer.getvalue()
    buffer = io.BytesIO()
    photo.convert("CMYK").save(buffer, "TIFF", compression="tiff_lzw")
    files["cmyk.tif"] = buffer.getvalue()
    return files


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield so many damaged copies, the same for a seed."""
    chance = random.Random(seed)
    for _ in range(count):
        copy = bytearray(data)
        how = chance.randrange(4)
        if how == 0:
            del copy[chance.randrange(len(copy)) :]
        elif how == 1:
            for _ in range(chance.randint(1, 8)):
                copy[chance.randrange(len(copy))] ^= 1 << chance.randrange(8)
        elif how == 2:
            # Most lies that matter stand near the beginning.
            place = chance.randrange(min(len(copy), 200))
            copy[place : place + 4] = chance.choice(LIES)
        else:
            place, length = chance.randrange(len(copy)), chance.randint(1, 40)
            copy[place : place + length] = chance.randbytes(length)
        yield bytes(copy)
