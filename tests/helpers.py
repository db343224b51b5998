"""Pieces that tests of several rooms share."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIR
from dirformer.networks.presets import PRESETS
from dirformer.training.config import TrainConfig
from dirformer.weights.load import load

SRC = Path(__file__).parents[1] / "src"

FABRIC_WARNINGS = pytest.mark.filterwarnings(
    # Raised inside lightning-fabric, about its own use of torch.
    "ignore::DeprecationWarning:lightning_fabric",
    "ignore::FutureWarning:lightning_fabric",
    "ignore:.*`isinstance.treespec, LeafSpec.`.*",
)

TINY: dict[str, Any] = {
    "dim": 4,
    "blocks": (1, 1, 1, 1),
    "heads": (1, 1, 1, 2),
    "cpen_dim": 4,
    "cpen_blocks": 1,
    "prior_dim": 8,
}
TINY_SR = replace(PRESETS["sr-x4-compact"], **TINY, refinement_blocks=1)
TINY_INPAINTING = replace(PRESETS["inpainting"], **TINY)


def tiny(config: ModelConfig = TINY_SR, stage: int = 2, seed: int = 0) -> DiffIR:
    """A small random network that depends on all its inputs."""
    torch.manual_seed(seed)
    model = STAGES[stage](config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulation" in name:  # the default start would make the IPR all but invisible
                parameter.mul_(10)
    return model


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth picture with some texture, like a photo in that it can be enlarged."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    values = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    values = (values + 0.1 * torch.rand(values.shape, generator=generator)).clamp(0, 1)
    pixels = (values[0] * 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).convert(mode)


def python(*arguments: str, check: bool = False, **options: object) -> subprocess.CompletedProcess[str]:
    """Run this Python with the package of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=check, env=environment, **options
    )


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def dirformer(*arguments: object) -> Outcome:
    """Run the command line in this process: a process of its own takes seconds to start."""
    from typer.testing import CliRunner

    from dirformer.cli import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def quiet(line: str) -> None:
    """Take a line of a report and say nothing."""
    del line


def photo_folder(folder: Path, count: int = 2, size: tuple[int, int] = (96, 96), seed: int = 0) -> Path:
    """A folder of photos 0.png, 1.png …"""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(*size, seed=seed + number).save(folder / f"{number}.png")
    return folder


def tiny_recipe(photos: Path, stage: int = 1, **fields: Any) -> TrainConfig:
    """A recipe of a few quick steps on a folder of photos; sections are merged, other fields replaced."""
    values: dict[str, Any] = {
        "name": "run",
        "stage": stage,
        "model": TINY_SR.to_dict(),
        "data": {"train": str(photos), "patch": 16, "batch": 2},
        "optimiser": {"lr": 2e-3, "schedule": "constant"},
        "steps": 6,
        "log_every": 2,
        "save_every": 2,
        "out": str(photos.parent / "runs"),
        "device": "cpu",
        "log": [],
    }
    for key, value in fields.items():
        merged = isinstance(value, dict) and key != "model"
        values[key] = values.get(key, {}) | value if merged else value
    return TrainConfig.model_validate(values)


def same_weights(one: Path, other: Path) -> None:
    """Assert that two weight files hold the same bits."""
    ours, theirs = (load(path).state_dict() for path in (one, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
