"""Search and vote of exemplar filling in stock torch; `exemplar.cpp` computes the same numbers faster.

A target is a pixel whose patch touches a hole, a source one whose patch is wholly known. Places are
row · width + column. All numbers are integers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int, Int32, UInt8
from torch import Tensor

from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.exemplar import NativeMatcher

log = logging.getLogger(__name__)

RADIUS = 3
"""Of a patch: 7×7 pixels. As in `exemplar.cpp`."""
_CHUNK = 4096
"""Targets at a time: 8 MiB of patches."""


class StockMatcher:
    """One level of a photo; its methods leave their arguments as they are."""

    def __init__(
        self,
        weight: UInt8[Tensor, "h w"],
        source: UInt8[Tensor, "h w"],
        target: Int32[Tensor, "n"],
        index: Int32[Tensor, "h w"],
    ) -> None:
        self.height, self.width = weight.shape
        self.weight, self.source = weight.flatten(), source.flatten() > 0
        self.index, self.target = index.flatten().long(), target.long()
        d = torch.arange(-RADIUS, RADIUS + 1)
        self.down, self.across = d.repeat_interleave(len(d)), d.repeat(len(d))

    def search(
        self, colour: UInt8[Tensor, "h w 3"], nearest: Int32[Tensor, "n"], step: int, radius: int, seed: int
    ) -> tuple[Int32[Tensor, "n"], Int32[Tensor, "n"]]:
        """Return better sources of all targets, and how far they are.

        Args:
            colour: the photo with its holes as they are filled by now.
            nearest: the source of each target by now.
            step: how far away the four neighbours lie whose sources are tried.
            radius: of the random search around a target's source; it is halved until 0.
            seed: of that search.
        """
        colours, before = colour.reshape(-1, 3), nearest.long()
        after, distances = nearest.clone(), torch.empty_like(nearest)
        for first in range(0, len(before), _CHUNK):
            some = slice(first, first + _CHUNK)
            after[some], distances[some] = self._search(colours, before, some, step, radius, seed)
        return after, distances

    def _search(
        self, colours: Tensor, before: Tensor, some: slice, step: int, radius: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        target, best = self.target[some], before[some].clone()
        y, x = target // self.width + self.down[:, None], target % self.width + self.across[:, None]
        around = (y.clamp(0, self.height - 1) * self.width + x.clamp(0, self.width - 1)).T
        patch, weight = colours[around].int(), self.weight[around].int()

        def distance(rows: Tensor, places: Tensor) -> Tensor:
            offsets = self.down * self.width + self.across
            error = patch[rows] - colours[places[:, None] + offsets].int()
            return (error.square_().sum(-1, dtype=torch.int32) * weight[rows]).sum(-1, dtype=torch.int32)

        least = distance(torch.arange(len(best)), best)
        number = torch.arange(some.start, some.start + len(best))
        for cy, cx, any_there in self._candidates(before, target, best, number, step, radius, seed):
            there = any_there & (cy >= 0) & (cx >= 0) & (cy < self.height) & (cx < self.width)
            place = torch.where(there, cy * self.width + cx, 0)
            rows = (there & self.source[place]).nonzero()[:, 0]
            found = distance(rows, place[rows])
            better = found < least[rows]
            rows = rows[better]
            best[rows], least[rows] = place[rows], found[better]
        return best.int(), least

    def _candidates(
        self, before: Tensor, target: Tensor, best: Tensor, number: Tensor, step: int, radius: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor, Bool[Tensor, "n"]]]:
        """Yield rows and columns to be tried, and where there are any; `best` changes in between."""
        y, x = target // self.width, target % self.width
        for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0)):
            ny, nx = y + dy, x + dx
            there = (ny >= 0) & (nx >= 0) & (ny < self.height) & (nx < self.width)
            near = torch.where(there, self.index[torch.where(there, ny * self.width + nx, 0)], -1)
            place = before[near.clamp_min(0)]
            yield place // self.width - dy, place % self.width - dx, near >= 0
        random = _scramble(_scramble(number) ^ seed)
        while radius >= 1:
            random = _scramble((random + 0x9E3779B9) & _MASK)
            oy = random % (2 * radius + 1) - radius
            random = _scramble((random + 0x9E3779B9) & _MASK)
            ox = random % (2 * radius + 1) - radius
            yield best // self.width + oy, best % self.width + ox, torch.ones_like(best, dtype=torch.bool)
            radius //= 2

    def vote(
        self,
        colour: UInt8[Tensor, "h w 3"],
        nearest: Int32[Tensor, "n"],
        strength: Int32[Tensor, "n"],
        holes: Int32[Tensor, "k"],
    ) -> UInt8[Tensor, "k 3"]:
        """Return the colours of the pixels `holes`: what the sources around say, weighted by `strength`."""
        colours, y, x = colour.reshape(-1, 3), holes.long() // self.width, holes.long() % self.width
        sums, total = torch.zeros(len(holes), 3, dtype=torch.int64), torch.zeros(len(holes), 1).long()
        for i, j in zip(self.down.tolist(), self.across.tolist(), strict=True):
            ty, tx = y - i, x - j
            there = (ty >= 0) & (tx >= 0) & (ty < self.height) & (tx < self.width)
            t = self.index[torch.where(there, ty * self.width + tx, 0)].clamp_min(0)
            weight = torch.where(there, strength[t], 0).long()[:, None]
            total += weight
            place = torch.where(there, nearest[t].long() + i * self.width + j, 0)
            sums += weight * colours[place]
        return ((sums + total // 2) // total).byte()


def matcher(
    weight: UInt8[Tensor, "h w"],
    source: UInt8[Tensor, "h w"],
    target: Int32[Tensor, "n"],
    index: Int32[Tensor, "h w"],
) -> NativeMatcher | StockMatcher:
    """Return the compiled search and vote, or stock torch's where there are no compiled ones.

    Args:
        weight: how much a pixel counts in a distance, at most 64.
        source: 1 where a patch is wholly known.
        target: the targets' places.
        index: which target a pixel is, or −1.
    """
    try:
        return NativeMatcher(weight, source, target, index)
    except CompilerMissingError as reason:
        log.info("exemplars are searched by stock torch, about 50 times slower: %s", reason)
        return StockMatcher(weight, source, target, index)


_MASK = 0xFFFFFFFF


def _scramble(x: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """As in `exemplar.cpp`: numbers of 32 bits, in 64."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)
