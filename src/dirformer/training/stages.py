"""The losses of stage 1 and of stage 2. The other files of this room know only the protocol `Stage`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.ground.errors import ConfigError
from dirformer.ground.mirror import fetched
from dirformer.ground.paths import installed_file
from dirformer.kernels.autograd import install
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2, start_at_identity
from dirformer.networks.dirformer import Level
from dirformer.networks.discriminators import PatchDiscriminator, UNetDiscriminator
from dirformer.networks.features import DilatedResNet50, ShiftTolerantAlexNet, VGG19Features
from dirformer.tasks import TASKS
from dirformer.training.config import TrainConfig
from dirformer.training.losses import (
    PERCEPTUAL_LAYERS,
    PRIOR_LOSSES,
    feature_matching,
    masked_l1,
    negative_psnr,
    r1_discriminator,
    relativistic_discriminator,
    relativistic_generator,
    resnet_perceptual,
    vanilla_discriminator,
    vanilla_generator,
    vgg_perceptual,
)
from dirformer.training.samples import Batch
from dirformer.training.sections import Loss
from dirformer.weights.catalog import find_weights
from dirformer.weights.load import load, load_stage1, load_stage2, load_teacher
from dirformer.weights.unpickle import read_foreign

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Losses:
    """What the forward pass of a batch gives."""

    values: dict[str, Tensor]
    """The weighted losses by name, each a scalar."""
    restored: Tensor | None = None
    """The restored photos `b 3 H W`, a constant; None where no discriminator is trained on them."""


@runtime_checkable
class Stage(Protocol):
    """The networks of a stage, and the losses of a batch.

    `losses` takes the networks as arguments: in training these are wrapped for devices and precision.
    """

    network: Any
    """A DiffIRS1 or DiffIRS2, to be trained."""
    discriminator: nn.Module | None
    """Trained against the network where `loss.adversarial` is above 0."""
    frozen: nn.ModuleList
    """Networks that are used but not trained."""
    photo: PhotoLosses
    """The losses of a restored photo."""

    def draw(self, batch: Batch) -> Batch:
        """Return the batch with all that is random in its losses."""
        ...

    def losses(self, batch: Batch, network: Any, discriminator: Any = None) -> Losses:
        """Return the losses of the network, for a batch that `draw` gave."""
        ...


class PhotoLosses:
    """The losses of a restored photo, the same in both stages, and the discriminator's."""

    def __init__(self, config: TrainConfig) -> None:
        loss, self.weights = config.loss, config.loss
        inpainting = TASKS[config.network_config.task].has_mask
        if loss.feature_matching and not (loss.adversarial and loss.discriminator == "patch"):
            raise ConfigError(
                "loss.feature_matching compares maps of a patch discriminator; "
                "set loss.adversarial above 0 and loss.discriminator=patch"
            )
        if loss.discriminator == "patch" and loss.adversarial and not inpainting:
            raise ConfigError("loss.discriminator=patch is for inpainting; expected unet")
        if loss.discriminator == "patch" and loss.adversarial and config.precision == "16-mixed":
            raise ConfigError(
                "precision=16-mixed does not go with loss.discriminator=patch, whose loss holds a gradient; "
                "set precision=bf16-mixed or precision=32-true"
            )
        if loss.adversarial_kind == "relativistic" and (inpainting or loss.discriminator == "patch"):
            raise ConfigError("loss.adversarial_kind=relativistic is for super-resolution; expected vanilla")
        self.features: dict[str, nn.Module] = {}
        for name, (file, build, hint) in _EXTRACTORS.items():
            if getattr(loss, name):
                self.features[name] = _extractor(_weight_file(loss, file), build, f"loss.{name}", file, hint)
        self.frozen = list(self.features.values())
        self.discriminator: nn.Module | None = None
        if loss.adversarial:
            kind = {"unet": UNetDiscriminator, "patch": PatchDiscriminator}[loss.discriminator]
            self.discriminator = kind(loss.discriminator_dim)

    def __call__(self, restored: Tensor, batch: Batch, discriminator: Any = None) -> dict[str, Tensor]:
        """Return the weighted losses of a restored photo by name."""
        weights, gt = self.weights, batch.gt
        if weights.image_kind == "psnr":
            image = negative_psnr(restored, gt, batch.mask, weights.known, weights.hole, weights.psnr_floor)
        elif batch.mask is not None:
            image = masked_l1(restored, gt, batch.mask, weights.known, weights.hole)
        else:
            image = F.l1_loss(restored, gt)
        parts = {"image": weights.image * image}
        for name, features in self.features.items():
            distance = _PERCEPTUAL[name](features, restored, gt, weights)
            parts[name] = getattr(weights, name) * distance
        if discriminator is not None:
            parts |= self._adversarial(restored, batch, discriminator)
        return parts

    def _adversarial(self, restored: Tensor, batch: Batch, discriminator: Any) -> dict[str, Tensor]:
        weights = self.weights
        discriminator.requires_grad_(requires_grad=False)
        if weights.discriminator == "unet":
            fake = discriminator(restored)
            if weights.adversarial_kind == "vanilla":
                return {"adversarial": weights.adversarial * vanilla_generator(fake)}
            with torch.no_grad():
                real = discriminator(batch.real)
            return {"adversarial": weights.adversarial * relativistic_generator(real, fake)}
        ours = discriminator.features(restored)
        parts = {"adversarial": weights.adversarial * vanilla_generator(ours[-1])}
        if weights.feature_matching:
            with torch.no_grad():
                target = discriminator.features(batch.real)
            parts["features"] = weights.feature_matching * feature_matching(ours, target)
        return parts

    def of_discriminator(self, batch: Batch, restored: Tensor, discriminator: Any) -> dict[str, Tensor]:
        """Return the discriminator's own loss: real photos against the restored ones of the batch."""
        discriminator.requires_grad_(requires_grad=True)
        if batch.mask is not None:
            return {"discriminator": r1_discriminator(discriminator, batch.real, restored, batch.mask)}
        real, fake = discriminator(batch.real), discriminator(restored)
        relativistic = self.weights.adversarial_kind == "relativistic"
        return {
            "discriminator": (relativistic_discriminator if relativistic else vanilla_discriminator)(
                real, fake
            )
        }


