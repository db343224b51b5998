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

from dirformer.evaluation.compare import model_axis
from dirformer.evaluation.paper import Case, Table, paper_table, with_cells
from dirformer.evaluation.results import finite
from dirformer.evaluation.run import Evaluation, Record
from dirformer.evaluation.tables import number, title
from dirformer.ground.errors import ConfigError, DirformerError
from dirformer.metrics.protocols import find_protocol
from dirformer.weights.catalog import CATALOG


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
        data: folder that holds the data sets, each in its official layout (`paper.TABLES`).
        models: weights for all cases, or `CASE=FILE` for one; several make several rows.
        metric_weights: folder of published weights.
        paper: JSON file with further quoted cells.
        seed: of the diffusion's start.
        device: for networks.

    Raises:
        ConfigError: for a table or case that does not exist.
    """

    target: str
    data: Path
    models: list[str]
    metric_weights: Path | None = None
    paper: Path | None = None
    seed: int = 0
    device: str = "auto"
    table: Table = field(init=False)
    runs: dict[str, Evaluation] = field(init=False, default_factory=dict)
    missing: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.table = paper_table(self.target)
        if self.paper is not None:
            self.table = with_cells(self.table, self.paper)
        names = [case.name for case in self.table.cases]
        for model in self.models:
            name, equals, _ = model.partition("=")
            if equals and name not in names:
                raise ConfigError(f"{model!r} names no case; {self.target} has {', '.join(names)}")
        for case in self.table.cases:
            self._prepare(case)

    def _prepare(self, case: Case) -> None:
        place = find_layout(case, self.data)
        if place is None:
            tried = " or ".join(f"{self.data / lq} with {gt}" for lq, gt in case.layouts)
            self.missing.append(f"{case.name}: no data; expected {tried}")
            return
        models = self._models(case)
        if not models:
            self.missing.append(
                f"{case.name}: no weights of {case.preset}; give --model FILE (an authors' file will do)"
            )
            return
        lq, gt, masks = place
        try:
            run = Evaluation(
                models,
                lq,
                gt,
                case.protocol,
                masks=masks,
                seed=self.seed,
                device=self.device,
                metric_weights=self.metric_weights,
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

    def _models(self, case: Case) -> list[str]:
        own = [m.partition("=")[2] for m in self.models if m.partition("=")[0] == case.name]
        everywhere = [m for m in self.models if "=" not in m]
        shipped = [case.preset] if case.preset in CATALOG and CATALOG[case.preset].path.is_file() else []
        return own + everywhere or shipped

    def introduction(self) -> list[str]:
        """Return what a reader must know before the figures: title, protocols, what is missing."""
        rules = dict.fromkeys(case.protocol for case in self.table.cases)
        lines = [f"{self.target}: {self.table.title}"]
        lines += [f"protocol {name}: {find_protocol(name).sentence}" for name in rules]
        return lines + self.missing

    def __len__(self) -> int:
        return sum(len(run) for run in self.runs.values())

    def steps(self) -> Iterator[Step]:
        """Evaluate case after case, photo by photo."""
        for name, run in self.runs.items():
            for record in run.records():
                yield Step(name, record)

    def summarise(self, steps: Iterable[Step]) -> dict[str, Any]:
        """Collect steps into the result: per case our rows, the paper's, and the difference to DiffIR's."""
        records: dict[str, list[Record]] = {name: [] for name in self.runs}
        for step in steps:
            records[step.case].append(step.record)
        cases = []
        for case in self.table.cases:
            run = self.runs.get(case.name)
            result = None if run is None else run.summarise(records[case.name])
            quoted = self.table.quoted.get(case.name, {})
            entry: dict[str, Any] = {"case": case.name, "quoted": quoted, "measured": result}
            reference = next((cells for method, cells in quoted.items() if method.startswith("DiffIR")), {})
            if result is not None:
                entry["difference"] = {
                    e["model"]: {k: e["mean"][k] - v for k, v in reference.items() if k in e["mean"]}
                    for e in result["models"]
                }
                if self.target in _PLOTS:
                    axis = _PLOTS[self.target]
                    entry["axis"] = {e["model"]: model_axis(axis, e["model"]) for e in result["models"]}
            cases.append(entry)
        whole = {"schema": 1, "target": self.target, "title": self.table.title, "cases": cases}
        return dict(finite({**whole, "missing": self.missing}))

    def text(self, result: dict[str, Any]) -> str:
        """Lay a result out: a line per method, quoted ones marked, differences in brackets."""
        lines = []
        for entry in result["cases"]:
            lines.append(f"{entry['case']}")
            for method, cells in entry["quoted"].items():
                figures = "  ".join(f"{title(k)} {v}" for k, v in cells.items())
                lines.append(f"  {method:34} {figures}  (quoted)")
            for row in (entry["measured"] or {"models": []})["models"]:
                texts = []
                for metric, value in row["mean"].items():
                    difference = entry["difference"][row["model"]].get(metric)
                    beside = "" if difference is None else f" ({difference:+.4g})"
                    texts.append(f"{title(metric)} {number(metric, value)}{beside}")
                place = entry.get("axis", {}).get(row["model"])
                if place is not None:
                    texts.append(f"{_PLOTS[self.target]} {place:g}")
                lines.append(f"  {row['model']:34} {'  '.join(texts)}")
            if entry["measured"] is None:
                lines.append("  not measured: " + self._reason(entry["case"]))
        return "\n".join(lines)

    def _reason(self, case: str) -> str:
        return next(line for line in self.missing if line.startswith(f"{case}:")).partition(": ")[2]


_PLOTS = {"fig1": "cost", "fig6": "timesteps"}


def find_layout(case: Case, data: Path) -> tuple[Path, Path, Path | None] | None:
    """Return the folders of LQ, GT and masks of the first official layout that is there."""
    for place, (lq, gt) in enumerate(case.layouts):
        if (data / lq).is_dir() and (data / gt).is_dir():
            return data / lq, data / gt, data / case.masks[place] if case.masks else None
    return None
