"""Scores against cost (Fig. 1) or against T (Fig. 6): from result files, and from what the paper prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirformer.evaluation.cost import cost
from dirformer.evaluation.methods import BASELINES, RESULTS, weight_file
from dirformer.evaluation.paper import paper_table
from dirformer.evaluation.quotes import printed
from dirformer.evaluation.results import read_result
from dirformer.evaluation.shapes import NETWORKS, mult_adds_of
from dirformer.evaluation.tables import title
from dirformer.ground.errors import ConfigError, DataError, MissingExtraError, OutputError
from dirformer.ground.paths import atomic_path
from dirformer.weights.checkpoints import read_header

AXES = {"cost": "Mult-Adds of a 256×256 input (G)", "timesteps": "timesteps T"}
REPAINT = 1000
"""RePaint's Mult-Adds over DiffIR's, as the paper's text gives them."""
SUFFIXES = (".png", ".pdf")


@dataclass(frozen=True, order=True)
class Point:
    """A method in a plot."""

    x: float
    y: float
    name: str
    quoted: bool = False
    """Printed in the paper, not measured."""


def plot_results(
    kind: str,
    results: list[Path],
    out: Path,
    *,
    metric: str | None = None,
    quoted: str | None = None,
    overwrite: bool = False,
) -> str:
    """Plot a score of result files against Mult-Adds (`cost`, Fig. 1) or against T (`timesteps`, Fig. 6).

    Models without Mult-Adds (interpolations) are drawn at 0 in the first, left out of the second.

    Args:
        kind: `cost` or `timesteps`.
        results: files of `evaluate --json`.
        out: `.png` or `.pdf`.
        metric: of the results; None takes the first.
        quoted: `TABLE:CASE`, such as `table3:GoPro`: the paper's points join, hollow.
        overwrite: replace `out`.

    Raises:
        ConfigError: for another kind, a case that is not there, or a metric the results do not have;
            OutputError if `out` exists.
        DataError: if no result is given or nothing can be drawn.
    """
    check_out(out, overwrite=overwrite)
    if kind not in AXES:
        raise ConfigError(f"no plot {kind!r}; there are: {', '.join(AXES)}")
    if not results:
        raise DataError("a plot needs results; give --results FILE of `evaluate --json`")
    entries = [entry for path in results for entry in read_result(path)["models"]]
    name = metric or next(iter(entries[0]["mean"]))
    points = []
    for entry in entries:
        if name not in entry["mean"]:
            raise ConfigError(f"{entry['model']} has no {name}; it has {', '.join(entry['mean'])}")
        place = model_axis(kind, entry["model"])
        if place is not None and math.isfinite(entry["mean"][name]):
            points.append(Point(place, entry["mean"][name], Path(entry["model"]).stem))
    points += [] if quoted is None else quoted_points(kind, quoted, name)
    if not points:
        raise DataError(f"nothing to draw: no model of these results has {AXES[kind]}")
    joined = kind == "timesteps"
    draw_points({title(name): points}, AXES[kind], out, joined=joined, overwrite=overwrite)
    return f"{out}: {len(points)} points, {name} against {AXES[kind]}"


def quoted_points(kind: str, source: str, metric: str) -> list[Point]:
    """Return the paper's points of `TABLE:CASE` that have that metric and a place on the axis.

    Raises:
        ConfigError: if there is no such table or case.
    """
    name, _, case = source.partition(":")
    table = paper_table(name)
    protocol = next((c.protocol for c in table.cases if c.name == case), None)
    if protocol is None:
        raise ConfigError(f"{name} has no case {case!r}; there are: {', '.join(c.name for c in table.cases)}")
    places = {m: quoted_axis(kind, m, protocol) for m in table.quoted[case]}
    rows = table.quoted[case].items()
    return [
        Point(place, row[metric].value, method, quoted=True)
        for method, row in rows
        if metric in row and (place := places[method]) is not None
    ]


def model_axis(kind: str, model: str) -> float | None:
    """Return where a model stands on the axis; None where the question makes no sense."""
    if model.startswith(RESULTS):
        model = model.removeprefix(RESULTS).partition("=")[0]
    if model in NETWORKS and kind == "cost":
        return (mult_adds_of(model) or 0.0) / 1e9
    if model in BASELINES:
        return 0.0 if kind == "cost" else None
    path = weight_file(model)
    if path is None or path.suffix != ".safetensors":
        return None
    if kind == "timesteps":
        return float(read_header(path).config.timesteps)
    return float(cost(str(path), measure=False, execute=False)["total"]["mult_adds"]) / 1e9


def quoted_axis(kind: str, method: str, protocol: str) -> float | None:
    """Return where a method of the paper stands: its printed Mult-Adds, those of its shapes, or T = 4."""
    ours = method.startswith("DiffIR")
    if kind == "timesteps":
        return 4.0 if ours else None
    if protocol == "inpainting":
        cells = printed("table4").cells[""]
        whole = cells["DiffIR_S2-V3 (Ours)"]["Mult-Adds (G)"].value
        if method == "RePaint":
            return REPAINT * whole
        return cells[method]["Mult-Adds (G)"].value if method in cells else whole if ours else None
    if protocol == "deblurring" and ours:
        return float(cost("deblurring", measure=False, execute=False)["total"]["mult_adds"]) / 1e9
    row = printed("table6").cells[""].get(method, {})
    if row:
        return 1000 * row["Mult-Adds (T)"].value
    found = mult_adds_of(method)
    return None if found is None else found / 1e9


def draw_points(
    panels: dict[str, list[Point]], label: str, out: Path, *, joined: bool = False, overwrite: bool = False
) -> str:
    """Draw panels side by side: measured points filled, quoted ones hollow; return one line.

    Raises:
        OutputError: if `out` exists or has another suffix; DataError if no panel has a point.
    """
    check_out(out, overwrite=overwrite)
    if not any(panels.values()):
        raise DataError("nothing to draw: no method has a place on the axis")
    plots = pyplot()
    figure, axes = plots.subplots(
        1, len(panels), figsize=(5 * len(panels), 3.5), layout="constrained", squeeze=False
    )
    for axis, (heading, points) in zip(axes[0], panels.items(), strict=True):
        for quoted in (False, True):
            some = sorted(point for point in points if point.quoted == quoted)
            if some:
                style = {"linestyle": "-" if joined and not quoted else "none", "marker": "o"}
                fill = {"markerfacecolor": "none"} if quoted else {}
                axis.plot([p.x for p in some], [p.y for p in some], **style, **fill)
            for point in some:
                name = f"{point.name} (quoted)" if quoted else point.name
                axis.annotate(name, (point.x, point.y), textcoords="offset points", xytext=(5, 5), fontsize=7)
        places = [point.x for point in points]
        if places and min(places) > 0 and max(places) > 20 * min(places):
            axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.set_ylabel(heading)
        axis.grid(alpha=0.3)
    save_figure(figure, out)
    plots.close(figure)
    return f"{out}: {sum(map(len, panels.values()))} points in {len(panels)} panels"


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless a figure can be written there."""
    if out.suffix not in SUFFIXES:
        raise OutputError(f"{out} has no known suffix; expected one of {', '.join(SUFFIXES)}")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already; add --overwrite to replace it")


def save_figure(figure: Any, out: Path) -> None:
    """Write a figure under a temporary name, then rename it."""
    with atomic_path(out) as part:
        figure.savefig(part, format=out.suffix[1:], dpi=200, bbox_inches="tight")


def pyplot() -> Any:
    """Return matplotlib's pyplot without a screen; MissingExtraError names the extra."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "eval") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt
