"""What people are shown of a hole: the network near its rim, the texture deep in it."""

import math

import pytest
import torch

from dirformer.holes.shown import mended


def parts(side: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a network saw (0.2 in its hole), what it made of that (0.8), and the photo (0.5)."""
    mask = torch.zeros(1, side, side)
    mask[:, 5:55, 4:56] = 1
    photo = torch.full((3, side, side), 0.5)
    return torch.cat([photo * (1 - mask) + 0.2 * mask, mask]), torch.full((3, side, side), 0.8), photo


def test_the_network_mends_the_rim_and_the_texture_stays_within() -> None:
    """The share of the network falls from 1 at the rim by exp(−(depth / 8)²) to nothing."""
    shown, restored, photo = parts()
    result = mended("exemplar", shown, restored, photo)
    for depth in (0, 1, 4, 8, 16, 24):
        share = math.exp(-((depth / 8) ** 2)) if depth < 22 else 0.0
        assert result[:, 5 + depth, 30].tolist() == pytest.approx([0.2 + 0.6 * share] * 3, abs=1e-6)
    assert torch.equal(result[:, :5], photo[:, :5])
    assert torch.equal(result[:, :, 56:], photo[:, :, 56:])


@pytest.mark.parametrize("fill", ["zero", "smooth"])
def test_other_fillings_are_replaced_whole(fill: str) -> None:
    """Where the network saw no texture, the hole is the network's."""
    shown, restored, photo = parts()
    result = mended(fill, shown, restored, photo)
    assert torch.equal(result, shown[3:] * 0.8 + (1 - shown[3:]) * photo)
