"""What the tests of the evaluation share: pairs of photos of our own, a tiny network, no stray weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS2
from dirformer.weights.checkpoints import save as save_model

TINY = {
    "dim": 4,
    "blocks": (1, 1, 1, 1),
    "refinement_blocks": 1,
    "heads": (1, 1, 1, 1),
    "ffn_factor": 1.0,
    "cpen_dim": 4,
    "cpen_blocks": 1,
    "prior_dim": 8,
}


def save_image(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def scene(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A photo-like picture of our own: soft colour, edges of discs and stripes, a little grain."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    colour = np.stack([np.sin(x / (17 + 9 * c) + y / (23 - 5 * c) + seed + c) for c in range(3)], -1)
    picture = 120 + 60 * colour
    for _ in range(6):
        cy, cx, r = generator.uniform(0, height), generator.uniform(0, width), generator.uniform(5, 25)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = generator.uniform(0, 255, 3)
    picture[((x + y) // 6) % 5 == 0] *= 0.8
    picture += generator.normal(0, 2, picture.shape)
    return picture.clip(0, 255).round().astype(np.uint8)


@pytest.fixture(autouse=True)
def no_stray_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights on the developer's machine do not change what is tested."""
    monkeypatch.setenv("DIRFORMER_METRIC_WEIGHTS", str(tmp_path / "no-weights"))


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Two ×4 pairs of our own, LQ by block means; returns the folders of LQ and GT."""
    for number, name in enumerate(("harbour", "meadow")):
        gt = scene(number)
        lq = gt.reshape(24, 4, 32, 4, 3).mean((1, 3)).round().astype(np.uint8)
        save_image(tmp_path / "gt" / f"{name}.png", gt)
        save_image(tmp_path / "lq" / f"{name}.png", lq)
    return tmp_path / "lq", tmp_path / "gt"


def tiny_model(path: Path, **fields: object) -> Path:
    """Write a small random stage-2 network."""
    torch.manual_seed(3)
    model = DiffIRS2(ModelConfig.from_dict(TINY | fields))
    save_model(path, model)
    return path


@pytest.fixture
def sr_model(tmp_path: Path) -> Path:
    """A tiny random ×4 network whose result depends on Z_T."""
    return tiny_model(tmp_path / "tiny-sr.safetensors", task="sr", scale=4, tail="direct", skip="bicubic")
