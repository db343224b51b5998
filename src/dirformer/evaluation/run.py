"""Models × photos → scores.

`Evaluation` checks everything that can be checked before the first network is loaded, `records` yields one
record per model and photo, `summarise` makes the result that files hold:

    {"schema": 1, "protocol": "sr", "models": [
        {"model": "bicubic",
         "images": [{"name": …, "psnr_y": …, "ssim_y": …, "seconds": …, "peak_mib": …}, …],
         "mean": {"psnr_y": …, "ssim_y": …, "seconds": …, "peak_mib": …},
         "interval95": {"psnr_y": [low, high], "ssim_y": [low, high]}}],
     "missing": ["lpips_alex is left out: …"], "settings": {…}}

An infinite PSNR (equal photos) is null in a file. With several seeds a metric is the mean over seeds, and
`by_seed` has the single numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer import __version__
from dirformer.data.folders import find_photos, pair_photos
from dirformer.evaluation.methods import ENSEMBLE, Method, find_method, fingerprint
from dirformer.evaluation.tables import as_csv, as_markdown
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.journal import Journal, read_journal
from dirformer.ground.memory import PeakMemory
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import Photo, read_mask, read_rgb, write_photo
from dirformer.metrics.perceptual import frechet_distance
from dirformer.metrics.protocols import Protocol, as_float, protocol
from dirformer.metrics.table import Scorer, open_scorer
from dirformer.metrics.variants import variant_scores

SCHEMA = 1
RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""
NOT_METRICS = {"name", "seconds", "peak_mib", "by_seed", "variants"}
_NOT_COLUMNS = {"name", "by_seed", "variants"}


@dataclass(frozen=True)
class Record:
    """One photo, scored."""

    model: str
    row: dict[str, Any]
    """`name`, one number per metric, `seconds` and `peak_mib` of restoring."""
    features: tuple[Tensor, Tensor] | None = None
    """FID's features of result and GT, where FID is computed."""


@dataclass(frozen=True)
class Sample:
    """One photo to restore, with its partner."""

    name: str
    lq: Path
    gt: Path
    mask: Path | None = None


