"""Validation during training: previews beside scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dirformer.experiments.train import train
from dirformer.experiments.validation import PREVIEWS, Validation
from dirformer.ground.photo import read_rgb
from dirformer.training.config import TrainConfig
from helpers import FABRIC_WARNINGS, TINY_INPAINTING, TINY_SR, picture, tiny

pytestmark = FABRIC_WARNINGS


def recipe(room: Path, model: Any, **fields: Any) -> TrainConfig:
    folder = room / "photos"
    folder.mkdir(exist_ok=True)
    for i in range(PREVIEWS + 1):
        picture(96, 80 if i else 96, seed=i).save(folder / f"{i}.png")
    values = {
        "name": "run",
        "stage": 1,
        "model": model.to_dict(),
        "data": {"train": str(folder), "val": str(folder / "val"), "patch": 8, "batch": 1, "val_crop": 64},
        "steps": 2,
        "val_every": 1,
        "out": str(room),
        "device": "cpu",
        "log": [],
    }
    (folder / "val").mkdir(exist_ok=True)
    for i in range(PREVIEWS + 1):
        picture(96, 64 if i else 96, seed=10 + i).save(folder / "val" / f"v{i}.png")
    return TrainConfig.model_validate(values | fields)


@pytest.mark.parametrize("model", [TINY_SR, TINY_INPAINTING])
def test_previews_show_lq_result_and_gt(tmp_path: Path, model: Any) -> None:
    """A row for each of the first cases: LQ enlarged, what the network made of it, GT."""
    validation = Validation(recipe(tmp_path, model))
    network, file = tiny(model, stage=1), tmp_path / "previews" / "step-1.jpg"
    assert validation(network) == validation(network, file)
    grid = read_rgb(file).float() / 255
    assert grid.shape == (3, PREVIEWS * 64, 3 * 64)
    first = validation.cases[0]
    panels = (first.lq[0, :3], validation.restore(network, 0), first.gt[0])
    for column, panel in enumerate(panels):
        large = torch.nn.functional.interpolate(panel[None], (64, 64))[0]
        drawn = grid[:, :64, column * 64 : column * 64 + 64]
        # JPEG keeps the means of its blocks.
        difference = torch.nn.functional.avg_pool2d((drawn - large)[None], 16)
        assert float(difference.abs().max()) < 0.05


@pytest.mark.parametrize(
    ("model", "degradation"), [(TINY_SR, "realsr"), (TINY_INPAINTING, "bicubic")], ids=["damage", "holes"]
)
def test_runs_of_any_seed_see_the_same(tmp_path: Path, model: Any, degradation: str) -> None:
    """Scores of runs that differ in their seed can be compared: damage, holes and noise are the same."""
    config = recipe(tmp_path, model)
    data = config.data.model_copy(update={"degradation": degradation})
    first, second = (Validation(config.model_copy(update={"seed": seed, "data": data})) for seed in (0, 1))
    for a, b in zip(first.cases, second.cases, strict=True):
        assert torch.equal(a.lq, b.lq)
    network = tiny(model)
    assert first.scores(network) == second.scores(network)


def test_every_validation_of_a_run_leaves_a_preview(tmp_path: Path) -> None:
    """A run's folder has previews named by step."""
    config = recipe(tmp_path, TINY_SR)
    train(config, lambda _: None)
    names = sorted(p.name for p in (config.folder / "previews").iterdir())
    assert names == ["step-1.jpg", "step-2.jpg"]
    with Image.open(config.folder / "previews" / names[0]) as photo:
        assert photo.format == "JPEG"
