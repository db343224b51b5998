"""A few steps of a recipe, timed and thrown away: how long a step takes, and how many fit into a time."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirformer.ground.errors import ConfigError
from dirformer.ground.journal import Pace, Report, Waiting
from dirformer.ground.memory import PeakMemory
from dirformer.training.config import MOST_STEPS, TrainConfig
from dirformer.training.devices import together
from dirformer.training.samples import Samples
from dirformer.training.state import stored_run
from dirformer.training.step import Step

TRIAL_STEPS = 10


@dataclass(frozen=True)
class Trial:
    """What a few steps showed."""

    seconds: float
    """Seconds of a step."""
    data_wait: float
    """Share of the time in which the device waited for data, 0 to 1."""
    memory_mib: float
    """Peak memory in MiB: of tensors on CUDA, else of the process."""


def try_out(config: TrainConfig, fabric: Any, steps: int = TRIAL_STEPS) -> Trial:
    """Time a few steps of a recipe; nothing of them stays.

    Two steps before them are not timed: in these, memory is allocated.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = config.model_copy(update={"out": Path(folder), "steps": steps + 2, "log": ()})
        with PeakMemory(fabric.device) as memory:
            samples = Samples(trial)
            fabric.seed_everything(trial.seed, verbose=False)
            step = Step(trial, fabric)
            batches = Waiting(samples.stream(0, fabric.global_rank, fabric.world_size))
            for number, raw in enumerate(batches):
                if number == 2:
                    pace = Pace(2, steps + 2)
                    batches.reset()
                step(samples.prepare(raw, number, fabric.device))
            seconds, waiting = pace.seconds_per_step(steps + 2), batches.share()
    return Trial(seconds, waiting, memory.mib)


def steps_in(config: TrainConfig, minutes: float, report: Report, fabric: Any) -> TrainConfig:
    """Return the recipe with as many steps as this machine makes in `minutes`.

    A run that has begun keeps its number. Otherwise a few steps are timed.

    Raises:
        ConfigError: if that is no number of minutes, or more steps than a recipe may have.
    """
    if not 0 < minutes < math.inf:
        raise ConfigError(f"minutes is {minutes:g}; expected a number above 0, such as 30")
    stored = together(fabric, lambda: stored_run(config))
    if stored is not None:
        return config.model_copy(update={"steps": stored.recipe.steps})
    seconds = try_out(config, fabric).seconds
    steps = max(1, round(minutes * 60 / seconds))
    if fabric.world_size > 1:
        steps = fabric.broadcast(steps)
    if steps > MOST_STEPS:
        raise ConfigError(
            f"{minutes:g} minutes are {steps:,} steps; a recipe has up to {MOST_STEPS:,}: give fewer minutes"
        )
    report(f"{seconds:.2f} s a step: {steps} steps in {minutes:g} minutes")
    return config.changed(steps=steps)
