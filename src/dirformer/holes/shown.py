"""What an inpainting network is shown: the photo with its holes filled somehow, and the mask.

The released networks see black holes (`fill: zero`) and build the whole photo anew. A smooth filling
(`fill: smooth`) is near the truth where photos are smooth, one from exemplars (`fill: exemplar`) goes on with
textures; the network then only has to mend it (`skip: nearest`).

What was in a hole can be told near its rim and not deep in it. There a network makes fog, or waves if it was
trained on a learned distance. So of a filling from exemplars it mends the rim (`mended`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.holes.exemplar import by_depth, fill_from_exemplars
from dirformer.holes.smooth import fill_smoothly

_RIM = [*(math.exp(-((depth / 8) ** 2)) for depth in range(22)), 0.0]
"""Share of the network in what is so many pixels deep in a hole; the last is that of all that is deeper."""


def inpainting_input(
    fill: str,
    photo: Float[Tensor, "b 3 h w"],
    mask: Float[Tensor, "b 1 h w"],
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Float[Tensor, "b 4 h w"]:
    """Return what the network sees of photos with holes: nothing of what is in them.

    Args:
        fill: `zero`, `smooth` or `exemplar`, as in the configuration of a network.
        photo: values in [0, 1].
        mask: 1 in holes, 0 elsewhere.
        seed: of the search for exemplars.
        progress: told the share of that search that is done, 0 to 1, for each photo.
    """
    seen = photo.new_empty(len(photo), 4, *photo.shape[2:])
    seen[:, 3:] = mask
    if fill == "exemplar":
        for number in range(len(photo)):
            seen[number, :3] = fill_from_exemplars(photo[number], mask[number], seed, progress)
        return seen
    # Written in place, and one channel at a time: copies of photos of many megapixels count. On a GPU
    # it is launches that count, a few hundred for a filling.
    width = 3 if photo.is_cuda else 1
    for first in range(0, 3, width):
        some = photo[:, first : first + width]
        seen[:, first : first + width] = fill_smoothly(some, mask) if fill == "smooth" else some * (1 - mask)
    return seen


def mended(
    fill: str,
    shown: Float[Tensor, "4 h w"],
    restored: Float[Tensor, "3 h w"],
    photo: Float[Tensor, "3 h w"],
) -> Float[Tensor, "3 h w"]:
    """Return the photo with its holes as they are shown to people; outside of them every pixel is its own.

    Args:
        fill: as in `inpainting_input`: of `exemplar` the texture deep in a hole is kept.
        shown: what the network saw.
        restored: what it made of that.
        photo: what was given.
    """
    mask = shown[3:]
    if fill != "exemplar":
        return mask * restored + (1 - mask) * photo
    hole, result = mask[0] > 0, photo.clone()
    share = by_depth(hole, _RIM).to(photo)
    result[:, hole] = torch.lerp(shown[:3, hole], restored[:, hole], share[hole])
    return result
