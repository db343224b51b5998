"""Results: means, intervals and spreads of rows, and the files that hold them.

A file is

    {"schema": 1, "protocol": "sr", "models": [
        {"model": "bicubic",
         "images": [{"name": …, "psnr_y": …, "ssim_y": …, "seconds": …, "peak_mib": …}, …],
         "mean": {"psnr_y": …, "ssim_y": …, "seconds": …, "peak_mib": …},
         "interval95": {"psnr_y": [low, high], "ssim_y": [low, high]}}],
     "missing": ["lpips_alex is left out: …"], "settings": {…}}

An infinite PSNR (equal photos) is null in a file, a score of a result with NaN is "nan". With several seeds
a metric is the mean over seeds, and `by_seed` has the single numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dirformer.evaluation.request import check_result_path
from dirformer.evaluation.tables import as_csv, as_markdown
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import DataError
from dirformer.ground.paths import atomic_path

SCHEMA = 1
RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""
NOT_METRICS = {"name", "seconds", "peak_mib", "by_seed", "variants"}
_NOT_COLUMNS = {"name", "by_seed", "variants"}
_NAMES = {"name", "model", "damage", "metric", "sha256"}
"""Fields of text, which may read like a number."""
NAN = "nan"
"""How files spell NaN, which JSON does not know."""


def safe_name(model: str) -> str:
    """Return a model's name as a folder name."""
    return re.sub(r"[^\w.+-]+", "_", Path(model).name if "/" in model else model)


def statistics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {k: [row[k] for row in rows] for k in rows[0] if k not in _NOT_COLUMNS} if rows else {}
    return {
        "mean": {key: sum(values) / len(values) for key, values in columns.items()},
        "interval95": {k: interval95(values) for k, values in columns.items() if k not in NOT_METRICS},
    }


def seed_spread(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How much Z_T matters: over seeds, the spread of the mean, and the largest difference on one photo."""
    result = {}
    for metric in rows[0]["by_seed"]:
        values = torch.tensor([row["by_seed"][metric] for row in rows], dtype=torch.float64)
        result[metric] = {
            "std_of_mean": float(values.mean(0).std(correction=0)),
            # A photo that every seed restores perfectly has no spread; one with NaN has no known one.
            "largest_on_one_photo": float(
                (values.amax(1) - values.amin(1)).masked_fill((values == math.inf).all(1), 0).max()
            ),
        }
    return result


def not_finite(models: list[dict[str, Any]]) -> list[str]:
    """Return a line on each model of a result that gave photos with NaN."""
    lines = []
    for entry in models:
        names = [row["name"] for row in entry["images"] if any(map(_is_nan, row.values()))]
        if names:
            lines.append(
                f"{entry['model']}: {len(names)} of {len(entry['images'])} results are not finite, the first "
                f"is {names[0]}; their scores are nan and have no rank: look at the weights"
            )
    return lines


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def interval95(values: list[float]) -> list[float]:
    """Return the 95 % interval of the mean by the percentile bootstrap over photos.

    It says how much the mean would move with other photos of the same kind; always the same resamples.
    Infinite if a value is, NaN if one is.
    """
    if any(math.isnan(value) for value in values):
        return [math.nan, math.nan]
    if not all(math.isfinite(value) for value in values):
        return [math.inf, math.inf]
    numbers = torch.tensor(values, dtype=torch.float64)
    draws = torch.randint(len(values), (RESAMPLES, len(values)), generator=seeded_generator(0, "bootstrap"))
    bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return numbers[draws].mean(1).quantile(bounds).tolist()


def finite(value: Any) -> Any:
    """Return JSON values with null where a number is infinite, and "nan" where it is none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return NAN if math.isnan(value) else None


def infinite(value: Any) -> Any:
    """Return the scores that `finite` made JSON values of: null is infinite, "nan" is NaN."""
    if isinstance(value, dict):
        return {key: item if key in _NAMES else infinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [infinite(item) for item in value]
    return {None: math.inf, NAN: math.nan}.get(value, value)


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as `.json`, `.csv` (rows per photo) or `.md` (the table), by suffix; atomically.

    Raises:
        ConfigError: for another suffix.
    """
    check_result_path(path)
    with atomic_path(path) as part:
        part.write_text(_WRITERS[path.suffix](result), encoding="utf-8")


def _as_json(result: dict[str, Any]) -> str:
    return json.dumps(finite(result), indent=2) + "\n"


_WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    ".json": _as_json,
    ".csv": as_csv,
    ".md": as_markdown,
}


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file back, with infinity and NaN among its scores; DataError if it is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["schema"] == SCHEMA and result["models"] and "protocol" in result:
            scores = {key: infinite(result[key]) for key in ("models", "groups") if key in result}
            return {**result, **scores}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path} is no result of `dirformer evaluate --json`; expected schema {SCHEMA}")
