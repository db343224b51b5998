"""A filling of holes with what the same photo shows elsewhere: textures go on.

PatchMatch (Barnes et al., 2009) finds for each patch that touches a hole the nearest patch that is known.
These vote on the colours in the hole. Both steps repeat, from a small copy of the photo to the photo itself
(Wexler, Shechtman, Irani, 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int16, Int32, UInt8
from torch import Tensor
from torch.nn import functional as F

from dirformer.holes.match import RADIUS, matcher
from dirformer.holes.smooth import fill_smoothly

_COARSEST = 48
"""Pixels of the shorter side of the smallest copy, at least."""
_THIN = 2
"""Holes whose pixels are all so near their rim need no smaller copy."""
_KNOWN = 64
"""How much a known pixel counts in a distance."""
_FADE = [max(1, round(_KNOWN * 0.75**depth)) for depth in range(1, 16)]
"""How much one in a hole counts, by its depth."""
_FIRST, _NEXT = 20, 10
"""Searches and votes in the smallest copy, and in each of the others."""
_MANY = 200_000
"""From so many targets on, a copy gets fewer searches: its own are cheap by then, for they begin well."""
_SHARP = 4
"""How much the nearest patches count above the others in a vote."""


@dataclass
class _Copy:
    """The photo in one size."""

    colour: UInt8[Tensor, "h w 3"]
    """Black in holes."""
    hole: Bool[Tensor, "h w"]


def fill_from_exemplars(
    photo: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Float[Tensor, "3 h w"]:
    """Fill holes (mask 1) with patches from elsewhere in the photo.

    Known pixels are returned as they are; what is filled has 8 bits. Where no 7×7 pixels side by side are
    known, the filling is smooth. Results are the same on every machine and for any number of threads, but for
    roundings of the smooth start.

    Args:
        photo: values in [0, 1]; what is in holes is not looked at.
        mask: 1 in holes, 0 elsewhere.
        seed: of the search; another one finds other patches.
        progress: told the share of the work that is done, 0 to 1.
    """
    hole = mask[0].cpu() > 0
    result = photo.clone()
    if not bool(hole.any()):
        return result
    copies = _copies(_Copy(_bytes(photo.detach().cpu(), hole), hole))
    filled = _filled(copies, seed, progress or (lambda _: None))
    result[:, hole.to(photo.device)] = filled[hole].T.to(photo) / 255
    return result


def _filled(copies: list[_Copy], seed: int, told: Callable[[float], None]) -> UInt8[Tensor, "h w 3"]:
    """Return the first of the copies, filled."""
    work = [0.25**number for number in range(len(copies))]
    filled: Tensor | None = None
    nearest: Int32[Tensor, "h w"] | None = None
    for number, copy in reversed(list(enumerate(copies))):
        start = _smooth(copy) if filled is None else _twice(filled, copy.hole.shape)
        start = torch.where(copy.hole[..., None], start, copy.colour)
        level = _Level(copy, start, nearest, seed + number)
        if level.empty:
            filled, nearest = (None, None) if filled is None else (start, None)
            continue
        begun, own = sum(work[number + 1 :]) / sum(work), work[number] / sum(work)
        filled, nearest = level.fill(nearest is None, _part(told, begun, own))
    return _smooth(copies[0]) if filled is None else filled


class _Level:
    """Search and vote in one copy."""

    def __init__(
        self, copy: _Copy, start: UInt8[Tensor, "h w 3"], above: Int32[Tensor, "y x"] | None, seed: int
    ) -> None:
        self.colour, self.seed = start, seed
        height, self.width = copy.hole.shape
        near = dilated(copy.hole, RADIUS)
        source = torch.zeros_like(near)
        inside = slice(RADIUS, -RADIUS)
        source[inside, inside] = ~near[inside, inside]
        self.target = near.flatten().nonzero()[:, 0].int()
        places = source.flatten().nonzero()[:, 0].int()
        self.empty = not len(places) or not len(self.target)
        if self.empty:
            return
        index = torch.full((height * self.width,), -1, dtype=torch.int32)
        index[self.target.long()] = torch.arange(len(self.target), dtype=torch.int32)
        weight = _weights(copy.hole)
        self.holes = copy.hole.flatten().nonzero()[:, 0].int()
        self.fade = weight.flatten()[self.target.long()].long()
        self.matcher = matcher(weight, source.byte(), self.target, index.view(height, -1))
        self.nearest = self._begin(places, source, above)

    def _begin(
        self, places: Int32[Tensor, "k"], source: Bool[Tensor, "h w"], above: Int32[Tensor, "y x"] | None
    ) -> Int32[Tensor, "n"]:
        """Return a source for each target: that of the smaller copy, or any."""
        generator = torch.Generator().manual_seed(self.seed)
        nearest = places[torch.randint(len(places), (len(self.target),), generator=generator)]
        if above is None:
            return nearest
        y, x = self.target.long() // self.width, self.target.long() % self.width
        rows, columns = above.shape
        place = above[(y // 2).clamp_max(rows - 1), (x // 2).clamp_max(columns - 1)].long()
        y, x = place // columns * 2 + y % 2, place % columns * 2 + x % 2
        there = (place >= 0) & (y < len(source)) & (x < self.width)
        place = torch.where(there, y * self.width + x, 0)
        there &= source.flatten()[place]
        return torch.where(there, place.int(), nearest)

    def fill(
        self, first: bool, told: Callable[[float], None]
    ) -> tuple[UInt8[Tensor, "h w 3"], Int32[Tensor, "h w"]]:
        """Return the filled copy, and for each pixel its target's source, or −1."""
        height, width = self.colour.shape[:2]
        many = len(self.target) >= _MANY
        rounds = _FIRST if first else max(1, min(_NEXT, 10 * _MANY // len(self.target)))
        radius = max(height, width) if first else 8
        colour = self.colour.clone()
        for number in range(rounds):
            steps = (8, 4, 2, 1) if number == 0 else (1,) if many else (2, 1)
            for step in steps:
                seed = (self.seed * 7919 + number * 101 + step) & 0x7FFFFFFF
                self.nearest, distances = self.matcher.search(colour, self.nearest, step, radius, seed)
            voted = self.matcher.vote(colour, self.nearest, self._strength(distances), self.holes)
            colour.view(-1, 3)[self.holes.long()] = voted
            told((number + 1) / rounds)
        field = torch.full((height * width,), -1, dtype=torch.int32)
        field[self.target.long()] = self.nearest
        return colour, field.view(height, width)

    def _strength(self, distances: Int32[Tensor, "n"]) -> Int32[Tensor, "n"]:
        """Return how much each patch counts: less if its source is far, less deep in the hole."""
        typical = max(1, int(distances.median()))
        far = (distances.long() * _SHARP // typical).clamp_max(4095)
        return ((1 << 22) // (16 + far) * self.fade // 16 + 1).int()


def _part(told: Callable[[float], None], begun: float, own: float) -> Callable[[float], None]:
    """Return a progress of one part of the work."""
    return lambda share: told(begun + own * share)


def _copies(photo: _Copy) -> list[_Copy]:
    """Return the photo and copies of it, each half as large, until holes are thin there."""
    copies = [photo]
    while min(photo.hole.shape) >= 2 * _COARSEST and not _is_thin(photo.hole):
        photo = _half(photo)
        copies.append(photo)
    return copies if bool(photo.hole.any()) else copies[:-1]


def _is_thin(hole: Bool[Tensor, "h w"]) -> bool:
    return bool(dilated(~hole, _THIN).all())


def dilated(there: Bool[Tensor, "h w"], radius: int) -> Bool[Tensor, "h w"]:
    """Return where there is something within a square of so many pixels around; in bits, for large photos."""
    for axis in (0, 1):
        wide, size = there.clone(), there.shape[axis]
        for shift in range(1, min(radius, size - 1) + 1):
            wide.narrow(axis, shift, size - shift).logical_or_(there.narrow(axis, 0, size - shift))
            wide.narrow(axis, 0, size - shift).logical_or_(there.narrow(axis, shift, size - shift))
        there = wide
    return there


def _bytes(photo: Float[Tensor, "3 h w"], hole: Bool[Tensor, "h w"]) -> UInt8[Tensor, "h w 3"]:
    """Return a photo in 8 bits, black in holes."""
    colour = torch.empty(*hole.shape, 3, dtype=torch.uint8)
    for channel in range(3):
        colour[..., channel] = (photo[channel].clamp(0, 1) * 255).round_().byte() * ~hole
    return colour


def _half(photo: _Copy) -> _Copy:
    """Return the means of what is known of 2×2 pixels; a hole where less than two are."""
    count = _blocks((~photo.hole).to(torch.int16))
    hole = count < 2
    colour = torch.empty(*hole.shape, 3, dtype=torch.uint8)
    for channel in range(3):  # what is in a hole is black and adds nothing
        sums = _blocks(photo.colour[..., channel].to(torch.int16))
        colour[..., channel] = ((sums + count // 2) // count.clamp_min(1)).byte() * ~hole
    return _Copy(colour, hole)


def _blocks(x: Int16[Tensor, "h w"]) -> Int16[Tensor, "y x"]:
    """Return the sums of 2×2 blocks."""
    x = F.pad(x, (0, x.shape[1] % 2, 0, x.shape[0] % 2))
    return x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]


def _smooth(copy: _Copy) -> UInt8[Tensor, "h w 3"]:
    colour = copy.colour.permute(2, 0, 1)[None].float()
    return fill_smoothly(colour, copy.hole[None, None].float())[0].round().byte().permute(1, 2, 0)


def _twice(filled: UInt8[Tensor, "y x 3"], size: torch.Size) -> UInt8[Tensor, "h w 3"]:
    colour = torch.empty(*size, 3, dtype=torch.uint8)
    for channel in range(3):
        small = filled[None, None, ..., channel].float()
        wide = F.interpolate(small, scale_factor=2.0, mode="bilinear")[0, 0, : size[0], : size[1]]
        colour[..., channel] = wide.round_().byte()
    return colour


def _weights(hole: Bool[Tensor, "h w"]) -> UInt8[Tensor, "h w"]:
    """Return how much each pixel counts in a distance."""
    return torch.where(hole, by_depth(hole, _FADE), _KNOWN).byte()


def by_depth(hole: Bool[Tensor, "h w"], values: Sequence[int] | Sequence[float]) -> Float[Tensor, "h w"]:
    """Return a value for each pixel of a hole: the first at its rim, the last deep in it; 0 elsewhere."""
    found, left = torch.zeros(hole.shape, device=hole.device), hole
    for value in values:
        if not bool(left.any()):
            break
        found[left] = value
        left = ~dilated(~left, 1)
    return found
