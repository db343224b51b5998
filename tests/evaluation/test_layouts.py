"""`reproduce` over tiny trees in every official layout: all rows filled, all printed cells quoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dirformer.data.sets import DATA_SETS
from dirformer.evaluation.needs import find_place
from dirformer.evaluation.paper import TABLES
from dirformer.evaluation.quotes import printed
from dirformer.evaluation.tables import title
from evaluation.conftest import save_image, scene, tiny_model
from evaluation.trees import (
    ARCHIVES,
    MODELS,
    backbones,
    finished,
    layouts,
    model_for,
    stage1_for,
    tree,
    variants,
)
from helpers import dirformer

COLUMNS = {
    "inpainting": {"fid", "lpips_vgg", "ssim_zero", "psnr"},
    "sr": {"lpips_alex", "dists", "psnr_y", "ssim_y"},
    "realsr": {"lpips_vgg", "dists", "psnr_y", "ssim_y"},
    "deblurring": {"psnr", "ssim", "ssim_volume"},
}
EVERY = [(target, variant) for target in TABLES for variant in range(variants(target))]
# The first layout of every table is seen by test_reproduce.py; these are the archives.
QUICK = {("table3", 3), ("table6", 2)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metric files for all tests of this file."""
    return backbones(tmp_path_factory.mktemp("weights"))


def own_rows(target: str, folder: Path) -> list[str]:
    """A network for each printed row of ours: one for each task, and one for each row of an ablation."""
    table = TABLES[target]
    presets = dict.fromkeys(case.preset for case in table.cases)
    if not table.rows:
        return [model_for(preset, folder) for preset in presets]
    (preset,) = presets
    files = {row: folder / f"{row}.safetensors" for row in table.rows}
    return [
        f"{row}={stage1_for(preset, folder) if row == 'S1' else tiny_model(file, **MODELS[preset])}"
        for row, file in files.items()
    ]


def compared(target: str) -> list[str]:
    """The methods that a table compares ours with."""
    rows = (rows for name, rows in TABLES[target].quoted.items() if name)
    return [
        m for m in dict.fromkeys(m for of_case in rows for m in of_case) if not m.startswith(("DiffIR", "L_"))
    ]


