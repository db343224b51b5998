"""Crops that are degraded where they are decoded: in the loader's workers, on as many cores as there are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dirformer.data.datasets import CleanCrops, Key, MixedCrops
from dirformer.degradations.base import Degradation
from dirformer.degradations.blur import sharpen
from dirformer.ground.device import seeded_generator


class DegradedCrops(Dataset[dict[str, Any]]):
    """Samples {"gt": 3 H W, "lq": 3 h w, "index"} without margin, drawn as on the device: by seed and number.

    The GT stays uint8; the LQ is uint8 too where the degradation's results lie on the 8-bit grid, else
    float32 in [0, 1].
    """

    def __init__(
        self, crops: CleanCrops | MixedCrops, degrade: Degradation, seed: int, *, sharpen_input: bool = False
    ) -> None:
        """Take crops with the degradation's margin around them."""
        self.crops, self.degrade, self.seed, self.sharpen_input = crops, degrade, seed, sharpen_input

    def __len__(self) -> int:
        """Photos in an epoch."""
        return len(self.crops)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of that number."""
        raw = self.crops[key]
        margin, index = self.degrade.margin, raw["index"]
        if raw.get("given"):
            lq = F.pad(raw["lq"], [-margin] * 4)
            lq = lq if self.degrade.eight_bit else lq.float().div_(255)
        else:
            lq = self._degraded(raw["gt"], index)
        gt = F.pad(raw["gt"], [-margin * self.degrade.scale] * 4)
        return {"gt": gt.contiguous(), "lq": lq.contiguous(), "index": index}

    def _degraded(self, gt: Tensor, index: int) -> Tensor:
        clean = gt[None].float() / 255
        clean = sharpen(clean) if self.sharpen_input else clean
        with torch.no_grad():
            lq = self.degrade.inside(clean, [seeded_generator(self.seed, "degrade", index)])[0]
        return (lq * 255).round_().byte() if self.degrade.eight_bit else lq
