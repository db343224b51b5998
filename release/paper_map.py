"""From the paper to the code: `docs/reference/paper-to-code.md`, written from `paper_rows.txt` and from the
package.

    python -m release.paper_map            writes the page, prints how many rows have which status
    python -m release.paper_map --check    writes nothing; fails if the page is old or a difference has no
    reason

Rows of tables, figures and claims come from the package itself; the other rows are statements of the paper in
our words.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirformer.evaluation.claims import check_claims
from dirformer.evaluation.compare import FIGURES
from dirformer.evaluation.paper import TABLES
from dirformer.evaluation.quotes import printed
from dirformer.evaluation.tables import markdown, title

ROWS = Path(__file__).with_name("paper_rows.txt")
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "paper-to-code.md"
STATUSES = {
    "printed": "as the paper says",
    "literal": "as released by default; the paper's words are in `…-literal`, its sizes in `…-paper`",
    "differs": "another thing here; the note says what and why",
    "unsaid": "the paper leaves it open; the note says what is taken",
    "quoted": "printed numbers, quoted digit for digit",
    "picture": "a figure that prints no numbers",
}
HEAD = """# From the paper to the code

Each statement of the paper, in our words: where it is in the code, a command that uses it, and how both
agree. The page is written by `python -m release.paper_map`. What differs between the text and the release:
[paper and release](paper-and-release.md).

"""


@dataclass(frozen=True)
class Row:
    """A statement of the paper."""

    place: str
    says: str
    code: str
    """`module:name` below `dirformer`; `name[key]` for an entry of a table, `name.field` for a part."""
    command: str
    status: str
    note: str


def read_rows(path: Path = ROWS) -> list[Row]:
    """Return the statements of the list file."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [Row(*(cell.strip() for cell in line.split("|"))) for line in lines]


def generated_rows() -> list[Row]:
    """Return a row for each printed table row, column group, figure and claim."""
    tables = [row for number in range(1, 7) for row in _of_table(number)]
    return [*tables, *_of_figures(), *_of_claims()]


def _of_table(number: int) -> Iterator[Row]:
    place, name = f"Table {number}", f"table{number}"
    table, planned = printed(name), TABLES[name]
    code, command = f"evaluation.paper:TABLES[{name}]", f"dirformer reproduce {name} --data DATA"
    for case in planned.cases:
        metrics = dict.fromkeys(m for row in table.cells[case.name].values() for m in row)
        columns = ", ".join(title(metric).split()[0] for metric in metrics)
        says = f"{case.name}: {columns}, {case.count:,} photos"
        protocol = f"metrics.protocols:PROTOCOLS[{case.protocol}]"
        yield Row(place, says, protocol, command, "quoted", "")
    for cost in dict.fromkeys(k for row in table.cells.get("", {}).values() for k in row):
        yield Row(place, f"column {cost}", "evaluation.quotes:printed", command, "quoted", "")
    for method, cite in table.methods.items():
        cells = sum(method in of_case for of_case in table.cells.values())
        count = sum(len(of_case.get(method, {})) for of_case in table.cells.values())
        says = f"{method}{'' if cite == '-' else f' [{cite}]'}: {count} cells in {cells} groups"
        yield Row(place, says, code, command, "quoted", "")
    for note in planned.notes:
        yield Row(place, note, code, command, "differs", "said beside the table")


def _of_figures() -> Iterator[Row]:
    for name in ("fig1", "fig6"):
        code, planned = f"evaluation.paper:TABLES[{name}]", TABLES[name]
        command = f"dirformer reproduce {name} --data DATA --plot {name}.png"
        yield Row(f"Fig. {name[3:]}", planned.title, code, command, "picture", planned.notes[0])
    for name, figure in FIGURES.items():
        gt = " --gt photo.png" if figure.has_gt else ""
        mask = " --mask hole.png" if figure.table == "table1" else ""
        code, says = f"evaluation.compare:FIGURES[{name}]", f"photos: {figure.title}"
        command = (
            f"dirformer compare MODEL results:NAME=DIR --figure {name} --lq photo.jpg{gt}{mask} -o {name}.png"
        )
        note = "results of other methods from a folder"
        yield Row(f"Fig. {name[3:]}", says, code, command, "picture", note)


def _of_claims() -> Iterator[Row]:
    code, command = "evaluation.claims:CLAIMS", "dirformer reproduce claims"
    for claim in check_claims()["claims"]:
        status = {True: "printed", False: "differs", None: "picture"}[claim["holds"]]
        says = f"{claim['says']}: {claim['figure']} {claim['unit']}".rstrip(": ")
        yield Row(f"claim, {claim['where']}", says, code, command, status, claim["differs"] or claim["basis"])


def all_rows() -> list[Row]:
    """Return every row of the page."""
    return [*read_rows(), *generated_rows()]


def undocumented(rows: list[Row]) -> list[Row]:
    """Return rows that differ or are left open without a reason, or whose status is none."""
    quiet = ("printed", "literal", "quoted")
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
            str(number),
            row.place,
            row.says.replace("*", "\\*"),
            f"`{row.code}`",
            f"`{row.command}`" if row.command else "",
            row.status,
            row.note,
        ]
        for number, row in enumerate(rows, start=1)
    ]
    return HEAD + legend + "\n\n" + markdown(head, cells) + "\n"


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
        + f": {len(rows)} rows, {len(open_rows)} undocumented"
    )
    return int(bool(open_rows))


if __name__ == "__main__":
    sys.exit(main())
