"""What one training step computes, stage by stage. The loop calls `losses` and knows no stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.ground.errors import ConfigError
from dirformer.ground.paths import installed_file
from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2, start_at_identity
from dirformer.networks.dirformer import Level
from dirformer.networks.discriminators import PatchDiscriminator, UNetDiscriminator
from dirformer.networks.features import DilatedResNet50, ShiftTolerantAlexNet, VGG19Features
from dirformer.training.config import Loss, TrainConfig
from dirformer.training.losses import (
    PRIOR_LOSSES,
    feature_matching,
    masked_l1,
    negative_psnr,
    r1_discriminator,
    resnet_perceptual,
    vanilla_discriminator,
    vanilla_generator,
    vgg_perceptual,
)
from dirformer.training.samples import Batch
from dirformer.weights.authors import load_network, load_stage1, load_stage2, read_foreign
from dirformer.weights.catalog import find_weights


@runtime_checkable
class Stage(Protocol):
    """Networks in training and the losses of a batch."""

    model: Any
    """A DiffIRS1 or DiffIRS2; the loop puts its wrapper for devices and precision around it."""
    frozen: nn.ModuleList
    """Networks that are used but not trained."""
    adversary: Any
    """A discriminator, trained beside with an optimiser of its own; or None."""

    @property
    def restored(self) -> Tensor | None:
        """What the last `losses` restored, a constant; None without an adversary."""
        ...

    def draw(self, batch: Batch) -> Batch:
        """Return the batch with all that is random in its losses."""
        ...

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted losses of the model by name, from what `draw` gave."""
        ...

    def adversary_losses(self, batch: Batch, restored: Tensor) -> dict[str, Tensor]:
        """Return the losses of the adversary: real photos against what was restored of the batch."""
        ...


