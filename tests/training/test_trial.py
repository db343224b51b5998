"""A few steps are timed, and a schedule is fitted to a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from dirformer.experiments.train import train
from dirformer.ground.errors import ConfigError
from dirformer.training import devices, trial
from helpers import (
    FABRIC_WARNINGS,
    photo_folder,
    quiet,
    tiny_recipe,
)

pytestmark = FABRIC_WARNINGS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


def test_a_schedule_is_fitted_to_the_time(photos: Path) -> None:
    """`minutes` sets the number of steps from a measured pace; a run that has begun keeps its number."""
    lines: list[str] = []
    config = tiny_recipe(photos)
    fabric = devices.open_fabric(config)
    fitted = trial.steps_in(config, 0.05, lines.append, fabric)
    assert fitted.steps >= 1 and lines[-1].endswith(f"{fitted.steps} steps in 0.05 minutes")
    assert not fitted.folder.exists()
    train(tiny_recipe(photos), quiet)
    assert trial.steps_in(config, 60.0, quiet, fabric).steps == 6


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), 1e9, 0.0])
def test_times_that_are_none_are_one_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, minutes: float
) -> None:
    """No run of a length that a recipe could not have."""
    monkeypatch.setattr(trial, "try_out", lambda *_: trial.Trial(0.01, 0.0, 1.0))
    config = tiny_recipe(photos)
    with pytest.raises(ConfigError, match=r"minutes is|a recipe has up to 1,000,000,000: give fewer"):
        trial.steps_in(config, minutes, quiet, devices.open_fabric(config))
