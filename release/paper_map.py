"""From the paper to the code: `docs/reference/paper-to-code.md`, written from `paper_rows.txt` and from the
package.

    python -m release.paper_map            writes the page, prints how many rows have which status
    python -m release.paper_map --check    writes nothing; fails if the page is old or a difference has no
    reason

The list holds statements of the paper in our words, by number. Rows of tables, figures, claims, methods and
data sets come from the package itself; the list says where they stand.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dirformer.data.sets import DATA_SETS
from dirformer.evaluation.claims import check_claims
from dirformer.evaluation.compare import FIGURES
from dirformer.evaluation.paper import TABLES
from dirformer.evaluation.quotes import printed
from dirformer.evaluation.shapes import NETWORKS
from dirformer.evaluation.tables import markdown, title

ROWS = Path(__file__).with_name("paper_rows.txt")
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "paper-to-code.md"
PRINTED = tuple(f"table{number}" for number in range(1, 7))
STATUSES = {
    "printed": "as the paper says",
    "literal": "as released by default; the paper's words are in `…-literal`, its sizes in `…-paper`",
    "differs": "another thing here; the note says what and why",
    "unsaid": "the paper leaves it open; the note says what is taken",
    "quoted": "printed numbers, quoted digit for digit",
    "picture": "a figure that prints no numbers",
    "here": "what this package does with the paper's data and numbers",
}
HEAD = """# From the paper to the code

Each statement of the paper, in our words: where it is in the code, a command that uses it, and how both
agree. {statements} statements, in {rows} rows: a letter behind a number is a further part of its statement.
The page is written by `python -m release.paper_map`. What differs between the text and the release:
[paper and release](paper-and-release.md).

