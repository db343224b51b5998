"""What a metric is: name, title, digits, direction, needs, and how it is opened.

A new metric is one row in `metrics/table.py`: everything that prints, ranks or opens metrics reads that row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from dirformer.metrics.psnr_ssim import rgb_to_y

Pairwise = Callable[[Tensor, Tensor], float]
"""(result, GT) → score; both 8-bit values as float64 in [0, 1], `3 h w`."""
Needs = Literal["nothing", "extra", "weights", "sets", "measurement"]
"""`extra`: an optional package. `weights`: a published weight file. `sets`: two sets of photos, not a pair.
`measurement`: nothing to compute, the evaluation measures it (seconds, memory)."""


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


@dataclass(frozen=True)
class Setting:
    """What a metric is opened with."""

    border: int = 0
    """GT pixels cut off along each side, where the metric does so."""
    weights: Path | None = None
    """Folder of published weight files; None: the usual places."""
    device: str = "cpu"
    """Where learned metrics compute."""
    luma: Luma = field(default_factory=Luma)


@dataclass(frozen=True)
class Metric:
    """One score: a column of a table."""

    name: str
    """As on the command line and in files."""
    title: str
    """As in the head of a table."""
    open: Callable[[Setting], Pairwise] | None = None
    """Gives the function that scores a pair; None where no pair is scored (`sets`, `measurement`)."""
    digits: int = 4
    """Decimals in a table."""
    lower: bool = False
    """Whether a smaller value is better."""
    needs: Needs = "nothing"

    @property
    def head(self) -> str:
        """The head of its column: title and the direction that is better."""
        return f"{self.title} {'↓' if self.lower else '↑'}"

    @property
    def ranked(self) -> bool:
        """Whether tables mark the best: not time and memory, which an interpolation would always win."""
        return self.needs != "measurement"

    def text(self, value: float | None) -> str:
        """Return a value as tables print it; None and infinity are `inf`."""
        if value is None or value in (float("inf"), float("-inf")):
            return "inf"
        return f"{value:.{self.digits}f}"


def pixels(score: Callable[[Tensor, Tensor, int], float]) -> Callable[[Setting], Pairwise]:
    """Open a score of (result, GT, border) on RGB."""
    return lambda setting: lambda result, gt: score(result, gt, setting.border)


def on_luma(score: Callable[[Tensor, Tensor, int], float]) -> Callable[[Setting], Pairwise]:
    """Open a score of (result, GT, border) on Y of BT.601."""
    return lambda setting: lambda result, gt: score(*setting.luma.of(result, gt), setting.border)


def whole(score: Pairwise) -> Callable[[Setting], Pairwise]:
    """Open a score of whole photos."""
    return lambda _: score


def learned(factory: Callable[[Path | None, str], Pairwise]) -> Callable[[Setting], Pairwise]:
    """Open a score that reads weights from a folder and computes on a device."""
    return lambda setting: factory(setting.weights, setting.device)


def without_gt(factory: Callable[[Path | None], Callable[[Tensor], float]]) -> Callable[[Setting], Pairwise]:
    """Open a score of the result alone."""

    def opened(setting: Setting) -> Pairwise:
        score = factory(setting.weights)
        return lambda result, gt: score(result)  # noqa: ARG005

    return opened
