"""Colour profiles: pixels and profile always agree.

A profile stays where pixels stay in its space. Where they leave it (CMYK, Lab, a format without profiles)
littleCMS converts them to sRGB, and no profile is written: photos without one are shown as sRGB.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def space_of(profile: bytes | None) -> str | None:
    """Return the colour space a profile names: `RGB`, `GRAY`, `CMYK`, `Lab`; None if it cannot be told."""
    if profile is None or len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1").strip()


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Convert 8-bit pixels to sRGB by littleCMS.

    Args:
        image: of mode L, RGB, CMYK or LAB.
        profile: what the pixels mean; None for LAB, which means itself.

    Returns:
        An RGB image, and a note if the profile could not be used and the conversion was a plain one.
    """
    plain = f"{image.mode} without a usable colour profile is converted plainly"
    try:
        from PIL import ImageCms

        source: Any
        if image.mode == "LAB" and space_of(profile) != "Lab":
            source = ImageCms.createProfile("LAB")
        elif profile is None:
            return image.convert("RGB"), plain
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # noqa: BLE001
        # A damaged profile, one of another space, or a Pillow without littleCMS.
        return image.convert("RGB"), plain
    assert converted is not None
    # Pillow would write the sRGB profile that littleCMS leaves here, even with grey pixels.
    converted.info.pop("icc_profile", None)
    return converted, None


def agreeing(
    image: Image.Image, profile: bytes | None, *, has_profile: bool
) -> tuple[Image.Image, bytes | None]:
    """Return an image ready to be written and the profile to write with it.

    Args:
        image: of mode L, LA, RGB or RGBA, 8 bit.
        profile: of the photo it was made from, so `GRAY` profiles meet RGB pixels here.
        has_profile: whether the format can hold a profile.
    """
    space, is_grey = space_of(profile), image.mode in ("L", "LA")
    if profile is None or (has_profile and space in (None, "GRAY" if is_grey else "RGB")):
        return image, profile
    if space is None or space not in ("GRAY", "RGB"):
        return image, None
    alpha = image.getchannel("A") if "A" in image.mode else None
    colour = image.convert("L" if space == "GRAY" else "RGB")
    converted = to_srgb(colour, profile)[0].convert("L" if is_grey else "RGB")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, None


def levels_agree(channels: int, profile: bytes | None) -> bool:
    """Return whether a profile can stay with pixels of that many colour channels (1 or 3)."""
    return space_of(profile) in (None, "GRAY" if channels == 1 else "RGB")


def unpremultiplied(values: np.ndarray) -> np.ndarray:
    """Divide colour by alpha, the last channel; values are floats in [0, 1], h w c."""
    colour, alpha = values[..., :-1], values[..., -1:]
    colour = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
    return np.concatenate([colour.clip(0, 1), alpha], axis=-1)
