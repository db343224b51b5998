"""Equal phases of a pixel shuffle: a flat photo stays flat."""

from __future__ import annotations

import torch

from dirformer.training.phases import even_phases
from helpers import TINY_SR, tiny


def means_of_phases(photo: torch.Tensor, factor: int) -> torch.Tensor:
    """Mean of each of the factor² places in a grid, inside the photo, `3 factor²` in grey levels."""
    inner = photo[..., 48 * factor : -48 * factor, 48 * factor : -48 * factor]
    return torch.nn.functional.pixel_unshuffle(inner, factor)[0].mean((1, 2)).view(3, -1) * 255


def restored(value: float) -> torch.Tensor:
    model = tiny(TINY_SR)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.dirformer.tail.parameters():
            parameter.normal_(0, 0.1)
        flat, prior = torch.full((1, 3, 128, 128), value), torch.ones(1, TINY_SR.prior_dim)
        before = model.dirformer(flat, prior)
        even_phases(model.dirformer)
        after = model.dirformer(flat, prior)
    spread = [float((m.amax(1) - m.amin(1)).max()) for m in (means_of_phases(p, 4) for p in (before, after))]
    assert spread[0] > 1  # without it there is a grid
    return torch.tensor(spread[1])


def test_a_flat_photo_has_no_grid() -> None:
    """Black, grey and white: the 16 phase means differ by less than a hundredth of a level."""
    for value in (0.0, 0.5, 1.0):
        assert restored(value) < 0.01


def test_twice_is_once_and_colours_stay_apart() -> None:
    """The change is a projection; the mean over phases of each colour and input is what it was."""
    model = tiny(TINY_SR)
    conv = model.dirformer.tail[0]
    sums = conv.weight.sum((2, 3)).unflatten(0, (3, -1)).mean(1)
    even_phases(model.dirformer)
    once = conv.weight.clone()
    even_phases(model.dirformer)
    torch.testing.assert_close(conv.weight, once, rtol=0, atol=1e-7)
    torch.testing.assert_close(conv.weight.sum((2, 3)).unflatten(0, (3, -1)).mean(1), sums)
