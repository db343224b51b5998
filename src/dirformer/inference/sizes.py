"""How large a result becomes: a factor, or a box to fit in; torch is not needed for it."""

from __future__ import annotations

import re

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError, PhotoError

MOST = 16.0
"""The largest factor; beyond it nothing but interpolation is left."""
MOST_SIDE = 999_999
"""Pixels of a box."""
Box = tuple[int | None, int | None]
"""Width and height in pixels that a result must fit in; None is free."""


def checked_scale(scale: float | None) -> float | None:
    """Return a factor. Raises ConfigError for one outside of (0, 16]; None stays None."""
    if scale is None:
        return None
    expected = f"a factor above 0 and at most {MOST:g}, such as 2"
    return checks.number("scale", scale, lambda factor: 0 < factor <= MOST, expected)


def checked_box(box: Box | None) -> Box | None:
    """Return width and height to fit in. Raises ConfigError for what is no such pair; None stays None."""
    if box is None:
        return None
    if not isinstance(box, tuple | list) or len(box) != 2 or (box[0] is None and box[1] is None):
        raise checks.refused("box", box, "(width, height) in pixels, one of them may be None")
    width, height = (
        None if side is None else checks.whole("a side of box", side, 1, MOST_SIDE, of="pixels")
        for side in box
    )
    return width, height


def parse_box(text: str | None) -> Box | None:
    """Read `1920x` (width), `x1080` (height) or `1920x1080` (both, to fit inside).

    Raises:
        ConfigError: for anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{0,6})[x×X]([0-9]{0,6})", text.strip(), re.ASCII)
    sides = [int(side) if side else None for side in match.groups()] if match else [None, None]
    if sides == [None, None] or 0 in sides:
        raise ConfigError(f"--size is {text[:40]!r}; expected 1920x, x1080 or 1920x1080 in pixels")
    return sides[0], sides[1]


def factor_for(scale: float | None, box: Box | None, width: int, height: int) -> float | None:
    """Return the factor for a photo of that size in pixels; None if nothing was asked for.

    Raises:
        PhotoError: if the box asks for more than the largest factor.
    """
    if box is None:
        return scale
    sides = [wanted / has for wanted, has in zip(box, (width, height), strict=True) if wanted is not None]
    factor = min(sides)
    if factor > MOST:
        raise PhotoError(
            f"a photo of {width}×{height} would be enlarged ×{factor:.1f}; expected at most ×{MOST:g}: "
            "give a smaller --size"
        )
    return factor


def target_size(factor: float, width: int, height: int) -> tuple[int, int]:
    """Return width and height of the result: rounded to whole pixels, at least one."""
    return max(1, round(factor * width)), max(1, round(factor * height))
