"""Reproducing tables: tiny trees in the official layouts, random backbones in the real file formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dirformer.evaluation.paper import TABLES, paper_table, with_cells
from dirformer.evaluation.reproduce import Reproduction
from dirformer.ground.errors import ConfigError, DataError
from evaluation.conftest import save_image, scene, tiny_model
from metrics.test_perceptual import inception, save_backbone


def backbones(folder: Path) -> Path:
    """Random weights of every learned score, in files with the published names and keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for net, widths in (("alex", (4, 6, 8, 6, 5)), ("vgg", (4, 5, 6, 7, 8))):
        save_backbone(folder, net)
        heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(widths)}
        torch.save(heads, folder / f"lpips_{net}.pth")
    torch.save({k: torch.rand(1, 33, 1, 1) for k in ("alpha", "beta")}, folder / "dists.pt")
    torch.save(inception().state_dict(), folder / "pt_inception-2015-12-05-6726825d.pth")
    return folder


def tree(root: Path, target: str) -> None:
    """Two photos per case, in the first official layout of each."""
    for case in TABLES[target].cases:
        lq, gt = case.layouts[0]
        for number in range(2):
            photo = scene(number, 64, 80)
            save_image(root / gt / f"p{number}.png", photo)
            if case.masks:
                mask = np.zeros((64, 80), np.uint8)
                mask[20:40, 20:50] = 255
                save_image(root / case.masks[0] / f"p{number}_mask000.png", mask)
            else:
                scale = 4 if case.preset.endswith("x4") else 1
                small = photo.reshape(64 // scale, scale, 80 // scale, scale, 3).mean((1, 3)).astype(np.uint8)
                save_image(root / lq / f"p{number}.png", small)


MODELS = {
    "inpainting": {"task": "inpainting", "skip": "none", "refinement_blocks": 0},
    "sr-x4": {"task": "sr", "scale": 4, "tail": "direct"},
    "realsr-x4": {"task": "realsr", "scale": 4, "tail": "direct"},
    "deblurring": {"task": "deblurring"},
}
COLUMNS = {
    "inpainting": {"fid", "lpips_vgg", "ssim_zero", "psnr"},
    "sr": {"lpips_alex", "dists", "psnr_y", "ssim_y"},
    "realsr": {"lpips_vgg", "dists", "psnr_y", "ssim_y"},
    "deblurring": {"psnr", "ssim", "ssim_volume"},
}


@pytest.mark.parametrize("target", TABLES)
def test_every_table_is_filled(tmp_path: Path, target: str) -> None:
    """Each case has a row with every column of its protocol, the incomplete data is said, quotes are kept."""
    tree(tmp_path / "data", target)
    preset = TABLES[target].cases[0].preset
    model = tiny_model(tmp_path / "tiny.safetensors", **MODELS[preset])
    run = Reproduction(
        target, tmp_path / "data", [str(model)], metric_weights=backbones(tmp_path / "w"), device="cpu"
    )
    assert len(run) == 2 * len(TABLES[target].cases)
    result = run.summarise(run.steps())
    for case, entry in zip(TABLES[target].cases, result["cases"], strict=True):
        (row,) = entry["measured"]["models"]
        assert COLUMNS[case.protocol] <= set(row["mean"])
        assert any(f"the published set has {case.count}" in line for line in result["missing"])
    assert not any("left out" in line for line in result["missing"])
    json.dumps(result, allow_nan=False)
    text = run.text(result)
    assert "tiny.safetensors" in text
    if target == "fig6":
        assert "timesteps 4" in text


def test_paper_cells_digit_for_digit() -> None:
    """Quoted figures are those printed; checked here against a list typed in apart."""
    printed = {
        ("table3", "GoPro", "DiffIR", "psnr"): 33.20,
        ("table3", "GoPro", "Restormer", "psnr"): 32.92,
        ("table3", "GoPro", "MPRNet", "psnr"): 33.20 - 0.54,
        ("table3", "GoPro", "MIMO-UNet+", "psnr"): 33.20 - 0.75,
        ("table3", "HIDE", "Restormer", "psnr"): 31.22,
        ("table4", "CelebA-HQ", "DiffIR-S2 V3 (joint, no variance)", "fid"): 5.1440,
        ("table4", "CelebA-HQ", "DiffIR-S2 V4 (variance inserted)", "fid"): 5.1937,
    }
    quoted = {
        (name, case, method, metric): figure
        for name, table in TABLES.items()
        if name.startswith("table")
        for case, rows in table.quoted.items()
        for method, cells in rows.items()
        for metric, figure in cells.items()
    }
    assert {k: pytest.approx(v) for k, v in printed.items()} == quoted


def test_difference_to_the_paper(tmp_path: Path) -> None:
    """Ours minus the paper's DiffIR stands beside each figure that both have."""
    tree(tmp_path, "table3")
    model = tiny_model(tmp_path / "tiny.safetensors", task="deblurring")
    run = Reproduction("table3", tmp_path, [str(model)], device="cpu")
    result = run.summarise(run.steps())
    gopro = result["cases"][0]
    ours = gopro["measured"]["models"][0]["mean"]["psnr"]
    assert ours - 33.20 == pytest.approx(gopro["difference"][str(model)]["psnr"])
    assert f"({ours - 33.20:+.4g})" in run.text(result)
    assert "33.2  (quoted)" in run.text(result)


def test_missing_data_and_weights_are_named(tmp_path: Path) -> None:
    """An empty folder and absent weights give empty cells with reasons, not errors and not figures."""
    nothing = Reproduction("table1", tmp_path, [])
    assert len(nothing) == 0
    assert "Places narrow: no data; expected" in "\n".join(nothing.introduction())
    tree(tmp_path, "table3")
    run = Reproduction("table3", tmp_path, [])
    result = run.summarise(run.steps())
    assert "GoPro: no weights of deblurring; give --model FILE" in result["missing"][0]
    assert result["cases"][0]["measured"] is None
    assert "not measured: no weights of deblurring" in run.text(result)


def test_one_model_per_case(tmp_path: Path) -> None:
    """CASE=FILE fills one column; a case that does not exist is named."""
    tree(tmp_path, "table3")
    model = tiny_model(tmp_path / "tiny.safetensors", task="deblurring")
    run = Reproduction("table3", tmp_path, [f"HIDE={model}"], device="cpu")
    assert list(run.runs) == ["HIDE"]
    with pytest.raises(ConfigError, match="names no case; table3 has GoPro, HIDE"):
        Reproduction("table3", tmp_path, [f"GOPRO={model}"])
    with pytest.raises(ConfigError, match="no table 'table9'; there are: table1"):
        Reproduction("table9", tmp_path, [])


def test_further_quotes_come_from_a_file(tmp_path: Path) -> None:
    """Cells of the user's copy of the paper join; contradicting ones and unknown cases are refused."""
    path = tmp_path / "paper.json"
    path.write_text(json.dumps({"HIDE": {"DiffIR": {"psnr": 31.5}}}))
    assert with_cells(paper_table("table3"), path).quoted["HIDE"]["DiffIR"] == {"psnr": 31.5}
    path.write_text(json.dumps({"GoPro": {"DiffIR": {"psnr": 40.0}}}))
    with pytest.raises(DataError, match=r"has 40.0 for DiffIR on GoPro; the paper prints 33\.2"):
        with_cells(paper_table("table3"), path)
    path.write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        with_cells(paper_table("table3"), path)
