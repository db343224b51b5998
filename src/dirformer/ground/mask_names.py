"""Which file is the mask of which photo, by name alone: for `restore` and `evaluate` alike.

Masks lie in a folder of their own, as `NAME.png` or `NAME_mask001.png`, or among the photos, as
`NAME_mask001.png` beside `NAME.png`. Suffixes may differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dirformer.ground.places import Named, Place

_MASK = re.compile(r"_mask\d*$")


def is_mask_name(path: Path | Place) -> bool:
    """Return whether a file is named as a mask among photos is: `NAME_mask.png`, `NAME_mask001.png`."""
    return _MASK.search(path.stem) is not None


def split_masks(paths: Iterable[Named]) -> tuple[list[Named], list[Named]]:
    """Part photos from their masks in one list: `NAME_mask001.png` is the mask of `NAME.png` beside it."""
    every = list(paths)
    names = {(path.parent, path.stem) for path in every}
    photos: list[Named] = []
    masks: list[Named] = []
    for path in every:
        base = _MASK.sub("", path.stem)
        (masks if base != path.stem and (path.parent, base) in names else photos).append(path)
    return photos, masks


def masks_by_name(paths: Iterable[Named]) -> dict[str, Named]:
    """Return masks by the name of their photo: `NAME.png` or `NAME_mask001.png`, the first of several."""
    every = sorted(paths)
    found: dict[str, Named] = {}
    for path in every:
        found.setdefault(path.stem, path)
    for path in every:
        found.setdefault(_MASK.sub("", path.stem), path)
    return found
