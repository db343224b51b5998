"""The page from the paper to the code is what the data gives, and all that it names exists."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main
from release.paper_map import PAGE, STATUSES, all_rows, page, resolve, statements, undocumented

from dirformer.cli import app
from dirformer.data.sets import DATA_SETS
from dirformer.evaluation.claims import CLAIMS
from dirformer.evaluation.compare import FIGURES
from dirformer.evaluation.paper import TABLES
from dirformer.evaluation.quotes import printed
from dirformer.experiments.sweeps import sweep_names
from dirformer.training.config import recipe_names

ROWS = all_rows()
# Statements whose numbers are fixed, with words of theirs: so the others cannot shift.
FIXED = {
    9: "super-resolution", 12: "layer normalisation, in all tasks", 19: "behind the gate",
    22: "L1 on all pixels", 26: "predicts noise", 34: "L_kl", 60: "inpainting with the paper's diffusion",
    66: "deblurring with", 68: "β rises linearly", 88: "in stage 1 too", 89: "at 48 channels",
    98: "narrow and wide", 101: "30,000", 104: "losses of ESRGAN", 105: "enlarging network",
    108: "two stages", 111: "Real-ESRGAN's settings", 122: "average of the weights",
    129: "published weights", 141: "Set5", 196: "is Set5", 197: "33.20", 199: "47.97", 201: "DiffIR_S1",
    203: "scored by FID", 208: "V3", 210: "L_diff", 213: "(a)", 220: "from 1 up", 222: "Track 2",
    227: "compared methods", 228: "EdgeConnect", 256: "KDSR", 257: "0.2706", 258: "4.3", 259: "1000 times",
    260: "0.0121", 261: "63", 262: "LDM", 263: "0.68", 264: "0.54", 265: "0.28", 266: "78", 267: "LaMa",
    281: "`prepare`", 282: "table1", 289: "fig6", 291: "--paper",
}  # fmt: skip


def test_the_page_is_written_from_the_data() -> None:
    """docs/reference/paper-to-code.md is what `python -m release.paper_map` writes."""
    assert PAGE.read_text(encoding="utf-8") == page(ROWS)


def test_all_statements_are_numbered() -> None:
    """291 statements, numbered through; each number stands once; the fixed ones are where they belong."""
    assert statements(ROWS) == list(range(1, 292))
    by_number = {row.number: row for row in ROWS}
    assert len(by_number) == len(ROWS)
    for number, words in FIXED.items():
        assert words in by_number[str(number)].says


def test_what_the_package_gives_is_there_whole() -> None:
    """Each claim, figure, note and compared method has a row; data sets are those of `prepare`."""
    says = "\n".join(row.says for row in ROWS)
    assert all(claim.says in says for claim in CLAIMS)
    assert all(note in says for table in TABLES.values() for note in table.notes)
    code = {row.code for row in ROWS}
    assert {f"evaluation.compare:FIGURES[{name}]" for name in FIGURES} <= code
    used = {row.command.split()[2] for row in ROWS if row.command.startswith("dirformer prepare")}
    assert used <= set(DATA_SETS)
    methods = {
        m for n in range(1, 7) for m in printed(f"table{n}").methods if not m.startswith(("DiffIR", "L_"))
    }
    assert len(methods) == 29 and all(f"{method} [" in says for method in methods)


def test_a_wrong_line_of_the_list_is_an_error(tmp_path: Path) -> None:
    """A claim that is not there, or a line with a cell too few."""
    for line in ("1 | @claim | we are the best", "1 | Eq. 1 | says | code | command | printed"):
        (tmp_path / "rows.txt").write_text(line)
        with pytest.raises((KeyError, ValueError)):
            all_rows(tmp_path / "rows.txt")


def test_what_a_row_names_exists() -> None:
    """Each function, class, field, preset or entry is there; a wrong name is an error."""
    for row in ROWS:
        assert resolve(row.code) is not None, row
    for wrong in (
        "networks.prior:CPENS",
        "networks.presets:PRESETS[sr-x5]",
        "networks.config:ModelConfig.dims",
    ):
        with pytest.raises((AttributeError, KeyError)):
            resolve(wrong)


def test_the_commands_of_the_rows_exist() -> None:
    """Each command has a verb and options that the program has, and recipes and sweeps that are shipped."""
    verbs = typer.main.get_command(app).commands
    for row in ROWS:
        program, verb, *arguments = shlex.split(row.command)
        known = {name for p in verbs[verb].params for name in (*p.opts, *p.secondary_opts)}
        assert program == "dirformer"
        assert {a for a in arguments if a.startswith("-")} <= known, row
        if "--sweep" in arguments:
            assert arguments[arguments.index("--sweep") + 1] in sweep_names()
        elif verb == "train":
            assert arguments[0] in recipe_names()


def test_nothing_differs_without_a_reason() -> None:
    """Every row has a status; where text and code differ, or the text leaves a thing open, a note says what
    is."""
    assert undocumented(ROWS) == []
    row = ROWS[0]
    assert undocumented([replace(row, status="differs", note="")]) and undocumented(
        [replace(row, status="?")]
    )
    assert {row.status for row in ROWS} == set(STATUSES)


def test_every_row_of_the_tables_is_there() -> None:
    """43 printed rows, each once."""
    for number in range(1, 7):
        for method in printed(f"table{number}").methods:
            words = (f"row {method}:", f"row {method} [")
            found = [r for r in ROWS if r.place == f"Table {number}" and r.says.startswith(words)]
            assert len(found) == 1, method
    assert len({(r.place, r.says, r.code) for r in ROWS}) == len(ROWS)
