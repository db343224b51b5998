"""What an inpainting network is shown: the photo with its holes filled somehow, and the mask.

The released networks see black holes (`fill: zero`) and build the whole photo anew. A smooth filling
(`fill: smooth`) is by itself nearer to the truth than what stands in the holes' neighbourhood at random;
the network then adds what is missing to it (`skip: nearest`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.networks.config import ModelConfig

SWEEPS = 8
"""Relaxations of a level; with 40 holes come out 0.03 dB better."""


def inpainting_input(
    config: ModelConfig, photo: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 4 h w"]:
    """Return what the network sees of photos in [0, 1] with holes (mask 1): nothing of what is in them."""
    filled = fill_smoothly(photo, mask) if config.fill == "smooth" else photo * (1 - mask)
    return torch.cat([filled, mask], dim=1)


def fill_smoothly(
    photo: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Fill holes (mask 1) as a stretched skin would: each pixel about the mean of its four neighbours.

    Laplace's equation with the known pixels as its boundary, by cascadic multigrid: known pixels are averaged
    to half the size until no hole is left, then each level starts from the coarser one and is relaxed
    `SWEEPS` times. Known pixels are returned as they are; a photo that is all hole comes back black.
    """
    # One channel at a time: a third of the memory, which counts for photos of many megapixels.
    return torch.cat([_fill_channel(channel, 1 - mask) for channel in photo.split(1, dim=1)], dim=1)


def _fill_channel(
    photo: Float[Tensor, "b 1 h w"], known: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
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
            mean = (p[:, :, :-2, 1:-1] + p[:, :, 2:, 1:-1] + p[:, :, 1:-1, :-2] + p[:, :, 1:-1, 2:]) / 4
            colour = torch.lerp(mean, fixed, known)
    return colour
