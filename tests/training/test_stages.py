"""What each stage trains, and on which losses."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.ground.errors import ConfigError
from dirformer.training.losses import (
    r1_discriminator,
    relativistic_discriminator,
    relativistic_generator,
    vanilla_discriminator,
)
from dirformer.training.samples import Batch
from dirformer.training.stages import STAGES, PhotoLosses
from dirformer.weights.checkpoints import TEACHER, save
from helpers import (
    FABRIC_WARNINGS,
    TINY_INPAINTING,
    TINY_SR,
    photo_folder,
    tiny,
    tiny_recipe,
)

pytestmark = FABRIC_WARNINGS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


@pytest.mark.parametrize("stage", [1, 2])
def test_gradients_reach_everything_that_is_trained(photos: Path, stage: int) -> None:
    """Stage 1 trains CPEN and DIRformer, stage 2 also the denoiser, through T steps; the teacher rests."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    config = tiny_recipe(
        photos, stage, **({"stage1": str(photos.parent / "s1.safetensors")} if stage == 2 else {})
    )
    current = STAGES[stage](config)
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    losses = losses_of(current, batch(lq, gt))
    assert set(losses) == ({"image"} if stage == 1 else {"image", "prior"})
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in current.network.parameters())
    assert all(p.grad is None for p in current.frozen.parameters())


def batch(lq: torch.Tensor, gt: torch.Tensor, step: int = 0) -> Batch:
    return Batch(lq, gt, [torch.Generator().manual_seed(i) for i in range(len(lq))], step)


def losses_of(stage: Any, given: Batch) -> dict[str, torch.Tensor]:
    """The losses of a batch, on the stage's own network."""
    return stage.losses(stage.draw(given), stage.network).values


def reached(model: torch.nn.Module) -> set[str]:
    """Rooms of a network whose parameters have a gradient that is not zero."""
    return {
        name.split(".")[0]
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }


def stage2(photos: Path, **fields: Any) -> Any:
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    return STAGES[2](tiny_recipe(photos, 2, stage1=str(photos.parent / "s1.safetensors"), **fields))


def test_joint_training_reaches_the_prior_through_the_photo(photos: Path) -> None:
    """V3: the photo's loss alone teaches CPEN and denoiser, through all T steps."""
    current = stage2(photos)
    losses_of(current, batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)))["image"].backward()
    assert reached(current.network) == {"cpen", "denoiser", "dirformer"}


@pytest.mark.parametrize("target", ["x0", "epsilon"])
def test_separate_training_leaves_the_dirformer_alone(photos: Path, target: str) -> None:
    """V2: a step at a random t teaches CPEN and denoiser; the DIRformer stays as stage 1 left it."""
    current = stage2(photos, training="separate", model=TINY_SR.to_dict() | {"target": target})
    losses = losses_of(current, batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)))
    assert set(losses) == {"prior"}
    losses["prior"].backward()
    assert reached(current.network) == {"cpen", "denoiser"}
    assert not any(p.requires_grad for p in current.network.dirformer.parameters())


def test_without_diffusion_the_condition_is_the_estimate(photos: Path) -> None:
    """V1: with T = 0, CPEN's own output is compared with stage 1's IPR and guides the DIRformer."""
    current = stage2(photos, model=TINY_SR.to_dict() | {"timesteps": 0})
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    losses = losses_of(current, batch(lq, gt))
    with torch.no_grad():
        expected = (current.network.cpen(lq) - current.teacher(lq, gt)).abs().mean()
    assert float(losses["prior"].detach()) == pytest.approx(float(expected))
    sum(losses.values()).backward()
    assert reached(current.network) == {"cpen", "dirformer"}


