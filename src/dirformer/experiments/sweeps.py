"""Whole tables of trainings: rows that differ by a few fields, trained one after the other and compared.

A sweep is a YAML list; a row is a recipe with other fields, trained once for each of its seeds:

    - {name: V3, recipe: sr-x4-compact-stage2, stage1: run:S1, steps: 800, seeds: [0, 1, 2]}
    - {name: V1, recipe: sr-x4-compact-stage2, stage1: run:S1, steps: 800, model.timesteps: 0}
    - {name: S1, recipe: sr-x4-compact-stage1, steps: 2000}

`run:S1` stands for the weights of the row S1, which is then trained before. A row with `weights: FILE` is
only scored. All rows are scored on the same validation photos, degraded alike, and compared photo by photo
with the first row; a photo's score is the mean over a row's seeds.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from torch import Tensor

from dirformer.evaluation.results import finite, interval95
from dirformer.evaluation.tables import csv_lines, markdown, markdown_name
from dirformer.experiments.train import train
from dirformer.experiments.validation import Validation
from dirformer.ground.device import choose_device
from dirformer.ground.errors import ConfigError
from dirformer.ground.journal import Report
from dirformer.ground.paths import atomic_path
from dirformer.ground.yaml_text import Place, cut, find_yaml, parse_yaml, short
from dirformer.metrics.perceptual import MissingWeightsError, inception
from dirformer.tasks import TASKS
from dirformer.training.config import TrainConfig, is_text, load_recipe, override_value
from dirformer.training.state import finished
from dirformer.weights.catalog import find_weights
from dirformer.weights.load import load

SCHEMA = 1
REFERENCE = "run:"
"""In front of a row's name: its weights."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    recipe: str
    seeds: tuple[int, ...] = (0,)
    weights: str | None = None
    """Score this file instead of training."""
    fields: tuple[tuple[str, Any], ...] = ()
    """Fields of the recipe that differ, dotted as on the command line."""

    @property
    def needs(self) -> list[str]:
        """Rows whose weights this one starts from."""
        values = [value for _, value in self.fields if isinstance(value, str)]
        return [value.removeprefix(REFERENCE) for value in values if value.startswith(REFERENCE)]


def sweep_names() -> list[str]:
    """Return the names of the shipped sweeps."""
    return sorted(p.name.removesuffix(".yaml") for p in _shipped().iterdir() if p.name.endswith(".yaml"))


