"""Cells of tables: names from outside do no harm."""

from __future__ import annotations

import csv
import io

import pytest

from dirformer.evaluation.tables import as_csv, as_markdown, csv_lines, markdown_name, plain

HOSTILE = [
    "=1+1",
    "@SUM(A1)",
    "a|b",
    "<script>x</script>",
    "a\nb",
    "\x1b[2J",
    "**bold**",
    "[x](http://e)",
    "+cmd",
]


def result(name: str) -> dict[str, object]:
    row = {"name": name, "psnr": 30.0}
    models = [{"model": name, "images": [row], "mean": {"psnr": 30.0}, "interval95": {"psnr": [29.0, 31.0]}}]
    return {"protocol": "sr", "models": models, "settings": {}, "missing": []}


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_names_stay_in_their_cell(name: str) -> None:
    """A name adds no column, no line, no HTML and no markup."""
    text = as_markdown(result(name))
    row = text.splitlines()[2]
    assert row.replace("\\|", "").count("|") == 3
    assert "<script" not in text and "\x1b" not in text
    for mark in "*_[]`":
        assert mark not in markdown_name(name).replace(f"\\{mark}", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_csv_names_are_no_formulas(name: str) -> None:
    """A spreadsheet sees a text; reading it back gives two columns of name and the number."""
    rows = list(csv.reader(io.StringIO(as_csv(result(name)))))
    assert rows[1][0].lstrip("'") == name and rows[1][2] == "30.0"
    assert not rows[1][0].startswith(("=", "+", "@", "-"))


def test_csv_numbers_stay_numbers() -> None:
    """A negative number is no formula."""
    assert csv_lines(["x"], [["-1.5"], ["+inf"], ["-x"]]) == "x\n-1.5\n+inf\n'-x\n"


def test_terminals_get_no_control_characters() -> None:
    """Escape sequences of a name become visible."""
    assert plain("a\x1b[2Jb\x07") == "a�[2Jb�"