class Stage1:
    """CPEN and DIRformer together, on the losses of the photo."""

    def __init__(self, config: TrainConfig) -> None:
        self.photo = PhotoLosses(config)
        self.discriminator = self.photo.discriminator
        self.frozen = nn.ModuleList(self.photo.frozen)
        self.network: Any
        if config.init is None:
            self.network = _fresh(DiffIRS1(config.network_config), config)
        else:
            self.network = load_stage1(_file(config.init))
            _require_same(config, self.network.config, "init")
        _recompute(self.network, config)
        install(self.network)

    def draw(self, batch: Batch) -> Batch:
        """Return the batch as it is: stage 1 draws nothing."""
        return batch

    def losses(self, batch: Batch, network: Any, discriminator: Any = None) -> Losses:
        """Return the losses of the photo."""
        restored = network(batch.lq, batch.gt)
        values = self.photo(restored, batch, discriminator)
        return Losses(values, None if discriminator is None else restored.detach())


class Stage2:
    """Algorithm 1: stage 1's IPR is noised to t = T and estimated back through all T steps.

    All networks of stage 2 learn from the losses of the photo and from the distance of the estimate to
    stage 1's IPR. There are three variations. In a warm-up, CPEN and denoiser learn alone. With
    `training: separate` they learn one random t at a time, and the DIRformer is not trained (ablation V2).
    In the adversarial refinement, a discriminator is trained too.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.weights, self.warmup_steps = config.loss, config.warmup.steps
        self.prior_loss = PRIOR_LOSSES[config.loss.prior_kind]
        self.separate = config.training == "separate"
        self.photo = PhotoLosses(config)
        self.discriminator = self.photo.discriminator
        self.teacher: Any = None
        dirformer = self._take_teacher(config)
        self.frozen = nn.ModuleList(self.photo.frozen)
        if self.teacher is not None:
            self.frozen.append(self.teacher)
        self.network: Any
        if config.init is None:
            self.network = _fresh(DiffIRS2(config.network_config), config)
            self.network.dirformer.load_state_dict(dirformer)
        else:
            self.network = load_stage2(_file(config.init))
            _require_same(config, self.network.config, "init")
        self.timesteps, self.target = config.network_config.timesteps, config.network_config.target
        if self.separate:
            if not self.timesteps:
                raise ConfigError("training=separate needs a diffusion model; model.timesteps is 0")
            self.network.dirformer.requires_grad_(requires_grad=False)
        _recompute(self.network, config)
        install(self.network)

    def _take_teacher(self, config: TrainConfig) -> dict[str, Tensor]:
        """Load stage 1's CPEN as the teacher; return the tensors of its DIRformer, if the file has them.

        Without a stage-1 file, stage-2 weights go on learning from the losses of the photo alone.
        """
        if config.stage1 is None:
            if config.init is None:
                raise ConfigError("stage 2 starts from a stage-1 network; give stage1=FILE (or init=FILE)")
            if self.separate or self.warmup_steps:
                raise ConfigError("a warm-up and training=separate need a teacher; give stage1=FILE")
            log.warning("no stage1: the IPR has no teacher; stage 2 learns from the photo's losses alone")
            return {}
        path = _file(config.stage1)
        theirs, cpen, dirformer = load_teacher(path)
        _require_same(config, theirs, "stage1", stage=1)
        if config.init is None and not dirformer:
            raise ConfigError(
                f"{path} is a teacher, the CPEN of stage 1 alone; a new stage 2 needs a whole stage-1 file, "
                "or init=FILE to go on from stage-2 weights"
            )
        self.teacher = cpen.requires_grad_(requires_grad=False)
        return dirformer

    def draw(self, batch: Batch) -> Batch:
        """Draw each photo's noise; with `training: separate` also its step of the chain."""
        shape = self.network.noise_shape
        noise = torch.stack([torch.randn(shape, generator=g) for g in batch.generators])
        batch = replace(batch, noise=noise.to(batch.lq))
        if not self.separate:
            return batch
        index = torch.stack([torch.randint(self.timesteps, (), generator=g) for g in batch.generators])
        return replace(batch, index=index.to(batch.lq.device))

    def losses(self, batch: Batch, network: Any, discriminator: Any = None) -> Losses:
        """Return the losses of the warm-up, of separate training, or of joint training."""
        assert batch.noise is not None
        noise = batch.noise.transpose(0, 1)
        if self.teacher is None:
            restored = network(batch.lq, noise)
            values = self.photo(restored, batch, discriminator)
            return Losses(values, None if discriminator is None else restored.detach())
        with torch.no_grad():
            prior = self.teacher(batch.lq, batch.gt)
        if batch.index is not None:
            prediction = network.predict_at(batch.lq, prior, noise[0], batch.index)
            return Losses(self._prior(prediction, prior if self.target == "x0" else noise[0]))
        if batch.step < self.warmup_steps:
            return Losses(self._prior(network.estimate_back(batch.lq, prior, noise)[-1], prior))
        restored, estimates = network.restore_and_estimate(batch.lq, prior, noise)
        values = self.photo(restored, batch, discriminator) | self._prior(estimates[-1], prior)
        return Losses(values, None if discriminator is None else restored.detach())

    def _prior(self, estimate: Tensor, prior: Tensor) -> dict[str, Tensor]:
        return {"prior": self.weights.prior * self.prior_loss(estimate, prior)}


