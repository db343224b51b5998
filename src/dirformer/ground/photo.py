"""Photo file ↔ float tensor in [0, 1].

Photos are turned upright on reading. What the network does not need is remembered and written back: grey
stays grey, alpha stays alpha, 16 bit stay 16 bit; the colour profile, EXIF, XMP and resolution stay.
The stated rules are in docs/guides/photos.md.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.decode import Decoded, Origin, decode, decode_file, decode_image
from dirformer.ground.encode import check_output, encode_file, lacks_alpha
from dirformer.ground.errors import DirformerError, OutputError, PhotoError
from dirformer.ground.formats import MAX_PIXELS, WRITTEN
from dirformer.ground.metadata import Metadata
from dirformer.ground.paths import atomic_path


@dataclass(frozen=True)
class Photo:
    """A decoded photo: what the network sees, and what goes around it."""

    pixels: Float[Tensor, "3 h w"]
    """RGB in [0, 1]; a grey photo has three equal channels."""
    grey: bool = False
    alpha: Float[Tensor, "1 h w"] | None = None
    depth: int = 8
    """Bits a channel: 8 or 16."""
    icc_profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    origin: Origin = field(default_factory=Origin)
    """How the file was coded."""
    notes: tuple[str, ...] = ()
    """Lines on what reading has changed or left out."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


def read_photo(
    path: str | Path, page: int = 0, *, max_pixels: int = MAX_PIXELS, max_bytes: int | None = None
) -> Photo:
    """Read a photo upright.

    Args:
        path: the file.
        page: of a TIFF or an animation, from 0.
        max_pixels: larger photos are refused from their header.
        max_bytes: photos whose decoding needs more memory are refused from their header.

    Raises:
        PhotoError: if the file is missing, empty, damaged, not a photo, too large, or if nothing says what
            its values mean.
    """
    return _photo(decode_file(Path(path), page, max_pixels=max_pixels, max_bytes=max_bytes))


def photo_of(image: Image.Image) -> Photo:
    """Take an open picture of Pillow as `read_photo` takes a file. Raises PhotoError likewise."""
    if 0 in image.size:
        raise PhotoError(f"the picture is {image.width}×{image.height}; expected at least one pixel")
    return _photo(decode_image(image))


def _photo(decoded: Decoded) -> Photo:
    values = _floats(decoded.values)
    grey = values.shape[0] < 3
    colour = values[:1].expand(3, -1, -1) if grey else values[:3]
    return Photo(
        colour,
        grey=grey,
        alpha=values[-1:] if values.shape[0] in (2, 4) else None,
        depth=8 if decoded.values.dtype == np.uint8 else 16,
        icc_profile=decoded.profile,
        metadata=decoded.metadata,
        origin=decoded.origin,
        notes=decoded.notes,
    )


def _floats(values: np.ndarray) -> Float[Tensor, "c h w"]:
    """Scale levels to [0, 1]; float32 holds all levels of 8 and 16 bit exactly."""
    if values.dtype == np.uint16:
        values = values.astype(np.float32) / np.float32(65535)
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    return tensor if tensor.dtype == torch.float32 else tensor.float() / 255


