"""How hole masks are drawn, by name and photo size: LaMa's published settings. Nothing here imports torch.

The counts follow the released generators, whose limits are partly inclusive, so a setting of 5 strokes can
draw 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from dirformer.ground.errors import ConfigError


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


PAPER_NAMES = {"narrow": "thin", "wide": "thick"}
"""The paper's names of LaMa's settings."""


def mask_kind(name: str) -> str:
    """Return the name that settings are kept under: `narrow` is `thin`, `wide` is `thick`."""
    return PAPER_NAMES.get(name, name)


def mask_settings(name: str, size: int) -> MaskSettings:
    """Return the published settings of that name and size; ConfigError lists what there is."""
    if (mask_kind(name), size) not in MASKS:
        known = ", ".join(f"{kind} {side}" for kind, side in MASKS)
        raise ConfigError(
            f"no mask settings {name} {size}; there are: {known}; narrow is thin, wide is thick"
        )
    return MASKS[mask_kind(name), size]


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
"""Name and photo side → settings."""
