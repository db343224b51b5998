"""A plan counts what can be counted and says how it got the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dirformer.experiments import estimate as planning
from dirformer.experiments.estimate import plan, plan_text
from dirformer.ground.memory import MIB
from dirformer.networks.presets import PRESETS
from dirformer.training import loop
from dirformer.training.config import load_recipe
from dirformer.training.trial import Trial
from helpers import FABRIC_WARNINGS, dirformer, picture

pytestmark = FABRIC_WARNINGS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(2):
        picture(128, 128, seed=i).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def small(photos: Path, *more: str) -> list[str]:
    return [f"data.train={photos}", "data.patch=8", "device=cpu", f"out={photos.parent}", "log=[]", *more]


@pytest.mark.parametrize(
    ("preset", "stage", "giga"),
    # Counted on the authors' networks: stage 1; stage 2 and the teacher's CPEN.
    [
        ("sr-x4", 1, 724.318),
        ("sr-x4", 2, 722.507 + 79.235),
        ("inpainting", 1, 50.670),
        ("deblurring", 2, 120.990 + 3.850),
    ],
)
def test_work_of_a_sample(preset: str, stage: int, giga: float) -> None:
    """The forward pass of training costs what the networks in it cost."""
    assert planning._forward(PRESETS[preset], stage, 256) / 1e9 == pytest.approx(giga, abs=0.002)


def test_a_plan_of_a_small_recipe(photos: Path) -> None:
    """Parameters, epochs and disk are those of the run; a stage 1 that is not there yet is random."""
    config = load_recipe("sr-x4-compact-stage2", small(photos, "steps=10", "data.batch=2"))
    result = plan(config, lambda _: None)
    assert result["parameters"]["trained"] == 1_560_256
    assert (result["photos"], result["epochs"]) == (2, 10.0)
    assert result["measured"]["own"]["seconds"] == result["measured"]["batch_2"]["seconds"] > 0
    assert result["notes"] == ["measured under a random stage 1: stage1 is not given"]
    assert not config.folder.exists()
    text = plan_text(result)
    assert "1,560,256 trained, frozen teacher 372,704" in text and "batch 2, 2 in all" in text
    json.dumps(result, allow_nan=False)


def test_disk_is_what_a_run_leaves(photos: Path) -> None:
    """The estimate of checkpoints is within 5 % of the files of a run."""
    config = load_recipe("sr-x4-compact-stage1", small(photos, "steps=1", "data.batch=1", "keep=1"))
    expected = plan(config, lambda _: None)["disk_mib"]
    loop.train(config, report=lambda _: None)
    files = [p for p in config.folder.iterdir() if p.suffix in (".pt", ".safetensors")]
    assert sum(p.stat().st_size for p in files) / MIB == pytest.approx(expected, rel=0.05)


def test_what_is_not_measured_is_extrapolated(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and memory of other batches are a straight line, those of other patches go with their pixels."""
    tried = []

    def pretend(config: Any, fabric: Any, steps: int) -> Trial:
        del fabric, steps
        tried.append((config.data.batch, config.data.patch, config.devices, config.accumulate))
        batch = config.data.batch
        return Trial(seconds=20.0 + 10 * batch, data_wait=0.0, memory_mib=100.0 + 50 * batch)

    monkeypatch.setattr(planning, "try_out", pretend)
    monkeypatch.setattr(planning, "_free_mib", lambda _: 1000.0)
    overrides = small(photos, "steps=30", "data.batch=4", "devices=2", "data.progressive=[[10,16,2]]")
    result = plan(load_recipe("sr-x4-compact-stage1", overrides), lambda _: None)
    assert tried == [(1, 8, 1, 1), (2, 8, 1, 1)]  # a batch of 4 would take too long
    first, second = result["phases"]
    assert (first["seconds"], first["memory_mib"], first["how"]) == (60.0, 300.0, "extrapolated")
    assert (second["seconds"], second["memory_mib"]) == (160.0, 500.0)
    assert [s["batch_in_all"] for s in result["phases"]] == [8, 4]
    assert result["epochs"] == (10 * 8 + 20 * 4) / 2
    assert result["hours"] == pytest.approx((10 * 60 + 20 * 160) / 3600)
    assert result["largest_batch"] == 16  # 100 + 50 · 16 = 900, a tenth left
    assert "a batch of 16 fits" in plan_text(result)


def test_plans_on_the_command_line(photos: Path) -> None:
    """`plan` and `train --plan` print the same kind of block; neither trains."""
    arguments = ["sr-x4-compact-stage1", *small(photos, "data.batch=1", "steps=3")]
    outcome = dirformer("plan", *arguments, "--json", photos.parent / "plan.json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((photos.parent / "plan.json").read_text())["steps"] == 3
    again = dirformer("train", *arguments, "--plan")
    for text in (outcome.stdout, again.stdout):
        assert all(word in text for word in ("parameters", "Mult-Adds", "schedule", "memory", "disk", "time"))
    assert not (photos.parent / "sr-x4-compact-stage1").exists()
