"""Learning rates at known steps."""

from __future__ import annotations

import pytest

from dirformer.training.config import TrainConfig
from dirformer.training.schedules import lr_of_run, scheduled_lr
from dirformer.training.sections import Optimiser


def test_rates_follow_their_schedules() -> None:
    """Constant, multi-step and cosine rates have their values at known steps; warm-up is linear."""

    constant = Optimiser(lr=1e-3, schedule="constant")
    assert scheduled_lr(99, 100, constant) == 1e-3
    steps = Optimiser(lr=2e-4, schedule="multistep", milestones=(500_000, 700_000))
    assert [scheduled_lr(s, 10**6, steps) for s in (0, 499_999, 500_000, 700_000)] == [
        2e-4,
        2e-4,
        1e-4,
        5e-5,
    ]
    cosine = Optimiser(lr=1.0, schedule="cosine", final_lr=0.0)
    assert scheduled_lr(50, 100, cosine) == pytest.approx(0.5)
    assert scheduled_lr(0, 100, cosine) == 1.0
    # The released deblurring stage 1: two cosines, the first of which rises.
    cycles = Optimiser(lr=2e-4, schedule="cycles", cycles=((92_000, 2.85e-4), (208_000, 1e-6)))
    rates = [scheduled_lr(s, 300_000, cycles) for s in (0, 46_000, 92_000, 196_000, 300_000)]
    assert rates == pytest.approx([2e-4, 2.425e-4, 2e-4, 1.005e-4, 1e-6])
    warm = Optimiser(lr=1.0, schedule="constant", warmup=4)
    assert [scheduled_lr(s, 100, warm) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(("rule", "factors"), [("none", (1, 1)), ("sqrt", (1, 0.5)), ("linear", (1, 0.25))])
def test_the_batch_rule_follows_the_batch_of_a_phase(rule: str, factors: tuple[float, float]) -> None:
    """A phase with a quarter of the first batch has 1, 1/2 or 1/4 of the learning rate."""
    values = {
        "name": "run",
        "stage": 1,
        "model": "sr-x4-compact",
        "data": {"patch": 16, "batch": 8, "progressive": [[10, 32, 2]]},
        "optimiser": {"lr": 1e-3, "schedule": "constant", "batch_rule": rule},
    }
    config = TrainConfig.model_validate(values)
    assert [lr_of_run(step, config) for step in (9, 10)] == pytest.approx([1e-3 * f for f in factors])