def reproduced(
    target: str, data: Path, models: list[str], weights: Path, out: Path
) -> tuple[dict[str, Any], str]:
    """Run the command; return its JSON and what it prints."""
    options = [part for model in models for part in ("--model", model)]
    outcome = dirformer(
        "reproduce",
        target,
        "--data",
        data,
        *options,
        "--metric-weights",
        weights,
        "--json",
        out,
        "--device",
        "cpu",
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(out.read_text()), outcome.stdout


def check_filled(target: str, result: dict[str, Any], rows: int) -> None:
    """Every case has that many rows, each with a figure in every column of its protocol."""
    for case, entry in zip(TABLES[target].cases, result["cases"], strict=True):
        assert len(entry["measured"]["models"]) == rows, case.name
        for row in entry["measured"]["models"]:
            assert COLUMNS[case.protocol] <= set(row["mean"])
            assert all(row["mean"][metric] is not None for metric in COLUMNS[case.protocol] - {"psnr"})
        assert any(
            f"the published set has {case.count:,}".replace(",", "") in line for line in result["missing"]
        )
    assert not any("left out" in line for line in result["missing"])


def check_quoted(target: str, text: str) -> None:
    """Each printed row stands in its case's block, with every cell as printed, and nothing else is quoted."""
    blocks: dict[str, dict[str, str]] = {}
    case = ""
    for line in text.splitlines():
        if line in {c.name for c in TABLES[target].cases}:
            case = line
        elif line.endswith("(quoted)"):
            blocks.setdefault(case, {})[line[2:36].strip()] = line[36:].removesuffix("  (quoted)").strip()
    quoted = TABLES[target].quoted
    assert {c: set(rows) for c, rows in blocks.items()} == {c: set(quoted[c]) for c in blocks}
    assert set(blocks) == set(quoted) if target.startswith("table") else blocks
    for name, rows in blocks.items():
        for method, cells in rows.items():
            wanted = [
                f"{title(k)} {q.marked}" if name else f"{k} {q.text}" for k, q in quoted[name][method].items()
            ]
            assert cells.partition("  cost ")[0].partition("  timesteps ")[0] == "  ".join(wanted)


@pytest.mark.parametrize(
    ("target", "variant"), [pytest.param(*x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in EVERY]
)
def test_every_layout_fills_the_table(tmp_path: Path, weights: Path, target: str, variant: int) -> None:
    """`dirformer reproduce` reads each layout of each case: all columns are measured, all cells quoted."""
    tree(tmp_path / "data", target, variant)
    models = own_rows(target, tmp_path)
    result, text = reproduced(target, tmp_path / "data", models, weights, tmp_path / "r.json")
    check_filled(target, result, rows=len(TABLES[target].rows) or 1)
    check_quoted(target, text)


@pytest.mark.slow
@pytest.mark.parametrize("target", TABLES)
def test_every_printed_row_gets_a_measured_one(tmp_path: Path, weights: Path, target: str) -> None:
    """Ours and all compared methods, from folders of results: as many rows as are printed, each against its
    own."""
    tree(tmp_path / "data", target)
    done = finished(tmp_path / "data", target, tmp_path / "done")
    others = compared(target)
    models = [*own_rows(target, tmp_path), *(f"results:{method}={done}" for method in others)]
    result, text = reproduced(target, tmp_path / "data", models, weights, tmp_path / "r.json")
    check_filled(target, result, rows=(len(TABLES[target].rows) or 1) + len(others))
    check_quoted(target, text)
    for entry in result["cases"]:
        for row in entry["measured"]["models"]:
            printed_row = entry["quoted"].get(row["model"], {})
            for metric, cell in printed_row.items():
                difference = entry["difference"][row["model"]][metric]
                assert row["mean"][metric] - float(cell["text"]) == pytest.approx(difference)
    if target.startswith("table"):
        named = {m for rows in printed(target).cells.values() for m in rows}
        measured = {row["model"] for entry in result["cases"] for row in entry["measured"]["models"]}
        ours = len(TABLES[target].rows) or 1
        assert len(named) == len(named & measured) + ours


def test_every_layout_is_known_to_the_trees() -> None:
    """The trees above leave no layout out, and each archive is a set that `prepare` knows."""
    for table in TABLES.values():
        for case in table.cases:
            assert (case.archive is not None) == (case.name in ARCHIVES)
            assert case.archive is None or case.archive[0] in DATA_SETS
            assert layouts(case) <= variants(table.name)


@pytest.mark.parametrize(
    ("case", "folder"),
    [("GoPro", "GOPRO_Large"), ("HIDE", "HIDE_dataset"), ("RealSRSet", "RealSR(V3)"), ("GoPro", "gopro")],
)
def test_archives_keep_their_own_folder(tmp_path: Path, case: str, folder: str) -> None:
    """An archive is also found in the folder that it makes when it is unpacked."""
    (wanted,) = [c for t in ("table3", "table6") for c in TABLES[t].cases if c.name == case]
    for paths in ARCHIVES[case]:
        for path in paths:
            save_image(tmp_path / folder / path.partition("/")[2], scene(1, 32, 32))
    place = find_place(wanted, tmp_path)
    assert place is not None and len(place.samples) == 2


@pytest.mark.parametrize("case", ["HIDE", "RealSRSet", "NTIRE2020-Track1", "Urban100", "DIV2K100"])
def test_what_prepare_makes_is_read(tmp_path: Path, case: str) -> None:
    """`prepare SET` on a tiny archive makes what `reproduce` finds, ×4 pairs of the same names."""
    (wanted,) = [c for t in ("table2", "table3", "table6") for c in TABLES[t].cases if c.name == case]
    name = case.lower() if wanted.archive is None else wanted.archive[0]
    name = name.replace("div2k100", "div2k")
    alone = {
        "Urban100": [("", f"Urban100/image_SRF_4/img_00{n}_SRF_4_HR.png") for n in (1, 2)],
        "DIV2K100": [("", f"DIV2K/DIV2K_valid_HR/080{n}.png") for n in (1, 2)],
    }
    for seed, (lq, gt) in enumerate(alone.get(case) or ARCHIVES[case]):
        photo = scene(seed, 64, 80)
        save_image(tmp_path / "IN" / gt, photo)
        if lq:
            scale = 1 if case == "HIDE" else 4
            save_image(tmp_path / "IN" / lq, photo[::scale, ::scale])
    outcome = dirformer(
        "prepare", name, tmp_path / "IN", "-o", tmp_path / "data" / name, "--partial", "--workers", 1
    )
    place = find_place(wanted, tmp_path / "data")
    assert place is not None, outcome.stderr
    assert len(place.samples) == 2 and all(s.gt.is_relative_to(tmp_path / "data") for s in place.samples)


def test_pairs_of_one_size_say_what_is_wrong(tmp_path: Path) -> None:
    """RealSR 3 has LQ photos of the GT's size: a ×4 network cannot be scored, and the line says so; finished
    results can."""
    for lq, gt in ARCHIVES["RealSRSet"]:
        save_image(tmp_path / "data" / gt, scene(1, 64, 80))
        save_image(tmp_path / "data" / lq, scene(1, 64, 80))
    model = model_for("realsr-x4", tmp_path)
    outcome = dirformer(
        "reproduce", "table6", "--data", tmp_path / "data", "--model", model, "--device", "cpu"
    )
    assert "give the ×4 pairs or another model" in outcome.stdout
    save_image(tmp_path / "done" / "Canon_001.png", scene(1, 64, 80))
    save_image(tmp_path / "done" / "Nikon_001.png", scene(1, 64, 80))
    results = f"results:LDM={tmp_path / 'done'}"
    outcome = dirformer("reproduce", "table6", "--data", tmp_path / "data", "--model", results)
    assert outcome.returncode == 0 and "against LDM" in outcome.stdout
