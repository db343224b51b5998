"""The shipped weights do what their cards say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dirformer.degradations.mask_settings import mask_settings
from dirformer.degradations.masks import draw_mask
from dirformer.degradations.motion import Motion
from dirformer.degradations.resize import resize_bicubic
from dirformer.degradations.second_order import SecondOrder
from dirformer.degradations.simple import Bicubic
from dirformer.evaluation.methods import find_method
from dirformer.evaluation.run import evaluate
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.photo import read_rgb
from dirformer.inference.restorer import Restorer
from dirformer.metrics.psnr_ssim import psnr, rgb_to_y
from dirformer.networks.presets import PRESETS
from dirformer.weights.catalog import CATALOG, default_model, find_weights
from dirformer.weights.checkpoints import read_header
from dirformer.weights.load import load, load_teacher
from helpers import TINY_SR, dirformer, picture, tiny

DEMO = Path(__file__).parents[2] / "docs" / "demo" / "photo.jpg"


@pytest.mark.parametrize("name", CATALOG)
def test_shipped_weights_are_whole(name: str) -> None:
    """Each file loads strictly, is stage 2 of the preset of its name, and says where it comes from."""
    model = load(find_weights(name))
    assert model.stage == 2 and model.config == PRESETS[CATALOG[name].plain]
    provenance = read_header(find_weights(name)).provenance
    assert provenance["licence"] == CATALOG[name].licence
    assert provenance["steps"] > 0 and provenance["scores"] and provenance["recipe"]
    assert "/" not in str(provenance["recipe"])  # no paths of the machine it was trained on


@pytest.mark.parametrize("name", CATALOG)
def test_the_readme_lists_what_is_shipped(name: str) -> None:
    """The README's list of models has each with the parameters and the size of its file."""
    readme = (DEMO.parents[2] / "README.md").read_text(encoding="utf-8")
    parameters = sum(p.numel() for p in load(find_weights(name)).parameters())
    row = next(line for line in readme.splitlines() if line.startswith(f"| [`{name}`]"))
    assert f"| {parameters / 1e6:.2f} M |" in row
    assert f"| {find_weights(name).stat().st_size / 1e6:.1f} MB |" in row


@pytest.mark.parametrize("name", [n for n in CATALOG if n == CATALOG[n].plain])
def test_stage1_teachers_are_shipped(name: str) -> None:
    """Fine-tuning stage 2 needs stage 1's CPEN: it is there under the model's name, nothing else of it."""
    path = find_weights(f"{name}-stage1")
    config, cpen, dirformer = load_teacher(path)
    config = replace(config, fill=PRESETS[name].fill)  # what it was shown says how it was trained, as it is
    assert config == PRESETS[name] and not dirformer and path.stat().st_size < 0.8e6
    lq, gt = torch.rand(1, config.in_channels, 32, 32), torch.rand(1, 3, 32 * config.scale, 32 * config.scale)
    assert cpen(lq, gt).shape == (1, config.prior_dim)
    with pytest.raises(CheckpointError, match="is a teacher, the CPEN of stage 1 alone"):
        load(path)


Made = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
"""LQ, mask, and what one has without the model."""


def reduced(gt: torch.Tensor) -> Made:
    lq = Bicubic(4)(gt[None], seeded_generator(0))[0]
    return lq, None, resize_bicubic(lq, 4.0, levels=255)


def damaged(gt: torch.Tensor, scale: int) -> Made:
    lq = SecondOrder(scale)(gt[None], [seeded_generator(1)])[0]
    return lq, None, resize_bicubic(lq, 4.0, levels=255) if scale == 4 else lq


def shaken(gt: torch.Tensor) -> Made:
    lq = Motion(length=(14.0, 14.0), objects=0.0)(gt[None], [seeded_generator(1)])[0]
    return lq, None, lq


def holed(gt: torch.Tensor) -> Made:
    mask = draw_mask(mask_settings("thin", 256), seeded_generator(2), (gt.shape[1], gt.shape[2]))
    lq = gt * (1 - mask)
    return lq, mask, find_method("telea").restore(lq, mask, 1, 0)


GAINS: dict[str, tuple[Callable[[torch.Tensor], Made], float]] = {
    "sr-x4-compact": (reduced, 1.0),
    "realsr-x4-compact": (partial(damaged, scale=4), 0.3),
    "realsr-x1-compact": (partial(damaged, scale=1), 0.5),
    "deblurring-compact": (shaken, 0.5),
    "inpainting-compact": (holed, 0.0),
}


@pytest.mark.parametrize("name", GAINS)
def test_the_demo_photo_gains(name: str) -> None:
    """On the demo photo, which was not trained on, each network beats what one has without it (PSNR-Y)."""
    make, least = GAINS[name]
    gt = read_rgb(DEMO)[:, :400, :400].float() / 255
    lq, mask, baseline = make(gt)
    ours = Restorer(name, device="cpu").restore(lq, mask)
    scores = [psnr(rgb_to_y((x * 255).round() / 255), rgb_to_y(gt), 4) for x in (ours, baseline)]
    assert scores[0] > scores[1] + least


def test_a_clean_photo_is_left_alone() -> None:
    """What is not damaged comes back nearly as it was: at least 40 dB on the demo photo."""
    gt = read_rgb(DEMO)[:, :256, :256].float() / 255
    assert psnr(Restorer("realsr-x1-compact", device="cpu").restore(gt), gt) > 40


