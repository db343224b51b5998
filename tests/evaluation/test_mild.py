"""The table of mild damage: what is made of each photo, and how it is scored."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer import evaluate
from dirformer.degradations.mild import HEAVY, ROWS, damage, middle
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError, DataError
from helpers import dirformer, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two clean photos, one larger than the middle that is scored."""
    (tmp_path / "photos").mkdir()
    picture(300, 270, seed=1).save(tmp_path / "photos" / "a.png")
    picture(96, 80, seed=2).save(tmp_path / "photos" / "b.png")
    return tmp_path / "photos"


def gt() -> torch.Tensor:
    return torch.from_numpy(np.array(picture(64, 48))).permute(2, 0, 1).float() / 255


def test_rows_are_what_they_say() -> None:
    """`none` changes nothing, JPEG is libjpeg's at that quality, noise has that sigma."""
    photo = gt()
    assert torch.equal(damage("none", photo, 1, seeded_generator(0)), photo)
    file = io.BytesIO()
    levels = (photo * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(file, "JPEG", quality=40, subsampling=2)
    expected = np.array(Image.open(file).convert("RGB"))
    found = (damage("JPEG 40", photo, 1, seeded_generator(0)) * 255).round().byte()
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    grey = torch.full((3, 256, 256), 0.5)
    noisy = damage("noise 10", grey, 1, seeded_generator(0)) * 255
    assert float(noisy.std()) == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("scale", [1, 4])
def test_every_row_is_made_at_every_scale(row: str, scale: int) -> None:
    """Sizes fit, values lie on the 8-bit grid, and the same generator gives the same photo."""
    photo = gt()
    one, two = (damage(row, photo, scale, seeded_generator(7, row)) for _ in range(2))
    assert one.shape == (3, 48 // scale, 64 // scale) and torch.equal(one, two)
    assert torch.equal(one, (one * 255).round() / 255) and one.min() >= 0 and one.max() <= 1


def test_the_middle_is_scored() -> None:
    """At most 256 pixels a side, cut at the middle, a multiple of eight times the scale."""
    photo = torch.arange(300.0)[None, None].expand(3, 90, 300)
    cut = middle(photo, 4)
    assert cut.shape == (3, 64, 256) and float(cut[0, 0, 0]) == 22


def test_doing_nothing_is_the_first_column(photos: Path) -> None:
    """`input` stands beside the model; gains are paired differences to it, `none` has none."""
    result = evaluate("input", None, photos, "mild")
    assert [group["damage"] for group in result["groups"]] == list(ROWS)
    none, jpeg = result["groups"][0], result["groups"][3]
    assert none["methods"]["input"]["mean"] == float("inf")
    assert 15 < jpeg["methods"]["input"]["mean"] < 45 and "gain" not in jpeg["methods"]["input"]


def test_the_command_writes_the_table(photos: Path, tmp_path: Path) -> None:
    """One line per damage, for people and in Markdown; enlarging methods are held against bicubic."""
    model = "sr-x4-compact"
    table = tmp_path / "t.md"
    outcome = dirformer(
        "evaluate",
        model,
        "--gt",
        photos,
        "--protocol",
        "mild",
        "--table",
        table,
        "--json",
        tmp_path / "r.json",
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "blur 0.7 + JPEG 85" in outcome.stdout and "PSNR-Y" in outcome.stdout
    assert f"| {HEAVY} |" in table.read_text()
    groups = json.loads((tmp_path / "r.json").read_text())["groups"]
    cell = groups[1]["methods"][model]
    assert cell["interval95"][0] <= cell["gain"] <= cell["interval95"][1]
    assert cell["gain"] == pytest.approx(cell["mean"] - groups[1]["methods"]["bicubic"]["mean"])


def test_wrong_use_is_said(photos: Path) -> None:
    """Models of two scales cannot share a table; a folder of degraded photos has no use."""
    with pytest.raises(ConfigError, match="one scale; received sr-x4-compact ×4, realsr-x1-compact ×1"):
        evaluate(["sr-x4-compact", "realsr-x1-compact"], None, photos, "mild")
    with pytest.raises(DataError, match="leave --lq out"):
        evaluate("input", photos, photos, "mild")
    with pytest.raises(DataError, match="give --lq"):
        evaluate("input", None, photos, "sr")
