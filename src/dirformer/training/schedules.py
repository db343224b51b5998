"""Learning rates as functions of the step: nothing to store, nothing to resume."""

from __future__ import annotations

import math

from dirformer.training.config import Optimiser


def learning_rate(step: int, steps: int, optimiser: Optimiser) -> float:
    """Return the rate of step `step` (from 0) in a run of `steps`."""
    rate = optimiser.rate
    if optimiser.schedule == "multistep":
        rate *= optimiser.gamma ** sum(step >= milestone for milestone in optimiser.milestones)
    elif optimiser.schedule == "cosine":
        low = optimiser.final_rate
        rate = low + (rate - low) * (1 + math.cos(math.pi * step / steps)) / 2
    if step < optimiser.warmup:
        rate *= (step + 1) / optimiser.warmup
    return rate