class PhotoLosses:
    """What both stages ask of a restored photo, and the adversary's side of it."""

    def __init__(self, config: TrainConfig) -> None:
        loss, self.weights = config.loss, config.loss
        self.inpainting = config.network.task == "inpainting"
        if loss.feature_matching and not (loss.adversarial and loss.discriminator == "patch"):
            raise ConfigError(
                "loss.feature_matching compares maps of a patch discriminator; "
                "set loss.adversarial above 0 and loss.discriminator=patch"
            )
        if loss.discriminator == "patch" and loss.adversarial and not self.inpainting:
            raise ConfigError("loss.discriminator=patch judges holes (inpainting); expected unet")
        self.features: dict[str, nn.Module] = {}
        for name, (file, build, hint) in _EXTRACTORS.items():
            if getattr(loss, name):
                self.features[name] = _extractor(_weight_file(loss, file), build, f"loss.{name}", file, hint)
        self.frozen = list(self.features.values())
        self.adversary: Any = None
        if loss.adversarial:
            kind = {"unet": UNetDiscriminator, "patch": PatchDiscriminator}[loss.discriminator]
            self.adversary = kind(loss.discriminator_dim)
        self.restored: Tensor | None = None

    def __call__(self, restored: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted losses of a restored photo by name."""
        weights, gt = self.weights, batch.gt
        if weights.image_kind == "psnr":
            image = negative_psnr(restored, gt, batch.mask, weights.known, weights.hole)
        elif batch.mask is not None:
            image = masked_l1(restored, gt, batch.mask, weights.known, weights.hole)
        else:
            image = F.l1_loss(restored, gt)
        parts = {"image": weights.image * image}
        for name, features in self.features.items():
            parts[name] = getattr(weights, name) * _PERCEPTUAL[name](features, restored, gt)
        if self.adversary is not None:
            parts |= self._adversarial(restored, batch)
        return parts

    def _adversarial(self, restored: Tensor, batch: Batch) -> dict[str, Tensor]:
        weights = self.weights
        self.restored = restored.detach()
        self.adversary.requires_grad_(requires_grad=False)
        if weights.discriminator == "unet":
            return {"adversarial": weights.adversarial * vanilla_generator(self.adversary(restored))}
        ours = self.adversary.features(restored)
        parts = {"adversarial": weights.adversarial * vanilla_generator(ours[-1])}
        if weights.feature_matching:
            with torch.no_grad():
                target = self.adversary.features(batch.real)
            parts["features"] = weights.feature_matching * feature_matching(ours, target)
        return parts

    def of_adversary(self, batch: Batch, restored: Tensor) -> dict[str, Tensor]:
        """Return the adversary's loss: real photos against what was restored of the batch."""
        self.adversary.requires_grad_(requires_grad=True)
        if batch.mask is not None:
            return {"discriminator": r1_discriminator(self.adversary, batch.real, restored, batch.mask)}
        real, fake = self.adversary(batch.real), self.adversary(restored)
        return {"discriminator": vanilla_discriminator(real, fake)}


class _Judged:
    """A stage's side of the adversary, which belongs to the losses of the photo."""

    photo: PhotoLosses

    @property
    def adversary(self) -> Any:
        """The discriminator, or None."""
        return self.photo.adversary

    @adversary.setter
    def adversary(self, wrapped: Any) -> None:
        self.photo.adversary = wrapped

    @property
    def restored(self) -> Tensor | None:
        """What the last `losses` restored."""
        return self.photo.restored

    def adversary_losses(self, batch: Batch, restored: Tensor) -> dict[str, Tensor]:
        """Real photos against what was restored."""
        return self.photo.of_adversary(batch, restored)


class Stage1(_Judged):
    """CPEN and DIRformer together, under the losses of the photo."""

    def __init__(self, config: TrainConfig) -> None:
        self.photo = PhotoLosses(config)
        self.frozen = nn.ModuleList(self.photo.frozen)
        self.model: Any
        if config.init is None:
            self.model = _fresh(DiffIRS1(config.network), config)
        else:
            self.model = load_stage1(find_weights(config.init))
            _require_same(config, self.model, "init")
        _recompute(self.model, config)

    def draw(self, batch: Batch) -> Batch:
        """Nothing is random here."""
        return batch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the photo."""
        return self.photo(self.model(batch.lq, batch.gt), batch)


class Stage2(_Judged):
    """Algorithm 1: stage 1's IPR is noised to t = T and estimated back through all T steps.

    All of stage 2 learns from the photo's losses and from the distance of the estimate to stage 1's IPR.
    Three variations of it: a warm-up in which CPEN and denoiser learn alone; `training: separate`, where
    they learn one random t at a time and the DIRformer never (ablation V2); and the adversarial
    refinement, where a discriminator is trained beside.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.weights, self.warmup_steps = config.loss, config.warmup.steps
        self.prior_loss = PRIOR_LOSSES[config.loss.prior_kind]
        self.separate = config.training == "separate"
        if config.stage1 is None:
            raise ConfigError("stage 2 starts from a stage-1 network; give stage1=FILE")
        stage1 = load_stage1(find_weights(config.stage1))
        _require_same(config, stage1, "stage1")
        self.teacher: Any = stage1.cpen.requires_grad_(requires_grad=False)
        self.photo = PhotoLosses(config)
        self.frozen = nn.ModuleList([self.teacher, *self.photo.frozen])
        self.model: Any
        if config.init is None:
            model = _fresh(DiffIRS2(config.network), config)
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

    def draw(self, batch: Batch) -> Batch:
        """Draw each photo's noise, and its step of the chain where they are learned one at a time."""
        noise = torch.stack([torch.randn(self.noise_shape, generator=g) for g in batch.generators])
        batch = replace(batch, noise=noise.to(batch.lq))
        if not self.separate:
            return batch
        index = torch.stack([torch.randint(self.timesteps, (), generator=g) for g in batch.generators])
        return replace(batch, index=index.to(batch.lq.device))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the phase that the step is in."""
        with torch.no_grad():
            prior = self.teacher(batch.lq, batch.gt)
        assert batch.noise is not None
        noise = batch.noise.transpose(0, 1)
        if batch.index is not None:
            prediction = self.model.predict_at(batch.lq, prior, noise[0], batch.index)
            return self._prior(prediction, prior if self.target == "x0" else noise[0])
        if batch.step < self.warmup_steps:
            return self._prior(self.model.estimate_back(batch.lq, prior, noise)[-1], prior)
        restored, estimates = self.model.restore_and_estimate(batch.lq, prior, noise)
        return self.photo(restored, batch) | self._prior(estimates[-1], prior)

    def _prior(self, estimate: Tensor, prior: Tensor) -> dict[str, Tensor]:
        return {"prior": self.weights.prior * self.prior_loss(estimate, prior)}


STAGES: dict[int, type[Stage1 | Stage2]] = {1: Stage1, 2: Stage2}


Extractor = VGG19Features | DilatedResNet50 | ShiftTolerantAlexNet
_EXTRACTORS: dict[str, tuple[str, type[Extractor], str]] = {
    "perceptual": ("vgg19", VGG19Features, "VGG-19's published ImageNet weights (vgg19-*.pth)"),
    "resnet": ("resnet50", DilatedResNet50, "the ADE20K encoder's weights (encoder_epoch_20.pth)"),
    "shift_tolerant": ("stlpips", ShiftTolerantAlexNet, "the file in the package stlpips-pytorch"),
}
"""Loss → the field that names its weight file, the network, and what the file is called."""
_PERCEPTUAL: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "perceptual": vgg_perceptual,
    "resnet": resnet_perceptual,
    "shift_tolerant": lambda features, restored, gt: features(restored, gt).mean(),
}


def missing_weights(loss: Loss) -> dict[str, str]:
    """Return the perceptual losses whose weight file is neither given nor installed, with its field."""
    fields = {name: field for name, (field, _, _) in _EXTRACTORS.items() if getattr(loss, name)}
    return {name: field for name, field in fields.items() if _weight_file(loss, field) is None}


def _weight_file(loss: Loss, field: str) -> Path | None:
    path: Path | None = getattr(loss, field)
    if path is None and field == "stlpips":
        return installed_file(*ShiftTolerantAlexNet.INSTALLED)
    return path


def _extractor(path: Path | None, build: type[Extractor], name: str, field: str, hint: str) -> nn.Module:
    if path is None:
        raise ConfigError(f"{name} needs {hint}; give loss.{field}=FILE")
    features = build()
    features.take(read_foreign(path), str(path))
    return features


def _fresh(model: Any, config: TrainConfig) -> Any:
    """Start a network at random as the recipe says, then take over what fits of `transfer`."""
    if config.start == "identity":
        start_at_identity(model)
    if config.transfer is not None:
        other, ours = load_network(find_weights(config.transfer)).state_dict(), model.state_dict()
        fitting = {k: v for k, v in other.items() if k in ours and ours[k].shape == v.shape}
        if not fitting:
            raise ConfigError(f"transfer={config.transfer} has no tensor that fits this network")
        model.load_state_dict(ours | fitting)
    return model


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
    "condition",
    "time",
}
