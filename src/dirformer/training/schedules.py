"""Learning rates as functions of the step: nothing to store, nothing to resume."""

from __future__ import annotations

import math

from dirformer.training.config import Optimiser, TrainConfig


def rate_of_run(step: int, config: TrainConfig) -> float:
    """Return the rate of a run's step: the warm-up's rule, then the schedule over the steps that remain."""
    warmup = config.warmup
    if step < warmup.steps:
        return warmup.rate * warmup.gamma ** (step // warmup.every)
    rate = learning_rate(step - warmup.steps, config.steps - warmup.steps, config.optimiser)
    return rate * _batch_factor(step, config)


def _batch_factor(step: int, config: TrainConfig) -> float:
    """Return what `optimiser.batch_rule` makes of the batch of a step against the first step's."""
    share = config.data.stage_at(step)[2] / config.data.batch
    return {"none": 1.0, "sqrt": math.sqrt(share), "linear": share}[config.optimiser.batch_rule]


def learning_rate(step: int, steps: int, optimiser: Optimiser) -> float:
    """Return the rate of step `step` (from 0) in a schedule over `steps`."""
    rate = optimiser.rate
    if optimiser.schedule == "multistep":
        rate *= optimiser.gamma ** sum(step >= milestone for milestone in optimiser.milestones)
    elif optimiser.schedule == "cosine":
        rate = _cosine(step / steps, rate, optimiser.final_rate)
    elif optimiser.schedule == "cycles":
        rate = _cycles(step, optimiser)
    if step < optimiser.warmup:
        rate *= (step + 1) / optimiser.warmup
    return rate


def _cosine(share: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _cycles(step: int, optimiser: Optimiser) -> float:
    for steps, final_rate in optimiser.cycles:
        if step < steps:
            return _cosine(step / steps, optimiser.rate, final_rate)
        step -= steps
    return optimiser.cycles[-1][1]  # behind the last cycle its final rate stays
