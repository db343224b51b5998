"""The exponential moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from dirformer.training.ema import Ema
from helpers import tiny


@pytest.mark.parametrize(("step", "kept"), [(1, 2 / 11), (40, 41 / 50), (10**6, 0.999)])
def test_the_memory_grows_to_its_full_length(step: int, kept: float) -> None:
    """After step n the old average keeps (1 + n) / (10 + n) of itself, at most the decay of the recipe."""
    network = tiny(stage=1)
    ema = Ema(network, 0.999)
    before = [p.clone() for p in ema.network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    ema.update(network, step)
    for old, new in zip(before, ema.network.parameters(), strict=True):
        torch.testing.assert_close(new, old + 1 - kept, rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in ema.network.parameters())


def test_without_decay_the_weights_themselves_are_kept() -> None:
    """`ema: 0` is no average."""
    network = tiny(stage=1)
    ema = Ema(network, 0.0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    ema.update(network, 100)
    for old, new in zip(network.parameters(), ema.network.parameters(), strict=True):
        torch.testing.assert_close(old, new)
