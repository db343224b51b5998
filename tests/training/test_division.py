"""A run keeps the batch of a step when the number of its devices changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dirformer.ground.errors import ConfigError
from dirformer.training.config import TrainConfig
from dirformer.training.division import Stored, batches, divided, what_changes
from helpers import tiny_recipe


def recipe(**fields: Any) -> TrainConfig:
    return tiny_recipe(Path("photos"), **fields)


def stored(config: TrainConfig, world: int, step: int = 10) -> Stored:
    return Stored(config, step, world, batches(config, world))


@pytest.mark.parametrize(
    ("batch", "accumulate", "before", "after", "expected"),
    [
        (4, 1, 2, 1, (4, 2)),  # a pass stays what fits into a device
        (4, 1, 1, 2, (2, 1)),
        (4, 2, 2, 4, (4, 1)),
        (4, 2, 1, 2, (4, 1)),
        (3, 1, 2, 3, (2, 1)),
        (6, 1, 2, 3, (4, 1)),
        (6, 1, 3, 2, (3, 3)),
        (8, 1, 8, 3, None),
        (1, 1, 1, 2, None),
    ],
)
def test_the_batch_of_a_step_stays(
    batch: int, accumulate: int, before: int, after: int, expected: tuple[int, int] | None
) -> None:
    """Batch and passes of the new devices make as many samples; where they cannot, one line says so."""
    config = recipe(data={"batch": batch}, accumulate=accumulate)
    run = stored(config, before)
    if expected is None:
        with pytest.raises(
            ConfigError, match=rf"{batch * before} samples a step, which {after} devices"
        ) as e:
            divided(config, run, after)
        able = [n for n in range(1, batch * before + 1) if batch * before % n == 0]
        assert str(e.value).endswith(f"expected devices in all: {', '.join(map(str, able))}")
        return
    ours = divided(config, run, after)
    assert (ours.data.batch, ours.accumulate) == expected
    assert batches(ours, after) == run.batches and ours.data.batch <= batch


def test_phases_and_pools_are_shared_too() -> None:
    """Every phase of a progressive schedule keeps its batch, and all devices together their pool."""
    pooled = recipe(data={"batch": 8, "pool": 24})
    ours = divided(pooled, stored(pooled, 1), 2)
    assert (ours.data.batch, ours.accumulate, ours.data.pool) == (4, 1, 12)
    ours = divided(pooled, stored(pooled, 2), 1)
    assert (ours.data.batch, ours.accumulate, ours.data.pool) == (8, 2, 48)
    config = recipe(data={"batch": 8, "progressive": ((5, 32, 4), (90, 48, 2))})
    ours = divided(config, stored(config, 1), 2)
    assert ours.data.phases == [(0, 16, 4), (5, 32, 2), (90, 48, 1)] and ours.accumulate == 1
    ours = divided(config, stored(config, 2), 1)
    assert ours.data.phases == config.data.phases and ours.accumulate == 2
    with pytest.raises(ConfigError, match=r"8, 4 samples a step, which 4 devices .*: 1, 2$"):
        divided(config, stored(config, 1), 4)


def test_a_recipe_that_makes_the_batch_is_taken_as_it_is() -> None:
    """Whoever divides the batch by hand is not corrected, and may do so again and again."""
    run = stored(recipe(data={"batch": 4}), 2)
    for batch, accumulate, world in ((4, 2, 1), (2, 4, 1), (8, 1, 1), (1, 2, 4)):
        config = recipe(data={"batch": batch}, accumulate=accumulate)
        assert divided(config, run, world) is config
    # The state of an adapted run holds the recipe as it was given.
    config = recipe(data={"batch": 4})
    again = Stored(config, 12, 1, [(0, 8)])
    assert divided(config, again, 1).accumulate == 2
    assert divided(config, again, 2) is config


def test_smaller_passes_keep_the_batch() -> None:
    """`data.batch` of a run on its way may be lowered where memory is short: a step has more passes."""
    run = stored(recipe(data={"batch": 4}), 2)
    ours = divided(recipe(data={"batch": 2}), run, 2)
    assert (ours.data.batch, ours.accumulate) == (2, 2)
    line = what_changes(ours, run, 2)
    assert line is not None and line.startswith(
        "going on with 2 devices, data.batch=2 accumulate=2: the run's 8"
    )


@pytest.mark.parametrize(
    "fields",
    [{"accumulate": 3}, {"data": {"batch": 4, "progressive": ((5, 32, 1),)}}],
    ids=["passes", "phases"],
)
def test_other_batches_are_refused(fields: dict[str, Any]) -> None:
    """Another batch of a step makes another run: one line names what makes it."""
    run = stored(recipe(data={"batch": 4}), 2)
    with pytest.raises(
        ConfigError, match=r"holds a run of 8 samples a step; data.batch, accumulate and"
    ) as e:
        divided(recipe(**{"data": {"batch": 4}} | fields), run, 2)
    assert "\n" not in str(e.value)


def test_a_phase_to_come_may_change() -> None:
    """What no step has seen yet is the recipe's."""
    run = stored(recipe(data={"batch": 4}), 2)
    config = recipe(data={"batch": 4, "progressive": ((10, 32, 2),)})
    assert divided(config, run, 2) is config
    assert divided(config, run, 1).data.phases == [(0, 16, 4), (10, 32, 2)]


def test_what_changes_is_said() -> None:
    """Nothing for as many devices; else what differs: rounding, and draws and norms by device."""
    config = recipe(data={"batch": 4})
    assert what_changes(config, stored(config, 2), 2) is None
    assert what_changes(divided(config, stored(config, 2), 1), stored(config, 2), 1) == (
        "going on with 1 device instead of 2, data.batch=4 accumulate=2: the run's 8 samples a step; "
        "sums are rounded in another order"
    )
    for fields, words in (
        (
            {"data": {"degradation": "realsr-released", "crop": 96, "pool": 8}},
            "draws once .* pairs are dealt out",
        ),
        ({"loss": {"adversarial": 0.1, "discriminator": "patch"}}, "batch norm"),
        (
            {"loss": {"adversarial": 0.1, "adversarial_kind": "relativistic"}},
            "spectral norms .* relativistic",
        ),
    ):
        config = recipe(**fields)
        line = what_changes(config, stored(config, 2), 1)

        assert line is not None and re.search(words, line)
