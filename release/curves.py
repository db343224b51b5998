"""Curves of runs as one SVG: losses and validation scores from their journals, or rows of a sweep.

python -m release.curves RUN... -o curves.svg          folders of runs (or journal.jsonl files)
python -m release.curves --sweep table.json -o t.svg   a sweep's table with its 95 % intervals
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from dirformer.ground.journal import read_journal
from dirformer.ground.paths import atomic_path

mpl.use("Agg")
from matplotlib import pyplot as plt

NUMBERS = {
    "step",
    "lr",
    "rate",  # in journals of older versions
    "seconds_per_step",
    "images_per_second",
    "data_wait",
    "memory_mib",
}
"""Numbers of a log record that are no losses."""


def points(run: Path, kind: str) -> dict[str, list[tuple[int, float]]]:
    """Curves by name of a run's records of a kind; after a roll-back, a step's last record counts."""
    curves: dict[str, dict[int, float]] = {}
    for record in read_journal(run / "journal.jsonl" if run.is_dir() else run):
        if record["kind"] != kind:
            continue
        for name, value in record.items():
            if name not in NUMBERS and isinstance(value, float | int):
                curves.setdefault(name, {})[record["step"]] = value
    return {name: sorted(values.items()) for name, values in curves.items()}


def draw_runs(runs: list[Path], out: Path) -> None:
    """One panel for each loss and each score, one line for each run."""
    curves = {run: points(run, "train") | points(run, "val") for run in runs}
    names = list(dict.fromkeys(name for of_run in curves.values() for name in of_run))
    figure, axes = plt.subplots(
        1, len(names), figsize=(3.2 * len(names), 2.6), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        for run, of_run in curves.items():
            if name in of_run:
                label = run.name if run.is_dir() else run.parent.name
                marker = "." if len(of_run[name]) < 30 else ""
                axis.plot(*zip(*of_run[name], strict=True), label=label, linewidth=1, marker=marker)
        axis.locator_params(nbins=4)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    save(figure, out)


def draw_sweep(table: dict[str, Any], out: Path) -> None:
    """Differences of the rows to the first one, paired photo by photo, with 95 % intervals."""
    rows = [row for row in table["rows"] if "difference" in row]
    figure, axis = plt.subplots(figsize=(1.2 + 0.9 * len(rows), 2.8), layout="constrained")
    means = [row["difference"]["mean"] for row in rows]
    bounds = [row["difference"]["interval95"] for row in rows]
    errors = [
        [mean - low for mean, (low, _) in zip(means, bounds, strict=True)],
        [high - mean for mean, (_, high) in zip(means, bounds, strict=True)],
    ]
    axis.errorbar(range(len(rows)), means, errors, fmt="o", capsize=3)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xticks(range(len(rows)), [row["name"] for row in rows])
    axis.set_ylabel(f"{table['score']} against {table['rows'][0]['name']} (dB)", fontsize=8)
    axis.grid(alpha=0.3, axis="y")
    save(figure, out)


def save(figure: Any, out: Path) -> None:
    with atomic_path(out) as part:
        figure.savefig(part, format=out.suffix[1:], metadata={"Date": None} if out.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--sweep", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    mpl.rcParams["svg.hashsalt"] = "dirformer"
    # Text as text: a tenth of the size, and found by a search.
    mpl.rcParams["svg.fonttype"] = "none"
    if options.sweep is not None:
        draw_sweep(json.loads(options.sweep.read_text()), options.out)
    elif options.runs:
        draw_runs(options.runs, options.out)
    else:
        parser.error("give folders of runs, or --sweep table.json")
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
