"""The printed cells of the paper, digit for digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dirformer.evaluation.quotes import printed, read_quote
from dirformer.ground.errors import DataError

TABLES = tuple(f"table{n}" for n in range(1, 7))
CASES = {
    "places/narrow": "Places narrow",
    "places/wide": "Places wide",
    "celeba-hq/narrow": "CelebA-HQ narrow",
    "celeba-hq/wide": "CelebA-HQ wide",
    "celeba-hq": "CelebA-HQ wide",
    "set5": "Set5",
    "set14": "Set14",
    "general100": "General100",
    "urban100": "Urban100",
    "div2k100": "DIV2K100",
    "gopro": "GoPro",
    "hide": "HIDE",
    "realsrset": "RealSRSet",
    "ntire2020-track1": "NTIRE2020-Track1",
}
COSTS = {
    "params": "parameters (M)",
    "gt": "GT",
    "dm": "DM",
    "traditional_dm_optimization": "traditional DM optimisation",
    "joint_optimization": "joint optimisation",
    "inserting_noise": "inserting noise",
}


def place(table: str, column: str, unit: str) -> tuple[str, str]:
    """Where a column of the reference stands here."""
    if column == "mult_adds":
        return "", f"Mult-Adds ({unit})"
    if column in COSTS:
        return "", COSTS[column]
    case, _, metric = column.rpartition("/")
    alex = "lpips_alex" if table == "table2" else "lpips_vgg"
    names = {"lpips": alex, "ssim": "ssim_volume", "psnr": "psnr_y" if table == "table6" else "psnr"}
    return CASES[case], names.get(metric, metric)


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_is_the_printed_one(shared: Path, table: str) -> None:
    """Method, citation, kind, digits and marker of each cell, none missing and none more."""
    path = shared / "reference" / "paper_tables.json"
    reference = json.loads(path.read_text(), parse_float=str, parse_int=str)[table]
    ours = printed(table)
    assert dict(ours.methods) == {row["method"]: row["cite"] or "-" for row in reference["rows"]}
    assert ours.diffusion == {row["method"] for row in reference["rows"] if row["diffusion"]}
    expected = {}
    for row in reference["rows"]:
        for column in reference["columns"]:
            if row[column] is not None:
                case, metric = place(table, column, reference["column_info"][column].get("unit", ""))
                text = {True: "yes", False: "no"}.get(row[column], row[column])
                rank = 1 if column in row["best"] else 2 if column in row["second"] else 0
                expected[case, row["method"], metric] = (text, rank)
    found = {
        (case, method, metric): (quote.text, quote.rank)
        for case, rows in ours.cells.items()
        for method, row in rows.items()
        for metric, quote in row.items()
    }
    assert found == expected


def test_all_numbers_and_methods_are_there() -> None:
    """225 numbers, 55 markers, and every compared method; a few cells typed in apart."""
    cells = [
        quote
        for table in TABLES
        for rows in printed(table).cells.values()
        for row in rows.values()
        for quote in row.values()
    ]
    assert sum(quote.text not in ("yes", "no") for quote in cells) == 225
    assert sum(quote.rank > 0 for quote in cells) == 55
    methods = {m for table in TABLES for m in printed(table).methods if not m.startswith(("DiffIR", "L_"))}
    assert len(methods) == 29
    assert printed("table3").cells["GoPro"]["DiffIR_S2 (Ours)"]["psnr"].marked == "*33.20"
    assert printed("table1").cells["Places wide"]["LDM"]["lpips_vgg"].text == "0.1440"
    assert printed("table2").cells["Set5"]["SPSR"]["lpips_alex"].marked == "·0.0647"


def test_a_cell_is_digits_a_dash_or_a_tick() -> None:
    """Anything else is refused; a dash is no cell."""
    assert read_quote("-") is None
    assert read_quote("*0.10") is not None
    for text in ("nan", "inf", "1e3", "", "0.1a"):
        with pytest.raises(DataError, match="is no printed cell"):
            read_quote(text)
