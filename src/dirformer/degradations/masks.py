"""LaMa's hole masks (Suvorov et al., WACV 2022): free-form strokes and boxes, as `mask_settings` says."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.base import choice, integer
from dirformer.degradations.mask_settings import Boxes, MaskSettings, Strokes
from dirformer.ground.errors import ConfigError

Plane = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


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
