"""Metrics opened for a protocol: photos in, numbers out."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import MissingExtraError
from dirformer.kernels.precision import float32_products
from dirformer.metrics.metric import Metric
from dirformer.metrics.perceptual import Inception, MissingWeightsError, inception
from dirformer.metrics.protocols import Protocol
from dirformer.metrics.psnr_ssim import rgb_to_y
from dirformer.metrics.table import find_metric

CPU = torch.device("cpu")
Pairwise = Callable[[Tensor, Tensor], float]
"""(result, GT) → score; both 8-bit values as float64 in [0, 1], `3 h w`."""


@dataclass
class Luma:
    """Y of the pair at hand, computed once for all metrics that ask for it."""

    pair: tuple[Tensor, Tensor] | None = None
    luma: tuple[Tensor, Tensor] | None = None

    def of(self, result: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Return Y of both."""
        if self.luma is None or self.pair is None or self.pair[0] is not result or self.pair[1] is not gt:
            self.pair, self.luma = (result, gt), (rgb_to_y(result), rgb_to_y(gt))
        return self.luma


@dataclass
class Scorer:
    """The metrics of a protocol, opened: what a table can be filled with here."""

    rules: Protocol
    device: torch.device = CPU
    """Where networks compute."""
    pairwise: dict[str, Pairwise] = field(default_factory=dict)
    inception: Inception | None = None
    """For FID, if it is asked for and its weights are there."""
    missing: list[str] = field(default_factory=list)
    """One line for each metric that cannot be computed: which file to put where."""

    @property
    def names(self) -> list[str]:
        """Metrics that will be computed, columns of the table."""
        return [*self.pairwise, *(["fid"] if self.inception is not None else [])]

    def scores(self, result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> dict[str, float]:
        """Score a result (as `quantise` returns it) against its GT in [0, 1]; NaN if the result has NaN."""
        if not bool(result.isfinite().all()):  # some metrics would fail on it, none can mean anything
            return dict.fromkeys(self.pairwise, math.nan)
        # The GT came from 8 bits through float32: back to exact values, so that equal photos are equal.
        gt = gt.to(torch.float64, copy=True).mul_(255).round_().div_(255)
        with float32_products(self.device):
            return {name: score(result, gt) for name, score in self.pairwise.items()}

    def features(self, photo: Float[Tensor, "3 h w"]) -> Float[Tensor, "n"]:
        """Return FID's features of a photo in [0, 1], as it would be saved."""
        assert self.inception is not None
        with float32_products(self.device):
            return self.inception(quantise(photo, self.rules)).cpu()


def open_scorer(
    rules: Protocol,
    extra: tuple[str, ...] = (),
    *,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
) -> Scorer:
    """Open the metrics of a protocol and `extra` ones; what lacks its weights is noted and left out.

    Raises:
        ConfigError: if there is no metric of that name.
        CheckpointError: if a weight file is not the published one.
    """
    scorer, luma = Scorer(rules, torch.device(device)), Luma()
    for name in dict.fromkeys((*rules.metrics, *extra)):
        metric = find_metric(name)
        try:
            if metric.needs == "sets":
                scorer.inception = inception(weights, device)
            else:
                scorer.pairwise[name] = _opened(metric, rules.border, luma, weights, str(device))
        except (MissingWeightsError, MissingExtraError) as error:
            scorer.missing.append(f"{name} is left out: {error}")
    return scorer


def _opened(metric: Metric, border: int, luma: Luma, weights: Path | None, device: str) -> Pairwise:
    score = _function(metric)
    if metric.takes == "weights":
        opened: Pairwise = score(weights, device)
        return opened
    if metric.takes == "result":
        of_result = score(weights)
        return lambda result, gt: of_result(result)  # noqa: ARG005
    if metric.takes == "luma":
        return lambda result, gt: score(*luma.of(result, gt), border)
    if metric.takes == "rgb":
        return lambda result, gt: score(result, gt, border)
    return score


def _function(metric: Metric) -> Callable[..., Any]:
    if callable(metric.score):
        return metric.score
    module, _, name = metric.score.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"dirformer.metrics.{module}"), name)
    return function


def quantise(restored: Float[Tensor, "3 h w"], rules: Protocol) -> Float[Tensor, "3 h w"]:
    """Return 8-bit values as float64 in [0, 1]: scores are those of the photo that would be saved."""
    values = restored.to(torch.float64, copy=True).clamp_(0, 1).mul_(255)
    # Truncation must not turn an exact value that went through float32 into the one below.
    return (values.round_() if rules.rounding == "round" else values.add_(1e-4).floor_()).div_(255)


def as_float(photo: Tensor) -> Float[Tensor, "3 h w"]:
    """8-bit photo → float32 in [0, 1], as the networks take it."""
    return photo.to(torch.float32) / 255