class Evaluation:
    """Models, photos and a protocol, checked; `records` does the work.

    Args:
        models: see `methods.find_method`.
        lq: folder (or list) of degraded photos; in inpainting, of the photos to cut holes into.
        gt: folder (or list) of clean photos of the same names.
        protocol_name: a name of `protocols.PROTOCOLS`.
        masks: folder of masks: `NAME.png`, or `NAME_mask000.png` as in LaMa, where they lie among the photos.
        metrics: names of metrics beside those of the protocol.
        seed: of the diffusion's start.
        seeds: how many starts, `seed`, `seed + 1` … are averaged.
        device: for networks and learned metrics.
        precision: for networks.
        save: folder for the restored photos, `SAVE/MODEL/NAME.png`; None keeps none.
        journal: JSONL file of finished rows; rows of the same photos, weights and settings are taken from it,
            so that the same call goes on where it stopped.
        metric_weights: folder of published weights (`perceptual.weights_folder`).
        all_variants: also score every variant of `variants.VARIANTS`, into `variants` of a row.

    Raises:
        DataError: if names do not match, masks are missing, or a folder is empty.
        ConfigError: for names that do not exist.
    """

    def __init__(
        self,
        models: list[str],
        lq: Path,
        gt: Path,
        protocol_name: str,
        *,
        masks: Path | None = None,
        metrics: tuple[str, ...] = (),
        seed: int = 0,
        seeds: int = 1,
        device: str = "auto",
        precision: str = "float32",
        save: Path | None = None,
        journal: Path | None = None,
        metric_weights: Path | None = None,
        all_variants: bool = False,
    ) -> None:
        if not models:
            raise ConfigError("no model is given; name at least one, or bicubic")
        if seeds < 1:
            raise ConfigError(f"seeds is {seeds}; expected at least 1")
        self.rules: Protocol = protocol(protocol_name)
        self.models, self.seeds = list(dict.fromkeys(models)), range(seed, seed + seeds)
        self.device, self.precision, self.save = device, precision, save
        self.samples = find_samples(self.rules, lq, gt, masks)
        self.scorer: Scorer = open_scorer(
            self.rules, metrics, weights=metric_weights, device="cpu" if device == "auto" else device
        )
        self.all_variants = all_variants
        self.journal = None if journal is None else Journal(journal)
        self.settings = {
            "lq": str(lq),
            "gt": str(gt),
            "masks": None if masks is None else str(masks),
            "definition": self.rules.sentence,
            "border": self.rules.border,
            "rounding": self.rules.rounding,
            "seeds": list(self.seeds),
            "precision": precision,
            "version": __version__,
            "torch": torch.__version__,
            "save": None if save is None else str(save),
        }

    def __len__(self) -> int:
        return len(self.models) * len(self.samples)

    def records(self) -> Iterator[Record]:
        """Restore and score photo by photo, model after model; rows of the journal are not computed again.

        Raises:
            DataError: if sizes do not match; CheckpointError if a model cannot be loaded.
        """
        known = self._known()
        for model in self.models:
            identity = json.dumps(
                [
                    fingerprint(model),
                    model.endswith(ENSEMBLE),
                    self.rules.name,
                    self.scorer.names,
                    list(self.seeds),
                    self.precision,
                    self.all_variants,
                ]
            )
            method: Method | None = None
            for sample in self.samples:
                key = "" if self.journal is None else _key(identity, sample)
                if key in known:
                    yield Record(model, known[key])
                    continue
                method = method or find_method(model, device=self.device, precision=self.precision)
                record = self._score(method, sample)
                if self.journal is not None:
                    self.journal.write("row", key=key, model=model, row=finite(record.row))
                yield record

    def _known(self) -> dict[str, dict[str, Any]]:
        # Sets are compared by features, and saved photos must be there: neither is in the journal.
        if self.journal is None or not self.journal.path.is_file() or self.scorer.inception or self.save:
            return {}
        rows = (record for record in read_journal(self.journal.path) if record["kind"] == "row")
        return {record["key"]: _infinite(record["row"]) for record in rows}

    def _score(self, method: Method, sample: Sample) -> Record:
        runs = [restore_sample(method, sample, seed) for seed in self.seeds]
        gt, results = runs[0].gt, [self.rules.quantise(run.restored) for run in runs]
        first, scores = results[0], [self.scorer.scores(result, gt) for result in results]
        if self.save is not None:
            write_photo(self.save / safe_name(method.name) / f"{sample.name}.png", Photo(first.float()))
        row: dict[str, Any] = {"name": sample.name}
        row |= {k: sum(s[k] for s in scores) / len(scores) for k in scores[0]}
        row |= {"seconds": sum(run.seconds for run in runs) / len(runs)}
        row |= {"peak_mib": max(run.peak_mib for run in runs)}
        if len(self.seeds) > 1:
            row["by_seed"] = {k: [s[k] for s in scores] for k in scores[0]}
        if self.all_variants:
            # Of the first seed: variants differ by far more than seeds do.
            row["variants"] = variant_scores(first, gt)
        if self.scorer.inception is None:
            return Record(method.name, row)
        return Record(method.name, row, (self.scorer.features(first), self.scorer.features(gt)))

    def summarise(self, records: Iterable[Record]) -> dict[str, Any]:
        """Collect records into the result that files hold."""
        rows: dict[str, list[dict[str, Any]]] = {model: [] for model in self.models}
        features: dict[str, list[tuple[Tensor, Tensor]]] = {model: [] for model in self.models}
        for record in records:
            rows[record.model].append(record.row)
            if record.features is not None:
                features[record.model].append(record.features)
        models = []
        for model in self.models:
            entry = {"model": model, "images": rows[model], **_statistics(rows[model])}
            if features[model]:
                ours, clean = (torch.stack(side) for side in zip(*features[model], strict=True))
                entry["mean"] = {"fid": frechet_distance(ours, clean), **entry["mean"]}
            if self.all_variants:
                columns = {k: [row["variants"][k] for row in rows[model]] for k in rows[model][0]["variants"]}
                entry["variants"] = {k: sum(values) / len(values) for k, values in columns.items()}
            if len(self.seeds) > 1:
                entry["seed_spread"] = seed_spread(rows[model])
            models.append({**entry, "sha256": fingerprint(model)})
        return {
            "schema": SCHEMA,
            "protocol": self.rules.name,
            "models": models,
            "missing": self.scorer.missing,
            "settings": self.settings,
        }


def evaluate(models: list[str], lq: Path, gt: Path, protocol: str, **options: Any) -> dict[str, Any]:
    """Score models on a folder of pairs; arguments and errors as `Evaluation`, the result as above."""
    run = Evaluation(models, lq, gt, protocol, **options)
    return run.summarise(run.records())


@dataclass(frozen=True)
class Restored:
    """A sample behind a model: all photos as float32 in [0, 1]."""

    lq: Float[Tensor, "3 h w"]
    restored: Float[Tensor, "3 H W"]
    gt: Float[Tensor, "3 H W"]
    seconds: float
    peak_mib: float


def restore_sample(method: Method, sample: Sample, seed: int) -> Restored:
    """Read a sample, restore it, keep what is outside the hole; the GT is cut to the result's size.

    Raises:
        DataError: if sizes do not match each other or the model.
    """
    lq, gt = as_float(read_rgb(sample.lq)), as_float(read_rgb(sample.gt))
    mask = None if sample.mask is None else read_mask(sample.mask)
    scale = _ratio(sample, lq, gt)
    _require_fit(method, sample, scale, lq, gt, mask)
    gt = gt[:, : lq.shape[1] * scale, : lq.shape[2] * scale]
    # LQ and GT are often one file here: what is in the hole is nobody's to see.
    seen = lq if mask is None else lq * (1 - mask)
    with PeakMemory(method.device) as memory:
        start = time.perf_counter()
        restored = method.restore(seen, mask, scale, seed)
        seconds = time.perf_counter() - start
    if mask is not None:
        restored = mask * restored + (1 - mask) * lq
    return Restored(lq, restored, gt, seconds, memory.mib)


