"""Small pictures for the page, and masks that were painted on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import MAX_PIXELS
from dirformer.ground.mask import read_mask
from dirformer.ground.photo import Photo, read_photo

SIDE = 1600
"""Longest side of a picture on the page, in pixels; the download is the full size."""
CANVAS = 1024
"""Longest side of the picture that masks are painted on."""
PAINT = (255, 0, 0)
_QUALITY = 92
Extend = tuple[int, int, int, int]


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Return a size of the same shape whose longest side is at most `side`."""
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def shown(photo: Photo) -> Image.Image:
    """Return a photo as 8-bit RGB, laid on white where it is transparent."""
    pixels = photo.pixels
    if photo.alpha is not None:
        pixels = pixels * photo.alpha + (1 - photo.alpha)
    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(levels)


def preview(path: Path, side: int = SIDE, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as a picture whose longest side is at most `side`. Raises PhotoError as `read_photo`."""
    picture = shown(read_photo(path, max_pixels=max_pixels))
    return picture.resize(fitted(*picture.size, side), Image.Resampling.LANCZOS)


def before_and_after(
    photo: Path, result: Path, place: Path, extend: Extend = (0, 0, 0, 0)
) -> tuple[str, str]:
    """Write the photo and its result as pictures of one size into a folder; return their names."""
    after = shown(read_photo(result))
    whole = after.size
    after = after.resize(fitted(*whole, SIDE), Image.Resampling.LANCZOS)
    before = shown(read_photo(photo))
    if any(extend):
        left, top, right, bottom = extend
        canvas = Image.new("RGB", (before.width + left + right, before.height + top + bottom), "grey")
        canvas.paste(before, (left, top))
        before = canvas
    before = before.resize(after.size, Image.Resampling.BICUBIC)
    names = place / "before.jpg", place / "after.jpg"
    for name, picture in zip(names, (before, after), strict=True):
        picture.save(name, quality=_QUALITY)
    return str(names[0]), str(names[1])


def painted(layers: list[Any]) -> np.ndarray:
    """Return where any layer of a painting is half opaque or more, `h w` of bool.

    Raises:
        PhotoError: if nothing is painted.
    """
    masks = [np.asarray(layer)[..., 3] >= 128 for layer in layers if layer is not None]
    if not masks or not any(mask.any() for mask in masks):
        raise PhotoError("nothing is painted; paint over what is to be filled, or load a mask")
    return np.logical_or.reduce(masks)


def write_mask(mask: np.ndarray, size: tuple[int, int], path: Path, loaded: Path | None = None) -> Path:
    """Write a painted mask, white = hole: each pixel as painted, no blur.

    Args:
        mask: where paint is, `y x` of bool.
        size: width and height of the photo it is for.
        path: file to write.
        loaded: a mask whose holes are added, pixel by pixel.

    Raises:
        PhotoError: if the loaded mask cannot be read or has another size than the photo.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    if loaded is not None:
        picture = ImageChops.lighter(picture, _read(loaded, size))
    picture.save(path)
    return path


def with_holes(picture: Image.Image, mask: Path, size: tuple[int, int]) -> Image.Image:
    """Return a picture of a photo, red where a mask has holes.

    Args:
        picture: of the photo, of any size.
        mask: its file.
        size: width and height of the photo.

    Raises:
        PhotoError: if it is no mask or has another size than the photo.
    """
    holes = _read(mask, size).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", picture.size, PAINT), picture, holes)


def _read(mask: Path, size: tuple[int, int]) -> Image.Image:
    hole = read_mask(mask)
    height, width = hole.shape[1:]
    if (width, height) != size:
        raise PhotoError(
            f"the mask {mask.name} is {width}×{height} and the photo {size[0]}×{size[1]}; "
            "expected the same size"
        )
    return Image.fromarray((hole[0] * 255).byte().numpy())
