"""Tables for people (best bold, second best underlined, as in the paper), Markdown and CSV. No other file
writes cells.

File and photo names come from outside. A cell cannot break a table, add markup to a page, act as a formula of
a spreadsheet or move a terminal's cursor.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from dirformer.metrics.table import described
from dirformer.metrics.variants import variants_table


def plain(text: str) -> str:
    """Return text without control characters: what a terminal may be given."""
    return "".join(c if c.isprintable() else "�" for c in text)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells may hold our own emphasis, names go through `markdown_name` first."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def markdown_name(name: str) -> str:
    """Return a name from outside as a Markdown cell: no markup, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(plain(name), quote=False))


def csv_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return lines of CSV. A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


def _csv_cell(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text


def title(metric: str) -> str:
    """Return a column's head: name and the direction that is better."""
    return described(metric).head


def number(metric: str, value: float | None) -> str:
    """Return a value as tables print it."""
    return described(metric).text(value)


def columns(result: dict[str, Any]) -> list[str]:
    """Return the metrics of a result in the order of its rows."""
    names: list[str] = []
    for entry in result["models"]:
        names += [key for key in entry["mean"] if key not in names]
    return names


def ranks(metric: str, values: list[float | None]) -> list[int]:
    """Return 1 for the best printed values, 2 for the second best, 0 else; equal digits share a rank.

    NaN has no rank. Time and memory are not ranked: an interpolation would always win them.
    """
    if not described(metric).ranked:
        return [0] * len(values)
    shown = [float(number(metric, value)) for value in values]
    order = sorted({v for v in shown if not math.isnan(v)}, reverse=not described(metric).lower)
    return [order[:2].index(v) + 1 if v in order[:2] else 0 for v in shown]


def table(result: dict[str, Any]) -> tuple[list[str], list[list[tuple[str, int]]]]:
    """Return head and rows; a cell is its text and its rank (see `ranks`)."""
    metrics = columns(result)
    entries = result["models"]
    by_column = {m: ranks(m, [e["mean"].get(m) for e in entries]) for m in metrics}
    rows = [
        [(entry["model"], 0), *((number(m, entry["mean"].get(m)), by_column[m][i]) for m in metrics)]
        for i, entry in enumerate(entries)
    ]
    return ["model", *(title(m) for m in metrics)], rows


def as_text(result: dict[str, Any]) -> str:
    """Lay a result out for a terminal: means with 95 % intervals, then what is missing."""
    head, rows = table(result)
    metrics = columns(result)
    lines = [
        f"protocol {result['protocol']}: {result.get('settings', {}).get('definition', '')}".rstrip(": ")
    ]
    if "groups" in result:
        note = "in brackets the gain over the first column, and its 95 % interval (bootstrap over photos)"
        return "\n".join([*lines, groups_text(result), note, *result.get("missing", [])])
    cells = [head]
    for row, entry in zip(rows, result["models"], strict=True):
        texts = [row[0][0]]
        for (text, rank), metric in zip(row[1:], metrics, strict=True):
            interval = entry["interval95"].get(metric)
            extent = "" if not interval else " [" + ", ".join(number(metric, v) for v in interval) + "]"
            texts.append({1: "*", 2: "·"}.get(rank, "") + text + extent)
        cells.append(texts)
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row_texts in cells:
        first, *rest = row_texts
        lines.append(
            "  ".join([first.ljust(widths[0]), *(t.rjust(w) for t, w in zip(rest, widths[1:], strict=True))])
        )
    lines.append("* best, · second best; [95 % interval of the mean, bootstrap over photos]")
    for entry in result["models"]:
        for metric, spread in entry.get("seed_spread", {}).items():
            lines.append(
                f"{entry['model']}: {metric} over {len(result['settings']['seeds'])} seeds: "
                f"σ of the mean {spread['std_of_mean']:.2g}, "
                f"at most {spread['largest_on_one_photo']:.2g} on one photo"
            )
    variants = {e["model"]: e["variants"] for e in result["models"] if "variants" in e}
    if variants:
        lines += ["", variants_table(variants)]
    return "\n".join([*lines, *result.get("missing", [])])


def as_markdown(result: dict[str, Any]) -> str:
    """Return a Markdown table with best and second best marked, and the protocol under it."""
    head, rows = table(result)
    marks = {1: "**{}**", 2: "<u>{}</u>", 0: "{}"}
    cells = [
        [markdown_name(row[0][0]), *(marks[rank].format(text) for text, rank in row[1:])] for row in rows
    ]
    definition = result.get("settings", {}).get("definition", "")
    if "groups" in result:
        return markdown(*group_cells(result)) + f"\n\nProtocol `{result['protocol']}`: {definition}.\n"
    lines = [markdown(head, cells), "", f"Protocol `{result['protocol']}`: {definition}."]
    return "\n".join([*lines, *(f"\n{line}" for line in result.get("missing", []))]) + "\n"


def group_cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a result with groups: a row per kind of damage, means, gains, intervals."""
    methods = list(result["groups"][0]["methods"])
    rows = []
    for group in result["groups"]:
        cells = [group["damage"]]
        for method in methods:
            cell = group["methods"][method]
            text = number(group["metric"], cell["mean"])
            if "gain" in cell:
                low, high = cell["interval95"]
                text += f" ({cell['gain']:+.2f} [{low:+.2f}, {high:+.2f}])"
            cells.append(text)
        rows.append(cells)
    return [title(result["groups"][0]["metric"]), *map(markdown_name, methods)], rows


def groups_text(result: dict[str, Any]) -> str:
    """Lay the groups of a result out for a terminal."""
    head, rows = group_cells(result)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )


def as_csv(result: dict[str, Any]) -> str:
    """Return one line per model and photo."""
    metrics = [m for m in columns(result) if any(m in row for e in result["models"] for row in e["images"])]
    rows = [
        [entry["model"], row["name"], *("inf" if row.get(m) is None else repr(row[m]) for m in metrics)]
        for entry in result["models"]
        for row in entry["images"]
    ]
    return csv_lines(["model", "name", *metrics], rows)
