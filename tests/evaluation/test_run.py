"""Runs: models × photos → scores, named by their protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.errors import DataError, DirformerError
from dirformer.evaluation import contenders
from dirformer.evaluation.contenders import Contender
from dirformer.evaluation.run import evaluate, finite, interval95


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Two ×4 pairs of our own: a ramp of colours and a flat grey; LQ is every fourth pixel's block mean."""
    y, x = np.mgrid[0:48, 0:64]
    ramp = np.stack([x * 3, y * 4, x + y], axis=-1).astype(np.uint8)
    for name, gt in (("ramp", ramp), ("flat", np.full((48, 64, 3), 90, np.uint8))):
        lq = gt.reshape(12, 4, 16, 4, 3).mean((1, 3)).round().astype(np.uint8)
        save(tmp_path / "gt" / f"{name}.png", gt)
        save(tmp_path / "lq" / f"{name}.png", lq)
    return tmp_path / "lq", tmp_path / "gt"


@pytest.mark.parametrize(("name", "psnr_y", "ssim_y"), [("Set5", 28.43, 0.8111), ("BSD100", 25.96, 0.6681)])
def test_bicubic_rows_of_the_benchmarks(shared: Path, name: str, psnr_y: float, ssim_y: float) -> None:
    """The bicubic row equals the one computed with other code for these files, to the last digit."""
    folder = shared / "datasets" / name
    result = evaluate(["bicubic"], folder / "LRx4", folder / "HRx4", "sr")
    mean = result["models"][0]["mean"]
    assert (round(mean["psnr_y"], 2), round(mean["ssim_y"], 4)) == (psnr_y, ssim_y)


def test_result_has_the_documented_form(pairs: tuple[Path, Path]) -> None:
    """One entry per model in the order asked for, one row per photo, means, and intervals of every metric."""
    result = evaluate(["lanczos", "bicubic"], *pairs, "sr")
    assert result["schema"] == 1
    assert result["protocol"] == "sr"
    assert [entry["model"] for entry in result["models"]] == ["lanczos", "bicubic"]
    for entry in result["models"]:
        assert [row["name"] for row in entry["images"]] == ["flat", "ramp"]
        assert set(entry["images"][0]) == {"name", "psnr_y", "ssim_y", "seconds"}
        assert set(entry["interval95"]) == {"psnr_y", "ssim_y"}


def test_input_row_equals_a_numpy_computation(pairs: tuple[Path, Path]) -> None:
    """PSNR-Y of the repeated LQ photo equals the textbook formula in numpy, border cut off."""
    lq, gt = (np.asarray(Image.open(folder / "ramp.png"), dtype=np.float64) for folder in pairs)
    repeated = lq.repeat(4, 0).repeat(4, 1)
    luma = (repeated - gt) @ np.array([65.481, 128.553, 24.966]) / 255
    expected = 10 * np.log10(255**2 / np.mean(luma[4:-4, 4:-4] ** 2))
    entry = evaluate(["input"], *pairs, "sr")["models"][0]
    assert expected == pytest.approx(entry["images"][1]["psnr_y"], abs=1e-9)


def test_equal_photos_are_infinite_and_null_in_files(pairs: tuple[Path, Path]) -> None:
    """A perfect photo has an infinite PSNR, the mean with it, and JSON has null for it."""
    entry = finite(evaluate(["bicubic"], *pairs, "sr"))["models"][0]
    assert entry["images"][0]["psnr_y"] is None
    assert entry["mean"]["psnr_y"] is None
    assert entry["mean"]["ssim_y"] <= 1


def test_results_are_rounded_to_8_bit_before_scoring(
    pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deviation below half a grey level does not cost anything: scores are those of the saved photo."""
    gt = torch.from_numpy(np.array(Image.open(pairs[1] / "flat.png"))).permute(2, 0, 1).float() / 255

    def nearly(lq, mask, scale, seed):
        return gt + 0.4 / 255

    monkeypatch.setitem(contenders.BASELINES, "nearly", nearly)
    (pairs[0] / "ramp.png").unlink()
    (pairs[1] / "ramp.png").unlink()
    assert evaluate(["nearly"], *pairs, "sr")["models"][0]["mean"]["psnr_y"] == float("inf")


def test_gt_may_exceed_a_multiple_of_the_scale(pairs: tuple[Path, Path]) -> None:
    """Rows and columns of the GT past the enlarged LQ are cut off, as the tables do."""
    before = evaluate(["input"], *pairs, "sr")["models"][0]["mean"]["ssim_y"]
    for path in pairs[1].iterdir():
        gt = np.pad(np.asarray(Image.open(path)), ((0, 3), (0, 2), (0, 0)))
        save(path, gt)
    assert before == evaluate(["input"], *pairs, "sr")["models"][0]["mean"]["ssim_y"]


def test_wrong_sizes_name_both_files(pairs: tuple[Path, Path]) -> None:
    """A GT that is no multiple of its LQ is refused, with both names and sizes."""
    save(pairs[1] / "ramp.png", np.zeros((50, 70, 3), np.uint8))
    with pytest.raises(DataError, match=r"lq.ramp\.png is 16×12 and .*gt.ramp\.png 70×50"):
        evaluate(["bicubic"], *pairs, "sr")


def test_model_of_another_scale_is_refused(pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A ×2 model on ×4 pairs is one line that names the scale and the files."""
    from dirformer.evaluation import run

    monkeypatch.setattr(run, "contender", lambda *_, **__: Contender("x2", contenders.bicubic, scale=2))
    with pytest.raises(DataError, match=r"x2 enlarges ×2, but .*flat\.png .* is ×4"):
        evaluate(["x2"], *pairs, "sr")


@pytest.mark.parametrize(
    ("lq", "gt", "protocol", "words"),
    [
        ("nowhere", "gt", "sr", "is not there"),
        ("empty", "gt", "sr", "has no photos"),
        ("lq", "gt", "srr", "no protocol 'srr'; there are: sr"),
    ],
)
def test_wrong_use_is_one_line(
    pairs: tuple[Path, Path], tmp_path: Path, lq: str, gt: str, protocol: str, words: str
) -> None:
    """Missing or empty folders and unknown protocols are named in one line."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DirformerError, match=words) as caught:
        evaluate(["bicubic"], tmp_path / lq, tmp_path / gt, protocol)
    assert "\n" not in str(caught.value)


def test_missing_partner_is_named(pairs: tuple[Path, Path]) -> None:
    """A photo without a partner stops the evaluation, by name."""
    (pairs[1] / "flat.png").unlink()
    with pytest.raises(DataError, match=r"flat is in .*lq but not in .*gt"):
        evaluate(["bicubic"], *pairs, "sr")


def test_interval_of_the_mean() -> None:
    """For many normal values the bootstrap agrees with mean ± 1.96 σ/√n; equal values have no spread."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = interval95(values.tolist())
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.01)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.01)
    assert interval95([3.0, 3.0]) == [3.0, 3.0]
