"""The page from the paper to the code is what the data gives, and all that it names exists."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import typer.main
from release.paper_map import PAGE, STATUSES, Row, all_rows, page, read_rows, resolve, undocumented

from dirformer.cli import app
from dirformer.evaluation.quotes import printed
from dirformer.experiments.sweeps import sweep_names
from dirformer.training.config import recipe_names

ROWS = all_rows()


def test_the_page_is_written_from_the_data() -> None:
    """docs/reference/paper-to-code.md is what `python -m release.paper_map` writes."""
    assert PAGE.read_text(encoding="utf-8") == page(ROWS)


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
        if not row.command:
            continue
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
    row = read_rows()[0]
    assert undocumented([replace(row, status="differs", note="")]) and undocumented(
        [replace(row, status="?")]
    )
    assert {row.status for row in ROWS} == set(STATUSES)


def test_every_row_of_the_tables_is_there() -> None:
    """43 printed rows, each once, and the words of a row stand in the page."""
    for number in range(1, 7):
        for method in printed(f"table{number}").methods:
            found = [r for r in ROWS if r.place == f"Table {number}" and r.says.startswith(f"{method}")]
            assert found, method
    assert isinstance(ROWS[0], Row) and len({(r.place, r.says, r.code) for r in ROWS}) == len(ROWS)
