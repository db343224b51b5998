"""Degrading in the loader's workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.ground.errors import ConfigError
from dirformer.training.config import TrainConfig
from dirformer.training.samples import Samples
from helpers import picture


def _recipe(folder: Path, model: str, **data: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "t",
            "stage": 1,
            "model": model,
            "steps": 3,
            "data": {"train": folder, "patch": 16, "batch": 4, **data},
        }
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        picture(224, 216, seed=number).save(folder / f"{number}.png")
    return folder


def _batches(config: TrainConfig) -> list[tuple[torch.Tensor, torch.Tensor]]:
    samples = Samples(config)
    loader = samples.stream(0, rank=0, world=1)
    batches = [samples.prepare(raw, step, torch.device("cpu")) for step, raw in enumerate(loader)]
    return [(batch.lq, batch.gt) for batch in batches]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("realsr-x1-compact", "realsr-graded"),
        ("realsr-x4-compact", "realsr-graded"),
        ("realsr-x4-compact", "realsr"),
        ("sr-x4-compact", "bicubic"),
        ("realsr-x1-compact", "jpeg"),
        ("realsr-x1-compact", "noise"),
        ("realsr-x1-compact", "motion-noisy"),
    ],
)
def test_samples_are_those_of_the_device(photos: Path, model: str, kind: str) -> None:
    """LQ and GT are equal bit for bit, whichever place the recipe chooses (the device being a CPU)."""
    device = _batches(_recipe(photos, model, degradation=kind))
    workers = _batches(_recipe(photos, model, degradation=kind, degrade_in="workers"))
    for ours, theirs in zip(device, workers, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_processes_give_the_same_samples(photos: Path) -> None:
    """Two worker processes make what the main process makes."""
    settings = {"degradation": "realsr-graded", "degrade_in": "workers"}
    alone = _batches(_recipe(photos, "realsr-x1-compact", **settings))
    shared = _batches(_recipe(photos, "realsr-x1-compact", **settings, workers=2))
    for ours, theirs in zip(alone, shared, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("kind", ["realsr-graded", "noise"])
def test_given_pairs_are_mixed_in_alike(photos: Path, tmp_path: Path, kind: str) -> None:
    """Pairs of a list appear among the degraded samples as on the device."""
    names = sorted(photos.iterdir())
    (tmp_path / "pairs.txt").write_text("".join(f"{p}\t{p}\n" for p in names))
    settings = {"degradation": kind, "pairs": tmp_path / "pairs.txt", "pairs_share": 0.5}
    device = _batches(_recipe(photos, "realsr-x1-compact", **settings))
    workers = _batches(_recipe(photos, "realsr-x1-compact", **settings, degrade_in="workers"))
    for ours, theirs in zip(device, workers, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert any(torch.equal(lq, gt) for batch in workers for lq, gt in zip(*batch, strict=True))


def test_sharpened_targets_are_the_same(photos: Path) -> None:
    """`data.usm` degrades sharpened photos in the workers too."""
    settings = {"degradation": "realsr", "usm": True}
    device = _batches(_recipe(photos, "realsr-x4-compact", **settings))
    workers = _batches(_recipe(photos, "realsr-x4-compact", **settings, degrade_in="workers"))
    for ours, theirs in zip(device, workers, strict=True):
        assert torch.allclose(ours[0], theirs[0], atol=1.01 / 255)
        assert torch.equal(ours[1], theirs[1])


def test_what_workers_cannot_degrade_is_refused(photos: Path) -> None:
    """Crops of a common degradation, and data that needs none, are errors at the start."""
    with pytest.raises(ConfigError, match="degradation of single crops"):
        Samples(_recipe(photos, "realsr-x4-compact", degradation="realsr", crop=200, degrade_in="workers"))
    with pytest.raises(ConfigError, match="pairs and masks need none"):
        Samples(_recipe(photos, "realsr-x1-compact", lq=photos, degrade_in="workers"))
