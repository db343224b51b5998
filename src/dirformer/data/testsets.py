"""Reproducible test sets: degraded photos and masks, with a manifest that says how each was made.

    OUT/lq/NAME.png  OUT/gt/NAME.png  OUT/manifest.jsonl      degrade
    OUT/NAME.png     OUT/manifest.jsonl                       masks

The manifest's first line is the settings, then there is one line per photo with all that was drawn for
it. What a photo becomes depends on the seed, the settings and its name, not on the other photos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dirformer.data.folders import by_name, find_photos, pick_photos
from dirformer.data.manifest import Manifest
from dirformer.degradations.base import integer
from dirformer.degradations.mask_settings import MaskSettings, mask_kind, mask_settings
from dirformer.degradations.masks import draw_mask
from dirformer.degradations.motion import average_frames
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError, DataError, DirformerError
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import Photo, read_rgb, write_photo

CLASH = "would both become {name}.png; rename one"
"""What to say of two photos whose results would be one file."""


@dataclass(frozen=True)
class Made:
    """What became of one photo of a test set."""

    name: str
    kept: bool = False
    """It was there from an earlier run."""
    error: DirformerError | None = None


def degrade_photos(
    source: Path,
    out: Path,
    kind: str,
    *,
    scale: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[Made]:
    """Degrade the photos of a folder or list into a test set, one record each.

    Photos are cut to a multiple of the scale, as the benchmarks do. A damaged photo is reported and left
    out; the others go on. Run again, photos that are there already are kept.

    Args:
        source: folder or list file of clean photos.
        out: folder of the test set.
        kind: name of the degradation; see `degradations.table.DEGRADATIONS`.
        scale: GT size over LQ size; None takes the kind's first.
        seed: another seed is another test set.
        overwrite: make everything anew.

    Raises:
        ConfigError: for an unknown kind or scale.
        DataError: if there are no photos, or two of the same name.
        OutputError: if `out` holds a test set of other settings.
    """
    degrade = degradation(kind, scale)
    photos = by_name(find_photos(source), CLASH)
    header = {"degradation": kind, "scale": degrade.scale, "seed": seed, "settings": _settings(degrade)}
    manifest = Manifest(out, header, overwrite=overwrite)

    def make() -> Iterator[Made]:
        for name, path in photos.items():
            files = out / "lq" / f"{name}.png", out / "gt" / f"{name}.png"
            if manifest.has(name, files):
                yield Made(name, kept=True)
                continue
            try:
                gt = read_rgb(path).float() / 255
                height, width = (side - side % degrade.scale for side in gt.shape[1:])
                if min(height, width) == 0:
                    raise DataError(f"{path} is smaller than the scale, {degrade.scale}; take it out")
                gt = gt[:, :height, :width]
                (draws,) = degrade.draw([seeded_generator(seed, kind, name)], (height, width))
                lq = degrade.apply(gt[None], [draws])[0]
                for file, pixels in zip(files, (lq, gt), strict=True):
                    write_photo(file, Photo(pixels))
            except DirformerError as error:
                yield Made(name, error=error)
                continue
            manifest.write(name, source=path.name, parameters=asdict(draws))
            yield Made(name)

    return make()


def average_clips(source: Path, out: Path, *, frames: int, overwrite: bool = False) -> Iterator[Made]:
    """Average successive frames into blurred photos; the middle frame is the GT, as in the GoPro set.

    Args:
        source: folder of one clip's frames, in the order of their names.
        out: folder of the test set.
        frames: how many make one photo, odd.
        overwrite: make everything anew.

    Raises:
        ConfigError: if `frames` is even.
        DataError: if there are fewer frames than that.
        OutputError: if `out` holds a test set of other settings.
    """
    if frames % 2 == 0:
        raise ConfigError(f"{frames} frames have no middle one; give an odd number")
    paths = find_photos(source)
    if len(paths) < frames:
        raise DataError(f"{source} has {len(paths)} frames; expected at least {frames}")
    manifest = Manifest(out, {"degradation": "frames", "scale": 1, "frames": frames}, overwrite=overwrite)

    def make() -> Iterator[Made]:
        for first in range(0, len(paths) - frames + 1, frames):
            clip = paths[first : first + frames]
            name = clip[frames // 2].stem
            files = out / "lq" / f"{name}.png", out / "gt" / f"{name}.png"
            if manifest.has(name, files):
                yield Made(name, kept=True)
                continue
            try:
                blurred = average_frames(read_rgb(path).float() / 255 for path in clip)
                write_photo(files[0], Photo(blurred))
                write_photo(files[1], Photo(read_rgb(clip[frames // 2]).float() / 255))
            except DirformerError as error:
                yield Made(name, error=error)
                continue
            manifest.write(name, source=[path.name for path in clip])
            yield Made(name)

    return make()


def make_masks(
    out: Path, kind: str, size: int, count: int, *, seed: int = 0, overwrite: bool = False
) -> Iterator[Made]:
    """Draw a fixed set of masks, white where the hole is: mask_00000.png and so on.

    Raises:
        ConfigError: for unknown settings.
        OutputError: if `out` holds a set of other settings.
    """
    kind, settings = mask_kind(kind), mask_settings(kind, size)
    manifest = Manifest(
        out, {"masks": kind, "size": size, "seed": seed, "settings": asdict(settings)}, overwrite=overwrite
    )

    def make() -> Iterator[Made]:
        for number in range(count):
            name = f"mask_{number:05}"
            if manifest.has(name, [out / f"{name}.png"]):
                yield Made(name, kept=True)
                continue
            mask = draw_mask(settings, seeded_generator(seed, "mask", kind, size, number))
            _write_mask(out / f"{name}.png", mask)
            manifest.write(name, hole=round(float(mask.mean()), 6))
            yield Made(name)

    return make()


def mask_photos(
    source: Path,
    out: Path,
    kind: str,
    size: int,
    *,
    pick: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[Made]:
    """Make an inpainting test set of photos: OUT/gt/NAME.png and OUT/masks/NAME.png, `size` square.

    As LaMa's test sets were made: the shorter side is resized to `size`, five masks are drawn on the
    photo, each is cut out in a square around its hole, those with more than half hole are dropped, and
    one of the others is picked. `pick` takes that many of the photos, always the same (`pick_photos`).

    Raises:
        ConfigError: for unknown settings, or if there are fewer photos than `pick`.
        DataError: if there are no photos, or two of the same name.
        OutputError: if `out` holds a set of other settings.
    """
    kind, settings = mask_kind(kind), mask_settings(kind, size)
    photos = by_name(pick_photos(find_photos(source), pick), CLASH)
    header = {"masks": kind, "size": size, "seed": seed, "settings": asdict(settings)}
    manifest = Manifest(out, header | ({} if pick is None else {"pick": pick}), overwrite=overwrite)

    def make() -> Iterator[Made]:
        for name, path in photos.items():
            files = out / "gt" / f"{name}.png", out / "masks" / f"{name}.png"
            if manifest.has(name, files):
                yield Made(name, kept=True)
                continue
            try:
                photo = _shorter_side(read_rgb(path), size)
                mask, (top, left) = _mask_for(photo, settings, seeded_generator(seed, kind, size, name))
                crop = photo[:, top : top + size, left : left + size].float() / 255
                write_photo(files[0], Photo(crop))
                _write_mask(files[1], mask)
            except DirformerError as error:
                yield Made(name, error=error)
                continue
            hole = round(float(mask.mean()), 6)
            manifest.write(name, source=path.name, crop=[top, left], hole=hole)
            yield Made(name)

    return make()


def _mask_for(
    photo: Tensor, settings: MaskSettings, generator: torch.Generator
) -> tuple[Tensor, tuple[int, int]]:
    """Return a mask `1 size size` and the place in the photo that it was drawn for."""
    size, (height, width) = settings.size, photo.shape[1:]
    anything = MaskSettings(size, settings.strokes, settings.boxes, settings.box_weight, largest=None)
    for _ in range(100):
        kept = []
        for _ in range(5):
            mask = draw_mask(anything, generator, (height, width))
            top = _around(mask[0].any(dim=1), size)
            left = _around(mask[0].any(dim=0), size)
            cut = mask[:, top : top + size, left : left + size]
            if float(cut.mean()) <= (settings.largest or 1.0):
                kept.append((cut, (top, left)))
        if kept:
            return kept[integer(generator, len(kept))]
    raise ConfigError(f"masks are too large for photos of {width}×{height}")


def _around(line: Tensor, size: int) -> int:
    """Return where a window of `size` starts that is centred on the marked part of a line."""
    marked = line.nonzero()
    middle = int(marked[0] + marked[-1] + 1) // 2 if len(marked) else len(line) // 2
    return min(max(middle - size // 2, 0), len(line) - size)


def _shorter_side(photo: Tensor, size: int) -> Tensor:
    height, width = photo.shape[1:]
    factor = size / min(height, width)
    new = max(size, round(width * factor)), max(size, round(height * factor))
    image = Image.fromarray(photo.permute(1, 2, 0).numpy()).resize(new, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _write_mask(path: Path, mask: Tensor) -> None:
    with atomic_path(path) as part:
        Image.fromarray((mask[0] * 255).byte().numpy()).save(part, format="PNG")


def _settings(value: Any) -> dict[str, Any]:
    return {"class": type(value).__name__, **asdict(value)}
