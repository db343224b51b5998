"""Figures: visual comparisons of a region, and plots from result files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.evaluation.compare import compare_photos, hardest_region, in_order, parse_region
from dirformer.evaluation.paper import TABLES, quoted_table
from dirformer.evaluation.plots import model_axis, plot_results, quoted_axis
from dirformer.evaluation.results import write_result
from dirformer.evaluation.run import evaluate
from dirformer.ground.errors import ConfigError, DataError, OutputError
from evaluation.conftest import tiny_model
from helpers import dirformer


def test_region_of_real_photos(shared: Path, tmp_path: Path) -> None:
    """PNG and PDF of a photo of Set5: LQ, two methods and GT; the line names the region."""
    folder = shared / "datasets" / "Set5"
    pair = folder / "LRx4" / "butterfly.png", folder / "HRx4" / "butterfly.png"
    for suffix in ("png", "pdf"):
        out = tmp_path / f"figure.{suffix}"
        line = compare_photos(["bicubic", "lanczos"], *pair, out, region=(60, 40, 64, 64))
        assert "2 methods, region 60,40,64,64" in line
        assert out.stat().st_size > 5000
    with Image.open(tmp_path / "figure.png") as image:
        values = np.asarray(image.convert("RGB")).astype(int)
    red = (values[..., 0] > 200) & (values[..., 1] < 60) & (values[..., 2] < 60)
    assert red.sum() > 100  # the frame around the region
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_our_own_photo_and_the_hardest_region(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """Without a region the window of the largest error is shown."""
    gt = torch.zeros(3, 40, 80)
    result = gt.clone()
    result[:, 25:35, 50:70] = 1
    assert hardest_region(result, gt) == (50, 25, 20, 10)
    line = compare_photos(
        ["bicubic", "input"], pairs[0] / "meadow.png", pairs[1] / "meadow.png", tmp_path / "f.png"
    )
    assert "2 methods" in line


def test_wrong_use(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """Regions outside the photo, unknown suffixes and existing files are one line."""
    pair = pairs[0] / "meadow.png", pairs[1] / "meadow.png"
    with pytest.raises(DataError, match=r"region 100,0,64,64 leaves .* \(128×96\)"):
        compare_photos(["bicubic"], *pair, tmp_path / "f.png", region=(100, 0, 64, 64))
    with pytest.raises(OutputError, match="no known suffix"):
        compare_photos(["bicubic"], *pair, tmp_path / "f.gif")
    (tmp_path / "f.png").touch()
    with pytest.raises(OutputError, match="exists already"):
        compare_photos(["bicubic"], *pair, tmp_path / "f.png")
    assert parse_region("1,2,3,4") == (1, 2, 3, 4)
    for text in ("1,2,3", "a,b,c,d", "1,2,0,4"):
        with pytest.raises(ConfigError, match="expected X,Y,WIDTH,HEIGHT"):
            parse_region(text)


def test_plots_from_result_files(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """Quality against Mult-Adds has interpolation at 0; against T only networks stand."""
    models = [
        str(
            tiny_model(tmp_path / f"t{steps}.safetensors", task="sr", scale=4, tail="direct", timesteps=steps)
        )
        for steps in (1, 4)
    ]
    write_result(tmp_path / "r.json", evaluate(["bicubic", *models], *pairs, "sr", device="cpu"))
    line = plot_results("cost", [tmp_path / "r.json"], tmp_path / "cost.pdf")
    assert "3 points, psnr_y against Mult-Adds" in line
    line = plot_results("timesteps", [tmp_path / "r.json"], tmp_path / "t.png", metric="ssim_y")
    assert "2 points, ssim_y against timesteps T" in line
    assert [model_axis("timesteps", model) for model in models] == [1, 4]
    assert model_axis("cost", "bicubic") == 0
    with pytest.raises(ConfigError, match="has no fid"):
        plot_results("cost", [tmp_path / "r.json"], tmp_path / "x.png", metric="fid")
    with pytest.raises(ConfigError, match="no plot 'speed'"):
        plot_results("speed", [tmp_path / "r.json"], tmp_path / "x.png")
    with pytest.raises(DataError, match="needs results"):
        plot_results("cost", [], tmp_path / "x.png")


def test_without_a_gt(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """Fig. 7 has photos without GT: the middle of every result, finished ones too, no scores; sizes must
    agree."""
    lq, out = pairs[0] / "meadow.png", tmp_path / "f.png"
    (tmp_path / "done").mkdir()
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(tmp_path / "done" / "meadow_out.png")
    model = str(tiny_model(tmp_path / "m.safetensors", task="realsr", scale=4, tail="direct"))
    other = f"results:LDM={tmp_path / 'done'}"
    line = compare_photos([model, "bicubic", other], lq, None, out, protocol="realsr", device="cpu")
    assert "3 methods, region 48,36,32,24" in line
    with pytest.raises(DataError, match="LDM gives 128×96, bicubic 32×24; expected one size"):
        compare_photos(["bicubic", other], lq, None, tmp_path / "g.png", device="cpu")


def test_figures_of_the_paper_by_name(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """`--figure` sets the protocol and the order of the paper's columns; ours stand last."""
    models = ["ours.safetensors", "results:RePaint=a", "results:ICT=b", "results:LaMa=c"]
    assert [m.split("=")[0] for m in in_order("fig8", models)] == [
        *("results:ICT", "results:LaMa", "results:RePaint", "ours.safetensors")
    ]
    with pytest.raises(ConfigError, match="fig9 has no method 'LaMa'"):
        in_order("fig9", ["results:LaMa=c"])
    out = tmp_path / "f.png"
    photos = ("--lq", pairs[0] / "meadow.png", "--gt", pairs[1] / "meadow.png")
    outcome = dirformer("compare", "bicubic", "--figure", "fig4", *photos, "-o", out)
    assert outcome.returncode == 0 and "protocol sr" in outcome.stdout
    for line in quoted_table(TABLES["table2"]):
        assert line in outcome.stdout
    assert "LPIPS-Alex ↓ *0.0627  DISTS ↓ ·0.0902  (quoted)" in outcome.stdout
    for option, value in (("--quoted", "table3:GoPro"), ("--metric", "psnr"), ("--results", pairs[0])):
        wrong = dirformer("compare", "bicubic", option, value, *photos, "-o", out)
        assert wrong.returncode == 2 and f"{option} goes with --plot" in wrong.stderr
    assert dirformer("compare", "bicubic", "--figure", "fig9", *photos[:2], "-o", out).returncode == 2
    assert dirformer("compare", "bicubic", "--figure", "fig2", *photos, "-o", out).returncode == 2


