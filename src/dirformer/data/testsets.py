"""Reproducible test sets: degraded photos and masks, with a manifest that says how each was made.

    OUT/lq/NAME.png  OUT/gt/NAME.png  OUT/manifest.jsonl      degrade
    OUT/NAME.png     OUT/manifest.jsonl                       masks

The manifest's first line is the settings, then there is one line per photo with all that was drawn for
it. What a photo becomes depends on the seed, the settings and its name, not on the other photos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
from dirformer.ground.places import Named

CLASH = "would both become {name}.png; rename one"
"""What to say of two photos whose results would be one file."""


@dataclass(frozen=True)
class Made:
    """What became of one photo of a test set."""

    name: str
    kept: bool = False
    """It was there from an earlier run."""
    error: DirformerError | None = None


class SetKind(ABC):
    """What is made of each photo of a test set."""

    folders: tuple[str, ...]
    """Each has a file NAME.png of every photo."""

    @property
    @abstractmethod
    def header(self) -> dict[str, Any]:
        """The settings, for the manifest."""

    def grouped(self, photos: list[Named]) -> dict[str, list[Named]]:
        """Return which photos become which name. Raises DataError for two of one name."""
        return {name: [photo] for name, photo in by_name(photos, CLASH).items()}

    def files(self, name: str) -> list[str]:
        """Return the files of a name, relative to the test set's folder."""
        return [f"{folder}/{name}.png" for folder in self.folders]

    @abstractmethod
    def make(self, name: str, photos: Sequence[Path], out: Path) -> dict[str, Any]:
        """Write the files of a name; return what the manifest says of it. Raises DirformerError."""

    def made(self, out: Path, photos: list[Path], *, overwrite: bool) -> Iterator[Made]:
        """Make the test set, one record each; what is there is kept, and a damaged photo is left out."""
        groups = self.grouped(photos)
        manifest = Manifest(out, self.header, overwrite=overwrite)

        def make() -> Iterator[Made]:
            for name, group in groups.items():
                if manifest.has(name, [out / file for file in self.files(name)]):
                    yield Made(name, kept=True)
                    continue
                try:
                    values = self.make(name, group, out)
                except DirformerError as error:
                    yield Made(name, error=error)
                    continue
                manifest.write(name, **values)
                yield Made(name)

        return make()


class Degraded(SetKind):
    """Photos cut to a multiple of the scale, as the benchmarks do, and degraded: lq/NAME.png, gt/NAME.png.

    Args:
        kind: name of the degradation; see `degradations.table.DEGRADATIONS`.
        scale: GT size over LQ size; None takes the kind's first.
        seed: another seed is another test set.

    Raises:
        ConfigError: for an unknown kind or scale.
    """

    folders = ("lq", "gt")

    def __init__(self, kind: str, scale: int | None = None, seed: int = 0) -> None:
        self.kind, self.seed = kind, seed
        self._degrade = degradation(kind, scale)

    @property
    def header(self) -> dict[str, Any]:
        scale, settings = self._degrade.scale, _settings(self._degrade)
        return {"degradation": self.kind, "scale": scale, "seed": self.seed, "settings": settings}

    def make(self, name: str, photos: Sequence[Path], out: Path) -> dict[str, Any]:
        (path,), degrade = photos, self._degrade
        gt = read_rgb(path).float() / 255
        height, width = (side - side % degrade.scale for side in gt.shape[1:])
        if min(height, width) == 0:
            raise DataError(f"{path} is smaller than the scale, {degrade.scale}; take it out")
        gt = gt[:, :height, :width]
        (draws,) = degrade.draw([seeded_generator(self.seed, self.kind, name)], (height, width))
        lq = degrade.apply(gt[None], [draws])[0]
        for file, pixels in zip(self.files(name), (lq, gt), strict=True):
            write_photo(out / file, Photo(pixels))
        return {"source": path.name, "parameters": asdict(draws)}


