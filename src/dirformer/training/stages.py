"""What one training step computes, stage by stage. The loop calls `losses` and knows no stage."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.catalog import find_weights
from dirformer.convert import load_stage1, load_stage2
from dirformer.errors import ConfigError
from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2, start_at_identity
from dirformer.networks.prior import CPEN
from dirformer.training.config import TrainConfig


@runtime_checkable
class Stage(Protocol):
    """A network in training and the losses of a batch."""

    model: Any
    """A DiffIRS1 or DiffIRS2; the loop puts its wrapper for devices and precision around it."""
    frozen: nn.Module | None
    """Networks that are used but not trained."""
    forward_method: str
    """The method of `model` that a step calls."""

    def losses(
        self,
        lq: Float[Tensor, "b c h w"],
        gt: Float[Tensor, "b 3 H W"],
        generators: list[torch.Generator],
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name; `generators` has one for each sample."""
        ...


class Stage1:
    """CPEN and DIRformer together, L1 on the photo."""

    forward_method = "forward"
    frozen: nn.Module | None = None

    def __init__(self, config: TrainConfig) -> None:
        self.weights = config.loss
        self.model: Any
        if config.init is None:
            self.model = DiffIRS1(config.network)
            if config.start == "identity":
                start_at_identity(self.model)
        else:
            self.model = load_stage1(find_weights(config.init))
            _require_same(config, self.model, "init")

    def losses(
        self, lq: Float[Tensor, "b c h w"], gt: Float[Tensor, "b 3 H W"], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        del generators  # nothing is random here
        return {"image": self.weights.image * F.l1_loss(self.model(lq, gt), gt)}


class Stage2:
    """Algorithm 1: stage 1's IPR is noised to t = T and estimated back through all T steps.

    All of stage 2 learns from L1 on the photo and Eq. 13 on the IPR.
    """

    forward_method = "restore_and_estimate"

    def __init__(self, config: TrainConfig) -> None:
        self.weights = config.loss
        if config.stage1 is None:
            raise ConfigError("stage 2 starts from a stage-1 network; give stage1=FILE")
        stage1 = load_stage1(find_weights(config.stage1))
        _require_same(config, stage1, "stage1")
        self.teacher: CPEN = stage1.cpen.requires_grad_(requires_grad=False)
        self.frozen: nn.Module | None = self.teacher
        self.model: Any
        if config.init is None:
            model = DiffIRS2(config.network)
            if config.start == "identity":
                start_at_identity(model)
            model.start_from(stage1)
            self.model = model
        else:
            self.model = load_stage2(find_weights(config.init))
            _require_same(config, self.model, "init")
        self.noise_shape = self.model.noise_shape

    def losses(
        self, lq: Float[Tensor, "b c h w"], gt: Float[Tensor, "b 3 H W"], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            prior = self.teacher(lq, gt)
        noise = torch.stack([torch.randn(self.noise_shape, generator=g) for g in generators], dim=1).to(prior)
        restored, estimates = self.model.restore_and_estimate(lq, prior, noise)
        return {
            "image": self.weights.image * F.l1_loss(restored, gt),
            "prior": self.weights.prior * F.l1_loss(estimates[-1], prior),
        }


STAGES: dict[int, type[Stage1 | Stage2]] = {1: Stage1, 2: Stage2}


def _require_same(config: TrainConfig, model: DiffIR, field: str) -> None:
    ours, theirs = config.network.to_dict(), model.config.to_dict()
    for name, value in ours.items():
        if theirs[name] != value:
            raise ConfigError(
                f"{field} is a network with {name} = {theirs[name]!r}, the recipe's model has {value!r}; "
                "use the model the file was trained with"
            )
