"""What one training step computes, stage by stage. The loop calls `losses` and knows no stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.catalog import find_weights
from dirformer.convert import load_stage1, load_stage2, read_foreign
from dirformer.errors import ConfigError
from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2, start_at_identity
from dirformer.networks.dirformer import Level
from dirformer.networks.discriminators import UNetDiscriminator
from dirformer.networks.features import VGG19Features
from dirformer.training.config import TrainConfig
from dirformer.training.losses import (
    PRIOR_LOSSES,
    vanilla_discriminator,
    vanilla_generator,
    vgg_perceptual,
)


@dataclass(frozen=True)
class Batch:
    """What a step is given."""

    lq: Float[Tensor, "b c h w"]
    gt: Float[Tensor, "b 3 H W"]
    generators: list[torch.Generator]
    """One for each sample."""
    step: int


@runtime_checkable
class Stage(Protocol):
    """Networks in training and the losses of a batch."""

    model: Any
    """A DiffIRS1 or DiffIRS2; the loop puts its wrapper for devices and precision around it."""
    forward_methods: tuple[str, ...]
    """The methods of `model`, beside `forward`, that a step calls."""
    frozen: nn.ModuleList
    """Networks that are used but not trained."""
    adversary: Any
    """A discriminator, trained beside with an optimiser of its own; or None."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted losses of the model by name."""
        ...

    def adversary_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the adversary on what the last `losses` restored."""
        ...


class Stage1:
    """CPEN and DIRformer together, L1 on the photo."""

    forward_methods: tuple[str, ...] = ()

    def __init__(self, config: TrainConfig) -> None:
        self.weights = config.loss
        self.frozen, self.adversary = nn.ModuleList(), None
        if config.loss.adversarial or config.loss.perceptual:
            raise ConfigError("loss.adversarial and loss.perceptual belong to stage 2; set stage=2")
        self.model: Any
        if config.init is None:
            self.model = DiffIRS1(config.network)
            if config.start == "identity":
                start_at_identity(self.model)
        else:
            self.model = load_stage1(find_weights(config.init))
            _require_same(config, self.model, "init")
        _recompute(self.model, config)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L1 on the photo."""
        return {"image": self.weights.image * F.l1_loss(self.model(batch.lq, batch.gt), batch.gt)}

    def adversary_losses(self, batch: Batch) -> dict[str, Tensor]:
        """There is no adversary in stage 1."""
        del batch
        return {}


class Stage2:
    """Algorithm 1: stage 1's IPR is noised to t = T and estimated back through all T steps.

    All of stage 2 learns from the photo's losses and from the distance of the estimate to stage 1's IPR.
    Three variations of it: a warm-up in which CPEN and denoiser learn alone; `training: separate`, where
    they learn one random t at a time and the DIRformer never (ablation V2); and the adversarial
    refinement, where a discriminator is trained beside.
    """

    forward_methods = ("restore_and_estimate", "estimate_back", "predict_at")

    def __init__(self, config: TrainConfig) -> None:
        self.weights, self.warmup_steps = config.loss, config.warmup.steps
        self.prior_loss = PRIOR_LOSSES[config.loss.prior_kind]
        self.separate = config.training == "separate"
        if config.stage1 is None:
            raise ConfigError("stage 2 starts from a stage-1 network; give stage1=FILE")
        stage1 = load_stage1(find_weights(config.stage1))
        _require_same(config, stage1, "stage1")
        self.teacher: Any = stage1.cpen.requires_grad_(requires_grad=False)
        self.frozen = nn.ModuleList([self.teacher])
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
        if self.separate:
            if not config.network.timesteps:
                raise ConfigError("training=separate needs a diffusion model; model.timesteps is 0")
            self.model.dirformer.requires_grad_(requires_grad=False)
        _recompute(self.model, config)
        self.timesteps, self.target = config.network.timesteps, config.network.target
        self.noise_shape = self.model.noise_shape
        self.features = _vgg19(config)
        if self.features is not None:
            self.frozen.append(self.features)
        self.adversary: Any = UNetDiscriminator() if config.loss.adversarial else None
        self.restored: Tensor | None = None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the phase that the step is in."""
        with torch.no_grad():
            prior = self.teacher(batch.lq, batch.gt)
        noise = torch.stack([torch.randn(self.noise_shape, generator=g) for g in batch.generators], dim=1)
        noise = noise.to(prior)
        if self.separate:
            return self._one_random_step(batch, prior, noise)
        if batch.step < self.warmup_steps:
            return self._prior(self.model.estimate_back(batch.lq, prior, noise)[-1], prior)
        restored, estimates = self.model.restore_and_estimate(batch.lq, prior, noise)
        weights = self.weights
        parts = {"image": weights.image * F.l1_loss(restored, batch.gt)} | self._prior(estimates[-1], prior)
        if self.features is not None:
            parts["perceptual"] = weights.perceptual * vgg_perceptual(self.features, restored, batch.gt)
        if self.adversary is not None:
            self.adversary.requires_grad_(requires_grad=False)
            parts["adversarial"] = weights.adversarial * vanilla_generator(self.adversary(restored))
            self.restored = restored.detach()
        return parts

    def adversary_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Real photos against what the last `losses` restored."""
        if self.adversary is None or self.restored is None:
            return {}
        self.adversary.requires_grad_(requires_grad=True)
        real, fake = self.adversary(batch.gt), self.adversary(self.restored)
        return {"discriminator": vanilla_discriminator(real, fake)}

    def _prior(self, estimate: Tensor, prior: Tensor) -> dict[str, Tensor]:
        return {"prior": self.weights.prior * self.prior_loss(estimate, prior)}

    def _one_random_step(self, batch: Batch, prior: Tensor, noise: Tensor) -> dict[str, Tensor]:
        index = torch.stack([torch.randint(self.timesteps, (), generator=g) for g in batch.generators])
        prediction = self.model.predict_at(batch.lq, prior, noise[0], index.to(prior.device))
        target = prior if self.target == "x0" else noise[0]
        return self._prior(prediction, target)


STAGES: dict[int, type[Stage1 | Stage2]] = {1: Stage1, 2: Stage2}


def _vgg19(config: TrainConfig) -> VGG19Features | None:
    if not config.loss.perceptual:
        return None
    if config.loss.vgg19 is None:
        raise ConfigError(
            "loss.perceptual needs VGG-19's published ImageNet weights; give loss.vgg19=FILE (vgg19-*.pth)"
        )
    features = VGG19Features()
    features.take(read_foreign(config.loss.vgg19), str(config.loss.vgg19))
    return features


def _recompute(model: DiffIR, config: TrainConfig) -> None:
    for module in model.modules():
        if isinstance(module, Level):
            module.recompute = config.checkpoint_activations


def _require_same(config: TrainConfig, model: DiffIR, field: str) -> None:
    ours, theirs = config.network.to_dict(), model.config.to_dict()
    for name, value in ours.items():
        # Stage 1 has no diffusion: stage 2 may choose another one over the same teacher.
        if theirs[name] != value and not (model.stage == 1 and name in _DIFFUSION):
            raise ConfigError(
                f"{field} is a network with {name} = {theirs[name]!r}, the recipe's model has {value!r}; "
                "use the model the file was trained with"
            )


_DIFFUSION = {
    "timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "target",
    "reverse_noise",
    "denoiser_blocks",
    "denoiser_order",
    "time",
}
