"""A recorded step is the step itself; on one CUDA device, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.experiments.train import train
from dirformer.ground.errors import ConfigError
from dirformer.ground.journal import read_journal
from dirformer.training.config import TrainConfig
from dirformer.weights.checkpoints import save
from helpers import FABRIC_WARNINGS, photo_folder, tiny, tiny_recipe

pytestmark = FABRIC_WARNINGS


def recipe(tmp_path: Path, **fields: Any) -> TrainConfig:
    """All that a step can hold: warm-up, clip, discriminator, a change of the patch."""
    save(tmp_path / "s1.safetensors", tiny(stage=1))
    values: dict[str, Any] = {
        "stage1": str(tmp_path / "s1.safetensors"),
        "data": {"progressive": [[4, 24, 1]]},
        "optimiser": {"kind": "muon", "clip": 1.0},
        "discriminator": {"clip": 1.0},
        "loss": {"adversarial": 0.1, "discriminator_dim": 8},
        "warmup": {"steps": 2},
        "steps": 8,
        "log_every": 1,
    }
    return tiny_recipe(photo_folder(tmp_path / "photos", size=(160, 160)), 2, **(values | fields))


def losses(config: TrainConfig) -> list[list[float]]:
    train(config, lambda _: None)
    names = ("image", "prior", "adversarial", "discriminator")
    records = read_journal(config.folder / "journal.jsonl")
    return [[r.get(n, 0.0) for n in names] for r in records if r["kind"] == "train"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_are_the_steps(tmp_path: Path) -> None:
    """Warm-up, joint phase, discriminator and a change of the patch: the same losses within rounding."""
    launched = losses(recipe(tmp_path, name="launched", device="cuda"))
    recorded = losses(recipe(tmp_path, name="recorded", device="cuda", graphs=True))
    assert len(launched) == 8 and launched[-1] != launched[-2]
    torch.testing.assert_close(torch.tensor(recorded), torch.tensor(launched), rtol=5e-3, atol=1e-4)


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    """A CPU has no graphs: one line says what to set."""
    with pytest.raises(ConfigError, match=r"one CUDA device; this run has 1 \(cpu\); set graphs=false"):
        train(recipe(tmp_path, device="cpu", graphs=True), lambda _: None)
