"""A smooth filling of holes: near the truth where photos are smooth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SWEEPS = 8
"""Relaxations of a level; 40 of them fill 0.03 dB better in three times the time."""


def fill_smoothly(
    photo: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Fill holes (mask 1) as a stretched skin would: each pixel about the mean of its four neighbours.

    Laplace's equation with the known pixels as its boundary, by cascadic multigrid: known pixels are averaged
    to half the size until no hole is left, then each level starts from the coarser one and is relaxed
    `SWEEPS` times. Known pixels are returned as they are; a photo that is all hole comes back black.
    """
    known = 1 - mask
    colour, levels = photo * known, []
    while min(colour.shape[2:]) > 1 and bool((known < 1).any()):
        levels.append((colour, known))
        height, width = colour.shape[2:]
        even = [0, width % 2, 0, height % 2]
        share = F.avg_pool2d(F.pad(known, even), 2)
        colour = F.avg_pool2d(F.pad(colour, even), 2) / share.clamp_min(0.25)  # a pixel of four, at least
        known = (share > 0).to(known)
    for fixed, known in reversed(levels):
        height, width = fixed.shape[2:]
        wide = F.interpolate(colour, scale_factor=2.0, mode="bilinear")[:, :, :height, :width]
        colour = torch.lerp(wide, fixed, known)
        for _ in range(SWEEPS):
            p = F.pad(colour, (1, 1, 1, 1), mode="replicate")
            mean = p[:, :, :-2, 1:-1] + p[:, :, 2:, 1:-1]
            mean += p[:, :, 1:-1, :-2]
            mean += p[:, :, 1:-1, 2:]
            colour = mean.div_(4).lerp_(fixed, known)
    return colour
