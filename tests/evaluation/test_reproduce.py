"""Reproducing tables: tiny trees in the official layouts, random backbones in the real file formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dirformer.evaluation.claims import check_claims
from dirformer.evaluation.needs import find_place
from dirformer.evaluation.paper import TABLES, paper_table, with_cells
from dirformer.evaluation.reproduce import PLOTS, Reproduction
from dirformer.ground.errors import ConfigError, DataError
from dirformer.metrics.perceptual import WEIGHTS
from evaluation.conftest import save_image, scene, tiny_model
from evaluation.test_layouts import check_filled, check_quoted, reproduced
from evaluation.trees import MODELS, backbones, model_for, stage1_for, tree
from helpers import dirformer


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metric files for all tests of this file."""
    return backbones(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("target", TABLES)
def test_every_table_is_filled(tmp_path: Path, weights: Path, target: str) -> None:
    """Each case has a row with every column of its protocol, the incomplete data is said, quotes are kept."""
    tree(tmp_path / "data", target)
    presets = dict.fromkeys(case.preset for case in TABLES[target].cases)
    models = [model_for(preset, tmp_path) for preset in presets]
    result, text = reproduced(target, tmp_path / "data", models, weights, tmp_path / "r.json")
    check_filled(target, result, rows=1)
    check_quoted(target, text)
    assert all(f"{preset}.safetensors" in text for preset in presets)
    if target == "fig6":
        assert "timesteps 4" in text
    if target in PLOTS:
        run = Reproduction(target, tmp_path / "data", models, metric_weights=weights, device="cpu")
        assert f"in {len(TABLES[target].cases)} panels" in run.draw(result, tmp_path / "figure.png")


@pytest.mark.parametrize("target", TABLES)
def test_without_data_everything_needed_is_listed(tmp_path: Path, target: str) -> None:
    """Exit 2, and: every photo count, folder, mask, way to make it, network, metric file with address and
    hash."""
    outcome = dirformer("reproduce", target, "--data", tmp_path)
    assert outcome.returncode == 2
    assert "nothing to measure" in outcome.stderr
    for case in TABLES[target].cases:
        assert f"{case.name}: {case.count:,} photos" in outcome.stdout
        assert f"weights of {case.preset}" in outcome.stdout
        assert all(str(tmp_path / folder) in outcome.stdout for pair in case.layouts for folder in pair)
        assert all(f"masks in {tmp_path / folder}" in outcome.stdout for folder in case.masks)
    protocols = {case.protocol for case in TABLES[target].cases}
    for key in {
        "inpainting": ("inception", "vgg16"),
        "sr": ("alexnet", "dists"),
        "realsr": ("lpips_vgg",),
    }.items():
        if key[0] in protocols:
            assert all(f"{WEIGHTS[k].address} sha256 {WEIGHTS[k].sha256}" in outcome.stdout for k in key[1])
    for rows in TABLES[target].quoted.values():
        assert all(quote.text in outcome.stdout for row in rows.values() for quote in row.values())


def test_difference_to_the_paper(tmp_path: Path) -> None:
    """Ours minus the paper's DiffIR stands beside each figure that both have."""
    tree(tmp_path, "table3")
    model = model_for("deblurring", tmp_path)
    run = Reproduction("table3", tmp_path, [model], device="cpu")
    result = run.summarise(run.steps())
    gopro = result["cases"][0]
    ours = gopro["measured"]["models"][0]["mean"]["psnr"]
    assert ours - 33.20 == pytest.approx(gopro["difference"][model]["psnr"])
    text = run.text(result)
    assert f"({ours - 33.20:+.4g})" in text
    assert "PSNR ↑ *33.20" in text and "PSNR ↑ ·32.92" in text
    assert any("0.54 dB over MIMO-Unet+" in line for line in run.introduction())


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """Absent weights give empty cells with reasons, not errors and not figures."""
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
    model = model_for("deblurring", tmp_path)
    run = Reproduction("table3", tmp_path, [f"HIDE={model}"], device="cpu")
    assert list(run.runs) == ["HIDE"]
    with pytest.raises(ConfigError, match="names no case; table3 has GoPro, HIDE"):
        Reproduction("table3", tmp_path, [f"GOPRO={model}"])
    with pytest.raises(ConfigError, match="no table 'table9'; there are: table1"):
        Reproduction("table9", tmp_path, [])


def test_rows_of_the_ablation(tmp_path: Path, weights: Path) -> None:
    """Table 4: a stage-1 file is compared with DiffIR_S1, V1=FILE with V1, another file with V3."""
    tree(tmp_path, "table4")
    stage1 = stage1_for("inpainting", tmp_path)
    one, other = (tiny_model(tmp_path / f"{n}.safetensors", **MODELS["inpainting"]) for n in "ab")
    models = [stage1, f"V1={one}", str(other)]
    run = Reproduction("table4", tmp_path, models, metric_weights=weights, device="cpu")
    result = run.summarise(run.steps())
    rows = result["cases"][0]["measured"]["models"]
    printed = {stage1: 4.8045, str(one): 5.6782, str(other): 5.1440}
    for row in rows:
        difference = result["cases"][0]["difference"][row["model"]]["fid"]
        assert row["mean"]["fid"] - printed[row["model"]] == pytest.approx(difference)
    text = run.text(result)
    assert "against DiffIR_S1" in text and "Mult-Adds (G) 47.97" in text and "joint optimisation yes" in text


def test_results_of_other_methods_are_rows(tmp_path: Path) -> None:
    """`results:NAME=DIR` scores finished photos, found by name, also behind `NAME_`."""
    tree(tmp_path, "table3")
    for folder in ("GoPro/test/target", "HIDE/test/target"):
        for number in range(2):
            photo = Image.open(tmp_path / folder / f"p{number}.png")
            out = tmp_path / "done" / f"p{number}_restored.png"
            out.parent.mkdir(exist_ok=True)
            photo.save(out)
    run = Reproduction("table3", tmp_path, [f"results:MPRNet={tmp_path / 'done'}"], device="cpu")
    result = run.summarise(run.steps())
    (row,) = result["cases"][0]["measured"]["models"]
    assert row["model"] == "MPRNet" and row["mean"]["ssim"] == pytest.approx(1)


def test_a_case_that_cannot_be_evaluated_does_not_stop_the_others(tmp_path: Path) -> None:
    """A photo of the wrong size is named, its case stays empty, the other one is measured."""
    tree(tmp_path, "table3")
    save_image(tmp_path / "GoPro/test/input/p1.png", scene(1, 40, 30))
    run = Reproduction("table3", tmp_path, [model_for("deblurring", tmp_path)], device="cpu")
    result = run.summarise(run.steps())
    assert [entry["measured"] is None for entry in result["cases"]] == [True, False]
    assert "p1.png is 30×40" in result["missing"][0]
    assert "not measured: " in run.text(result)


LAYOUTS = {
    "set5 as prepared": ("table2", "Set5", "set5/x4/lq/a.png", "set5/x4/gt/a.png", 4),
    "DIV2K's archive": (
        *("table2", "DIV2K100", "DIV2K/DIV2K_valid_LR_bicubic/X4/0801x4.png"),
        *("DIV2K/DIV2K_valid_HR/0801.png", 4),
    ),
    "EDSR's benchmark": ("table2", "Set14", "Set14/LR_bicubic/X4/comicx4.png", "Set14/HR/comic.png", 4),
    "GoPro's archive": (
        *("table3", "GoPro", "GoPro/test/GOPR0384_11_00/blur/000001.png"),
        *("GoPro/test/GOPR0384_11_00/sharp/000001.png", 1),
    ),
    "gopro as prepared": ("table3", "GoPro", "gopro/test/lq/a.png", "gopro/test/gt/a.png", 1),
    "RealSR's archive": (
        *("table6", "RealSRSet", "RealSR/Canon/Test/4/Canon_001_LR4.png"),
        *("RealSR/Canon/Test/4/Canon_001_HR.png", 1),
    ),
    "realsr as prepared": ("table6", "RealSRSet", "realsr/test-x4/lq/a.png", "realsr/test-x4/gt/a.png", 4),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(tmp_path: Path, name: str) -> None:
    """What `prepare` makes, and what the archives hold, in their own folders and under their own names."""
    target, case, lq, gt, scale = LAYOUTS[name]
    photo = scene(1, 64, 80)
    save_image(tmp_path / gt, photo)
    save_image(tmp_path / lq, photo[::scale, ::scale])
    (wanted,) = [c for c in TABLES[target].cases if c.name == case]
    place = find_place(wanted, tmp_path)
    assert place is not None
    assert [(s.lq, s.gt) for s in place.samples] == [(tmp_path / lq, tmp_path / gt)]


def test_masked_photos_of_our_own_commands_are_read(tmp_path: Path) -> None:
    """The commands that the list names make what the table reads: `masks --photos … --kind wide`."""
    photos = tmp_path / "celeba-hq" / "test" / "gt"
    for number in range(3):
        save_image(photos / f"{number}.png", scene(number, 256, 256))
    out = tmp_path / "celeba-hq" / "wide"
    outcome = dirformer("masks", "--photos", photos, "--kind", "wide", "--size", 256, "--pick", 2, "-o", out)
    assert outcome.returncode == 0, outcome.stderr
    place = find_place(TABLES["table1"].cases[3], tmp_path)
    assert place is not None and len(place.samples) == 2
    assert all(s.mask is not None and s.mask.parent == out / "masks" for s in place.samples)


def test_further_quotes_come_from_a_file(tmp_path: Path) -> None:
    """Cells of the user's copy join; dashes and the whole paper in one file are taken; wrong ones are
    refused."""
    path = tmp_path / "paper.json"
    path.write_text(json.dumps({"HIDE": {"Mine": {"psnr": 31.5, "ssim_volume": None}}}))
    assert with_cells(paper_table("table3"), path).quoted["HIDE"]["Mine"]["psnr"].text == "31.5"
    path.write_text(json.dumps({"table3": {"HIDE": {"Mine": {"psnr": "31.50", "ssim": "-"}}}, "table1": {}}))
    assert with_cells(paper_table("table3"), path).quoted["HIDE"]["Mine"]["psnr"].text == "31.50"
    assert with_cells(paper_table("table1"), path) == paper_table("table1")
    path.write_text(json.dumps({"GoPro": {"DiffIR_S2 (Ours)": {"psnr": 40.0}}}))
    with pytest.raises(DataError, match=r"has 40.0 for DiffIR_S2 \(Ours\) on GoPro; the paper prints 33\.20"):
        with_cells(paper_table("table3"), path)
    path.write_text(json.dumps({"GoPro": {"Mine": {"foo": 1.0}}}))
    with pytest.raises(DataError, match="names the metric 'foo'; the nearest is"):
        with_cells(paper_table("table3"), path)
    for content in ("[]", '{"GoPro": {"Mine": {"psnr": [1]}}}', '{"GoPro": {"Mine": {"psnr": true}}}'):
        path.write_text(content)
        with pytest.raises(DataError, match="cannot be read"):
            with_cells(paper_table("table3"), path)


def test_the_claims_are_computed() -> None:
    """All margins and shares come out at the text's digits, except the one that the paper has from another
    row."""
    outcome = dirformer("reproduce", "claims")
    assert outcome.returncode == 0
    rows = {row["says"]: row for row in check_claims()["claims"]}
    failing = [says for says, row in rows.items() if row["holds"] is False]
    assert failing == ["PSNR above MIMO-Unet+'s, GoPro"]
    assert rows[failing[0]]["found"] == pytest.approx(0.75) and "0.75 dB  differs" in outcome.stdout
    unknown = [row for row in rows.values() if row["holds"] is None]
    assert all("picture" in row["basis"] for row in unknown) and len(unknown) == 2