class Sweep:
    """The rows of a sweep, checked, and what becomes of them in `out`/`name`.

    Raises:
        ConfigError: one line for the first thing that is wrong with the list, a row or an override.
    """

    def __init__(self, source: str, overrides: list[str] | None = None) -> None:
        """Take a shipped name or a file, and overrides: `key=value` for all rows, `ROW.key=value` for one."""
        self.name, rows = _read(source)
        for override in overrides or []:
            rows = _override(rows, override)
        self.rows = {row.name: row for row in rows}
        for row in rows:
            for needed in row.needs:
                if needed not in self.rows or self.rows[needed].needs:
                    raise ConfigError(
                        f"row {row.name} starts from run:{needed}; expected a row that starts from none"
                    )
        self.configs = {
            row.name: [self._config(row, seed) for seed in row.seeds] for row in rows if row.weights is None
        }
        self.validated = self._settings(rows[0])
        if self.validated.data.val is None:
            raise ConfigError("data.val is not set; a sweep is scored on it: data.val=LIST_OR_DIR")

    @property
    def folder(self) -> Path:
        """Where runs and table go."""
        return Path(self.validated.out)

    def run(self, report: Report = print) -> dict[str, Any]:
        """Train what is not finished, score all rows, write the table; return what table.json holds.

        Raises:
            ConfigError: before anything is trained, if a row was trained on other data.
        """
        done = {config.name for configs in self.configs.values() for config in configs if finished(config)}
        for row in sorted(self.rows.values(), key=lambda row: len(row.needs)):
            for config in self.configs.get(row.name, []):
                if config.name in done:
                    report(f"{config.name}: finished before")
                    continue
                report(f"{config.name}: {config.steps} steps")
                train(config, report)
        result = self.score(report)
        for suffix, text in (
            ("json", json.dumps(finite(result), indent=1) + "\n"),
            ("csv", as_csv(result)),
            ("md", as_markdown(result)),
        ):
            with atomic_path(self.folder / f"table.{suffix}") as part:
                part.write_text(text, encoding="utf-8")
        return result

    def score(self, report: Report = print) -> dict[str, Any]:
        """Score the last weights of all rows on the validation photos."""
        validation = Validation(self.validated)
        features = _inception(report) if TASKS[validation.task].has_mask else None
        rows: list[dict[str, Any]] = []
        for row in self.rows.values():
            scores, fids = [], []
            for path in self._weights(row):
                model = load(path).to(choose_device(self.validated.device))
                scores.append(validation.scores(model))
                fids.append({} if features is None else validation.fid(model, features))
                report(f"{row.name}: {path}  {validation.score} {fmean(scores[-1]):.3f}")
            parameters = sum(p.numel() for p in model.parameters())
            means = {name: fmean(fid[name] for fid in fids) for name in fids[0]}
            entry = _entry(row, scores, rows[0] if rows else None) | {"parameters": parameters}
            rows.append(entry | ({"fid": means} if means else {}))
        photos = [f"{case.name} {case.kind}".strip() for case in validation.cases]
        return {
            "schema": SCHEMA,
            "sweep": self.name,
            "score": validation.score,
            "photos": photos,
            "rows": rows,
        }

    def _weights(self, row: Row) -> list[Path]:
        if row.weights is not None:
            return [find_weights(row.weights)]
        return [config.folder / "last.safetensors" for config in self.configs[row.name]]

    def _config(self, row: Row, seed: int) -> TrainConfig:
        config = self._settings(row)
        return on_one_device(config.changed(name=f"{row.name}-seed{seed}", seed=seed))

    def _settings(self, row: Row) -> TrainConfig:
        """Return a row's recipe with its fields; runs go below a folder of the sweep's name."""
        texts = [f"{key}={json.dumps(self._resolved(value), default=str)}" for key, value in row.fields]
        config = load_recipe(row.recipe, texts)
        if isinstance(config.out, str):
            raise ConfigError(f"out is {config.out}; a sweep needs a folder of this machine")
        return config.model_copy(update={"out": config.out / self.name, "seed": 0})

    def _resolved(self, value: Any) -> Any:
        if not (isinstance(value, str) and value.startswith(REFERENCE)):
            return value
        other = self.rows[value.removeprefix(REFERENCE)]
        if other.weights is not None:
            return other.weights
        return str(self._config(other, other.seeds[0]).folder / "last.safetensors")