"""


@dataclass(frozen=True)
class Row:
    """A statement of the paper."""

    number: str
    """Of the statement, with a letter behind it for its further parts."""
    place: str
    says: str
    code: str
    """`module:name` below `dirformer`; `name[key]` for an entry of a table, `name.field` for a part."""
    command: str
    status: str
    note: str


def all_rows(path: Path = ROWS) -> list[Row]:
    """Return every row of the page: the list, with what the package gives in its places.

    Raises:
        ValueError: if a line has too few or too many cells.
        KeyError: if it asks for rows that are not there.
    """
    rows: list[Row] = []
    for line in path.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        number, place, *cells = (cell.strip() for cell in line.split("|"))
        if place in EXPAND:
            (key,) = cells
            given = list(EXPAND[place](key))
            rows += [replace(row, number=n) for row, n in zip(given, _numbers(number), strict=False)]
        else:
            says, code, command, status, note = cells
            rows.append(Row(number, place, says, code, command, status, note))
    return rows


def _numbers(first: str) -> Iterator[str]:
    """Count on: 7, 8, 9 … or 7b, 7c, 7d …"""
    while True:
        yield first
        digits, letter = first.rstrip("abcdefghijklmnopqrstuvwxyz"), first[-1]
        first = f"{int(digits) + 1}" if letter.isdigit() else f"{digits}{chr(ord(letter) + 1)}"


def _table(name: str) -> Iterator[Row]:
    """Printed columns of costs, column groups, rows."""
    place, table, planned = f"Table {name[5:]}", printed(name), TABLES[name]
    code, command = f"evaluation.paper:TABLES[{name}]", f"dirformer reproduce {name} --data DATA"
    groups = []
    for case in planned.cases:
        metrics = dict.fromkeys(m for row in table.cells[case.name].values() for m in row)
        columns = ", ".join(title(metric).split()[0] for metric in metrics)
        says = f"{case.name}: {columns}, {case.count:,} photos"
        protocol = f"metrics.protocols:PROTOCOLS[{case.protocol}]"
        groups.append(Row("", place, says, protocol, command, "quoted", ""))
    yield from groups
    for cost in dict.fromkeys(k for row in table.cells.get("", {}).values() for k in row):
        yield Row("", place, f"column {cost}", "evaluation.quotes:printed", command, "quoted", "")
    for method, cite in table.methods.items():
        count = sum(len(of_case.get(method, {})) for of_case in table.cells.values())
        says = f"row {method}{'' if cite == '-' else f' [{cite}]'}: {count} cell{'s' * (count > 1)}"
        yield Row("", place, says, code, command, "quoted", "")


def _notes(name: str) -> Iterator[Row]:
    place = f"Fig. {name[3:]}" if name.startswith("fig") else f"Table {name[5:]}"
    code, command = f"evaluation.paper:TABLES[{name}]", f"dirformer reproduce {name} --data DATA"
    for note in TABLES[name].notes:
        yield Row("", place, note, code, command, "differs", "said beside the table")


def _panel(case: str) -> Iterator[Row]:
    """One panel of Fig. 1."""
    number, planned = next((n, c) for n, c in enumerate(TABLES["fig1"].cases) if c.name == case)
    what = ("inpainting", "super-resolution", "deblurring")[number]
    says = f"({'abc'[number]}) {what}: quality against Mult-Adds of a 256×256 input, {case}"
    command = f"dirformer reproduce fig1 --data DATA --model {shlex.quote(f'{case}=FILE')} --plot fig1.png"
    protocol = f"metrics.protocols:PROTOCOLS[{planned.protocol}]"
    yield Row("", "Fig. 1", says, protocol, command, "picture", "points that tables print are quoted")


def _figure(name: str) -> Iterator[Row]:
    figure = FIGURES[name]
    gt = " --gt photo.png" if figure.has_gt else ""
    mask = " --mask hole.png" if figure.table == "table1" else ""
    code, says = f"evaluation.compare:FIGURES[{name}]", f"photos: {figure.title}"
    command = (
        f"dirformer compare MODEL results:NAME=DIR --figure {name} --lq photo.jpg{gt}{mask} -o {name}.png"
    )
    yield Row(
        "", f"Fig. {name[3:]}", says, code, command, "picture", "results of other methods from a folder"
    )


def _claim(says: str) -> Iterator[Row]:
    claim = _claims()[says]
    status = {True: "printed", False: "differs", None: "picture"}[claim["holds"]]
    says = f"{says}: {claim['figure']} {claim['unit']}".rstrip(": ")
    place, note = f"claim, {claim['where']}", claim["differs"] or claim["basis"]
    yield Row("", place, says, "evaluation.claims:CLAIMS", "dirformer reproduce claims", status, note)


@cache
def _claims() -> dict[str, dict[str, Any]]:
    return {claim["says"]: claim for claim in check_claims()["claims"]}


def _methods(_: str) -> Iterator[Row]:
    """The compared methods, in the order in which the tables bring them."""
    tables = {name: printed(name) for name in PRINTED}
    methods = dict.fromkeys(
        m for t in tables.values() for m in t.methods if not m.startswith(("DiffIR", "L_"))
    )
    for method in methods:
        found = [name for name, table in tables.items() if method in table.methods]
        where = ", ".join(f"Table {name[5:]}" for name in found)
        says = f"{method} [{tables[found[0]].methods[method]}] is compared in {where}"
        model = shlex.quote(f"results:{method}=DIR")
        command = f"dirformer reproduce {found[0]} --data DATA --model {model}"
        counted = f"Mult-Adds by `cost {NETWORKS[method]}`" if method in NETWORKS else ""
        yield Row("", where, says, "evaluation.methods:Finished", command, "quoted", counted)


def _set(name: str) -> Iterator[Row]:
    data = DATA_SETS[name]
    parts = (f"{p.name or 'all'} {p.count:,}" for p in data.parts if p.count is not None)
    command = f"dirformer prepare {name} IN -o OUT"
    says = f"{data.title}: {', '.join(parts)}"
    yield Row("", "data sets", says, f"data.sets:DATA_SETS[{name}]", command, "printed", "")


def _needs(name: str) -> Iterator[Row]:
    says = f"{name} without data: photo counts, folders, masks, weights and metric files are listed, exit 2"
    command = f"dirformer reproduce {name}"
    yield Row("", "reproduce", says, "evaluation.needs:requirements", command, "here", "")


EXPAND: dict[str, Callable[[str], Iterator[Row]]] = {
    "@table": _table,
    "@notes": _notes,
    "@panel": _panel,
    "@figure": _figure,
    "@claim": _claim,
    "@methods": _methods,
    "@set": _set,
    "@needs": _needs,
}
"""What the list may ask for: kind → rows for a key."""


def statements(rows: list[Row]) -> list[int]:
    """Return the numbers of the statements, in the order of the rows."""
    return list(dict.fromkeys(int(row.number.rstrip("abcdefghijklmnopqrstuvwxyz")) for row in rows))


def undocumented(rows: list[Row]) -> list[Row]:
    """Return rows that differ or are left open without a reason, or whose status is none."""
    quiet = ("printed", "literal", "quoted", "here")
    return [row for row in rows if row.status not in STATUSES or (row.status not in quiet and not row.note)]


def resolve(code: str) -> Any:
    """Return what `module:name`, `module:name[key]` or `module:name.part` names.

    Raises:
        AttributeError, KeyError, ImportError: if there is nothing of that name.
    """
    module, _, name = code.partition(":")
    name, _, key = name.rstrip("]").partition("[")
    first, _, part = name.partition(".")
    value = getattr(importlib.import_module(f"dirformer.{module}"), first)
    if part:
        fields = getattr(value, "model_fields", None) or getattr(value, "__dataclass_fields__", {})
        value = fields[part] if part in fields else getattr(value, part)
    return value[key] if key else value


def page(rows: list[Row]) -> str:
    """Return the page."""
    counts = Counter(row.status for row in rows)
    legend = markdown(["status", "rows", "meaning"], [[k, str(counts[k]), v] for k, v in STATUSES.items()])
    head = ["#", "where in the paper", "statement", "code", "command", "status", "note"]
    cells = [
        [
            row.number,
            row.place,
            row.says.replace("*", "\\*"),
            f"`{row.code}`",
            f"`{row.command}`",
            row.status,
            row.note,
        ]
        for row in rows
    ]
    counted = HEAD.format(statements=len(statements(rows)), rows=len(rows))
    return counted + legend + "\n\n" + markdown(head, cells) + "\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything is wrong")
    check = parser.parse_args().check
    rows = all_rows()
    for row in rows:
        resolve(row.code)
    open_rows = undocumented(rows)
    for row in open_rows:
        print(f"undocumented: {row.place}: {row.says}")
    if not check:
        PAGE.write_text(page(rows), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page(rows):
        print(f"{PAGE} is old; run python -m release.paper_map")
        return 1
    counts = Counter(row.status for row in rows)
    print(
        ", ".join(f"{counts[name]} {name}" for name in STATUSES)
        + f": {len(statements(rows))} statements, {len(rows)} rows, {len(open_rows)} undocumented"
    )
    return int(bool(open_rows))


if __name__ == "__main__":
    sys.exit(main())
