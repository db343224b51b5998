"""Samples for training: crops of photos, each determined by its place in the stream alone.

Sample n of a run is the same photo and the same crop whatever the batch, the worker, the number of
devices or the number of interruptions: resuming means going on counting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dirformer.device import seeded_generator
from dirformer.photo import read_rgb


class CleanCrops(Dataset[dict[str, Any]]):
    """Square crops of clean photos, in one of eight flips and turns, as uint8.

    Every epoch visits each photo once, in an order of its own. Decoded photos are kept as long as
    `cache_bytes` lasts.
    """

    def __init__(self, photos: list[Path], side: int, seed: int, cache_bytes: int = 2**31) -> None:
        self.photos, self.side, self.seed = photos, side, seed
        self.room = cache_bytes
        self.cache: dict[int, Tensor] = {}
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {"gt": uint8 3 side side, "index"}; any index ≥ 0 is valid."""
        generator = seeded_generator(self.seed, "crop", index)
        photo = self._photo(int(self._epoch(index // len(self.photos))[index % len(self.photos)]))
        top, left = (
            int(torch.randint(length - self.side + 1, (), generator=generator)) for length in photo.shape[1:]
        )
        crop = photo[:, top : top + self.side, left : left + self.side]
        turn = int(torch.randint(8, (), generator=generator))
        crop = torch.rot90(crop, turn % 4, (1, 2))
        return {"gt": (crop.flip(2) if turn >= 4 else crop).contiguous(), "index": index}

    def _epoch(self, epoch: int) -> Tensor:
        if self.order[0] != epoch:
            generator = seeded_generator(self.seed, "epoch", epoch)
            self.order = epoch, torch.randperm(len(self.photos), generator=generator)
        return self.order[1]

    def _photo(self, number: int) -> Tensor:
        if number in self.cache:
            return self.cache[number]
        photo = read_rgb(self.photos[number])
        if photo.numel() <= self.room:
            self.room -= photo.numel()
            self.cache[number] = photo
        return photo


class _Stream:
    """Indices of one device: its part of each global batch, from a given step on."""

    def __init__(self, start: int, steps: int, batch: int, rank: int, world: int) -> None:
        self.start, self.steps, self.batch, self.rank, self.world = start, steps, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return self.steps - self.start


def stream(
    dataset: CleanCrops,
    *,
    start: int,
    steps: int,
    batch: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[dict[str, Any]]:
    """Return a loader of batches for steps `start` to `steps`; `batch` is per device."""
    return DataLoader(
        dataset,
        batch_sampler=_Stream(start, steps, batch, rank, world),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
