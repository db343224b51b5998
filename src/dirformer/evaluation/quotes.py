"""The printed tables of the paper, digit for digit: `printed/table1.csv` to `table6.csv`.

A file's head is `method,cite,diffusion` and then a column for each printed one: `CASE/METRIC`, or `/NAME` for
costs and switches that belong to no test set. A cell is as printed (`33.20`, `yes`, `-` for a dash), behind
`*` where the paper has it bold (best) and behind `·` where it is underlined (second best).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dirformer.ground.errors import DataError

DASH = "-"
MARKS = {"*": 1, "·": 2}


@dataclass(frozen=True)
class Quote:
    """One printed cell."""

    text: str
    """Digits as printed."""
    rank: int = 0
    """1: printed bold, 2: underlined, 0: neither."""

    @property
    def value(self) -> float:
        """The number, for differences."""
        return float(self.text)

    @property
    def marked(self) -> str:
        """The digits behind the mark that tables for terminals use."""
        return {rank: mark for mark, rank in MARKS.items()}.get(self.rank, "") + self.text


Cells = Mapping[str, Mapping[str, Mapping[str, Quote]]]
"""case → method → metric → what is printed; the case "" holds costs and switches."""


@dataclass(frozen=True)
class Printed:
    """One table of the paper."""

    methods: Mapping[str, str]
    """Method → number of its reference, `-` for the paper's own."""
    diffusion: frozenset[str]
    """Methods that are diffusion models."""
    cells: Cells


def read_quote(text: str) -> Quote | None:
    """Return a cell; None for a dash.

    Raises:
        DataError: for neither a number nor `yes` or `no`.
    """
    rank = MARKS.get(text[:1], 0)
    digits = text[1:] if rank else text
    if digits == DASH:
        return None
    if digits not in ("yes", "no") and not re.fullmatch(r"-?\d+(\.\d+)?", digits):
        raise DataError(f"{text[:40]!r} is no printed cell; expected digits, yes, no or {DASH}")
    return Quote(digits, rank)


@cache
def printed(table: str) -> Printed:
    """Return the cells of `table1` … `table6`."""
    text = (resources.files("dirformer") / "evaluation" / "printed" / f"{table}.csv").read_text("utf-8")
    head, *rows = csv.reader(text.splitlines())
    cells: dict[str, dict[str, dict[str, Quote]]] = {}
    for method, _, _, *texts in rows:
        for column, cell in zip(head[3:], texts, strict=True):
            case, _, metric = column.partition("/")
            quote = read_quote(cell)
            if quote is not None:
                cells.setdefault(case, {}).setdefault(method, {})[metric] = quote
    diffusion = frozenset(row[0] for row in rows if row[2] == "yes")
    return Printed({row[0]: row[1] for row in rows}, diffusion, cells)
