"""`dirformer reproduce table1`: the paper's tables and figures from data in the official layouts.

Checks the data, states the protocol, evaluates, and prints ours beside the paper's with the difference.
Nothing is fetched and nothing is made up: data, weights and backbones that are not there are named, and
their cells stay empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dirformer.evaluation.methods import RESULTS, is_stage1, shown_name, weight_file
from dirformer.evaluation.needs import find_place, requirements
from dirformer.evaluation.paper import (
    Case,
    Table,
    paper_table,
    printed_costs,
    quoted_costs,
    quoted_line,
    with_cells,
)
from dirformer.evaluation.plots import AXES, Point, draw_points, model_axis, quoted_axis
from dirformer.evaluation.results import finite, infinite
from dirformer.evaluation.run import Evaluation, Record
from dirformer.evaluation.tables import number, title
from dirformer.ground.errors import ConfigError, DataError, DirformerError
from dirformer.metrics.protocols import find_protocol
from dirformer.networks.presets import PRESETS
from dirformer.tasks import TASKS
from dirformer.weights.catalog import CATALOG
from dirformer.weights.checkpoints import read_header

SCHEMA = 2
PLOTS = {"fig1": "cost", "fig6": "timesteps"}
"""Figures that are points, and their axis."""


@dataclass(frozen=True)
class Step:
    """One photo of one case, scored."""

    case: str
    record: Record


@dataclass
class Reproduction:
    """A table of the paper, with the data and models that are there.

    Args:
        target: `table1` … `table6`, `fig1`, `fig6`.
        data: folder that holds the data sets, each in its official layout (`paper.TABLES`); None has none.
        models: weights for all cases that they suit, `CASE=FILE` for one, or `ROW=FILE` for a row of an
        ablation (`S1=FILE` in table4); several make several rows.
        metric_weights: folder of published weights.
        paper: JSON file with further quoted cells.
        seed: of the diffusion's start.
        device: for networks.

    Raises:
        ConfigError: for a table, case or row that does not exist.
    """

    target: str
    data: Path | None
    models: list[str]
    metric_weights: Path | None = None
    paper: Path | None = None
    seed: int = 0
    device: str = "auto"
    table: Table = field(init=False)
    runs: dict[str, Evaluation] = field(init=False, default_factory=dict)
    missing: list[str] = field(init=False, default_factory=list)
    rows: dict[str, str] = field(init=False, default_factory=dict)
    """Model → the printed row that it is compared with."""

    def __post_init__(self) -> None:
        self.table = paper_table(self.target)
        if self.paper is not None:
            self.table = with_cells(self.table, self.paper)
        given = [self._parsed(model) for model in self.models]
        for case in self.table.cases:
            own = [model for name, model in given if name == case.name]
            self._prepare(case, own or [m for name, m in given if not name and _suits(m, case)])

    def _parsed(self, model: str) -> tuple[str, str]:
        """Return the case that a model is for (`` for all) and the model; note the row that it is."""
        name, equals, rest = model.partition("=")
        if model.startswith(RESULTS) or not equals or Path(model).exists():
            name, rest = "", model
        elif name in self.table.rows:
            self.rows[shown_name(rest)], name = self.table.rows[name], ""
        elif name not in {case.name for case in self.table.cases}:
            known = [*(case.name for case in self.table.cases), *self.table.rows]
            raise ConfigError(f"{model!r} names no case; {self.target} has {', '.join(known)}")
        if shown_name(rest) not in self.rows and "S1" in self.table.rows and is_stage1(rest):
            self.rows[shown_name(rest)] = self.table.rows["S1"]
        return name, rest

    def _prepare(self, case: Case, models: list[str]) -> None:
        shipped = case.preset in CATALOG and CATALOG[case.preset].path.is_file()
        models = models or ([case.preset] if shipped else [])
        try:
            place = None if self.data is None else find_place(case, self.data)
            if place is None:
                tried = " or ".join(f"{lq} with {gt}" for lq, gt in case.layouts)
                raise DataError(f"no data; expected {tried} below {self.data or '--data DIR'}")
            if not models:
                raise DataError(f"no weights of {case.preset}; give --model FILE (an authors' file will do)")
            run = Evaluation(
                models,
                place.lq,
                place.gt,
                case.protocol,
                masks=place.masks,
                seed=self.seed,
                device=self.device,
                metric_weights=self.metric_weights,
                samples=place.samples,
            )
        except DirformerError as error:
            self.missing.append(f"{case.name}: {error}")
            return
        if len(run.samples) != case.count:
            self.missing.append(
                f"{case.name}: {len(run.samples)} photos, the published set has {case.count}: "
                "figures do not compare with the paper's"
            )
        self.missing += [line for line in run.scorer.missing if line not in self.missing]
        self.runs[case.name] = run

    def introduction(self) -> list[str]:
        """Return what a reader must know before the figures: title, protocols, notes, what is missing."""
        rules = dict.fromkeys(case.protocol for case in self.table.cases)
        lines = [f"{self.target}: {self.table.title}"]
        lines += [f"protocol {name}: {find_protocol(name).sentence}" for name in rules]
        lines += [f"note: {note}" for note in self.table.notes]
        lines += self.missing
        if not self.runs:
            lines += [
                "nothing can be measured; it needs:",
                *requirements(self.table, self.data, self.metric_weights),
            ]
        return lines

    def __len__(self) -> int:
        return sum(len(run) for run in self.runs.values())

    def steps(self) -> Iterator[Step]:
        """Evaluate case after case, photo by photo; a case that cannot be evaluated is named and left out."""
        for name, run in list(self.runs.items()):
            try:
                for record in run.records():
                    yield Step(name, record)
            except DirformerError as error:
                self.missing.insert(0, f"{name}: {error}")
                del self.runs[name]

    def summarise(self, steps: Iterable[Step]) -> dict[str, Any]:
        """Collect steps into the result: per case our rows, the paper's, and the difference to its row."""
        records: dict[str, list[Record]] = {case.name: [] for case in self.table.cases}
        for step in steps:
            records[step.case].append(step.record)
        cases = []
        for case in self.table.cases:
            run = self.runs.get(case.name)
            cases.append(self._entry(case, None if run is None else run.summarise(records[case.name])))
        whole = {"schema": SCHEMA, "target": self.target, "title": self.table.title, "cases": cases}
        notes = {
            "costs": printed_costs(self.target),
            "notes": list(self.table.notes),
            "missing": self.missing,
        }
        return dict(finite(whole | notes))

    def _entry(self, case: Case, result: dict[str, Any] | None) -> dict[str, Any]:
        quoted = self.table.quoted.get(case.name, {})
        cells = {
            m: {k: {"text": q.text, "rank": q.rank} for k, q in row.items()} for m, row in quoted.items()
        }
        entry: dict[str, Any] = {"case": case.name, "quoted": cells, "measured": result}
        axis = PLOTS.get(self.target)
        if axis is not None:
            entry["quoted_axis"] = {m: quoted_axis(axis, m, case.protocol) for m in quoted}
        if result is None:
            return entry
        models = self.runs[case.name].models
        by_name = {shown_name(m): m for m in models}
        entry["difference"] = {
            e["model"]: {
                k: e["mean"][k] - q.value
                for k, q in quoted.get(self._against(e["model"], quoted), {}).items()
                if k in e["mean"]
            }
            for e in result["models"]
        }
        if axis is not None:
            entry["axis"] = {e["model"]: model_axis(axis, by_name[e["model"]]) for e in result["models"]}
        return entry

    def _against(self, model: str, quoted: Any) -> str:
        """Return the printed row that a model is compared with: its own, else the paper's."""
        if model in self.rows or model in quoted:
            return self.rows.get(model, model)
        if self.table.ours in quoted:
            return self.table.ours
        return next((method for method in quoted if method.startswith("DiffIR")), "")

    def text(self, result: dict[str, Any]) -> str:
        """Lay a result out: a line per method, quoted ones marked, differences in brackets."""
        lines = ["as printed: * best, · second best of the paper", *quoted_costs(self.target)]
        for entry in result["cases"]:
            lines.append(f"{entry['case']}")
            for method, row in self.table.quoted.get(entry["case"], {}).items():
                place = entry.get("quoted_axis", {}).get(method)
                beside = "" if place is None else f"  {PLOTS[self.target]} {place:g}"
                lines.append(quoted_line(method, row, beside))
            lines += self._measured(entry)
        return "\n".join(lines)

    def _measured(self, entry: dict[str, Any]) -> list[str]:
        if entry["measured"] is None:
            return ["  not measured: " + self._reason(entry["case"])]
        lines = []
        for row in infinite(entry["measured"]["models"]):
            texts = []
            for metric, value in row["mean"].items():
                difference = entry["difference"][row["model"]].get(metric)
                beside = f" ({difference:+.4g})" if isinstance(difference, float) else ""
                texts.append(f"{title(metric)} {number(metric, value)}{beside}")
            place = entry.get("axis", {}).get(row["model"])
            if place is not None:
                texts.append(f"{PLOTS[self.target]} {place:g}")
            if row["model"] in self.rows or row["model"] in entry["quoted"]:
                texts.append(f"against {self._against(row['model'], entry['quoted'])}")
            lines.append(f"  {row['model']:34} {'  '.join(texts)}")
        return lines

    def _reason(self, case: str) -> str:
        return next(line for line in self.missing if line.startswith(f"{case}:")).partition(": ")[2]

    def draw(self, result: dict[str, Any], out: Path, *, overwrite: bool = False) -> str:
        """Draw a figure of points, a panel for each case: quoted points hollow, measured ones filled.

        Raises:
            ConfigError: for a target that is no such figure; OutputError if `out` exists.
        """
        if self.target not in PLOTS:
            raise ConfigError(f"{self.target} is no plot; --plot goes with {' and '.join(PLOTS)}")
        axis, panels = PLOTS[self.target], {}
        for entry, case in zip(result["cases"], self.table.cases, strict=True):
            metric = find_protocol(case.protocol).metrics[0]
            metric = "lpips_alex" if case.protocol == "sr" else metric
            points = [
                Point(entry["quoted_axis"][m], q[metric].value, m, quoted=True)
                for m, q in self.table.quoted.get(case.name, {}).items()
                if metric in q and entry["quoted_axis"].get(m) is not None
            ]
            for row in (entry["measured"] or {"models": []})["models"]:
                place = entry["axis"][row["model"]]
                if place is not None and isinstance(row["mean"].get(metric), float):
                    points.append(Point(place, row["mean"][metric], Path(row["model"]).stem))
            panels[f"{case.name}, {title(metric)}"] = points
        return draw_points(panels, AXES[axis], out, joined=axis == "timesteps", overwrite=overwrite)


def _suits(model: str, case: Case) -> bool:
    """Return whether a model can be meant for a case; what says nothing of its task can."""
    path = weight_file(model)
    if model.startswith(RESULTS) or path is None or path.suffix != ".safetensors":
        return True
    config, wanted = read_header(path).config, PRESETS[case.preset]
    same_kind = TASKS[config.task].has_mask == TASKS[wanted.task].has_mask
    return same_kind and config.scale == wanted.scale