def find_samples(rules: Protocol, lq: Path, gt: Path, masks: Path | None) -> list[Sample]:
    """Pair photos by name, and masks with them where the protocol has holes.

    Raises:
        DataError: naming the first photo without a partner or mask.
    """
    if not rules.needs_masks:
        if masks is not None:
            raise DataError(f"masks are given, but the {rules.name} protocol has no holes; leave --masks out")
        return [Sample(a.stem, a, b) for a, b in pair_photos(lq, gt)]
    if masks is None:
        raise DataError("the inpainting protocol needs masks; give --masks DIR (white = hole)")
    clean = {p.stem: p for p in find_photos(gt) if not _MASK.search(p.stem)}
    found = {_MASK.sub("", p.stem): p for p in find_photos(masks) if masks != lq or _MASK.search(p.stem)}
    samples = []
    for path in find_photos(lq):
        if _MASK.search(path.stem):
            continue
        if path.stem not in clean:
            raise DataError(f"{path.stem} is in {lq} but not in {gt}; pairs need the same name")
        if path.stem not in found:
            raise DataError(
                f"{path} has no mask in {masks}; expected {path.stem}.png or {path.stem}_mask000.png"
            )
        samples.append(Sample(path.stem, path, clean[path.stem], found[path.stem]))
    if not samples:
        raise DataError(f"{lq} has only masks; expected photos beside them")
    return samples


_MASK = re.compile(r"_mask\d*$")


def _ratio(sample: Sample, lq: Tensor, gt: Tensor) -> int:
    """Return GT size over LQ size; the GT may have up to scale − 1 pixels more, which the tables cut off."""
    (height, width), (gt_height, gt_width) = lq.shape[1:], gt.shape[1:]
    scale = gt_height // height
    if scale < 1 or gt_height // scale != height or gt_width // scale != width:
        raise DataError(
            f"{sample.lq} is {_size(lq)} and {sample.gt} {_size(gt)}; "
            "expected a GT that is 1, 2, 3, 4 … times as large in both directions"
        )
    return scale


def _require_fit(
    method: Method, sample: Sample, scale: int, lq: Tensor, gt: Tensor, mask: Tensor | None
) -> None:
    if method.scale not in (None, scale):
        raise DataError(
            f"{method.name} enlarges ×{method.scale}, but {sample.gt} ({_size(gt)}) is ×{scale} of "
            f"{sample.lq} ({_size(lq)}); give the ×{method.scale} pairs or another model"
        )
    if mask is not None and mask.shape[1:] != lq.shape[1:]:
        raise DataError(f"{sample.mask} is {_size(mask)} and {sample.lq} {_size(lq)}; expected one size")
    if method.fills not in (None, mask is not None):
        raise DataError(
            f"{method.name} {'fills holes' if method.fills else 'fills no holes'}; "
            "the inpainting protocol and methods that fill holes belong together"
        )


def _size(photo: Tensor) -> str:
    return f"{photo.shape[-1]}×{photo.shape[-2]}"


def _key(identity: str, sample: Sample) -> str:
    """Return a digest of everything a row depends on."""
    digest = hashlib.sha256(identity.encode() + sample.name.encode())
    for path in (sample.lq, sample.gt, *([] if sample.mask is None else [sample.mask])):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def safe_name(model: str) -> str:
    """Return a model's name as a folder name."""
    return re.sub(r"[^\w.+-]+", "_", Path(model).name if "/" in model else model)


def _statistics(rows: list[dict[str, Any]]) -> dict[str, Any]:
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
            "largest_on_one_photo": float((values.amax(1) - values.amin(1)).nan_to_num(0).max()),
        }
    return result


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


def _infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _infinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_infinite(item) for item in value]
    return math.inf if value is None else value


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as `.json`, `.csv` (rows per photo) or `.md` (the table), by suffix; atomically.

    Raises:
        ConfigError: for another suffix.
    """
    check_result_path(path)
    with atomic_path(path) as part:
        part.write_text(_WRITERS[path.suffix](finite(result)), encoding="utf-8")


def check_result_path(path: Path) -> None:
    """Raise ConfigError unless the suffix names a form of result: before hours of work, not behind them."""
    if path.suffix not in _WRITERS:
        raise ConfigError(f"{path} has no known suffix; expected one of {', '.join(_WRITERS)}")


def _as_json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2) + "\n"


_WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    ".json": _as_json,
    ".csv": as_csv,
    ".md": as_markdown,
}


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file back; DataError if it is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["schema"] == SCHEMA and result["models"] and "protocol" in result:
            return dict(result)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path} is no result of `dirformer evaluate --json`; expected schema {SCHEMA}")
