"""Runs: models × photos → scores, named by their protocol."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.evaluation import methods, run
from dirformer.evaluation.methods import Method
from dirformer.evaluation.report import worst_first
from dirformer.evaluation.results import finite, infinite, interval95, read_result, write_result
from dirformer.evaluation.run import Evaluation, evaluate
from dirformer.evaluation.samples import find_samples
from dirformer.evaluation.tables import as_text
from dirformer.ground.errors import ConfigError, DataError, DirformerError
from evaluation.conftest import save_image, scene, tiny_model


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """A square hole in the middle of each photo of `pairs`."""
    mask = np.zeros((96, 128), np.uint8)
    mask[30:60, 40:90] = 255
    for name in ("harbour", "meadow"):
        save_image(tmp_path / "masks" / f"{name}.png", mask)
    return tmp_path / "masks"


@pytest.mark.parametrize(("name", "psnr_y", "ssim_y"), [("Set5", 28.43, 0.8111), ("BSD100", 25.96, 0.6681)])
def test_bicubic_rows_of_the_benchmarks(shared: Path, name: str, psnr_y: float, ssim_y: float) -> None:
    """The bicubic row equals the one computed with other code for these files, to the last digit."""
    folder = shared / "datasets" / name
    result = evaluate(["bicubic"], folder / "LRx4", folder / "HRx4", "sr")
    mean = result["models"][0]["mean"]
    assert (round(mean["psnr_y"], 2), round(mean["ssim_y"], 4)) == (psnr_y, ssim_y)


def test_result_has_the_documented_form(pairs: tuple[Path, Path]) -> None:
    """One entry per model in the order asked for, one row per photo, means, intervals, what is missing."""
    result = evaluate(["lanczos", "bicubic"], *pairs, "sr")
    assert result["schema"] == 1
    assert result["protocol"] == "sr"
    assert [entry["model"] for entry in result["models"]] == ["lanczos", "bicubic"]
    for entry in result["models"]:
        assert [row["name"] for row in entry["images"]] == ["harbour", "meadow"]
        assert set(entry["images"][0]) == {"name", "psnr_y", "ssim_y", "seconds", "peak_mib"}
        assert set(entry["interval95"]) == {"psnr_y", "ssim_y"}
    assert [line.split()[0] for line in result["missing"]] == ["lpips_alex", "dists"]
    assert all("put it into" in line for line in result["missing"])


@pytest.mark.parametrize(("has", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_the_result_says_what_auto_picked(
    pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, has: bool, expected: str
) -> None:
    """A table names its precision, not the request."""
    monkeypatch.setattr("dirformer.kernels.precision.has_bfloat16", lambda: has)
    run = Evaluation("bicubic", *pairs, "sr", device="cpu", precision="auto")
    assert run.precision == run.settings["precision"] == expected


def test_input_row_equals_a_numpy_computation(pairs: tuple[Path, Path]) -> None:
    """PSNR-Y of the repeated LQ photo equals the textbook formula in numpy, border cut off."""
    lq, gt = (np.asarray(Image.open(folder / "meadow.png"), dtype=np.float64) for folder in pairs)
    repeated = lq.repeat(4, 0).repeat(4, 1)
    luma = (repeated - gt) @ np.array([65.481, 128.553, 24.966]) / 255
    expected = 10 * np.log10(255**2 / np.mean(luma[4:-4, 4:-4] ** 2))
    entry = evaluate(["input"], *pairs, "sr")["models"][0]
    assert expected == pytest.approx(entry["images"][1]["psnr_y"], abs=1e-9)


def test_lanczos_beats_bicubic_on_benchmark_photos(shared: Path) -> None:
    """Known from every paper: three lobes restore a little more than Keys' cubic."""
    folder = shared / "datasets" / "Set5"
    result = evaluate(["bicubic", "lanczos"], folder / "LRx4", folder / "HRx4", "sr")
    low, high = (entry["mean"]["psnr_y"] for entry in result["models"])
    assert low < high < low + 1


