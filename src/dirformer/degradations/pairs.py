"""Training pairs of the real-world recipes: sharpened targets, common random crops, the pair pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.degradations.base import Degradation, Generators, integer, per_photo
from dirformer.degradations.blur import sharpen
from dirformer.ground.errors import ConfigError

Crops = tuple[Float[Tensor, "b 3 lq lq"], Float[Tensor, "b 3 gt gt"]]


@dataclass(frozen=True)
class PairMaker:
    """Clean crops → (LQ, GT) patches, as the released real-world recipes do.

    The recipes' V2 differs from V1 in one thing: it degrades sharpened photos and has sharpened targets
    for the image losses. `sharpen_input=True` is the first half; the second is `sharpen` on the GT that
    comes back, behind the pool, because the adversary's real photos stay plain.
    """

    degrade: Degradation
    patch: int
    """Side of the LQ patches in pixels."""
    sharpen_input: bool = False
    draws: Literal["sample", "batch"] = "sample"
    """Whether each photo is cropped at a place of its own."""

    def __call__(self, gt: Float[Tensor, "b 3 H W"], generators: Generators) -> Crops:
        """Degrade and crop both at random, aligned."""
        photos = per_photo(generators, len(gt))
        lq = self.degrade(sharpen(gt) if self.sharpen_input else gt, photos)
        places = [self._place(lq, generator) for generator in photos]
        if self.draws == "batch":
            places = [places[0]] * len(places)
        side, scale = self.patch, self.degrade.scale
        lq_crops = [x[:, y : y + side, left : left + side] for x, (y, left) in zip(lq, places, strict=True)]
        side *= scale
        gt_crops = [
            x[:, y * scale : y * scale + side, left * scale : left * scale + side]
            for x, (y, left) in zip(gt, places, strict=True)
        ]
        return torch.stack(lq_crops), torch.stack(gt_crops)

    def _place(self, lq: Tensor, generator: torch.Generator) -> tuple[int, int]:
        height, width = lq.shape[-2:]
        if min(height, width) < self.patch:
            raise ConfigError(f"degraded photos are {width}×{height}; patches need {self.patch} pixels")
        return integer(generator, height - self.patch + 1), integer(generator, width - self.patch + 1)


class PairPool:
    """Earlier pairs, swapped for new ones: mixes batches whose degradation was drawn once for all.

    While it fills, pairs pass through. Then each step shuffles it, gives out as many old pairs as come in
    and keeps the new ones. What it holds is part of a run's state.
    """

    def __init__(self, size: int, batch: int) -> None:
        if size % batch:
            raise ConfigError(f"pool size is {size}; expected a multiple of the batch, {batch}")
        self.size, self.batch = size, batch
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def swap(self, lq: Tensor, gt: Tensor, generator: torch.Generator) -> Crops:
        """Put a batch in and take one out."""
        if len(lq) != self.batch:
            raise ConfigError(f"pool takes batches of {self.batch}; received {len(lq)}")
        incoming = list(zip(lq.clone(), gt.clone(), strict=True))
        if len(self.pairs) < self.size:
            self.pairs += incoming
            return lq, gt
        order = torch.randperm(self.size, generator=generator).tolist()
        shuffled = [self.pairs[i] for i in order]
        outgoing, self.pairs = shuffled[: self.batch], incoming + shuffled[self.batch :]
        return torch.stack([pair[0] for pair in outgoing]), torch.stack([pair[1] for pair in outgoing])

    def state_dict(self) -> dict[str, Any]:
        """Return the pairs held, for a run's state; nothing when empty."""
        if not self.pairs:
            return {}
        return {"lq": torch.stack([p[0] for p in self.pairs]), "gt": torch.stack([p[1] for p in self.pairs])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up pairs saved by `state_dict`."""
        self.pairs = list(zip(state["lq"], state["gt"], strict=True)) if state else []
