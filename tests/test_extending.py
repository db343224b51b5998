"""The walk-throughs of docs/develop/extending.md: toy task, metric, degradation, by the page's own code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer import evaluate
from dirformer.degradations.table import DEGRADATIONS
from dirformer.ground.errors import ConfigError
from dirformer.kernels.autograd import usable
from dirformer.kernels.choose import choose_kernels
from dirformer.kernels.protocol import block_weights
from dirformer.kernels.stock import StockKernels
from dirformer.metrics.table import METRICS
from dirformer.networks.dirformer import Block
from dirformer.tasks import TASKS
from helpers import TINY_SR, dirformer, picture

PAGE = Path(__file__).parents[1] / "docs" / "develop" / "extending.md"


def code(section: str) -> str:
    """The Python of one section of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def toys() -> Iterator[None]:
    """What the walk-throughs add is gone after the test."""
    tables: list[dict[str, Any]] = [TASKS, METRICS, DEGRADATIONS]
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photos to train on and to score."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        picture(64, 64, seed=number).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.usefixtures("toys")
def test_a_new_task_trains_restores_and_is_scored(photos: Path, tmp_path: Path) -> None:
    """One row and one preset: both stages train, the weights restore by `--task`, evaluation scores them."""
    space: dict[str, Any] = {}
    exec(code("A task"), space)
    config = replace(TINY_SR, task="denoising", scale=1, unshuffle=2, skip="nearest")
    assert space["network"].task == "denoising" and config.in_channels == 3
    model = [
        f"model.{k}={v}" for k, v in config.to_dict().items() if v != config.__dataclass_fields__[k].default
    ]
    recipe = tmp_path / "denoising.yaml"
    (tmp_path / "val").mkdir()
    picture(64, 64, seed=7).save(tmp_path / "val" / "v.png")
    for stage, more in ((1, []), (2, [f"stage1={tmp_path}/d1/last.safetensors"])):
        recipe.write_text(f"name: d{stage}\nstage: {stage}\nmodel: {{task: denoising}}\n")
        fields = [
            "data.degradation=noise",
            "data.patch=16",
            "data.batch=1",
            "steps=1",
            "log=[]",
            *model,
            *more,
        ]
        places = [f"data.train={photos}", f"data.val={tmp_path}/val", f"out={tmp_path}"]
        outcome = dirformer("train", recipe, *fields, *places)
        assert outcome.returncode == 0, outcome.stderr
        assert "psnr" in outcome.stdout
    weights = tmp_path / "d2" / "last.safetensors"
    outcome = dirformer(
        "restore", photos / "0.png", "-o", tmp_path / "out.png", "--model", weights, "--task", "denoising"
    )
    assert outcome.returncode == 0, outcome.stderr
    result = evaluate([weights, "input"], photos, photos, TASKS["denoising"].protocol)
    assert [entry["model"] for entry in result["models"]] == [str(weights), "input"]


@pytest.mark.usefixtures("toys")
def test_a_new_metric_is_computed_printed_and_ranked(photos: Path, tmp_path: Path) -> None:
    """One row: the command line takes its name, the table has its title, direction and digits."""
    exec(code("A metric"), {})
    (tmp_path / "lq").mkdir()
    for path in photos.iterdir():
        picture(64, 64, seed=9).save(tmp_path / "lq" / path.name)
    command = ("evaluate", "input", "--gt", photos, "--protocol", "deblurring", "--metric", "largest")
    outcome = dirformer(*command, "--lq", tmp_path / "lq")
    assert outcome.returncode == 0, outcome.stderr
    assert "largest error ↓" in outcome.stdout and re.search(r"\*\d+\.\d \[", outcome.stdout)


@pytest.mark.usefixtures("toys")
def test_a_new_degradation_makes_test_sets(photos: Path, tmp_path: Path) -> None:
    """One row: `degrade --kind` takes its name, and the same seed gives the same bytes."""
    exec(code("A degradation"), {})
    for name in ("a", "b"):
        outcome = dirformer("degrade", photos, "-o", tmp_path / name, "--kind", "darker", "--seed", 3)
        assert outcome.returncode == 0, outcome.stderr
    a, b = (sorted((tmp_path / name / "lq").iterdir()) for name in ("a", "b"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b] and len(a) == 4


def test_kernels_refuse_a_block_that_they_do_not_know() -> None:
    """A block of another kind is refused in words; the native, the stock and the training kernels agree."""

    class Other(Block):
        kind = "other"

    known, other = Block(TINY_SR, 4, 1), Other(TINY_SR, 4, 1)
    with pytest.raises(ConfigError, match="other"):
        block_weights(other)
    foreign = replace(block_weights(known), kind="other")
    for kernels in {choose_kernels(), StockKernels()}:
        with pytest.raises(ConfigError, match="other"):
            kernels.pack_block(foreign)
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    assert not usable(other, x)
