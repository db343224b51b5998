"""What every degradation is: draw parameters on the CPU, then apply them, plain arithmetic on any device.

Drawing apart from applying makes every device degrade alike and lets a manifest name what was done to
each photo.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for the batch, or one for each photo: then a photo's result does not depend on the rest."""


class Degradation(ABC):
    """Clean → degraded: photos in [0, 1], `b 3 H W` → `b 3 h w`, a new tensor."""

    scale: int
    """Size of the clean photo over that of the degraded one."""
    margin: int
    """LQ pixels along each side that depend on the photo's border.

    Cut off behind the degradation, they leave a crop degraded exactly as the photo it comes from.
    """
    eight_bit: ClassVar[bool] = False
    """Results lie on the 8-bit grid of [0, 1]."""

    @abstractmethod
    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Sequence[Any]:
        """Draw one dataclass of parameters per photo of `size` (height, width) from its CPU generator."""

    @abstractmethod
    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Any]) -> Float[Tensor, "b 3 h w"]:
        """Degrade photos with what was drawn for them."""

    def apply_inside(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Any]) -> Float[Tensor, "b 3 h w"]:
        """Degrade photos and cut the margin off; a degradation that need not compute it says so itself."""
        return F.pad(self.apply(gt, draws), [-self.margin] * 4)

    def __call__(self, gt: Float[Tensor, "b 3 H W"], generator: Generators) -> Float[Tensor, "b 3 h w"]:
        """Degrade `gt`; all that is random comes from `generator`."""
        return self.apply(gt, self._drawn(gt, generator))

    def inside(self, gt: Float[Tensor, "b 3 H W"], generator: Generators) -> Float[Tensor, "b 3 h w"]:
        """Degrade `gt` and cut the margin off."""
        return self.apply_inside(gt, self._drawn(gt, generator))

    def _drawn(self, gt: Tensor, generator: Generators) -> Sequence[Any]:
        return self.draw(per_photo(generator, len(gt)), (gt.shape[-2], gt.shape[-1]))


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """Draw from U[low, high)."""
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=generator))


def integer(generator: torch.Generator, count: int) -> int:
    """Draw from 0 … count − 1."""
    return int(torch.randint(count, (), generator=generator))


def choice(weights: Sequence[float], generator: torch.Generator) -> int:
    """Draw an index with the given weights."""
    rest = uniform(generator, 0.0, float(sum(weights)))
    for index, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return index
    return len(weights) - 1


def seed(generator: torch.Generator) -> int:
    """Draw the seed of a noise field: one number in a manifest stands for all its values."""
    return integer(generator, 2**62)


def per_photo(generators: Generators, batch: int) -> list[torch.Generator]:
    """Return one generator for each photo; those made from a single one depend on the place in the batch."""
    if isinstance(generators, torch.Generator):
        return [torch.Generator().manual_seed(seed(generators)) for _ in range(batch)]
    if len(generators) != batch:
        raise ValueError(f"{len(generators)} generators for {batch} photos")
    return list(generators)