def test_quoted_points(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """The paper's points join a plot where both numbers are known: printed, or counted from shapes."""
    assert quoted_axis("cost", "Restormer", "deblurring") == pytest.approx(154.882, abs=1e-3)
    assert quoted_axis("cost", "ESRGAN", "sr") == pytest.approx(1180, rel=5e-3)
    assert quoted_axis("cost", "LDM", "sr") == 37250
    assert quoted_axis("cost", "DiffIR_S2 (Ours)", "inpainting") == 51.63
    assert quoted_axis("cost", "RePaint", "inpainting") == pytest.approx(51_630)
    assert quoted_axis("cost", "LaMa", "inpainting") is None
    write_result(tmp_path / "r.json", evaluate(["bicubic"], *pairs, "deblurring"))
    line = plot_results("cost", [tmp_path / "r.json"], tmp_path / "c.png", quoted="table3:GoPro")
    assert "3 points" in line  # Restormer, DiffIR and ours: the networks whose Mult-Adds are known
    with pytest.raises(ConfigError, match="table3 has no case 'Gopro'"):
        plot_results("cost", [tmp_path / "r.json"], tmp_path / "d.png", quoted="table3:Gopro")


def test_all_cells_of_a_table_stand_beside_its_figures() -> None:
    """All 225 numbers, in the lines that `compare --figure` prints, table by table."""
    count = 0
    for number in range(1, 7):
        lines = quoted_table(TABLES[f"table{number}"])
        assert all(line.endswith("(quoted)") for line in lines if line.startswith("  "))
        cells = [cell for line in lines if line.startswith("  ") for cell in line[36:].split()]
        count += sum(bool(re.fullmatch(r"[*·]?\d+(\.\d+)?", cell)) for cell in cells)
    assert count == 225