STAGES: dict[int, type[Stage1 | Stage2]] = {1: Stage1, 2: Stage2}


Extractor = VGG19Features | DilatedResNet50 | ShiftTolerantAlexNet
_EXTRACTORS: dict[str, tuple[str, type[Extractor], str]] = {
    "perceptual": ("vgg19", VGG19Features, "VGG-19's published ImageNet weights (vgg19-*.pth)"),
    "resnet": ("resnet50", DilatedResNet50, "the ADE20K encoder's weights (encoder_epoch_20.pth)"),
    "shift_tolerant": ("stlpips", ShiftTolerantAlexNet, "the file in the package stlpips-pytorch"),
}
"""Loss → the field for its weight file, the network, and the name of the file."""
_PERCEPTUAL: dict[str, Callable[[Any, Tensor, Tensor, Loss], Tensor]] = {
    "perceptual": lambda features, restored, gt, loss: vgg_perceptual(
        features, restored, gt, PERCEPTUAL_LAYERS[loss.perceptual_layers]
    ),
    "resnet": lambda features, restored, gt, _: resnet_perceptual(features, restored, gt),
    "shift_tolerant": lambda features, restored, gt, _: features(restored, gt).mean(),
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


def _fresh(network: Any, config: TrainConfig) -> Any:
    """Start a network at random as the recipe says, then take over what fits of `transfer`."""
    if config.start == "identity":
        start_at_identity(network)
    if config.transfer is not None:
        other, ours = load(_file(config.transfer)).state_dict(), network.state_dict()
        fitting = {k: v for k, v in other.items() if k in ours and ours[k].shape == v.shape}
        if not fitting:
            raise ConfigError(f"transfer={config.transfer} has no tensor that fits this network")
        network.load_state_dict(ours | fitting)
    return network


def _recompute(network: DiffIR, config: TrainConfig) -> None:
    for module in network.modules():
        if isinstance(module, Level):
            module.recompute = config.checkpoint_activations


def _file(weights: str | Path) -> Path:
    """Return a weight file of this machine: a name's, a path's, or what lies at an address."""
    return fetched(weights) if isinstance(weights, str) else find_weights(weights)


def _require_same(config: TrainConfig, other: ModelConfig, field: str, stage: int = 2) -> None:
    ours, theirs = config.network_config.to_dict(), other.to_dict()
    for name, value in ours.items():
        # Stage 1 has no diffusion: stage 2 may choose another one over the same teacher. And a network may be
        # shown holes that are filled another way.
        free = name == "fill" or (stage == 1 and name in _DIFFUSION)
        if theirs[name] != value and not free:
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
    "denoiser_output",
    "condition",
    "time",
}
