"""Where a shot of a film ends, what is still in it, and how much it flickers."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

CUT = 0.1
"""Mean change of a frame's 32×32 means, in [0, 1], above which it begins a shot."""
_FINE, _BLOCK = 4, 4
"""Changes are seen as means of 4×4 pixels, and judged in blocks of 4×4 of these."""
_NOISE, _FLOOR = 2.5, 0.5 / 255
"""A block is still up to so many times the change that noise makes, and so much beside it."""


class Shots:
    """Tells where shots begin, frame after frame."""

    def __init__(self) -> None:
        self.count = 0
        self._last: Tensor | None = None

    def begins(self, frame: Float[Tensor, "3 h w"]) -> bool:
        """Return whether a frame begins a shot: it differs from the one before it as a whole."""
        small = F.adaptive_avg_pool2d(frame[None], 32)[0]
        last, self._last = self._last, small
        new = last is None or float((small - last).abs().mean()) > CUT
        self.count += new
        return new

    def cut(self) -> None:
        """Say that the next frame begins a shot, whatever it shows."""
        self._last = None


def still_parts(frame: Float[Tensor, "3 h w"], other: Float[Tensor, "3 h w"]) -> Bool[Tensor, "1 h w"]:
    """Return which pixels of a frame show what they show in another one.

    Blocks of 16×16 are compared by the root mean square change of their 4×4 means, with what the frame's own
    noise would make of it: the median of its finest diagonal detail (Donoho and Johnstone, 1994). A block
    beside one that moves is not still.
    """
    means = F.avg_pool2d((frame - other)[None], _FINE, ceil_mode=True, count_include_pad=False)
    change = F.avg_pool2d(means.square(), _BLOCK, ceil_mode=True, count_include_pad=False).sqrt()[0]
    limit = _NOISE * _noise(frame) / _FINE + _FLOOR
    moves = (change > limit[:, None, None]).any(0, keepdim=True).float()
    moves = F.max_pool2d(moves[None], 3, stride=1, padding=1)
    moves = F.interpolate(moves, scale_factor=float(_FINE * _BLOCK))[0]
    return moves[:, : frame.shape[1], : frame.shape[2]] == 0


def _noise(frame: Float[Tensor, "3 h w"]) -> Float[Tensor, "3"]:
    """Return the standard deviation of each colour's noise."""
    even = frame[:, : frame.shape[1] // 2 * 2, : frame.shape[2] // 2 * 2]
    detail = (even[:, ::2, ::2] - even[:, 1::2, ::2] - even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 2
    if not detail.numel():
        return torch.zeros(3)
    return detail.abs().flatten(1).median(1).values / 0.6745


class Flicker:
    """How much still parts of a film change from frame to frame, before and after.

    The score is the root mean square change of `still_parts` between frames that follow each other, in levels
    of 255. An ideal film scores 0; noise of standard deviation s scores s√2.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None
        self._sums, self._count = torch.zeros(2, dtype=torch.float64), 0

    def add(self, frame: Float[Tensor, "3 h w"], result: Float[Tensor, "3 H W"]) -> None:
        """Take the next frame and its result, in [0, 1]; the result may be larger."""
        shrunk = F.interpolate(result[None], size=frame.shape[1:], mode="area")[0]
        last, self._last = self._last, (frame, shrunk)
        if last is None or last[0].shape != frame.shape:
            return
        before, after = frame - last[0], shrunk - last[1]
        mask = still_parts(frame, last[0])
        for index, change in enumerate((before, after)):
            self._sums[index] += (change.double().square() * mask).sum()
        self._count += 3 * int(mask.sum())

    def cut(self) -> None:
        """Say that a shot ends: across a cut nothing flickers."""
        self._last = None

    def scores(self) -> tuple[float, float]:
        """Return the score of the film and of its result; 0 where nothing is still."""
        before, after = (self._sums / max(1, self._count)).sqrt().tolist()
        return 255 * before, 255 * after
