"""Degradations by name: clean photos → what the network is given.

Each is called as `degrade(gt, generator)` with photos in [0, 1], `b 3 H W`, and returns `b 3 h w`.
`scale` is the ratio of the sizes; `margin` the LQ pixels along each side that depend on the photo's
border and are cut off behind it, so that a crop is degraded exactly as the photo it comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.resize import resize_bicubic
from dirformer.errors import ConfigError


@runtime_checkable
class Degradation(Protocol):
    """Clean → degraded."""

    @property
    def scale(self) -> int: ...

    @property
    def margin(self) -> int: ...

    def __call__(self, gt: Float[Tensor, "b 3 H W"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        """Degrade `gt`; all that is random comes from `generator`, a CPU one."""
        ...


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's bicubic reduction on 8-bit values: the LQ of the super-resolution benchmarks."""

    scale: int
    margin: int = 4

    def __call__(self, gt: Float[Tensor, "b 3 H W"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        del generator  # nothing is random here
        return resize_bicubic(gt, 1 / self.scale, levels=255)


DEGRADATIONS: dict[str, Callable[[int], Degradation]] = {"bicubic": Bicubic}


def degradation(kind: str, scale: int) -> Degradation:
    """Return the degradation of that name at that scale; ConfigError lists the names there are."""
    if kind not in DEGRADATIONS:
        raise ConfigError(f"no degradation {kind!r}; there are: {', '.join(DEGRADATIONS)}")
    return DEGRADATIONS[kind](scale)
