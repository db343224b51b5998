"""LaMa's hole masks (Suvorov et al., WACV 2022): free-form strokes and boxes.

`MASKS` holds the published settings. The counts follow the released generators, whose limits are partly
inclusive, so a setting of 5 strokes can draw 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.base import choice, integer
from dirformer.ground.errors import ConfigError

Plane = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Strokes:
    """Free-form strokes of one to five straight pieces each."""

    times: tuple[int, int]
    """Fewest strokes, and one less than the most."""
    width: int
    """A stroke is 5 … 4 + width pixels wide."""
    length: int
    """A piece is 10 … 9 + length pixels long."""
    angle: int = 4
    """A piece points in one of this many directions, about 1 radian apart."""


@dataclass(frozen=True)
class Boxes:
    """Upright rectangles."""

    times: tuple[int, int]
    side: tuple[int, int]
    """Smallest and largest side in pixels."""
    margin: int = 0
    """Distance from the border in pixels."""


@dataclass(frozen=True)
class MaskSettings:
    """Which of the two kinds a mask is of, and how they are drawn."""

    size: int
    """The side of the square photos that the settings are meant for."""
    strokes: Strokes
    boxes: Boxes | None
    box_weight: float
    """Against a weight of 1 of strokes."""
    largest: float | None
    """Masks with a larger share of hole are drawn again; None keeps all."""


def draw_mask(
    settings: MaskSettings, generator: torch.Generator, size: tuple[int, int] | None = None
) -> Float[Tensor, "1 h w"]:
    """Draw a mask, 1 in the hole, of `size` (height, width) or of the settings' own.

    Raises:
        ConfigError: if a hundred masks in a row had too much hole.
    """
    height, width = size or (settings.size, settings.size)
    for _ in range(100):
        mask = np.zeros((height, width), dtype=np.bool_)
        if settings.boxes is not None and choice((1.0, settings.box_weight), generator) == 1:
            _draw_boxes(mask, settings.boxes, generator)
        else:
            _draw_strokes(mask, settings.strokes, generator)
        if settings.largest is None or mask.mean() <= settings.largest:
            return torch.from_numpy(mask).float()[None]
    raise ConfigError(
        f"strokes are too large for a mask of {width}×{height} with {settings.largest} hole at most"
    )


def draw_window(
    settings: MaskSettings, generator: torch.Generator, side: int, most: float = 0.75
) -> Float[Tensor, "1 side side"]:
    """Draw a mask for a crop of `side` pixels: a window of a mask of the settings' own size.

    So holes have the size they have in whole photos. Windows without a hole or with more than `most` of it
    are drawn again, a few times.
    """
    if side >= settings.size:
        return draw_mask(settings, generator, (side, side))
    for _ in range(8):
        mask = draw_mask(settings, generator)
        top, left = (integer(generator, settings.size - side + 1) for _ in range(2))
        window = mask[:, top : top + side, left : left + side]
        if 0 < float(window.mean()) <= most:
            break
    return window.contiguous()


def _draw_strokes(mask: Plane, strokes: Strokes, generator: torch.Generator) -> None:
    height, width = mask.shape
    low, high = strokes.times
    for number in range(low + integer(generator, high + 2 - low)):
        x, y = integer(generator, width), integer(generator, height)
        for _ in range(1 + integer(generator, 5)):
            angle = 0.01 + integer(generator, strokes.angle)
            if number % 2 == 0:
                angle = 2 * math.pi - angle
            length, thick = 10 + integer(generator, strokes.length), 5 + integer(generator, strokes.width)
            end_x = min(max(int(x + length * math.sin(angle)), 0), width)
            end_y = min(max(int(y + length * math.cos(angle)), 0), height)
            _draw_line(mask, (x, y), (end_x, end_y), thick)
            x, y = end_x, end_y


def _draw_line(mask: Plane, start: tuple[int, int], end: tuple[int, int], width: int) -> None:
    """Draw a line with round ends.

    It is a pixel wider than its name says: the published masks are drawn by OpenCV, which fills the pixels
    on both edges.
    """
    reach = (width + 1) / 2
    left, right = (int(f(start[0], end[0]) + s * (reach + 1)) for f, s in ((min, -1), (max, 1)))
    top, bottom = (int(f(start[1], end[1]) + s * (reach + 1)) for f, s in ((min, -1), (max, 1)))
    left, top = max(left, 0), max(top, 0)
    part = mask[top : bottom + 1, left : right + 1]
    x = np.arange(left, left + part.shape[1], dtype=np.float32) - start[0]
    y = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - start[1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1), 0, 1)
    part |= (x - along * dx) ** 2 + (y - along * dy) ** 2 <= reach * reach


def _draw_boxes(mask: Plane, boxes: Boxes, generator: torch.Generator) -> None:
    height, width = mask.shape
    low, high = boxes.times
    for _ in range(low + integer(generator, high + 1 - low)):
        sides = []
        for length in (width, height):
            most = min(boxes.side[1] + 1, length - 2 * boxes.margin)
            side = boxes.side[0] + integer(generator, max(1, most - boxes.side[0]))
            start = boxes.margin + integer(generator, max(1, length - boxes.margin - side + 1 - boxes.margin))
            sides.append(slice(start, start + side))
        mask[sides[1], sides[0]] = True


def mask_settings(name: str, size: int) -> MaskSettings:
    """Return the published settings of that name and size; ConfigError lists what there is."""
    if (name, size) not in MASKS:
        known = ", ".join(f"{kind} {side}" for kind, side in MASKS)
        raise ConfigError(f"no mask settings {name} {size}; there are: {known}")
    return MASKS[name, size]


def _test(size: int, strokes: Strokes, boxes: Boxes | None = None) -> MaskSettings:
    return MaskSettings(size, strokes, boxes, box_weight=0.3 if boxes else 0.0, largest=0.5)


MASKS: dict[tuple[str, int], MaskSettings] = {
    ("thin", 256): _test(256, Strokes((4, 50), width=10, length=40)),
    ("medium", 256): _test(256, Strokes((4, 5), width=50, length=100), Boxes((1, 5), (10, 50))),
    ("thick", 256): _test(256, Strokes((1, 5), width=100, length=200), Boxes((1, 3), (30, 150), margin=10)),
    ("thin", 512): _test(512, Strokes((4, 70), width=20, length=100)),
    ("medium", 512): _test(512, Strokes((4, 10), width=100, length=200), Boxes((1, 5), (30, 150))),
    ("thick", 512): _test(512, Strokes((1, 5), width=250, length=450), Boxes((1, 4), (30, 300), margin=10)),
    ("training", 256): MaskSettings(
        256,
        Strokes((1, 5), width=100, length=200),
        Boxes((1, 4), (30, 150), margin=10),
        box_weight=1.0,
        largest=None,
    ),
    # Not LaMa's: the scratches of old prints, and holes small enough to begin learning with.
    ("scratches", 256): _test(256, Strokes((10, 50), width=4, length=60)),
    ("scratches", 512): _test(512, Strokes((10, 80), width=8, length=120)),
}
"""Name and photo side → settings; the paper's narrow masks are thin, its wide ones thick."""
