"""`evaluate` as an order: rows of scores by workers, the table at the end, as without an engine."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirformer.evaluation.methods import RESULTS, Method, find_method, method_scale, shown_name
from dirformer.evaluation.request import check_request
from dirformer.evaluation.results import finite, infinite, safe_name
from dirformer.evaluation.run import Evaluation, Scoring
from dirformer.evaluation.run import Record as Row
from dirformer.evaluation.samples import Sample, pair_samples
from dirformer.fleet.order import Item, Made, Maker, Record, Staged
from dirformer.fleet.sets import SetOrder
from dirformer.fleet.weights import shown_weights, weights_here
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.places import Place, entries
from dirformer.inference.done import digest_of, digest_options
from dirformer.inference.options import AUTO
from dirformer.metrics.protocols import find_protocol
from dirformer.metrics.scorer import open_scorer


@dataclass(frozen=True)
class EvaluateOrder(SetOrder):
    """What holds for all photos that are scored. The sources are LQ and GT: folders, or lists.

    Records lie in `out`, and restored photos if `save` says so.
    """

    done = "scored"
    doing = "evaluating"

    models: tuple[str, ...] = ()
    protocol: str = ""
    masks: Place | None = None
    metrics: tuple[str, ...] = ()
    metric_weights: str | None = None
    all_variants: bool = False
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    precision: str = "float32"
    save: bool = False
    keeps: bool = True
    """Whether records are kept."""
    names: dict[str, str | None] = field(default_factory=dict)
    """`lq`, `gt`, `masks` and `save` as they were given, for the result."""

    def __post_init__(self) -> None:
        places = {"lq": self.sources[0], "gt": self.sources[1], "masks": self.masks}
        for name, place in places.items():
            self.names.setdefault(name, None if place is None else place.url)
        lq, gt, masks = (self.names[name] for name in places)
        options: dict[str, Any] = {"masks": masks, "metrics": self.metrics, "seeds": self.seeds}
        check_request(list(self.models), lq, str(gt), self.protocol, **options)
        if self.precision == AUTO:
            raise ConfigError(
                "precision is auto, but workers may have other devices, and one table has one precision; "
                "expected float32, tf32, bfloat16 or float16"
            )

    @property
    def recorded(self) -> bool:
        return self.keeps

    @cached_property
    def here(self) -> dict[str, str]:
        """The models as they were given, and as they are named on this machine."""
        return {model: weights_here(model) for model in self.models}

    @cached_property
    def evaluation(self) -> Evaluation:
        """What makes the table."""
        return Evaluation(
            list(self.here.values()),
            self.names["lq"],
            str(self.names["gt"]),
            self.protocol,
            masks=self.names["masks"],
            metrics=self.metrics,
            metric_weights=None if self.metric_weights is None else weights_here(self.metric_weights),
            all_variants=self.all_variants,
            seed=self.seed,
            seeds=self.seeds,
            device=self.device,
            precision=self.precision,
            save=self.names.get("save"),
            samples=[],
        )

    def scoring(self) -> Scoring:
        """Open the metrics, in a worker."""
        rules = find_protocol(self.protocol)
        weights = None if self.metric_weights is None else Path(weights_here(self.metric_weights))
        device = "cpu" if self.device == "auto" else self.device
        scorer = open_scorer(rules, self.metrics, weights=weights, device=device)
        return Scoring(rules, scorer, range(self.seed, self.seed + self.seeds), self.all_variants)

    def digest(self) -> str:
        # All else is in the versions of the items: a further model leaves the rows of others finished.
        return digest_options({"save": self.save})

    def maker(self) -> Maker:
        return _Scorer(self)

    def begin(self) -> None:
        super().begin()
        for model in self.here.values():
            method_scale(model)  # says what is no model
        assert self.items

    def found(self) -> list[Item]:
        lq, gt = self.sources
        samples = pair_samples(lq, gt, self.masks)
        sides: list[list[Place]] = [[one[1] for one in samples], [one[2] for one in samples]]
        if self.masks is not None:
            sides.append([one[3] for one in samples if one[3] is not None])
        files = list(zip(*(zip(side, entries(side), strict=True) for side in sides), strict=True))
        items, taken = [], set[str]()
        for model, here in self.here.items():
            # Finished results are files that may change: read again each time.
            identity = uuid.uuid4().hex if model.startswith(RESULTS) else self._identity(here)
            folder = safe_name(shown_name(here))
            folder += f"-{len(taken)}" * (folder in taken)
            taken.add(folder)
            for (name, *_), group in zip(samples, files, strict=True):
                urls = [place.url for place, _ in group]
                version = digest_of(identity.encode(), *(entry.version.encode() for _, entry in group))
                size = sum(entry.size for _, entry in group)
                items.append(Item(urls[0], folder, name, size, version, tuple(urls[1:]), model))
        return items

    def _identity(self, model: str) -> str:
        return self.evaluation.scoring.identity(model, self.precision)

    def end(self, told: Mapping[str, Record]) -> dict[str, Any]:
        """Return the result, as files hold it.

        Raises:
            ConfigError: if a worker had not the weights of all metrics.
            DataError: if rows of an earlier run are gone meanwhile.
        """
        scorer, rows = self.evaluation.scorer, list[Row]()
        for item, record in self.ended(told):
            row = infinite(record.values["row"])
            lacking = [name for name in scorer.pairwise if name not in row]
            features = record.values.get("features")
            if lacking or (scorer.inception is not None and features is None):
                raise ConfigError(
                    f"{record.photo} has no {', '.join(lacking) or 'fid'}: its worker had not the weights of "
                    "that metric; put them on all machines and run again"
                )
            pair = None if features is None else (_tensor(features[0]), _tensor(features[1]))
            rows.append(Row(self.here[item.what], row, pair))
        if len(rows) < len(self.items):
            raise DataError(f"{len(self.items) - len(rows)} of {len(self.items)} rows are gone; run again")
        result = self.evaluation.summarise(rows)
        for entry, (model, here) in zip(result["models"], self.here.items(), strict=True):
            entry["model"] = shown_name(shown_weights(model))
            if entry["sha256"] == here:  # the name of what has no weights
                entry["sha256"] = shown_weights(model)
        return result


class _Scorer(Maker):
    """Scores photos; metrics stay open, and one network."""

    def __init__(self, order: EvaluateOrder) -> None:
        self._order, self._scoring = order, order.scoring()
        self._method: tuple[str, Method] | None = None

    def read(self, staged: Staged) -> Sample:
        staged.fetch()
        lq, gt, *mask = staged.files
        return Sample(staged.item.output, lq, gt, mask[0] if mask else None)

    def work(self, staged: Staged, ready: Sample) -> Row:
        method = self._opened(staged.item.what)
        return self._scoring.score(method, ready, staged.out if self._order.save else None)

    def _opened(self, model: str) -> Method:
        if self._method is None or self._method[0] != model:
            order = self._order
            method = find_method(order.here[model], device=order.device, precision=order.precision)
            self._method = model, replace(method, name=shown_name(shown_weights(model)))
        return self._method[1]

    def write(self, staged: Staged, worked: Row, turn: Callable[[], None]) -> Made:
        turn()
        values: dict[str, Any] = {"row": finite(worked.row)}
        if worked.features is not None:
            values["features"] = [_text(side) for side in worked.features]
        return Made(model=shown_weights(staged.item.what), values=values)


def _text(features: Tensor) -> str:
    file = io.BytesIO()
    np.save(file, features.numpy())
    return base64.b64encode(file.getvalue()).decode()


def _tensor(text: str) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(base64.b64decode(text))))
