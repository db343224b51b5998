"""Models × photos → scores.

`Evaluation` checks everything that can be checked before the first network is loaded, `records` yields one
record per model and photo, `summarise` makes the result (`results.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirformer import __version__
from dirformer.evaluation import mild
from dirformer.evaluation.methods import (
    ENSEMBLE,
    RESULTS,
    Method,
    find_method,
    fingerprint,
    method_scale,
    shown_name,
)
from dirformer.evaluation.request import check_request
from dirformer.evaluation.results import (
    SCHEMA,
    finite,
    infinite,
    not_finite,
    safe_name,
    seed_spread,
    statistics,
)
from dirformer.evaluation.samples import Sample, find_samples, restore_sample
from dirformer.ground.device import choose_device
from dirformer.ground.journal import Journal, read_journal
from dirformer.ground.photo import Photo, write_photo
from dirformer.ground.places import shown
from dirformer.inference.options import AUTO
from dirformer.kernels.precision import choose_precision
from dirformer.metrics.perceptual import frechet_distance
from dirformer.metrics.protocols import Protocol
from dirformer.metrics.scorer import Scorer, open_scorer, quantise
from dirformer.metrics.variants import variant_scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One photo, scored."""

    model: str
    row: dict[str, Any]
    """`name`, one number per metric, `seconds` and `peak_mib` of restoring."""
    features: tuple[Tensor, Tensor] | None = None
    """FID's features of result and GT, where FID is computed."""


@dataclass(frozen=True)
class Scoring:
    """How a method is scored on a sample."""

    rules: Protocol
    scorer: Scorer
    seeds: range
    """Starts of the diffusion, over which scores are averaged."""
    all_variants: bool = False
    """Whether every variant of `variants.VARIANTS` is scored, too."""

    def score(self, method: Method, sample: Sample, save: Path | None = None) -> Record:
        """Restore a sample and score it; its result is kept as SAVE/METHOD/NAME.png if asked.

        Raises:
            DataError: if sizes do not match.
        """
        runs = [restore_sample(method, sample, seed) for seed in self.seeds]
        gt, results = runs[0].gt, [quantise(run.restored, self.rules) for run in runs]
        first, scores = results[0], [self.scorer.scores(result, gt) for result in results]
        if save is not None:
            photo = Photo(first.float().nan_to_num(0))  # 8 bits have no NaN; the scores say so
            write_photo(save / safe_name(method.name) / f"{sample.name}.png", photo)
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

    def identity(self, model: str, precision: str) -> str:
        """Return what a model's rows depend on beside the photos, as text."""
        of_model = [fingerprint(model), model.endswith(ENSEMBLE)]
        of_scores = [self.rules.name, self.scorer.names, list(self.seeds), precision, self.all_variants]
        return json.dumps([*of_model, *of_scores])


