"""One step: parts of a batch, precision, clips, resets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.experiments.train import train
from dirformer.training import devices, loop
from dirformer.training.samples import Batch
from dirformer.training.stages import PhotoLosses
from dirformer.weights.checkpoints import load, save
from helpers import (
    FABRIC_WARNINGS,
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
