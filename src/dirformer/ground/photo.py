"""Photo file ↔ float tensor in [0, 1].

Photos are turned upright on reading (EXIF orientation). What the network does not need is remembered and
written back: grey stays grey, alpha stays alpha, the colour profile stays, 16-bit grey stays 16-bit.
Pillow reads 16-bit colour as 8-bit; that loss is the one exception.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dirformer.ground.errors import OutputError, PhotoError
from dirformer.ground.paths import atomic_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""File names taken for photos, in any case; nothing else is opened when a folder is given."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
EXIF_ORIENTATION = 0x0112
"""Decoders that are allowed to run, whatever a file is called."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo: what the network sees, and what goes around it."""

    pixels: Float[Tensor, "3 h w"]
    """RGB in [0, 1]; a grey photo has three equal channels."""
    grey: bool = False
    alpha: Float[Tensor, "1 h w"] | None = None
    depth: int = 8
    """Bits per channel in the file: 8, or 16 (grey only)."""
    icc_profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


def read_photo(path: Path) -> Photo:
    """Read a photo upright.

    Raises:
        PhotoError: if the file is missing, empty, damaged, not a photo, or larger than Pillow's limit of
            179 million pixels.
    """
    return _photo(_open(path))


def _photo(image: Image.Image) -> Photo:
    profile = image.info.get("icc_profile")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = torch.from_numpy(np.asarray(image, dtype=np.float32) / np.float32(65535)).clamp(0, 1)
        return Photo(values.expand(3, -1, -1), grey=True, depth=16, icc_profile=profile)
    if image.mode in ("1", "F"):
        image = image.convert("L")
    if image.mode in ("P", "PA") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        # CMYK, YCbCr, Lab …: shown as RGB; the old profile describes other colours.
        image, profile = image.convert("RGB"), None
    values = _tensor(image).float() / 255
    grey = image.mode in ("L", "LA")
    colour = values[:1].expand(3, -1, -1) if grey else values[:3]
    alpha = values[-1:] if image.mode in ("LA", "RGBA") else None
    return Photo(colour, grey=grey, alpha=alpha, icc_profile=profile)


def read_rgb(path: Path) -> UInt8[Tensor, "3 h w"]:
    """Read a photo as upright 8-bit RGB: data for training and scores. Raises PhotoError as `read_photo`."""
    return _rgb(_open(path))


def decode_rgb(data: bytes, name: str) -> UInt8[Tensor, "3 h w"]:
    """Decode the bytes of a photo file as `read_rgb` does; PhotoError calls it `name`."""
    return _rgb(_upright(io.BytesIO(data), name))


def _rgb(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    if image.mode == "RGB":
        # Training reads little else, and the way through floats takes longer than decoding a JPEG.
        return _tensor(image)
    return (_photo(image).pixels * 255).round().byte()


def photo_size(path: Path) -> tuple[int, int]:
    """Return width and height of the upright photo, from its header; PhotoError if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise PhotoError(f"{path} cannot be read as a photo") from None
    return (height, width) if turned else (width, height)


def read_mask(path: Path) -> Float[Tensor, "1 h w"]:
    """Read a mask: 1 (hole) where the grey value is above 0, else 0."""
    return _tensor(_open(path).convert("L")).gt(0).float()


def write_photo(path: Path, photo: Photo) -> None:
    """Write `photo` in the format of the suffix, through a temporary name.

    Values are clamped to [0, 1] and rounded to the photo's depth. JPEG is written at quality 95 without
    chroma subsampling; where a format has no alpha (JPEG, BMP) the photo is laid on white.

    Raises:
        OutputError: if the suffix names no known format or the file cannot be written.
    """
    check_suffix(path)
    image = _image(photo, has_alpha=path.suffix.lower() not in (".jpg", ".jpeg", ".bmp"))
    options: dict[str, object] = {} if photo.icc_profile is None else {"icc_profile": photo.icc_profile}
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options |= {"quality": 95, "subsampling": 0}
        image = image.convert("L") if image.mode.startswith("I") else image
    elif path.suffix.lower() == ".webp":
        options |= {"lossless": True}
        image = image.convert("RGBA" if "A" in image.mode else "RGB")
    file_format = Image.registered_extensions()[path.suffix.lower()]
    with atomic_path(path) as part:
        image.save(part, format=file_format, **options)


def check_suffix(path: Path) -> None:
    """Raise OutputError unless the suffix names a format that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} has no photo suffix; expected one of {', '.join(SUFFIXES)}")


def list_photos(folder: Path) -> list[Path]:
    """Return the photos of a folder, by name; not of folders below it."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def turned(photo: Shaped[Tensor, "c h w"], turn: int) -> Shaped[Tensor, "c y x"]:
    """Return one of a photo's eight turns: by `turn` quarters, from 4 on then flipped left to right."""
    photo = torch.rot90(photo, turn % 4, (1, 2))
    return photo.flip(2) if turn >= 4 else photo


def turned_back(photo: Shaped[Tensor, "c h w"], turn: int) -> Shaped[Tensor, "c y x"]:
    """Undo `turned`."""
    return torch.rot90(photo.flip(2) if turn >= 4 else photo, -(turn % 4), (1, 2))


def side_by_side(photos: Iterable[Float[Tensor, "3 h w"]], gap: int = 8) -> Float[Tensor, "3 h W"]:
    """Join photos of one height to a strip with white gaps, for people to look at."""
    panels: list[Tensor] = []
    for photo in photos:
        if panels:
            panels.append(photo.new_ones(3, photo.shape[1], gap))
        panels.append(photo)
    return torch.cat(panels, dim=2)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise PhotoError(f"{path} is not there; give the name of a photo")
    if path.stat().st_size == 0:
        raise PhotoError(f"{path} is empty (0 bytes); expected a photo")
    return _upright(path, str(path))


def _upright(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Damaged metadata and large photos only warn; pixels decide. The hard limit is still an error.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        kinds = "PNG, JPEG, WebP, TIFF or BMP"
        raise PhotoError(f"{name} is not a photo that can be read; expected {kinds}") from None
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{name} is too large: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise PhotoError(f"{name} is damaged and cannot be decoded: {error}") from None


def _tensor(image: Image.Image) -> UInt8[Tensor, "c h w"]:
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _image(photo: Photo, *, has_alpha: bool) -> Image.Image:
    colour = photo.pixels[:1] if photo.grey else photo.pixels
    if photo.depth == 16:
        values = (colour[0].clamp(0, 1) * 65535).round().numpy().astype(np.uint16)
        return Image.fromarray(values)
    if photo.alpha is not None:
        colour = torch.cat([colour, photo.alpha]) if has_alpha else colour * photo.alpha + (1 - photo.alpha)
    values = (colour.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