def test_equal_photos_are_infinite_and_null_in_files(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """A perfect photo has an infinite PSNR, the mean with it, and JSON has null for it."""
    result = evaluate(["input"], pairs[1], pairs[1], "deblurring")
    write_result(tmp_path / "r.json", result)
    entry = json.loads((tmp_path / "r.json").read_text())["models"][0]
    assert result["models"][0]["mean"]["psnr"] == float("inf")
    assert read_result(tmp_path / "r.json")["models"][0]["mean"]["psnr"] == float("inf")
    assert entry["images"][0]["psnr"] is None
    assert entry["mean"]["psnr"] is None
    assert entry["mean"]["ssim"] == pytest.approx(1)
    assert entry["interval95"]["psnr"] == [None, None]


def ruined(lq: torch.Tensor, mask: torch.Tensor | None, scale: int, seed: int) -> torch.Tensor:
    """What a network with huge weights makes of a photo: one pixel is no number."""
    del mask, seed
    photo = lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2).clone()
    photo[0, 40, 40] = float("nan")
    return photo


def test_results_with_nan_have_no_score_and_no_rank(
    pairs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric is NaN, a line says so, nothing is starred, and files and journals keep it apart from
    infinity."""
    original = run.find_method
    monkeypatch.setattr(
        run,
        "find_method",
        lambda name, **options: Method(name, ruined) if name == "lanczos" else original(name, **options),
    )
    journal = tmp_path / "rows.jsonl"
    options = {"journal": journal, "all_variants": True, "metrics": ("psnr_aligned", "psnr_shifted")}
    first = evaluate(["lanczos", "bicubic"], *pairs, "sr", **options)
    again = evaluate(["lanczos", "bicubic"], *pairs, "sr", **options)
    assert "NaN" not in journal.read_text()
    for result in (first, again):
        entry = result["models"][0]
        scores = [entry["mean"][name] for name in ("psnr_y", "ssim_y", "psnr_aligned", "psnr_shifted")]
        assert all(map(math.isnan, [*scores, *entry["interval95"]["psnr_y"], *entry["variants"].values()]))
        text = as_text(result)
        assert "lanczos: 2 of 2 results are not finite, the first is harbour" in text
        assert text.count("*") == 5 and "*nan" not in text  # four metrics of bicubic, and the legend
    for name in ("r.json", "r.csv", "r.md"):
        write_result(tmp_path / name, first)
    stored = read_result(tmp_path / "r.json")
    json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert math.isnan(stored["models"][0]["mean"]["psnr_y"])
    assert "**nan**" not in (tmp_path / "r.md").read_text()
    assert "lanczos,harbour,nan,nan" in (tmp_path / "r.csv").read_text()
    assert worst_first(stored)[0]["name"] == "harbour"


def test_a_photo_named_nan_keeps_its_name() -> None:
    """Only scores are spelt that way in files."""
    row = {"name": "nan", "psnr": float("nan"), "by_seed": {"psnr": [float("inf"), 1.0]}}
    assert json.loads(json.dumps(finite(row))) == {
        "name": "nan",
        "psnr": "nan",
        "by_seed": {"psnr": [None, 1.0]},
    }
    back = infinite(finite(row))
    assert back["name"] == "nan" and math.isnan(back["psnr"]) and back["by_seed"] == row["by_seed"]


def test_results_are_rounded_to_8_bit_before_scoring(
    pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deviation below half a grey level does not cost anything: scores are those of the saved photo."""

    def nearly(lq, mask, scale, seed):
        return lq + 0.4 / 255

    monkeypatch.setitem(methods.BASELINES, "nearly", nearly)
    assert evaluate(["nearly"], pairs[1], pairs[1], "deblurring")["models"][0]["mean"]["psnr"] > 60


def test_gt_may_exceed_a_multiple_of_the_scale(pairs: tuple[Path, Path]) -> None:
    """Rows and columns of the GT past the enlarged LQ are cut off, as the tables do."""
    before = evaluate(["input"], *pairs, "sr")["models"][0]["mean"]["ssim_y"]
    for path in pairs[1].iterdir():
        save_image(path, np.pad(np.asarray(Image.open(path)), ((0, 3), (0, 2), (0, 0))))
    assert before == evaluate(["input"], *pairs, "sr")["models"][0]["mean"]["ssim_y"]


def test_networks_and_interpolation_in_one_table(pairs: tuple[Path, Path], sr_model: Path) -> None:
    """A weight file's rows are those of the restorer with the same seed, beside the baselines."""
    from dirformer.ground.photo import read_rgb
    from dirformer.inference.restorer import Restorer
    from dirformer.metrics.psnr_ssim import psnr, rgb_to_y

    result = evaluate([str(sr_model), "bicubic"], *pairs, "sr", seed=4, device="cpu")
    lq, gt = (read_rgb(folder / "harbour.png").float() / 255 for folder in pairs)
    restored = Restorer(sr_model, device="cpu").restore(lq, None, 4)
    restored = (restored.double() * 255).round() / 255
    expected = psnr(rgb_to_y(restored), rgb_to_y((gt.double() * 255).round() / 255), 4)
    assert expected == pytest.approx(result["models"][0]["images"][0]["psnr_y"], abs=1e-9)
    assert len(result["models"][0]["sha256"]) == 64


def test_seeds_report_the_spread_over_z_t(pairs: tuple[Path, Path], sr_model: Path) -> None:
    """Each seed's number is there, the row is their mean, baselines have no spread."""
    result = evaluate([str(sr_model), "bicubic"], *pairs, "sr", seeds=3, device="cpu")
    network, bicubic = result["models"]
    row = network["images"][0]
    single = [
        evaluate([str(sr_model)], *pairs, "sr", seed=s, device="cpu")["models"][0]["images"][0]["psnr_y"]
        for s in range(3)
    ]
    assert single == pytest.approx(row["by_seed"]["psnr_y"])
    assert sum(single) / 3 == pytest.approx(row["psnr_y"])
    assert network["seed_spread"]["psnr_y"]["largest_on_one_photo"] >= max(single) - min(single) - 1e-9
    assert network["seed_spread"]["psnr_y"]["std_of_mean"] > 0
    assert bicubic["seed_spread"]["psnr_y"]["largest_on_one_photo"] == 0


def test_seeds_on_real_photos(shared: Path, sr_model: Path) -> None:
    """Two draws of Z_T on Set5's smallest photos, spread reported for every metric."""
    folder = shared / "datasets" / "Set5"
    result = evaluate([str(sr_model)], folder / "LRx4", folder / "HRx4", "sr", seeds=2, device="cpu")
    assert set(result["models"][0]["seed_spread"]) == {"psnr_y", "ssim_y"}
    assert len(result["models"][0]["images"]) == 5


def test_resume_goes_on_where_it_stopped(
    pairs: tuple[Path, Path], tmp_path: Path, sr_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished rows are taken from the journal, the result is that of an uninterrupted run."""
    journal = tmp_path / "rows.jsonl"
    whole = evaluate([str(sr_model), "bicubic"], *pairs, "sr", device="cpu")
    stopped = Evaluation([str(sr_model), "bicubic"], *pairs, "sr", device="cpu", journal=journal)
    records = stopped.records()
    for _ in range(3):
        next(records)
    records.close()
    calls = []
    original = run.find_method
    monkeypatch.setattr(run, "find_method", lambda *a, **k: calls.append(a) or original(*a, **k))
    result = evaluate([str(sr_model), "bicubic"], *pairs, "sr", device="cpu", journal=journal)
    assert calls == [("bicubic",)]
    for ours, theirs in zip(result["models"], whole["models"], strict=True):
        assert [r["psnr_y"] for r in theirs["images"]] == [r["psnr_y"] for r in ours["images"]]
    # Another photo under the same name is another row.
    save_image(pairs[0] / "meadow.png", np.asarray(Image.open(pairs[0] / "harbour.png")))
    changed = evaluate(["bicubic"], *pairs, "sr", journal=journal)
    assert changed["models"][0]["images"][1]["psnr_y"] != whole["models"][1]["images"][1]["psnr_y"]


def test_resume_on_real_photos(shared: Path, tmp_path: Path) -> None:
    """Set5 stopped after two photos goes on and ends at the known mean."""
    folder, journal = shared / "datasets" / "Set5", tmp_path / "rows.jsonl"
    first = Evaluation(["bicubic"], folder / "LRx4", folder / "HRx4", "sr", journal=journal).records()
    next(first), next(first)
    first.close()
    result = evaluate(["bicubic"], folder / "LRx4", folder / "HRx4", "sr", journal=journal)
    assert round(result["models"][0]["mean"]["psnr_y"], 2) == 28.43
    assert len(journal.read_text().splitlines()) == 5


def test_saved_photos_are_those_scored(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """`save` keeps each restored photo; scoring the files gives the same numbers."""
    out = tmp_path / "out"
    result = evaluate(["bicubic"], *pairs, "sr", save=out)
    again = evaluate(["input"], out / "bicubic", pairs[1], "sr")
    first, second = (r["models"][0]["mean"]["psnr_y"] for r in (result, again))
    assert first == pytest.approx(second, abs=1e-12)


def test_deblurring_rows(shared: Path) -> None:
    """The blurred inputs of the deblurring pairs have the PSNR and SSIM stated for them."""
    folder = shared / "datasets" / "deblur" / "val"
    rows = []
    for part, psnr in (("GoPro", 21.96), ("REDS_003", 22.21)):
        entry = evaluate(["input"], folder / part / "blur", folder / part / "sharp", "deblurring")["models"][
            0
        ]
        assert psnr == round(entry["mean"]["psnr"], 2)
        assert entry["mean"]["ssim_volume"] > entry["mean"]["ssim"]
        rows += entry["images"]
    # The mean is 22.155 and was stated as 22.15.
    assert sum(row["psnr"] for row in rows) / len(rows) == pytest.approx(22.15, abs=0.006)
    assert round(sum(row["ssim"] for row in rows) / len(rows), 3) == 0.732


def test_deblurring_of_our_own_pair(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """PSNR is over RGB without border; the volume SSIM is the higher one."""
    gt = np.asarray(Image.open(pairs[1] / "meadow.png")).astype(np.float64)
    blurred = ((gt + np.roll(gt, 2, 1) + np.roll(gt, 4, 1)) / 3).round().astype(np.uint8)
    save_image(tmp_path / "blur" / "a.png", blurred)
    save_image(tmp_path / "sharp" / "a.png", gt.astype(np.uint8))
    row = evaluate(["input"], tmp_path / "blur", tmp_path / "sharp", "deblurring")["models"][0]["images"][0]
    assert 10 * np.log10(255**2 / np.mean((blurred - gt) ** 2)) == pytest.approx(row["psnr"], abs=1e-9)
    assert row["ssim_volume"] > row["ssim"]


def test_inpainting_composites_and_truncates(
    pairs: tuple[Path, Path], masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels outside the hole are the input's, whatever a model does there; values are truncated."""

    def grey(lq, mask, scale, seed):
        return torch.full_like(lq, 100.9 / 255)

    monkeypatch.setitem(methods.BASELINES, "grey", grey)
    row = evaluate(["grey"], pairs[1], pairs[1], "inpainting", masks=masks)["models"][0]["images"][0]
    gt = np.asarray(Image.open(pairs[1] / "harbour.png")).astype(np.float64)
    result = gt.copy()
    result[30:60, 40:90] = 100
    assert 10 * np.log10(255**2 / np.mean((result - gt) ** 2)) == pytest.approx(row["psnr"], abs=1e-9)


def test_inpainting_network_and_lama_layout(pairs: tuple[Path, Path], tmp_path: Path, masks: Path) -> None:
    """Masks named NAME_mask000.png may lie among the photos; both layouts give the same rows."""
    model = tiny_model(tmp_path / "fill.safetensors", task="inpainting", skip="none", refinement_blocks=0)
    apart = evaluate([str(model)], pairs[1], pairs[1], "inpainting", masks=masks, device="cpu")
    together = tmp_path / "lama"
    for name in ("harbour", "meadow"):
        save_image(together / f"{name}.png", np.asarray(Image.open(pairs[1] / f"{name}.png")))
        save_image(together / f"{name}_mask000.png", np.asarray(Image.open(masks / f"{name}.png")))
    result = evaluate([str(model)], together, together, "inpainting", masks=together, device="cpu")
    first, second = ([row["psnr"] for row in r["models"][0]["images"]] for r in (apart, result))
    assert first == second


def test_wrong_sizes_name_both_files(pairs: tuple[Path, Path]) -> None:
    """A GT that is no multiple of its LQ is refused, with both names and sizes."""
    save_image(pairs[1] / "meadow.png", np.zeros((100, 140, 3), np.uint8))
    with pytest.raises(DataError, match=r"lq.meadow\.png is 32×24 and .*gt.meadow\.png 140×100"):
        evaluate(["bicubic"], *pairs, "sr")


def test_model_of_another_scale_is_refused(pairs: tuple[Path, Path], sr_model: Path) -> None:
    """A ×4 model on ×1 data is one line that names the scales and the files."""
    with pytest.raises(DataError, match=r"enlarges ×4, but .*harbour\.png .* is ×1 of"):
        evaluate([str(sr_model)], pairs[1], pairs[1], "sr", device="cpu")


def test_task_must_suit_the_protocol(pairs: tuple[Path, Path], masks: Path, tmp_path: Path) -> None:
    """A deblurring network has no business in the inpainting protocol."""
    model = tiny_model(tmp_path / "deblur.safetensors", task="deblurring")
    with pytest.raises(DataError, match="fills no holes"):
        evaluate([str(model)], pairs[1], pairs[1], "inpainting", masks=masks, device="cpu")


def test_missing_mask_is_named(pairs: tuple[Path, Path], masks: Path) -> None:
    """A photo without a mask stops the evaluation, by file."""
    (masks / "meadow.png").unlink()
    with pytest.raises(DataError, match=r"meadow\.png has no mask in .*masks; expected meadow\.png"):
        evaluate(["input"], pairs[1], pairs[1], "inpainting", masks=masks)


def test_mask_of_another_size_is_named(pairs: tuple[Path, Path], masks: Path) -> None:
    """Mask and photo must be of one size."""
    save_image(masks / "harbour.png", np.zeros((10, 12), np.uint8))
    with pytest.raises(DataError, match=r"masks.harbour\.png is 12×10"):
        evaluate(["input"], pairs[1], pairs[1], "inpainting", masks=masks)


@pytest.mark.parametrize(
    ("lq", "gt", "options", "words"),
    [
        ("nowhere", "gt", {}, "is not there"),
        ("empty", "gt", {}, "has no photos"),
        ("lq", "gt", {"protocol": "srr"}, "no protocol 'srr'; the nearest is 'sr'"),
        ("lq", "gt", {"metrics": ("psnrr",)}, "no metric 'psnrr'; the nearest is 'psnr'"),
        ("lq", "gt", {"protocol": "inpainting"}, "needs masks; give --masks"),
        ("lq", "gt", {"masks": Path("x")}, "the sr protocol has no holes"),
        ("lq", "gt", {"seeds": 0}, "seeds is 0"),
        ("lq", "gt", {"models": []}, "no model is given"),
        ("lq", "gt", {"models": ["no-such"]}, "no-such"),
    ],
)
def test_wrong_use_is_one_line(
    pairs: tuple[Path, Path], tmp_path: Path, lq: str, gt: str, options: dict, words: str
) -> None:
    """Missing or empty folders and unknown names are said in one line."""
    (tmp_path / "empty").mkdir()
    arguments = {"models": ["bicubic"], "protocol": "sr"} | options
    with pytest.raises(DirformerError, match=words) as caught:
        evaluate(lq=tmp_path / lq, gt=tmp_path / gt, **arguments)
    assert "\n" not in str(caught.value)


def test_missing_partner_is_named(pairs: tuple[Path, Path]) -> None:
    """A photo without a partner stops the evaluation, by name."""
    (pairs[1] / "harbour.png").unlink()
    with pytest.raises(DataError, match=r"harbour is in .*lq but not in .*gt"):
        evaluate(["bicubic"], *pairs, "sr")


def test_samples_of_the_lama_layout(tmp_path: Path) -> None:
    """A folder of masks alone has no photos."""
    save_image(tmp_path / "a_mask000.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="only masks"):
        find_samples(tmp_path, tmp_path, tmp_path)


def test_interval_of_the_mean() -> None:
    """For many normal values the bootstrap agrees with mean ± 1.96 σ/√n; equal values have no spread."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = interval95(values.tolist())
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.01)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.01)
    assert interval95([3.0, 3.0]) == [3.0, 3.0]


def test_files_by_suffix(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """JSON is read back as it was, CSV has a line per model and photo, Markdown marks the best."""
    result = evaluate(["bicubic", "input"], *pairs, "sr")
    for suffix in ("json", "csv", "md"):
        write_result(tmp_path / f"r.{suffix}", result)
    assert json.loads(json.dumps(finite(result))) == read_result(tmp_path / "r.json")
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0].startswith("model,name,psnr_y,ssim_y")
    assert len(lines) == 5
    table = (tmp_path / "r.md").read_text()
    best = max(result["models"], key=lambda e: e["mean"]["psnr_y"])
    assert f"**{best['mean']['psnr_y']:.2f}**" in table
    assert "Protocol `sr`" in table
    with pytest.raises(ConfigError, match="no known suffix"):
        write_result(tmp_path / "r.xls", result)
    with pytest.raises(DataError, match="no result of"):
        read_result(tmp_path / "r.csv")


def test_extra_metrics_join_the_table(pairs: tuple[Path, Path]) -> None:
    """Metrics asked for come behind the protocol's; scene and copy of themselves are perfect."""
    result = evaluate(["input"], pairs[1], pairs[1], "deblurring", metrics=("gmsd", "flip", "ssimulacra2"))
    mean = result["models"][0]["mean"]
    assert (mean["gmsd"], mean["flip"], mean["ssimulacra2"]) == (0, 0, pytest.approx(100))
    assert scene(0).shape == (96, 128, 3)
    assert Method("x", methods.bicubic).scale is None


def test_all_variants_in_a_run(shared: Path) -> None:
    """On real photos every variant is there, per photo and as mean, the protocol's own among them."""
    folder = shared / "datasets" / "Set5"
    result = evaluate(["bicubic"], folder / "LRx4", folder / "HRx4", "sr", all_variants=True)
    entry = result["models"][0]
    assert entry["variants"]["psnr_y_border4"] == pytest.approx(entry["mean"]["psnr_y"], abs=1e-9)
    assert entry["variants"]["ssim_y_border4"] == pytest.approx(entry["mean"]["ssim_y"], abs=1e-9)
    assert entry["images"][0]["variants"]["ssim_volume"] > entry["images"][0]["variants"]["ssim_rgb"]
    assert "evaluate_gopro" not in as_text(result)
    assert "GoPro and HIDE tables" in as_text(result)


def test_text_table_marks_best_and_states_the_protocol(pairs: tuple[Path, Path]) -> None:
    """People see the protocol, intervals, the best marked, and which weights are missing."""
    text = as_text(evaluate(["bicubic", "input"], *pairs, "sr"))
    assert text.startswith("protocol sr: 8-bit results, Y of BT.601")
    assert "PSNR-Y ↑" in text and "*" in text and "[" in text
    assert "lpips_alex is left out" in text


def test_torn_lines_of_a_journal_are_said_and_scored_again(
    pairs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that was killed in mid-line, or a record without its parts, costs the photo and no more."""
    journal = tmp_path / "rows.jsonl"
    whole = evaluate(["bicubic"], *pairs, "sr", journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0][:40] + b"\n" + b'{"kind": "row"}\n[1]\n\xff\n' + b"".join(lines[1:]))
    again = evaluate(["bicubic"], *pairs, "sr", journal=journal)
    values = [[row["psnr_y"] for row in result["models"][0]["images"]] for result in (whole, again)]
    assert values[0] == values[1] and caplog.text.count("rows.jsonl") == 1
