"""Figures: visual comparisons of a region, and plots from result files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.evaluation.compare import (
    compare_photos,
    hardest_region,
    model_axis,
    parse_region,
    plot_results,
)
from dirformer.evaluation.results import write_result
from dirformer.evaluation.run import evaluate
from dirformer.ground.errors import ConfigError, DataError, OutputError
from evaluation.conftest import tiny_model


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
