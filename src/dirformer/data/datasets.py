"""Samples for training: crops of photos, each determined by its place in the stream alone.

Sample n of a run is the same photo and the same crop whatever the batch, the worker, the number of
devices or the number of interruptions: resuming means going on counting.

Photos stay 8-bit until they are on the device, where they are degraded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dirformer.data.folders import Pair
from dirformer.degradations.base import integer, uniform
from dirformer.degradations.mask_settings import MaskSettings
from dirformer.degradations.masks import draw_window
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import DataError
from dirformer.ground.mask import read_mask
from dirformer.ground.photo import read_rgb, turned

Key = int | tuple[int, int]
"""Which sample, and with which side of the crop if not the data set's own."""
Augment = Literal["turns", "flips", "none"]
"""Crops are turned and flipped (eight ways), flipped left to right, or left as they are."""


@runtime_checkable
class Source(Protocol):
    """Numbered photos that are read one at a time: files, or members of shards."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what to call the photo in a message."""
        ...

    def read(self, number: int) -> UInt8[Tensor, "3 h w"]:
        """Decode the photo."""
        ...


class PhotoFiles:
    """Photos that are files of their own."""

    def __init__(self, photos: Sequence[Path]) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def name(self, number: int) -> str:
        """Return the path."""
        return str(self.photos[number])

    def read(self, number: int) -> UInt8[Tensor, "3 h w"]:
        """Decode the file; PhotoError names it if it is damaged."""
        return read_rgb(self.photos[number])


