"""Models × photos → scores.

`score` yields one record per model and photo, `evaluate` drains it into the result that files hold:

    {"schema": 1, "protocol": "sr", "models": [
        {"model": "bicubic", "images": [{"name": …, "psnr_y": …, "ssim_y": …, "seconds": …}, …],
         "mean": {"psnr_y": …, "ssim_y": …, "seconds": …},
         "interval95": {"psnr_y": [low, high], "ssim_y": [low, high]}}]}

An infinite PSNR (equal photos) is null in a file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dirformer.data.folders import pair_photos
from dirformer.device import seeded_generator
from dirformer.errors import DataError
from dirformer.evaluation.contenders import Contender, contender
from dirformer.evaluation.protocols import Protocol, as_float, protocol
from dirformer.photo import read_rgb

SCHEMA = 1
RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""


@dataclass(frozen=True)
class Record:
    """One photo, scored."""

    model: str
    row: dict[str, Any]
    """`name`, one number per metric, `seconds` spent restoring."""


def evaluate(
    models: list[str],
    lq: Path,
    gt: Path,
    protocol: str,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> dict[str, Any]:
    """Score models on a folder of pairs; arguments and errors as `score`, the result as above."""
    return summarise(
        protocol, models, score(models, lq, gt, protocol, seed=seed, device=device, precision=precision)
    )


def score(
    models: list[str],
    lq: Path,
    gt: Path,
    protocol_name: str,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> Iterator[Record]:
    """Restore and score photo by photo, model after model.

    Args:
        models: see `contenders.contender`.
        lq: folder (or list) of degraded photos.
        gt: folder (or list) of clean photos of the same names.
        protocol_name: a name of `protocols.PROTOCOLS`.
        seed: of the diffusion's start.
        device: for networks.
        precision: for networks.

    Raises:
        DataError: if names or sizes do not match; ConfigError and CheckpointError name what is unknown.
    """
    rules = protocol(protocol_name)
    pairs = pair_photos(lq, gt)
    for model in models:
        rival = contender(model, device=device, precision=precision)
        for lq_path, gt_path in pairs:
            yield Record(model, _score_photo(rival, rules, lq_path, gt_path, seed))


def _score_photo(
    rival: Contender, rules: Protocol, lq_path: Path, gt_path: Path, seed: int
) -> dict[str, Any]:
    lq, gt = as_float(read_rgb(lq_path)), as_float(read_rgb(gt_path))
    scale = _ratio(lq_path, gt_path, lq, gt)
    if rival.scale not in (None, scale):
        raise DataError(
            f"{rival.name} enlarges ×{rival.scale}, but {gt_path} ({_size(gt)}) is ×{scale} of {lq_path} "
            f"({_size(lq)}); give the ×{rival.scale} pairs or another model"
        )
    gt = gt[:, : lq.shape[1] * scale, : lq.shape[2] * scale]
    start = time.perf_counter()
    restored = rival.restore(lq, None, scale, seed)
    seconds = time.perf_counter() - start
    return {"name": lq_path.stem, **rules.scores(restored, gt), "seconds": seconds}


def _ratio(lq_path: Path, gt_path: Path, lq: torch.Tensor, gt: torch.Tensor) -> int:
    """Return GT size over LQ size; the GT may have up to scale − 1 pixels more, which the tables cut off."""
    (height, width), (gt_height, gt_width) = lq.shape[1:], gt.shape[1:]
    scale = gt_height // height
    if scale < 1 or gt_height // scale != height or gt_width // scale != width:
        raise DataError(
            f"{lq_path} is {_size(lq)} and {gt_path} {_size(gt)}; "
            "expected a GT that is 1, 2, 3, 4 … times as large in both directions"
        )
    return scale


def _size(photo: torch.Tensor) -> str:
    return f"{photo.shape[-1]}×{photo.shape[-2]}"


def summarise(protocol_name: str, models: list[str], records: Iterator[Record]) -> dict[str, Any]:
    """Collect records into the result that files hold."""
    images: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    for record in records:
        images[record.model].append(record.row)
    return {
        "schema": SCHEMA,
        "protocol": protocol_name,
        "models": [{"model": model, "images": rows, **_statistics(rows)} for model, rows in images.items()],
    }


def _statistics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "name"} if rows else {}
    return {
        "mean": {key: sum(values) / len(values) for key, values in columns.items()},
        "interval95": {key: interval95(values) for key, values in columns.items() if key != "seconds"},
    }


def interval95(values: list[float]) -> list[float]:
    """Return the 95 % interval of the mean by the percentile bootstrap over photos.

    It says how much the mean would move with other photos of the same kind; always the same resamples.
    """
    if not all(math.isfinite(value) for value in values):
        return [math.inf, math.inf]
    numbers = torch.tensor(values, dtype=torch.float64)
    draws = torch.randint(len(values), (RESAMPLES, len(values)), generator=seeded_generator(0, "bootstrap"))
    bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return numbers[draws].mean(1).quantile(bounds).tolist()


def finite(value: Any) -> Any:
    """Return JSON values with null where a number is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
