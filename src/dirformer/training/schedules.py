"""Learning rates as functions of the step: nothing to store, nothing to resume."""

from __future__ import annotations

import math

from dirformer.training.config import TrainConfig
from dirformer.training.sections import Optimiser


def lr_of_run(step: int, config: TrainConfig) -> float:
    """Return the network's learning rate at a step: the warm-up's first, then the schedule's."""
    warmup = config.warmup
    if step < warmup.steps:
        return warmup.lr * warmup.gamma ** (step // warmup.every)
    lr = scheduled_lr(step - warmup.steps, config.steps - warmup.steps, config.optimiser)
    return lr * _batch_factor(step, config)


def _batch_factor(step: int, config: TrainConfig) -> float:
    """Return the factor of `optimiser.batch_rule`, from the step's batch over the first batch."""
    share = config.data.phase_at(step)[2] / config.data.batch
    return {"none": 1.0, "sqrt": math.sqrt(share), "linear": share}[config.optimiser.batch_rule]


def scheduled_lr(step: int, steps: int, optimiser: Optimiser) -> float:
    """Return the learning rate of step `step` (from 0) in a schedule over `steps`."""
    lr = optimiser.lr
    if optimiser.schedule == "multistep":
        for milestone in optimiser.milestones:
            lr *= optimiser.gamma if step >= milestone else 1  # a power would fail where this is infinite
    elif optimiser.schedule == "cosine":
        lr = _cosine(step / steps, lr, optimiser.final_lr)
    elif optimiser.schedule == "cycles":
        lr = _cycles(step, optimiser)
    if step < optimiser.warmup:
        lr *= (step + 1) / optimiser.warmup
    return lr


def _cosine(share: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _cycles(step: int, optimiser: Optimiser) -> float:
    for steps, final_lr in optimiser.cycles:
        if step < steps:
            return _cosine(step / steps, optimiser.lr, final_lr)
        step -= steps
    return optimiser.cycles[-1][1]  # after the last cycle its final lr stays
