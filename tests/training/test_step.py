"""One step: parts of a batch, precision, clips, resets."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.experiments.train import train
from dirformer.ground.errors import ConfigError
from dirformer.training import devices, loop
from dirformer.training.config import TrainConfig
from dirformer.training.player import Player
from dirformer.training.samples import Batch, Samples
from dirformer.training.stages import PhotoLosses
from dirformer.training.step import Step
from dirformer.weights.checkpoints import save
from dirformer.weights.load import load
from helpers import (
    FABRIC_WARNINGS,
    TINY_INPAINTING,
    photo_folder,
    quiet,
    tiny,
    tiny_recipe,
)

pytestmark = FABRIC_WARNINGS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


def test_accumulated_batches_equal_whole_ones(photos: Path) -> None:
    """Two backward passes over halves give the weights of one over the whole, to rounding."""
    whole = train(tiny_recipe(photos, name="whole", data={"batch": 4}, steps=3), quiet)
    parts = train(tiny_recipe(photos, name="parts", data={"batch": 2}, accumulate=2, steps=3), quiet)
    near_weights(whole, parts, 1e-5)


def test_recomputed_activations_change_nothing(photos: Path) -> None:
    """Keeping less for the gradient gives the same weights."""
    plain = train(tiny_recipe(photos, name="plain", steps=3), quiet)
    lean = train(tiny_recipe(photos, name="lean", steps=3, checkpoint_activations=True), quiet)
    near_weights(plain, lean, 1e-6)


def near_weights(one: Path, other: Path, tolerance: float) -> None:
    ours, theirs = (load(path).state_dict() for path in (one, other))
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < tolerance


@pytest.mark.parametrize("fields", [{}, {"warmup": {"steps": 9}}, {"training": "separate"}])
def test_stage_two_computes_in_the_precision_of_the_recipe(photos: Path, fields: dict[str, Any]) -> None:
    """`bf16-mixed` reaches the methods that a step calls, whatever the phase, not `forward` alone."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    config = tiny_recipe(
        photos, 2, stage1=str(photos.parent / "s1.safetensors"), precision="bf16-mixed", **fields
    )
    run = loop.Run(config, devices.open_fabric(config), quiet)
    seen: set[torch.dtype] = set()
    run.step.generator.module.cpen.embed.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    run.train_step(next(iter(run.batches())))
    assert seen == {torch.bfloat16}


def test_low_precision_leaves_the_photo_as_it_is(photos: Path) -> None:
    """A network that adds nothing gives back what it got, bit by bit: photos are not rounded."""
    step, batch = first_step(tiny_recipe(photos, precision="bf16-mixed"))
    with torch.no_grad():
        for parameter in step.generator.module.dirformer.tail.parameters():
            parameter.zero_()
        restored = step.generator.call(batch.lq, batch.gt)
    assert restored.dtype == torch.float32
    assert torch.equal(restored, step.generator.module.dirformer.skip(batch.lq))


def test_inpaintings_adversary_trains_in_low_precision(photos: Path) -> None:
    """R1 holds a gradient of its own, which Fabric would take for a forgotten `fabric.backward`."""
    loss = {"adversarial": 0.1, "discriminator": "patch", "discriminator_dim": 4, "feature_matching": 0.1}
    fields = {"model": TINY_INPAINTING.to_dict(), "data": {"patch": 64}, "loss": loss}
    step, batch = first_step(tiny_recipe(photos, precision="bf16-mixed", **fields))
    values = step(batch)
    assert {"adversarial", "features", "discriminator"} <= set(values)
    assert all(math.isfinite(float(value)) for value in values.values())
    with pytest.raises(ConfigError, match="16-mixed does not go with"):
        PhotoLosses(tiny_recipe(photos, precision="16-mixed", **fields))


def test_every_part_of_a_batch_meets_the_discriminator(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accumulation the discriminator learns from all that was restored in a step."""
    config = tiny_recipe(
        photos, data={"batch": 1, "patch": 8}, accumulate=3, loss={"adversarial": 0.1}, steps=1
    )
    seen: list[torch.Tensor] = []
    original = PhotoLosses.of_discriminator

    def losses(self: Any, batch: Batch, restored: torch.Tensor, judge: Any) -> dict[str, torch.Tensor]:
        seen.append(restored)
        return original(self, batch, restored, judge)

    monkeypatch.setattr(PhotoLosses, "of_discriminator", losses)
    train(config, quiet)
    assert len(seen) == 3 and not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


def first_step(config: TrainConfig) -> tuple[Step, Batch]:
    """The networks of a recipe, and its first batch."""
    fabric, prepared = devices.open_fabric(config), Samples(config)
    raw = next(iter(prepared.stream(0, 0, 1)))
    return Step(config, fabric), prepared.prepare(raw, 0, fabric.device)


def norm(player: Player) -> float:
    """Norm of the gradient of the last step."""
    gradients = [p.grad.flatten() for p in player.module.parameters() if p.grad is not None]
    return float(torch.cat(gradients).norm())


@pytest.mark.parametrize("clipped", ["optimiser", "discriminator"])
def test_each_network_has_a_clip_of_its_own(photos: Path, clipped: str) -> None:
    """`optimiser.clip` bounds the generator's gradient alone, `discriminator.clip` the discriminator's."""
    loss = {"adversarial": 0.1, "discriminator_dim": 4}
    fields = {"data": {"patch": 8}, "loss": loss, clipped: {"clip": 1e-4}}
    step, batch = first_step(tiny_recipe(photos, **fields))
    step(batch)
    assert step.discriminator is not None
    norms = {"optimiser": norm(step.generator), "discriminator": norm(step.discriminator)}
    assert norms.pop(clipped) == pytest.approx(1e-4, rel=1e-3)
    assert next(iter(norms.values())) > 2e-4


def test_both_networks_have_a_learning_rate_of_their_own(photos: Path) -> None:
    """Each follows its own schedule, and a rollback makes both smaller."""
    fields = {"data": {"patch": 8}, "loss": {"adversarial": 0.1, "discriminator_dim": 4}}
    rates = {"optimiser": {"lr": 2e-3}, "discriminator": {"lr": 1e-4, "schedule": "constant"}}
    step, batch = first_step(tiny_recipe(photos, **fields, **rates))
    step(batch, factor=0.5)
    assert step.discriminator is not None
    assert [player.lr for player in step.players] == pytest.approx([1e-3, 5e-5])


def test_the_joint_phase_begins_with_a_fresh_optimiser(photos: Path) -> None:
    """After a warm-up of two steps, Adam has counted one step in the third and two in the fourth."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    fields = {"stage1": str(photos.parent / "s1.safetensors"), "warmup": {"steps": 2}, "data": {"patch": 8}}
    step, batch = first_step(tiny_recipe(photos, 2, **fields))
    counts = []
    for number in range(4):
        step(dataclasses.replace(batch, step=number))
        states = step.generator.optimiser.optimizer.state.values()
        counts.append({int(state["step"]) for state in states})
    assert counts == [{1}, {2}, {1}, {2}]


def test_the_ema_counts_steps_from_one(photos: Path) -> None:
    """After the first step 2/11 of the start are left in it, as `Ema` says of step 1."""
    step, batch = first_step(tiny_recipe(photos, data={"patch": 8}))
    before = [p.detach().clone() for p in step.generator.module.parameters()]
    step(batch)
    pairs = zip(before, step.generator.module.parameters(), step.ema.network.parameters(), strict=True)
    for start, now, ema in pairs:
        torch.testing.assert_close(ema, start + 9 / 11 * (now.detach() - start), rtol=0, atol=1e-6)
