"""Validation while a network trains: the fixed photos of a recipe, scored as the field scores them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dirformer.data.folders import find_photos
from dirformer.degradations.pipeline import degradation
from dirformer.device import seeded_generator
from dirformer.evaluation.metrics import psnr, rgb_to_y
from dirformer.networks.diffir import DiffIR, DiffIRS1
from dirformer.photo import read_rgb
from dirformer.training import loop
from dirformer.training.config import TrainConfig

BORDER = 4
"""Pixels of the GT left out along each side, as in the SR tables."""


def train(config: TrainConfig, report: loop.Report = print, minutes: float | None = None) -> Path:
    """Run a recipe and validate as it says; see `training.loop.train` for what is raised.

    With `minutes`, the recipe's schedule is fitted to the time instead of its steps.
    """
    if minutes is not None:
        config = loop.steps_in(config, minutes, report)
    return loop.train(config, None if config.data.val is None else Validation(config), report)


class Validation:
    """PSNR-Y over the middle of each validation photo, degraded once, the same for the entire run."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.data.val is not None
        network, limit = config.network, config.data.val_crop
        degrade = degradation(config.data.degradation, network.scale)
        step = network.multiple * network.scale
        self.seed = config.seed
        self.pairs: list[tuple[Tensor, Tensor]] = []
        for number, path in enumerate(find_photos(config.data.val)):
            gt = _middle(read_rgb(path).float()[None] / 255, limit, step)
            lq = degrade(gt, seeded_generator(config.seed, "validation", number))
            self.pairs.append((lq, gt))

    @torch.inference_mode()
    def __call__(self, model: DiffIR) -> dict[str, float]:
        """Return {"psnr_y": mean in dB}."""
        device = next(model.parameters()).device
        scores = []
        for number, (lq, gt) in enumerate(self.pairs):
            if isinstance(model, DiffIRS1):
                restored = model(lq.to(device), gt.to(device))
            else:
                generator = seeded_generator(self.seed, "validation noise", number)
                noise = torch.randn(model.noise_shape, generator=generator)[:, None]
                restored = model(lq.to(device), noise.to(device))
            restored = (restored[0].cpu().clamp(0, 1) * 255).round() / 255
            scores.append(psnr(rgb_to_y(restored), rgb_to_y(gt[0]), BORDER))
        return {"psnr_y": sum(scores) / len(scores)}


def _middle(photo: Tensor, limit: int, step: int) -> Tensor:
    height, width = (min(n, limit) // step * step for n in photo.shape[-2:])
    top, left = (photo.shape[-2] - height) // 2, (photo.shape[-1] - width) // 2
    return photo[..., top : top + height, left : left + width]
