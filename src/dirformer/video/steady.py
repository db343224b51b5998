"""Still parts of a film averaged over time, before the network sees them.

One Z_T and one IPR for a shot leave what changes from frame to frame in the frames themselves: their noise.
Where a part is still, the mean of its last frames holds less of it, and changes less.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.video.shots import still_parts

FRAMES = 8
"""Frames that the mean remembers: newer ones replace older ones."""


class Steady:
    """The running mean of each part of a shot, begun anew where the part moves."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._count: Tensor | None = None

    def cut(self) -> None:
        """Say that a shot ends."""
        self._mean = None

    def __call__(self, frame: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """Take the next frame, in [0, 1]; return it with still parts averaged."""
        if self._mean is None or self._count is None:
            self._mean, self._count = frame, torch.ones_like(frame[:1])
            return frame
        still = still_parts(frame, self._mean)
        self._count = torch.where(still, (self._count + 1).clamp(max=FRAMES), 1.0)
        self._mean = self._mean + (frame - self._mean) / self._count
        return self._mean