def on_one_device(config: TrainConfig) -> TrainConfig:
    """Return a recipe of several devices for one: as many photos in a step, by passes one after the other."""
    if config.devices == 1 and config.nodes == 1:
        return config
    accumulate = config.accumulate * config.stated_devices
    whole = config.data.batch * accumulate
    # A pool holds whole steps.
    data = config.data.model_copy(update={"pool": -(-config.data.pool // whole) * whole})
    return config.model_copy(update={"devices": 1, "nodes": 1, "accumulate": accumulate, "data": data})


def _inception(report: Report) -> Callable[[Tensor], Tensor] | None:
    """Open what FID needs; without its file there is no FID, and one line says so."""
    try:
        return inception()
    except MissingWeightsError as error:
        report(f"fid is left out: {error}")
        return None


def _entry(row: Row, scores: list[list[float]], first: dict[str, Any] | None) -> dict[str, Any]:
    """Return a row of the result; `scores` are by seed and photo, in dB."""
    by_photo = [fmean(of_photo) for of_photo in zip(*scores, strict=True)]
    by_seed = [fmean(of_seed) for of_seed in scores]
    entry: dict[str, Any] = {
        "name": row.name,
        "mean": fmean(by_photo),
        "interval95": interval95(by_photo),
        "by_seed": by_seed,
        "seed_deviation": pstdev(by_seed),
        "by_photo": by_photo,
    }
    if first is not None:
        differences = [ours - theirs for ours, theirs in zip(by_photo, first["by_photo"], strict=True)]
        entry["difference"] = {
            "mean": fmean(differences),
            "interval95": interval95(differences),
            "by_photo": differences,
        }
    return entry


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table for people: mean, interval, paired difference to the first row."""
    first, interval = markdown_name(result["rows"][0]["name"]), "95 % interval"
    head = ["row", f"{result['score']} (dB)", interval, "seeds", f"against {first}", interval, "parameters"]
    fids = list(result["rows"][0].get("fid", {}))
    head += fids
    rows = []
    for row in result["rows"]:
        difference = row.get("difference")
        cells = [markdown_name(row["name"]), f"{row['mean']:.3f}", _interval(row["interval95"], "")]
        cells.append(", ".join(f"{mean:.3f}" for mean in row["by_seed"]))
        if difference is None:
            cells += ["", ""]
        else:
            cells += [f"{difference['mean']:+.3f}", _interval(difference["interval95"], "+")]
        rows.append([*cells, f"{row['parameters']:,}", *(f"{row['fid'][name]:.4f}" for name in fids)])
    note = (
        f"{len(result['photos'])} validation photos; intervals are bootstrapped over photos, differences "
        "paired photo by photo, a photo's score the mean over seeds."
    )
    return f"{markdown(head, rows)}\n\n{note}\n"


def as_csv(result: dict[str, Any]) -> str:
    """Return one line per row and photo."""
    rows = [
        [row["name"], photo, repr(score)]
        for row in result["rows"]
        for photo, score in zip(result["photos"], row["by_photo"], strict=True)
    ]
    return csv_lines(["row", "photo", result["score"]], rows)


def _interval(bounds: list[float], sign: str) -> str:
    low, high = bounds
    return f"{low:{sign}.3f} … {high:{sign}.3f}"


def _shipped() -> Any:
    return resources.files("dirformer") / "recipes" / "sweeps"


def _read(source: str) -> tuple[str, list[Row]]:
    text = find_yaml(source, _shipped(), "sweep", sweep_names())
    values = parse_yaml(text, f"sweep {cut(source)}", _is_text)
    if not (isinstance(values, list) and values and all(isinstance(value, dict) for value in values)):
        raise ConfigError(
            f"sweep {cut(source)}: expected a list of rows such as {{name: A, recipe: NAME, steps: 800}}"
        )
    rows = [_row(source, value) for value in values]
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ConfigError(f"sweep {source} has two rows of one name: {', '.join(names)}")
    return Path(source).stem, rows


def _is_text(place: Place) -> bool:
    return place[-1] in ("name", "recipe", "weights") or is_text(tuple(place[-1].split(".")))


def _row(source: str, values: dict[str, Any]) -> Row:
    for key in ("name", "recipe"):
        if not isinstance(values.get(key), str):
            raise ConfigError(f"sweep {source}: a row has {key} = {short(values.get(key))}; expected a word")
    row = Row(values["name"], values["recipe"])
    for key, value in values.items():
        if key not in ("name", "recipe"):
            row = _with(row, key, value)
    return row


def _with(row: Row, key: str, value: Any) -> Row:
    if key == "seeds":
        if not (isinstance(value, list) and value and all(type(seed) is int for seed in value)):
            raise ConfigError(f"row {row.name}: seeds is {short(value)}; expected a list of whole numbers")
        if len(set(value)) < len(value):
            raise ConfigError(f"row {row.name}: seeds is {short(value)}; expected each number once")
        return replace(row, seeds=tuple(value))
    if key == "weights":
        return replace(row, weights=str(value))
    if key == "recipe":
        return replace(row, recipe=str(value))
    if key in ("name", "seed"):
        raise ConfigError(f"row {row.name}: {key} cannot be changed here; seeds is a field of the row")
    return replace(row, fields=(*((k, v) for k, v in row.fields if k != key), (key, value)))


def _override(rows: list[Row], override: str) -> list[Row]:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(
            f"override {short(override)} is not key=value or ROW.key=value, for example steps=2000"
        )
    first, dot, rest = key.partition(".")
    names = [row.name for row in rows]
    own = bool(dot) and first in names
    value = override_value(rest if own else key, text)
    if own:
        return [_with(row, rest, value) if row.name == first else row for row in rows]
    if dot and first not in TrainConfig.model_fields:
        near = difflib.get_close_matches(first, [*names, *TrainConfig.model_fields], n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"override {short(override)}: no row or field {cut(first)}; the nearest valid one is {near}"
        )
    return [_with(row, key, value) for row in rows]