def read_rgb(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """Read a photo as upright 8-bit RGB: data for training and scores. Raises PhotoError as `read_photo`."""
    return _rgb(decode_file(Path(path)))


def decode_rgb(data: bytes, name: str) -> UInt8[Tensor, "3 h w"]:
    """Decode the bytes of a photo file as `read_rgb` does; PhotoError calls it `name`."""
    return _rgb(decode(io.BytesIO(data), name))


def _rgb(decoded: Decoded) -> UInt8[Tensor, "3 h w"]:
    values = decoded.values
    if values.dtype == np.uint8:
        # Training reads little else, and the way through floats takes longer than decoding a JPEG.
        tensor = torch.from_numpy(values).permute(2, 0, 1)
    else:
        tensor = (_floats(values) * 255).round().byte()
    return tensor[:1].repeat(3, 1, 1) if tensor.shape[0] < 3 else tensor[:3]


def write_photo(
    path: Path,
    photo: Photo,
    *,
    quality: int | None = None,
    strip_metadata: bool = False,
    before: Callable[[Path], None] | None = None,
) -> tuple[str, ...]:
    """Write `photo` in the format of the suffix, through a temporary name.

    Values are clamped to [0, 1] and rounded to the photo's depth, or to 8 bit where the format holds no
    more. Where a format has no alpha (JPEG, BMP) the photo is laid on white.

    Args:
        path: file to write.
        photo: what to write.
        quality: 1 to 100, of JPEG, WebP and AVIF. None: a JPEG is coded as the JPEG it came from, WebP is
            lossy if it came from a lossy WebP; other JPEG and AVIF are of quality 95, other WebP lossless.
        strip_metadata: leave EXIF, XMP and resolution out; the colour profile stays.
        before: called with the temporary file when it is whole, before it gets its name; if it raises,
            nothing is written.

    Returns:
        Lines on what the format could not hold.

    Raises:
        OutputError: if the suffix names no known format, the format cannot hold the photo, or the file
            cannot be written.
    """
    height, width = photo.size
    notes = check_output(path, width, height, depth=photo.depth, alpha=photo.alpha is not None)
    kind = WRITTEN[path.suffix.lower()]
    levels = _levels(photo, kind)
    metadata = Metadata() if strip_metadata else photo.metadata
    with atomic_path(path) as part:
        try:
            notes += encode_file(
                part,
                kind,
                levels,
                profile=photo.icc_profile,
                metadata=metadata,
                origin=photo.origin,
                quality=quality,
            )
        except (DirformerError, OSError):
            raise
        except Exception as error:
            # Encoders raise as many kinds of errors as decoders do.
            what = " ".join(str(error).split())[:120] or type(error).__name__
            raise OutputError(f"{path} cannot be written: {what}; try --format png") from error
        if before is not None:
            before(part)
    return tuple(notes)


def _levels(photo: Photo, kind: str) -> np.ndarray:
    colour = photo.pixels[:1] if photo.grey else photo.pixels
    if photo.alpha is not None:
        if lacks_alpha(kind):
            colour = colour * photo.alpha + (1 - photo.alpha)
        else:
            colour = torch.cat([colour, photo.alpha])
    deep = photo.depth == 16 and kind in ("PNG", "TIFF")
    values = (colour.clamp(0, 1) * (65535 if deep else 255)).round().permute(1, 2, 0).contiguous()
    return values.cpu().numpy().astype(np.uint16 if deep else np.uint8)


def fill_transparent(pixels: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 h w"]:
    """Replace colours that nobody sees (alpha = 0) by those of visible pixels around them.

    A network mixes neighbours: a dark colour beneath transparency would become a dark fringe. Colours are
    averaged to ever coarser grids, weighted by alpha, and holes are filled from the finest grid that knows.
    What was there before has no influence.
    """
    if not bool((alpha == 0).any()) or not bool((alpha > 0).any()):
        return pixels
    levels = [(pixels * alpha, alpha)]
    while min(levels[-1][1].shape[1:]) > 1 or max(levels[-1][1].shape[1:]) > 1:
        levels.append(
            tuple(F.avg_pool2d(t[None], 2, ceil_mode=True, count_include_pad=False)[0] for t in levels[-1])  # type: ignore[arg-type]
        )
    filled: Tensor | None = None
    for colour, weight in reversed(levels):
        own = colour / weight.clamp(min=1e-8)
        if filled is not None:
            size = weight.shape[1:]
            coarse = F.interpolate(filled[None], size=size, mode="bilinear", align_corners=False)[0]
            own = torch.where(weight > 0, own, coarse)
        filled = own
    assert filled is not None
    return torch.where(alpha > 0, pixels, filled.clamp(0, 1))


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