class Evaluation:
    """Models, photos and a protocol, checked; `records` does the work.

    Args:
        models: see `methods.find_method`.
        lq: folder (or list) of degraded photos (None where the protocol
            makes them); in inpainting, of the photos to cut holes into.
        gt: folder (or list) of clean photos of the same names.
        protocol: a name of `protocols.PROTOCOLS`.
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
        samples: the pairs themselves, where folders and names do not tell; None finds them. With them lq, gt,
            masks and save may be addresses.

    Raises:
        DataError: if names do not match, masks are missing, or a folder is empty.
        ConfigError: for names that do not exist.
    """

    def __init__(
        self,
        models: str | Path | Sequence[str | Path],
        lq: str | Path | None,
        gt: str | Path,
        protocol: str,
        *,
        masks: str | Path | None = None,
        metrics: tuple[str, ...] = (),
        seed: int = 0,
        seeds: int = 1,
        device: str = "auto",
        precision: str = "float32",
        save: str | Path | None = None,
        journal: Path | None = None,
        metric_weights: str | Path | None = None,
        all_variants: bool = False,
        samples: list[Sample] | None = None,
    ) -> None:
        names = [models] if isinstance(models, str | Path) else models
        self.models = list(dict.fromkeys(str(name) for name in names))
        rules = check_request(self.models, lq, gt, protocol, masks=masks, metrics=metrics, seeds=seeds)
        if precision == AUTO:
            precision = choose_precision(AUTO, choose_device(device))
        self.device, self.precision = device, precision
        self.save = None if save is None else Path(save)
        if samples is not None:
            self.samples = samples
        elif lq is None:
            self.samples, rules = self._made(Path(gt), rules)
        else:
            self.samples = find_samples(Path(lq), Path(gt), None if masks is None else Path(masks))
        scorer = open_scorer(
            rules,
            metrics,
            weights=None if metric_weights is None else Path(metric_weights),
            device="cpu" if device == "auto" else device,
        )
        self.scoring = Scoring(rules, scorer, range(seed, seed + seeds), all_variants)
        self.journal = None if journal is None else Journal(journal)
        self.settings = {
            "lq": _named(lq),
            "gt": _named(gt),
            "masks": _named(masks),
            "definition": rules.sentence,
            "border": rules.border,
            "rounding": rules.rounding,
            "seeds": list(self.scoring.seeds),
            "precision": precision,
            "version": __version__,
            "torch": torch.__version__,
            "save": _named(save),
        }

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return self.scoring.rules

    @property
    def scorer(self) -> Scorer:
        """Its metrics, opened."""
        return self.scoring.scorer

    def _made(self, photos: Path, rules: Protocol) -> tuple[list[Sample], Protocol]:
        """Make the degraded photos of the protocol; they are gone with this object."""
        scale = mild.common_scale({name: method_scale(name) for name in self.models})
        baseline = "input" if scale == 1 else "bicubic"
        self.models = [baseline, *(name for name in self.models if name != baseline)]
        folder = Path(tempfile.mkdtemp(prefix="dirformer-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return mild.make_samples(photos, folder, scale), mild.rules_at(rules, scale)

    def __len__(self) -> int:
        return len(self.models) * len(self.samples)

    def records(self) -> Iterator[Record]:
        """Restore and score photo by photo, model after model; rows of the journal are not computed again.

        Raises:
            DataError: if sizes do not match; CheckpointError if a model cannot be loaded.
        """
        known = self._known()
        for model in self.models:
            identity = self.scoring.identity(model, self.precision)
            method: Method | None = None
            for sample in self.samples:
                key = "" if self.journal is None else _key(identity, sample)
                # Finished results are files that may change; reading them again costs nothing.
                if key in known and not model.startswith(RESULTS):
                    yield Record(model, known[key])
                    continue
                method = method or find_method(model, device=self.device, precision=self.precision)
                record = replace(self.scoring.score(method, sample, self.save), model=model)
                if self.journal is not None:
                    self.journal.write("row", key=key, model=model, row=finite(record.row))
                yield record

    def _known(self) -> dict[str, dict[str, Any]]:
        # Sets are compared by features, and saved photos must be there: neither is in the journal.
        if self.journal is None or not self.journal.path.is_file() or self.scorer.inception or self.save:
            return {}
        rows = (r for r in read_journal(self.journal.path, log.warning) if r.get("kind") == "row")
        # A record that lacks a part is scored again, like one that was torn.
        return {r["key"]: infinite(r["row"]) for r in rows if "key" in r and isinstance(r.get("row"), dict)}

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
            entry = {"model": shown_name(model), "images": rows[model], **statistics(rows[model])}
            if features[model]:
                ours, clean = (torch.stack(side) for side in zip(*features[model], strict=True))
                entry["mean"] = {"fid": frechet_distance(ours, clean), **entry["mean"]}
            if self.scoring.all_variants:
                columns = {k: [row["variants"][k] for row in rows[model]] for k in rows[model][0]["variants"]}
                entry["variants"] = {k: sum(values) / len(values) for k, values in columns.items()}
            if len(self.scoring.seeds) > 1:
                entry["seed_spread"] = seed_spread(rows[model])
            models.append({**entry, "sha256": fingerprint(model)})
        result = {
            "schema": SCHEMA,
            "protocol": self.rules.name,
            "models": models,
            "missing": [*self.scorer.missing, *not_finite(models)],
            "settings": self.settings,
        }
        return result | ({"groups": mild.groups(result)} if self.rules.makes_lq else {})


def evaluate(
    models: str | Path | Sequence[str | Path],
    lq: str | Path | None,
    gt: str | Path,
    protocol: str,
    **options: Any,
) -> dict[str, Any]:
    """Score models on a folder of pairs.

    Args:
        models: one or several, see `methods.find_method`.
        lq: folder of degraded photos; None where the protocol makes them (`mild`).
        gt: folder of clean photos of the same names.
        protocol: a name of `protocols.PROTOCOLS`.
        options: further arguments of `Evaluation`.

    Returns:
        The result as files hold it (above).

    Raises:
        DirformerError: as `Evaluation`.
    """
    run = Evaluation(models, lq, gt, protocol, **options)
    return run.summarise(run.records())


def _named(place: str | Path | None) -> str | None:
    return None if place is None else shown(str(place))


def _key(identity: str, sample: Sample) -> str:
    """Return a digest of everything a row depends on."""
    digest = hashlib.sha256(identity.encode() + sample.name.encode())
    for path in (sample.lq, sample.gt, *([] if sample.mask is None else [sample.mask])):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