def by_formula(kind: str, estimate: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Eqs. 13 to 15, written out."""
    if kind == "l1":
        return (estimate - prior).abs().mean()
    if kind == "l2":
        return (estimate - prior).square().mean()
    target, ours = prior.softmax(1), estimate.softmax(1)
    return (target * (target / ours).log()).sum(1).mean()


@pytest.mark.parametrize("kind", ["l1", "l2", "kl"])
@pytest.mark.parametrize("warmup", [0, 9])
def test_prior_losses_are_chosen_by_the_recipe(photos: Path, kind: str, warmup: int) -> None:
    """The kind and the weight of `loss.prior` are those of the recipe, in the warm-up too."""
    current = stage2(photos, loss={"prior_kind": kind, "prior": 2.0}, warmup={"steps": warmup})
    given = current.draw(batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)))
    with torch.no_grad():
        prior = current.teacher(given.lq, given.gt)
        noise = given.noise.transpose(0, 1)
        estimate = current.network.estimate_back(given.lq, prior, noise)[-1]
        losses = current.losses(given, current.network).values
    expected = 2.0 * by_formula(kind, estimate, prior)
    assert float(losses["prior"]) == pytest.approx(float(expected), rel=1e-4)
    assert set(losses) == ({"prior"} if warmup else {"image", "prior"})


@pytest.mark.parametrize("kind", ["unet", "patch"])
def test_plain_photos_are_the_discriminators_real_ones(photos: Path, kind: str) -> None:
    """Where the target is sharpened, the discriminator still takes photos as they were for real."""
    model = TINY_INPAINTING if kind == "patch" else TINY_SR
    loss = {"adversarial": 1.0, "discriminator": kind, "discriminator_dim": 4}
    losses = PhotoLosses(tiny_recipe(photos, model=model.to_dict(), loss=loss))
    discriminator = losses.discriminator.eval()
    sharp, plain, restored = torch.rand(3, 2, 3, 32, 32)
    mask = torch.rand(2, 1, 32, 32).round() if kind == "patch" else None
    given = dataclasses.replace(batch(restored, sharp), plain=plain, mask=mask)
    value = losses.of_discriminator(given, restored, discriminator)["discriminator"]
    if mask is None:
        expected = vanilla_discriminator(discriminator(plain), discriminator(restored))
    else:
        expected = r1_discriminator(discriminator, plain, restored, mask)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_relativistic_losses_see_both_kinds_of_photos(photos: Path) -> None:
    """The network's loss compares restored with real photos, the discriminator's the other way round."""
    loss = {"adversarial": 0.5, "adversarial_kind": "relativistic", "discriminator_dim": 4}
    losses = PhotoLosses(tiny_recipe(photos, loss=loss))
    discriminator = losses.discriminator.eval()
    sharp, plain, restored = torch.rand(3, 2, 3, 32, 32)
    restored.requires_grad_()
    given = dataclasses.replace(batch(restored.detach(), sharp), plain=plain)
    value = losses(restored, given, discriminator)["adversarial"]
    real, fake = discriminator(plain), discriminator(restored)
    assert float(value.detach()) == pytest.approx(0.5 * float(relativistic_generator(real, fake).detach()))
    value.backward()
    assert float(restored.grad.abs().sum()) > 0
    of_discriminator = losses.of_discriminator(given, restored.detach(), discriminator)["discriminator"]
    expected = relativistic_discriminator(real, fake.detach())
    assert float(of_discriminator.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    patch = loss | {"discriminator": "patch"}
    with pytest.raises(ConfigError, match="relativistic is for super-resolution"):
        PhotoLosses(tiny_recipe(photos, model=TINY_INPAINTING.to_dict(), loss=patch))


def test_transfer_takes_over_what_fits(photos: Path) -> None:
    """Tensors of the same name and shape come from the file, others start at random."""
    other = tiny(dataclasses.replace(TINY_SR, prior_dim=12), stage=1, seed=7)
    save(photos.parent / "other.safetensors", other)
    file = str(photos.parent / "other.safetensors")
    ours, theirs = STAGES[1](tiny_recipe(photos, transfer=file)).network.state_dict(), other.state_dict()
    fitting = {k for k in ours if k in theirs and ours[k].shape == theirs[k].shape}
    assert 0 < len(fitting) < len(ours)
    assert all(torch.equal(ours[k], theirs[k]) for k in fitting)


def test_perceptual_loss_asks_for_its_weights(photos: Path) -> None:
    """VGG-19's weights cannot be shipped: the error says which file to give."""
    with pytest.raises(ConfigError, match=r"give loss.vgg19=FILE"):
        stage2(photos, loss={"perceptual": 1.0})


def files(photos: Path) -> dict[str, str]:
    """A whole stage-1 file, its teacher, and stage-2 weights."""
    whole = tiny(stage=1)
    save(photos.parent / "whole.safetensors", whole)
    save(photos.parent / "teacher.safetensors", whole, part=TEACHER)
    save(photos.parent / "init.safetensors", tiny())
    return {name: str(photos.parent / f"{name}.safetensors") for name in ("whole", "teacher", "init")}


def test_a_teacher_is_stage_1s_cpen(photos: Path) -> None:
    """A teacher file teaches what the whole stage-1 file teaches; a new stage 2 cannot start from it."""
    file, lq, gt = files(photos), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    losses = [
        losses_of(STAGES[2](tiny_recipe(photos, 2, stage1=file[name], init=file["init"])), batch(lq, gt))
        for name in ("whole", "teacher")
    ]
    assert losses[0] == losses[1] and losses[0]["prior"] > 0
    with pytest.raises(ConfigError, match="is a teacher, the CPEN of stage 1 alone; a new stage 2 needs"):
        STAGES[2](tiny_recipe(photos, 2, stage1=file["teacher"]))


def test_a_network_may_be_shown_another_filling_than_its_teacher(photos: Path) -> None:
    """`fill` is no part of a network: teacher and weights may have another one, but no other width."""
    save(photos.parent / "smooth.safetensors", tiny(replace(TINY_INPAINTING, fill="smooth"), stage=1))
    fields = {"stage1": str(photos.parent / "smooth.safetensors"), "data": {"masks": ["thick"]}}
    model = replace(TINY_INPAINTING, fill="exemplar")
    assert STAGES[2](tiny_recipe(photos, 2, model=model.to_dict(), **fields)).network.config == model
    with pytest.raises(ConfigError, match="stage1 is a network with prior_dim = "):
        STAGES[2](tiny_recipe(photos, 2, model=replace(model, prior_dim=32).to_dict(), **fields))


def test_stage_2_goes_on_without_a_teacher(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From stage-2 weights alone: the losses of the photo, none of the IPR, and a line that says so."""
    file = files(photos)
    stage = STAGES[2](tiny_recipe(photos, 2, init=file["init"]))
    assert "the IPR has no teacher" in caplog.text
    losses = losses_of(stage, batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)))
    assert set(losses) == {"image"}
    losses["image"].backward()
    assert {"cpen", "denoiser", "dirformer"} <= reached(stage.network)
    with pytest.raises(ConfigError, match="need a teacher"):
        STAGES[2](tiny_recipe(photos, 2, init=file["init"], warmup={"steps": 2}))