class Crops(Dataset[dict[str, Any]], ABC):
    """Square crops, flipped and turned at random as `augment` says, as uint8.

    Every epoch visits each photo once, in an order of its own. Decoded photos are kept as long as
    `cache_bytes` lasts.
    """

    def __init__(
        self, count: int, side: int, seed: int, cache_bytes: int = 2**31, augment: Augment = "turns"
    ) -> None:
        self.count, self.side, self.seed, self.augment = count, side, seed, augment
        self.room = cache_bytes
        self.cache: dict[int, tuple[Tensor, ...]] = {}
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Photos in an epoch."""
        return self.count

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of that number, any number ≥ 0: {"gt": 3 side side, "index", …}."""
        index, side = key if isinstance(key, tuple) else (key, self.side)
        number = int(self._epoch(index // self.count)[index % self.count])
        photos = self._photos(number)
        height, width = photos[0].shape[1:]
        if min(height, width) < side:  # in shards, sizes are not known before
            raise DataError(f"{self.name(number)} is {width}×{height}; crops need {side}")
        generator = seeded_generator(self.seed, "crop", index)
        return self.sample(photos, side, generator) | {"index": index}

    @abstractmethod
    def name(self, number: int) -> str:
        """Return what to call a GT photo in a message."""

    @abstractmethod
    def read(self, number: int) -> tuple[Tensor, ...]:
        """Decode what belongs to one sample: the GT first."""

    @abstractmethod
    def sample(self, photos: tuple[Tensor, ...], side: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Crop one sample."""

    def turn(self, generator: torch.Generator) -> int:
        """Draw one of the turns that `augment` allows: quarter turns, and from 4 on flipped as well."""
        if self.augment == "turns":
            return integer(generator, 8)
        return 4 * integer(generator, 2) if self.augment == "flips" else 0

    def _epoch(self, epoch: int) -> Tensor:
        if self.order[0] != epoch:
            generator = seeded_generator(self.seed, "epoch", epoch)
            self.order = epoch, torch.randperm(self.count, generator=generator)
        return self.order[1]

    def _photos(self, number: int) -> tuple[Tensor, ...]:
        if number in self.cache:
            return self.cache[number]
        photos = self.read(number)
        size = sum(photo.numel() for photo in photos)
        if size <= self.room:
            self.room -= size
            self.cache[number] = photos
        return photos


class CleanCrops(Crops):
    """Crops of clean photos, which are degraded on the device."""

    def __init__(
        self,
        photos: list[Path] | Source,
        side: int,
        seed: int,
        cache_bytes: int = 2**31,
        augment: Augment = "turns",
    ) -> None:
        self.source: Source = PhotoFiles(photos) if isinstance(photos, list) else photos
        super().__init__(len(self.source), side, seed, cache_bytes, augment)

    def read(self, number: int) -> tuple[Tensor, ...]:
        """Decode the photo."""
        return (self.source.read(number),)

    def name(self, number: int) -> str:
        """Return the path, or the place in a shard."""
        return self.source.name(number)

    def sample(self, photos: tuple[Tensor, ...], side: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return {"gt"}."""
        place = _place(photos[0], side, generator)
        return {"gt": _crop(photos[0], place, side, self.turn(generator))}


class PairedCrops(Crops):
    """Aligned crops of pairs: LQ photos that exist already, and their GT."""

    def __init__(
        self,
        pairs: list[Pair],
        scale: int,
        side: int,
        seed: int,
        cache_bytes: int = 2**31,
        augment: Augment = "turns",
    ) -> None:
        """Take pairs that `require_pairs` has checked; `side` is the GT's, a multiple of `scale`."""
        self.pairs, self.scale = pairs, scale
        super().__init__(len(pairs), side, seed, cache_bytes, augment)

    def read(self, number: int) -> tuple[Tensor, ...]:
        """Decode GT and LQ."""
        lq, gt = self.pairs[number]
        return read_rgb(gt), read_rgb(lq)

    def name(self, number: int) -> str:
        """Return the path of the GT."""
        return str(self.pairs[number][1])

    def sample(self, photos: tuple[Tensor, ...], side: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return {"gt", "lq"}."""
        gt, lq = photos
        top, left = _place(lq, side // self.scale, generator)
        turn = self.turn(generator)
        return {
            "gt": _crop(gt, (top * self.scale, left * self.scale), side, turn),
            "lq": _crop(lq, (top, left), side // self.scale, turn),
        }


class MaskedCrops(Crops):
    """Crops with holes, for inpainting: masks of their own, or drawn ones."""

    def __init__(
        self,
        photos: list[Path] | list[Pair],
        side: int,
        seed: int,
        masks: Sequence[MaskSettings] = (),
        cache_bytes: int = 2**31,
        augment: Augment = "turns",
    ) -> None:
        """Take photos and settings to draw masks by, each as often, or checked pairs of mask and photo."""
        self.photos, self.masks = photos, masks
        if (not masks) != isinstance(photos[0], tuple):
            raise DataError("masks are either drawn (settings) or given (pairs of mask and photo)")
        super().__init__(len(photos), side, seed, cache_bytes, augment)

    def read(self, number: int) -> tuple[Tensor, ...]:
        """Decode the photo, and its mask if there is one."""
        entry = self.photos[number]
        if isinstance(entry, tuple):
            mask, photo = entry
            return read_rgb(photo), read_mask(mask).byte()
        return (read_rgb(entry),)

    def name(self, number: int) -> str:
        """Return the path of the photo."""
        entry = self.photos[number]
        return str(entry[1] if isinstance(entry, tuple) else entry)

    def sample(self, photos: tuple[Tensor, ...], side: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return {"gt", "mask"}; the mask is 1 in the hole, 1 side side, uint8."""
        place, turn = _place(photos[0], side, generator), self.turn(generator)
        gt = _crop(photos[0], place, side, turn)
        if not self.masks:
            return {"gt": gt, "mask": _crop(photos[1], place, side, turn)}
        settings = self.masks[integer(generator, len(self.masks)) if len(self.masks) > 1 else 0]
        return {"gt": gt, "mask": draw_window(settings, generator, side).byte()}


class MixedCrops(Dataset[dict[str, Any]]):
    """Clean crops that are still to be degraded, and among them crops of pairs that exist already.

    Every sample has "given": 1 for a pair. All have one shape: pairs come with a black margin around GT and
    LQ, where the degradation's margin will be cut off, and clean samples with a black LQ.
    """

    def __init__(self, clean: CleanCrops, paired: PairedCrops, share: float, margin: int, seed: int) -> None:
        """Take both kinds; `share` of the samples are pairs, `margin` is in LQ pixels."""
        self.clean, self.paired, self.share, self.margin, self.seed = clean, paired, share, margin, seed

    def __len__(self) -> int:
        """Clean photos in an epoch."""
        return len(self.clean)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of that number."""
        index, side = key if isinstance(key, tuple) else (key, self.clean.side)
        scale, margin = self.paired.scale, self.margin
        if uniform(seeded_generator(self.seed, "source", index)) >= self.share:
            black = torch.zeros(3, side // scale, side // scale, dtype=torch.uint8)
            return self.clean[index, side] | {"lq": black, "given": 0}
        pair = self.paired[index, side - 2 * margin * scale]
        around = {"gt": F.pad(pair["gt"], [margin * scale] * 4), "lq": F.pad(pair["lq"], [margin] * 4)}
        return pair | around | {"given": 1}


def _place(photo: Tensor, side: int, generator: torch.Generator) -> tuple[int, int]:
    height, width = photo.shape[1:]
    top = int(torch.randint(height - side + 1, (), generator=generator))
    return top, int(torch.randint(width - side + 1, (), generator=generator))


def _crop(photo: Tensor, place: tuple[int, int], side: int, turn: int) -> Tensor:
    top, left = place
    return turned(photo[:, top : top + side, left : left + side], turn).contiguous()


AtStep = int | Callable[[int], int]
"""A number, or a function of the step."""


class _Stream:
    """Keys of one device: its part of each global batch, from a given step on."""

    def __init__(
        self, start: int, steps: int, batch: AtStep, side: AtStep | None, rank: int, world: int
    ) -> None:
        self.start, self.steps, self.rank, self.world = start, steps, rank, world
        self.batch, self.side = batch, side

    def __iter__(self) -> Iterator[list[Key]]:
        first = sum(_at(self.batch, step) for step in range(self.start)) * self.world
        for step in range(self.start, self.steps):
            batch = _at(self.batch, step)
            mine = range(first + self.rank * batch, first + (self.rank + 1) * batch)
            side = self.side
            yield list(mine) if side is None else [(index, _at(side, step)) for index in mine]
            first += batch * self.world

    def __len__(self) -> int:
        return self.steps - self.start


def _at(value: AtStep, step: int) -> int:
    return value if isinstance(value, int) else value(step)


def stream(
    dataset: Dataset[dict[str, Any]],
    *,
    start: int,
    steps: int,
    batch: AtStep,
    side: AtStep | None = None,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[dict[str, Any]]:
    """Return a loader of batches for steps `start` to `steps`.

    Args:
        dataset: where samples come from.
        start: the first step: a run that goes on begins behind its last one.
        steps: the step to stop before.
        batch: samples per device, fixed or by step (progressive training).
        side: of the crops, by step; None takes the data set's. Workers are not restarted for it.
        workers: processes that decode and crop.
        rank: which of the `world` devices this is.
        world: number of devices; each sees its own part of every global batch.
    """
    return DataLoader(
        dataset,
        batch_sampler=_Stream(start, steps, batch, side, rank, world),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
