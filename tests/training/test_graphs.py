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
from helpers import FABRIC_WARNINGS, TINY_SR, picture, tiny

pytestmark = FABRIC_WARNINGS


def recipe(tmp_path: Path, **fields: Any) -> TrainConfig:
    photos = tmp_path / "photos"
    photos.mkdir(exist_ok=True)
    for i in range(2):
        picture(160, 160, seed=i).save(photos / f"{i}.png")
    save(tmp_path / "s1.safetensors", tiny(stage=1))
    values: dict[str, Any] = {
        "name": "run",
        "stage": 2,
        "model": {**TINY_SR.to_dict()},
        "stage1": str(tmp_path / "s1.safetensors"),
        "data": {"train": str(photos), "patch": 16, "batch": 2, "progressive": [[4, 24, 1]]},
        "optimiser": {"kind": "muon", "lr": 2e-3, "clip": 1.0},
        "loss": {"adversarial": 0.1, "discriminator_dim": 8},
        "warmup": {"steps": 2},
        "steps": 8,
        "log_every": 1,
        "out": str(tmp_path / "runs"),
        "log": [],
    }
    return TrainConfig.model_validate(values | fields)


def losses(config: TrainConfig) -> list[list[float]]:
    train(config, lambda _: None)
    names = ("image", "prior", "adversarial", "discriminator")
    records = read_journal(config.folder / "journal.jsonl")
    return [[r.get(n, 0.0) for n in names] for r in records if r["kind"] == "train"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_are_the_steps(tmp_path: Path) -> None:
    """Warm-up, joint phase, adversary and a change of the patch: the same losses within rounding."""
    launched = losses(recipe(tmp_path, name="launched", device="cuda"))
    recorded = losses(recipe(tmp_path, name="recorded", device="cuda", graphs=True))
    assert len(launched) == 8 and launched[-1] != launched[-2]
    torch.testing.assert_close(torch.tensor(recorded), torch.tensor(launched), rtol=5e-3, atol=1e-4)


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    """A CPU has no graphs: one line says what to set."""
    with pytest.raises(ConfigError, match=r"one CUDA device; this run has 1 \(cpu\); set graphs=false"):
        train(recipe(tmp_path, device="cpu", graphs=True), lambda _: None)