@pytest.mark.parametrize("name", [n for n in CATALOG if n != CATALOG[n].plain])
@pytest.mark.parametrize("kind", ["grey", "gradient"])
def test_sharp_models_draw_no_grid(name: str, kind: str) -> None:
    """Means over the places of a 4×4 grid differ by less than 0.3 levels on a flat grey and on a gradient."""
    side = 96
    photo = torch.full((3, side, side), 0.5)
    if kind == "gradient":
        photo = torch.linspace(0.3, 0.7, side).expand(3, side, side).clone()
    restored = Restorer(name, device="cpu").restore(photo)
    scale = CATALOG[name].scale
    expected = F.interpolate(photo[None], scale_factor=float(scale), mode="bicubic")[0]
    inner = (restored - expected)[:, 16 * scale : -16 * scale, 16 * scale : -16 * scale] * 255
    places = F.pixel_unshuffle(inner, 4).mean((1, 2)).view(3, -1)
    assert float((places.amax(1) - places.amin(1)).max()) < 0.3


@pytest.mark.parametrize(("benchmark", "bicubic", "gain"), [("Set5", 28.43, 2.0)])
def test_benchmark_scores(shared: Path, benchmark: str, bicubic: float, gain: float) -> None:
    """On Set5 bicubic has its published score and the network is 2 dB above it."""
    folder = shared / "datasets" / benchmark
    result = evaluate(["bicubic", "sr-x4-compact"], folder / "LRx4", folder / "HRx4", "sr", device="cpu")
    scores = {m["model"]: m["mean"]["psnr_y"] for m in result["models"]}
    assert scores["bicubic"] == pytest.approx(bicubic, abs=0.01)
    assert scores["sr-x4-compact"] >= bicubic + gain


def test_models_are_chosen_by_request() -> None:
    """A mask means inpainting, no task real-world restoration, enlarging up to 1,024 pixels; tasks choose."""
    chosen = {
        "realsr-x4-compact": {"task": None, "has_mask": False, "long_side": 1024},
        "realsr-x1-compact": {"task": None, "has_mask": False, "long_side": 1025},
        "inpainting-compact": {"task": None, "has_mask": True, "long_side": 4000},
        "sr-x4-compact": {"task": "sr", "has_mask": False, "long_side": 4000},
        "deblurring-compact": {"task": "deblurring", "has_mask": False, "long_side": 4000},
    }
    assert {name: default_model(**request).name for name, request in chosen.items()} == {n: n for n in chosen}
    assert default_model(None, has_mask=False, scale=1.0).name == "realsr-x1-compact"
    assert default_model(None, has_mask=False, scale=4.0, long_side=4000).name == "realsr-x4-compact"
    assert default_model("sr", has_mask=False, scale=3.0).name == "sr-x4-compact"
    assert default_model(None, has_mask=False, scale=0.5).name == "realsr-x1-compact"
    assert default_model("denoise", has_mask=False).name == "realsr-x1-compact"
    with pytest.raises(ConfigError, match=r"no shipped model for deblurring ×3; give one with --model FILE"):
        default_model("deblurring", has_mask=False, scale=3.0)
    with pytest.raises(ConfigError, match="keeps the size"):
        default_model("jpeg", has_mask=False, scale=2.0)
    with pytest.raises(ConfigError, match="no shipped model deblurring-compact-sharp; sharp ones are"):
        default_model("deblurring", has_mask=False, sharp=True)


def test_one_command_restores_any_photo(tmp_path: Path) -> None:
    """`dirformer restore photo -o out` needs no model: small photos are enlarged, large ones cleaned."""
    small, large = picture(40, 32), picture(1040, 24)
    small.save(tmp_path / "small.png")
    large.save(tmp_path / "large.png")
    outcome = dirformer("restore", tmp_path / "small.png", tmp_path / "large.png", "-o", tmp_path / "out")
    assert outcome.returncode == 0, outcome.stderr
    assert "realsr-x4-compact" in outcome.stdout and "realsr-x1-compact" in outcome.stdout
    assert read_rgb(tmp_path / "out" / "small.png").shape == (3, 128, 160)
    assert read_rgb(tmp_path / "out" / "large.png").shape == (3, 24, 1040)


def test_a_deepened_network_restores_as_before() -> None:
    """New blocks change nothing until they are trained; fewer blocks than before are refused."""
    from release.grow import deepened

    small = tiny(TINY_SR)
    large = deepened(small, {"blocks": [2, 3, 2, 2], "refinement_blocks": 3})
    assert large.config.blocks == (2, 3, 2, 2) and large.config.refinement_blocks == 3
    lq, prior = torch.rand(1, 3, 16, 24), torch.rand(1, small.config.prior_dim)
    with torch.no_grad():
        torch.testing.assert_close(large.dirformer(lq, prior), small.dirformer(lq, prior), rtol=0, atol=1e-5)
    with pytest.raises(SystemExit, match="expected more blocks than before and nothing else"):
        deepened(large, {"refinement_blocks": 1})


def test_the_validation_sets_are_those_of_the_manifest(shared: Path) -> None:
    """Legs are compared on the same photos, crops, masks and damage, now and later."""
    from release.testsets import manifest

    expected = json.loads(
        (DEMO.parents[1] / "reports" / "models" / "validation.json").read_text(encoding="utf-8")
    )
    found = manifest(shared / "datasets")
    for sets in (found, expected):
        means = [case.pop("lq_mean") for model in sets.values() for case in model["cases"]]
        sets["means"] = pytest.approx(means, abs=5e-4) if sets is expected else means
    assert found == expected
