"""Losses of the paper and the release, each a function of tensors; weights stand in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.networks.features import DilatedResNet50, VGG19Features

# Photos


def masked_l1(
    restored: Float[Tensor, "b 3 h w"],
    gt: Float[Tensor, "b 3 h w"],
    mask: Float[Tensor, "b 1 h w"],
    known: float = 10.0,
    hole: float = 0.0,
) -> Float[Tensor, ""]:
    """L1 weighted by place, mean over all pixels: `known` outside holes, `hole` inside (LaMa: 10, 0)."""
    return ((known * (1 - mask) + hole * mask) * (restored - gt).abs()).mean()


def negative_psnr(
    restored: Float[Tensor, "b 3 h w"],
    gt: Float[Tensor, "b 3 h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
    known: float = 10.0,
    hole: float = 0.0,
    floor: float = 1e-10,
) -> Float[Tensor, ""]:
    """−PSNR in dB of photos in [0, 1], mean over the batch: each photo counts as in the tables.

    With `mask`, squared errors are weighted by place as in `masked_l1`; a sample without any weight
    counts 0. `floor` is added to each sample's mean squared error: 1e-10 ends the scale at 100 dB, 1e-4 at
    40 dB, and samples above that end count little.
    """
    error = (restored - gt).square().mean(1, keepdim=True)
    weight = torch.ones_like(error) if mask is None else known * (1 - mask) + hole * mask
    total = weight.flatten(1).sum(1)
    # A sample without any weight gets an error of 1, whose logarithm is 0.
    mse = torch.where(total > 0, (weight * error).flatten(1).sum(1) / total.clamp_min(1e-10), 1.0)
    # Without a floor the slope has no bound where a sample is nearly perfect.
    return 10 * torch.log10(mse + floor).sum() / len(error)


# The IPR


def prior_l1(estimate: Float[Tensor, "b p"], prior: Float[Tensor, "b p"]) -> Float[Tensor, ""]:
    """Eq. 13: mean of |Ẑ − Z|; the target is a constant."""
    return F.l1_loss(estimate, prior.detach())


def prior_l2(estimate: Float[Tensor, "b p"], prior: Float[Tensor, "b p"]) -> Float[Tensor, ""]:
    """Eq. 14: mean of (Ẑ − Z)²."""
    return F.mse_loss(estimate, prior.detach())


def prior_kl(
    estimate: Float[Tensor, "b p"], prior: Float[Tensor, "b p"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Eq. 15: KL divergence of the softmaxed IPRs, mean over the batch.

    The release computes it at temperature 0.15 and only logs it.
    """
    target = F.log_softmax(prior.detach() / temperature, dim=1)
    return F.kl_div(
        F.log_softmax(estimate / temperature, dim=1), target, reduction="batchmean", log_target=True
    )


PRIOR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": prior_l1,
    "l2": prior_l2,
    "kl": prior_kl,
}

# Features

VGG19_WEIGHTS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


ESRGAN_WEIGHTS = {"conv5_4": 1.0}
PERCEPTUAL_LAYERS = {"five": VGG19_WEIGHTS, "conv5_4": ESRGAN_WEIGHTS}
"""What `loss.perceptual_layers` stands for: Real-ESRGAN's weights (released), or ESRGAN's one layer."""


def vgg_perceptual(
    features: VGG19Features,
    restored: Float[Tensor, "b 3 h w"],
    gt: Float[Tensor, "b 3 h w"],
    weights: Mapping[str, float] = VGG19_WEIGHTS,
) -> Float[Tensor, ""]:
    """L1 between maps of VGG-19 before ReLU, weighted by layer."""
    with torch.no_grad():
        targets = features(gt)
    maps = features(restored)
    return torch.stack([w * F.l1_loss(maps[name], targets[name]) for name, w in weights.items()]).sum()


def resnet_perceptual(
    features: DilatedResNet50, restored: Float[Tensor, "b 3 h w"], gt: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, ""]:
    """Sum over four stages of the squared difference of a dilated ResNet-50's maps (LaMa)."""
    with torch.no_grad():
        targets = features(gt)
    pairs = zip(features(restored), targets, strict=True)
    return torch.stack([F.mse_loss(ours, target) for ours, target in pairs]).sum()


def feature_matching(
    ours: list[Float[Tensor, "b _ _ _"]], target: list[Float[Tensor, "b _ _ _"]]
) -> Float[Tensor, ""]:
    """Mean over a discriminator's layers, logits left out, of their outputs' squared difference (LaMa)."""
    pairs = zip(ours[:-1], target[:-1], strict=True)
    return torch.stack([F.mse_loss(a, b.detach()) for a, b in pairs]).mean()


# Discriminators


def vanilla_generator(fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """−log σ(D(restored)), mean over positions: small when D takes restored photos for real ones."""
    return F.softplus(-fake).mean()


def vanilla_discriminator(
    real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy on logits, real photos 1 and restored ones 0, each with weight 1."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def relativistic_generator(
    real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """ESRGAN's: half the cross-entropy of real below the mean of restored, and of restored above that of
    real.

    A relativistic average discriminator says how much more real a photo is than the other kind on average.
    """
    return (F.softplus(real - fake.mean()).mean() + F.softplus(real.mean() - fake).mean()) / 2


def relativistic_discriminator(
    real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """The counterpart of `relativistic_generator`: real above the mean of restored, restored below real's."""
    return (F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()) / 2


def r1_discriminator(
    discriminator: Callable[[Tensor], Tensor],
    gt: Float[Tensor, "b 3 h w"],
    restored: Float[Tensor, "b 3 h w"],
    mask: Float[Tensor, "b 1 h w"],
    penalty: float = 0.001,
) -> Float[Tensor, ""]:
    """LaMa's discriminator loss: non-saturating, with R1 on real photos; known regions count as real.

    Args:
        discriminator: gives a logit for each patch.
        gt: real photos.
        restored: raw predictions, not composited; a constant here.
        mask: 1 in holes; resized to the logits by nearest neighbour.
        penalty: weight of the squared norm of the gradient of Σ D(gt) by gt, mean over the batch.
    """
    gt = gt.detach().requires_grad_()
    real, fake = discriminator(gt), discriminator(restored.detach())
    (slope,) = torch.autograd.grad(real.sum(), gt, create_graph=True)
    hole = F.interpolate(mask, size=fake.shape[-2:], mode="nearest")
    of_fake = hole * F.softplus(fake) + (1 - hole) * F.softplus(-fake)
    return (F.softplus(-real) + of_fake).mean() + penalty * slope.square().flatten(1).sum(1).mean()
