"""The shipped weights do what their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dirformer.catalog import CATALOG, default_model, find_weights
from dirformer.checkpoints import load, read_header
from dirformer.degradations.pipeline import Bicubic
from dirformer.degradations.resize import resize_bicubic
from dirformer.device import seeded_generator
from dirformer.errors import ConfigError
from dirformer.evaluation.metrics import psnr, rgb_to_y
from dirformer.evaluation.run import evaluate
from dirformer.inference.restorer import Restorer
from dirformer.networks.config import PRESETS
from dirformer.photo import read_rgb

DEMO = Path(__file__).parents[1] / "docs" / "demo" / "photo.jpg"


@pytest.mark.parametrize("name", CATALOG)
def test_shipped_weights_are_whole(name: str) -> None:
    """Each file loads strictly, is stage 2 of the preset of its name, and says where it comes from."""
    model = load(find_weights(name))
    assert model.stage == 2 and model.config == PRESETS[name]
    provenance = read_header(find_weights(name))["provenance"]
    assert provenance["licence"] == CATALOG[name].licence
    assert provenance["steps"] > 0 and provenance["scores"] and provenance["recipe"]
    assert "/" not in str(provenance["recipe"])  # no paths of the machine it was trained on


def test_stage1_teacher_is_shipped() -> None:
    """Fine-tuning stage 2 needs the stage-1 network: it is there under the model's name."""
    teacher = load(find_weights("sr-x4-compact-stage1"))
    assert teacher.stage == 1 and teacher.config == PRESETS["sr-x4-compact"]


def test_demo_photo_gains_over_bicubic() -> None:
    """On the demo photo, which was not trained on, the network is at least 1 dB above bicubic."""
    gt = read_rgb(DEMO)[:, :400, :400].float() / 255
    lq = Bicubic(4)(gt[None], seeded_generator(0))[0]
    ours, bicubic = Restorer("sr-x4-compact", device="cpu").restore(lq), resize_bicubic(lq, 4.0, levels=255)
    scores = [psnr(rgb_to_y((x * 255).round() / 255), rgb_to_y(gt), 4) for x in (ours, bicubic)]
    assert scores[0] > scores[1] + 1.0


@pytest.mark.parametrize(("benchmark", "bicubic", "gain"), [("Set5", 28.43, 2.0)])
def test_benchmark_scores(shared: Path, benchmark: str, bicubic: float, gain: float) -> None:
    """On Set5 bicubic has its published score and the network is 2 dB above it."""
    folder = shared / "datasets" / benchmark
    result = evaluate(["bicubic", "sr-x4-compact"], folder / "LRx4", folder / "HRx4", "sr", device="cpu")
    scores = {m["model"]: m["mean"]["psnr_y"] for m in result["models"]}
    assert scores["bicubic"] == pytest.approx(bicubic, abs=0.01)
    assert scores["sr-x4-compact"] >= bicubic + gain


def test_models_are_chosen_by_request() -> None:
    """A task or a scale chooses a shipped model; what is not shipped is said, with what is."""
    assert default_model(None, has_mask=False).name == "sr-x4-compact"
    assert default_model("sr", has_mask=False, scale=4).name == "sr-x4-compact"
    for task, mask, scale in (("deblurring", False, None), (None, True, None), ("sr", False, 3)):
        with pytest.raises(ConfigError, match=r"no shipped model for .*; give one with --model FILE"):
            default_model(task, has_mask=mask, scale=scale)
