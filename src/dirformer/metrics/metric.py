"""What a metric is: name, title, digits, direction, needs, and where its score is computed.

A new metric is one row in `metrics/table.py`: everything that prints, ranks or opens metrics reads that row.
Nothing here imports torch, so a wrong name is answered before torch is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Needs = Literal["nothing", "extra", "weights", "sets", "measurement"]
"""`extra`: an optional package. `weights`: a published weight file. `sets`: two sets of photos, not a pair.
`measurement`: nothing to compute, the evaluation measures it (seconds, memory)."""
Takes = Literal["rgb", "luma", "photos", "weights", "result", "none"]
"""How `score` is called:

`rgb`      score(result, gt, border) on RGB
`luma`     score(y_of_result, y_of_gt, border) on Y of BT.601
`photos`   score(result, gt) on whole photos
`weights`  score(folder, device) gives a function of (result, gt)
`result`   score(folder) gives a function of (result): no GT is needed
`none`     no pair is scored
"""


@dataclass(frozen=True)
class Metric:
    """One score: a column of a table."""

    name: str
    """As on the command line and in files."""
    title: str
    """As in the head of a table."""
    score: str | Callable[..., Any] = ""
    """The function, or its name `module:function` below `dirformer.metrics`, imported when it is opened."""
    takes: Takes = "rgb"
    """How the function is called."""
    digits: int = 4
    """Decimals in a table."""
    lower: bool = False
    """Whether a smaller value is better."""
    needs: Needs = "nothing"
    """What must be there for it."""

    @property
    def head(self) -> str:
        """The head of its column: title and the direction that is better."""
        return f"{self.title} {'↓' if self.lower else '↑'}"

    @property
    def ranked(self) -> bool:
        """Whether tables mark the best: not time and memory, which an interpolation would always win."""
        return self.needs != "measurement"

    def text(self, value: float | None) -> str:
        """Return a value as tables print it; None and infinity are `inf`, NaN is `nan`."""
        if value is None or value in (float("inf"), float("-inf")):
            return "inf"
        return f"{value:.{self.digits}f}"
