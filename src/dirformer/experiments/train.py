"""`dirformer.train`: a training with its validation."""

from __future__ import annotations

from pathlib import Path

from dirformer.experiments.validation import Validation, require_validation
from dirformer.ground.journal import Report
from dirformer.networks.diffir import DiffIR
from dirformer.training import loop
from dirformer.training.config import TrainConfig
from dirformer.training.devices import open_fabric, together


def train(config: TrainConfig, report: Report = print, minutes: float | None = None) -> Path:
    """Run a recipe and validate as it says; return the file of its last weights.

    Args:
        config: the recipe.
        report: takes a line for people now and then.
        minutes: fit the schedule to this time instead of the recipe's steps.

    Raises:
        ConfigError, DataError: also for validation photos that do not fit, before the first step.
        CheckpointError, TrainingError, OutputError, KeyboardInterrupt: as `training.loop.train`.
    """
    if config.data.val is None:
        return loop.train(config, None, report, minutes)
    require_validation(config)
    fabric = open_fabric(config)
    validation = together(fabric, lambda: Validation(config, fabric))

    def validate(network: DiffIR, step: int) -> dict[str, float]:
        return validation(network, config.folder / "previews" / f"step-{step}.jpg")

    return loop.train(config, validate, report, minutes, fabric)