class Averaged(SetKind):
    """Successive frames of a clip averaged into blurred photos; the middle one is the GT, as in GoPro.

    Args:
        frames: how many make one photo, odd.

    Raises:
        ConfigError: if `frames` is even.
    """

    folders = ("lq", "gt")

    def __init__(self, frames: int) -> None:
        if frames % 2 == 0:
            raise ConfigError(f"{frames} frames have no middle one; give an odd number")
        self.frames = frames

    @property
    def header(self) -> dict[str, Any]:
        return {"degradation": "frames", "scale": 1, "frames": self.frames}

    def grouped(self, photos: list[Named]) -> dict[str, list[Named]]:
        frames = self.frames
        if len(photos) < frames:
            raise DataError(f"{photos[0].parent} has {len(photos)} frames; expected at least {frames}")
        clips = [photos[first : first + frames] for first in range(0, len(photos) - frames + 1, frames)]
        return {clip[frames // 2].stem: clip for clip in clips}

    def make(self, name: str, photos: Sequence[Path], out: Path) -> dict[str, Any]:
        lq, gt = (out / file for file in self.files(name))
        write_photo(lq, Photo(average_frames(read_rgb(path).float() / 255 for path in photos)))
        write_photo(gt, Photo(read_rgb(photos[self.frames // 2]).float() / 255))
        return {"source": [path.name for path in photos]}


class Masked(SetKind):
    """Photos cut to squares, with a mask each: gt/NAME.png, masks/NAME.png; as LaMa's test sets were made.

    The shorter side is resized to `size`, five masks are drawn on the photo, each is cut out in a square
    around its hole, those with more than half hole are dropped, and one of the others is picked.

    Raises:
        ConfigError: for unknown settings.
    """

    folders = ("gt", "masks")

    def __init__(self, kind: str, size: int, *, pick: int | None = None, seed: int = 0) -> None:
        self.kind, self._settings = mask_kind(kind), mask_settings(kind, size)
        self.size, self.pick, self.seed = size, pick, seed

    @property
    def header(self) -> dict[str, Any]:
        settings = asdict(self._settings)
        header = {"masks": self.kind, "size": self.size, "seed": self.seed, "settings": settings}
        return header | ({} if self.pick is None else {"pick": self.pick})

    def make(self, name: str, photos: Sequence[Path], out: Path) -> dict[str, Any]:
        (path,), size = photos, self.size
        photo = _shorter_side(read_rgb(path), size)
        generator = seeded_generator(self.seed, self.kind, size, name)
        mask, (top, left) = _mask_for(photo, self._settings, generator)
        crop = photo[:, top : top + size, left : left + size].float() / 255
        gt, hole = (out / file for file in self.files(name))
        write_photo(gt, Photo(crop))
        _write_mask(hole, mask)
        return {"source": path.name, "crop": [top, left], "hole": round(float(mask.mean()), 6)}


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

    A damaged photo is reported and left out; the others go on. Run again, photos that are there already are
    kept.

    Args:
        source: folder or list file of clean photos.
        out: folder of the test set.
        kind: as in `Degraded`.
        scale: as in `Degraded`.
        seed: as in `Degraded`.
        overwrite: make everything anew.

    Raises:
        ConfigError: for an unknown kind or scale.
        DataError: if there are no photos, or two of the same name.
        OutputError: if `out` holds a test set of other settings.
    """
    how = Degraded(kind, scale, seed)
    return how.made(out, find_photos(source), overwrite=overwrite)


def average_clips(source: Path, out: Path, *, frames: int, overwrite: bool = False) -> Iterator[Made]:
    """Average successive frames of one clip, in the order of their names, into a test set; see `Averaged`.

    Raises:
        ConfigError: if `frames` is even.
        DataError: if there are fewer frames than that.
        OutputError: if `out` holds a test set of other settings.
    """
    how = Averaged(frames)
    return how.made(out, find_photos(source), overwrite=overwrite)


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
    """Make an inpainting test set of photos, `size` square; see `Masked`.

    `pick` takes that many of the photos, always the same (`pick_photos`).

    Raises:
        ConfigError: for unknown settings, or if there are fewer photos than `pick`.
        DataError: if there are no photos, or two of the same name.
        OutputError: if `out` holds a set of other settings.
    """
    how = Masked(kind, size, pick=pick, seed=seed)
    return how.made(out, pick_photos(find_photos(source), pick), overwrite=overwrite)


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
