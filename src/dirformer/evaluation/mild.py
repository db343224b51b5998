"""`evaluate --protocol mild`: a fixed table of light damage, made from any folder of clean photos.

The photos of every row are made first, then scored as any other evaluation. The result has `groups`: a row
for each kind of damage, a column for each method, gains over doing nothing with their intervals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from dirformer.data.folders import find_photos
from dirformer.degradations.mild import ROWS, damage, middle, save
from dirformer.evaluation.results import interval95
from dirformer.evaluation.samples import Sample
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError
from dirformer.ground.photo import read_rgb
from dirformer.metrics.protocols import Protocol
from dirformer.metrics.scorer import as_float


def rules_at(rules: Protocol, scale: int) -> Protocol:
    """Return the protocol at a scale: PSNR on RGB at ×1, PSNR-Y without `scale` border pixels above."""
    if scale == 1:
        return replace(rules, metrics=("psnr", "ssim"))
    return replace(rules, metrics=("psnr_y", "ssim_y"), border=scale)


def common_scale(scales: dict[str, int | None]) -> int:
    """Return the one scale of several methods (None does any); ConfigError if they differ."""
    known = {name: scale for name, scale in scales.items() if scale is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} ×{scale}" for name, scale in known.items())
        raise ConfigError(f"the mild protocol compares models of one scale; received {listed}")
    return next(iter(known.values()), 1)


def make_samples(photos: Path, folder: Path, scale: int) -> list[Sample]:
    """Write LQ and GT of every row and photo into `folder`, and return them, row after row.

    The damage of a photo depends on its place among the sorted photos alone.
    """
    samples = []
    clean = [(path, middle(as_float(read_rgb(path)), scale)) for path in find_photos(photos)]
    for number, (path, gt) in enumerate(clean):
        (folder / "gt").mkdir(parents=True, exist_ok=True)
        save(gt, folder / "gt" / f"{number:05}.png")
        for place, row in enumerate(ROWS):
            (folder / f"{place:02}").mkdir(exist_ok=True)
            lq = folder / f"{place:02}" / f"{number:05}.png"
            save(damage(row, gt, scale, seeded_generator(0, "mild", row, number)), lq)
            samples.append((place, Sample(f"{row}: {path.stem}", lq, folder / "gt" / f"{number:05}.png")))
    return [sample for _, sample in sorted(samples, key=lambda pair: pair[0])]


def groups(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one entry per kind of damage: each method's mean, and its gain over the first method's."""
    metric = next(iter(result["models"][0]["mean"]))
    first = result["models"][0]["images"]
    entries = []
    for row in ROWS:
        places = [i for i, image in enumerate(first) if image["name"].startswith(f"{row}: ")]
        entry: dict[str, Any] = {"damage": row, "metric": metric, "methods": {}}
        for model in result["models"]:
            values = [model["images"][i][metric] for i in places]
            gains = [value - first[i][metric] for value, i in zip(values, places, strict=True)]
            cell: dict[str, Any] = {"mean": fmean(values)}
            if model is not result["models"][0] and row != "none":
                cell |= {"gain": fmean(gains), "interval95": interval95(gains)}
            entry["methods"][model["model"]] = cell
        entries.append(entry)
    return entries
