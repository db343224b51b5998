"""What a visitor of the page asks for → the same options that the command line has; torch is not needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirformer.ground import checks
from dirformer.ground.formats import FORMAT_SUFFIXES
from dirformer.inference.jobs import FileOptions, parse_extend
from dirformer.inference.options import RestoreOptions
from dirformer.inference.sizes import parse_box
from dirformer.tasks import TASKS
from dirformer.weights.catalog import OWN_SIZE, task_of

Number = int | float
"""What a field for numbers hands over."""
CHOOSE = "choose for me"
TASK_WORDS = (CHOOSE, *(task for task in (*TASKS, *OWN_SIZE) if task != "inpainting"))
"""What the page offers beside inpainting, which has a tab of its own."""
FORMATS = ("same", *FORMAT_SUFFIXES)
MAX_PIXELS = 33_000_000
"""The largest photo a page takes unless its owner says otherwise: one of a 33 megapixel camera."""
MOST_ENLARGED = 4
"""A result may have so many times the pixels that a photo may have."""
MOST_SAMPLES = 16


@dataclass(frozen=True)
class Limits:
    """What the owner of the page allows its visitors."""

    max_pixels: int = MAX_PIXELS
    """Of a photo; larger ones are refused from their header."""
    max_upload: int = 200_000_000
    """Bytes of a file."""
    max_memory: str | int | None = None
    """Beside the network, as in `RestoreOptions`; visitors may ask for less."""
    device: str = "auto"
    max_photos: int = 200
    """Of one batch."""
    scratch: Path | None = None
    """Folder for what is at work; None is the system's."""

    @property
    def max_result(self) -> int:
        """Pixels that a result may have."""
        return MOST_ENLARGED * self.max_pixels


@dataclass(frozen=True)
class Wishes:
    """One visitor's choices, as the page's fields give them."""

    task: str = CHOOSE
    sharp: bool = False
    size: str = ""
    """Empty, a factor such as `2` or `x2`, or a box such as `1920x`."""
    strength: Number = 1.0
    consistent: bool = False
    seed: Number = 0
    samples: Number = 1
    memory: str = ""
    """Empty, or an amount such as `2GiB`."""
    format: str = "same"
    quality: Number | None = None
    strip_metadata: bool = False
    dilate: Number = 0
    feather: Number = 0
    extend: str = ""
    """Empty, or `LEFT,TOP,RIGHT,BOTTOM` in pixels."""

    @property
    def task_word(self) -> str | None:
        """The word of the command line; None lets the photo decide. Raises ConfigError for another."""
        word = None if self.task in (CHOOSE, "") else self.task
        task_of(word)
        return word

    @property
    def seed_number(self) -> int:
        """The seed. Raises ConfigError if it is no whole number."""
        return checks.seed(_whole(self.seed))

    def restore_options(self, limits: Limits) -> RestoreOptions:
        """Return how to restore. Raises ConfigError."""
        asked = RestoreOptions(max_memory=self.memory.strip() or None)
        allowed = RestoreOptions(max_memory=limits.max_memory)
        bounds = [bound for bound in (asked.limit, allowed.limit) if bound is not None]
        return RestoreOptions(
            device=limits.device,
            max_memory=min(bounds, default=None),
            strength=self.strength,
            consistent=self.consistent,
            samples=checks.whole("samples", _whole(self.samples), 1, MOST_SAMPLES),
        )

    def file_options(self, limits: Limits) -> FileOptions:
        """Return how to read and write. Raises ConfigError."""
        scale, box = _scale_or_box(self.size)
        return FileOptions(
            quality=_whole(self.quality) or None,
            format=self.format,
            strip_metadata=self.strip_metadata,
            max_pixels=limits.max_pixels,
            dilate=_whole(self.dilate),
            feather=_whole(self.feather),
            extend=parse_extend(self.extend.strip() or None),
            scale=scale,
            box=box,
        )


def _scale_or_box(text: str) -> tuple[float | None, tuple[int | None, int | None] | None]:
    text = text.strip().replace("×", "x")
    if not text:
        return None, None
    factor = re.fullmatch(r"x?([0-9]{1,4}(?:\.[0-9]{1,4})?)x?", text, re.ASCII)
    # `x2` is a factor, `x1080` and `1920x` are pixels: no photo is 16 pixels, and no factor is more.
    if factor and (float(factor[1]) <= 16 or "x" not in text):
        return float(factor[1]), None
    return None, parse_box(text)


def _whole(value: Any) -> Any:
    """Return a field's 3.0 as 3, and anything else as it is: the options check it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
