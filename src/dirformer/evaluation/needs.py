"""What a table of the paper needs, and where it lies: photos, masks, weights, metric files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dirformer.data.plans import plan
from dirformer.evaluation.paper import Case, Table
from dirformer.evaluation.samples import Sample, find_samples
from dirformer.ground.errors import DataError
from dirformer.metrics.perceptual import METRIC_FILES, WEIGHTS, weight_path, weights_folder
from dirformer.metrics.protocols import find_protocol


@dataclass(frozen=True)
class Place:
    """Where the photos of a case lie."""

    lq: Path
    gt: Path
    masks: Path | None
    samples: list[Sample]


def find_place(case: Case, data: Path) -> Place | None:
    """Return the first official layout of a case that is there, or its unpacked archive; None without any.

    Raises:
        DataError: if photos there do not pair, or masks are missing.
    """
    for number, (lq, gt) in enumerate(case.layouts):
        if (data / lq).is_dir() and (data / gt).is_dir():
            masks = data / case.masks[number] if case.masks else None
            return Place(data / lq, data / gt, masks, find_samples(data / lq, data / gt, masks))
    if case.archive is None:
        return None
    names = (case.name, case.archive[0], case.unpacked, case.layouts[0][0].partition("/")[0])
    for folder in (data / name for name in dict.fromkeys(names)):
        if folder.is_dir():
            samples = _unpacked(*case.archive, folder)
            if samples:
                return Place(folder, folder, None, samples)
    return None


def _unpacked(name: str, part: str, folder: Path) -> list[Sample]:
    """Return the pairs of a set's part that lie as single files, laid out as in the set's archive."""
    try:
        items = next(found.items for found in plan(name, folder) if found.part.name == part)
    except (DataError, StopIteration):
        return []
    return [
        Sample(item.name, Path(str(item.lq.container)), Path(str(item.gt.container)))
        for item in items
        if item.lq is not None and item.lq.kind == item.gt.kind == "file"
    ]


def requirements(table: Table, data: Path | None, weights: Path | None = None) -> list[str]:
    """Return the full list: photos and their number, masks, how a set is made, weights, metric files."""
    root = data or Path("DATA")
    lines = []
    for case in table.cases:
        places = []
        for number, (lq, gt) in enumerate(case.layouts):
            masks = f", masks in {root / case.masks[number]}" if case.masks else ""
            places.append(f"{root / lq}{masks}" if lq == gt else f"{root / lq} with {root / gt}{masks}")
        if case.archive is not None:
            places.append(f"the set's archive unpacked in {root / case.archive[0]} or {root / case.unpacked}")
        lines.append(f"{case.name}: {case.count:,} photos, in " + ", or ".join(places))
        if case.making:
            lines.append(f"  made by: {case.making}")
        lines.append(
            f"  weights of {case.preset}: --model FILE, the authors' published file or one of `train`"
        )
    metrics = dict.fromkeys(m for case in table.cases for m in find_protocol(case.protocol).metrics)
    keys = dict.fromkeys(key for metric in metrics for key in METRIC_FILES.get(metric, ()))
    lines.append(f"metric files, in {weights_folder(weights)} (or --metric-weights DIR):")
    for key in keys:
        file = WEIGHTS[key]
        state = "there" if weight_path(key, weights) else "missing"
        lines.append(f"  {file.name} ({state}): {file.address} sha256 {file.sha256}")
    return lines
