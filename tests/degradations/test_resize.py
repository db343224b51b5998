"""MATLAB's bicubic resize, to the last digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dirformer.degradations.resize import cubic, resize_bicubic, resize_matrix
from dirformer.degradations.simple import Bicubic
from dirformer.degradations.table import degradation
from dirformer.ground.errors import ConfigError
from dirformer.ground.photo import read_rgb

SCALES = {"x1_2": 0.5, "x1_3": 1 / 3, "x1_4": 0.25, "x2": 2.0, "x4": 4.0}


def test_agrees_with_the_golden_resize(shared: Path) -> None:
    """All golden photos and factors, odd sizes among them, agree to 1e-6."""
    golden = np.load(shared / "reference" / "image_ops.npz")
    compared = 0
    for key in golden.files:
        parts = key.split("/")
        if parts[0] != "imresize" or parts[-1] != "basicsr":
            continue
        name, scale = parts[1], SCALES[parts[2]]
        x = torch.from_numpy(golden[f"imresize/{name}/input_u8"] / 255.0)
        x = x.permute(2, 0, 1) if x.ndim == 3 else x
        expected = torch.from_numpy(golden[key]).double()
        expected = expected.permute(2, 0, 1) if expected.ndim == 3 else expected
        assert (resize_bicubic(x, scale) - expected).abs().max() < 1e-6, key
        compared += 1
    assert compared >= 5


def test_reduction_by_two_is_the_widened_cubic() -> None:
    """Away from the borders, each weight is the cubic of half the distance, over their sum."""
    row = resize_matrix(40, 0.5)[10]
    centre = 2 * (10 + 1) - 0.5  # of output pixel 11, counted from 1, in input pixels
    distance = torch.arange(1, 41, dtype=torch.float64) - centre
    weights = cubic(distance / 2)
    torch.testing.assert_close(row, weights / weights.sum(), rtol=0, atol=1e-12)
    assert row.count_nonzero() == 8


@given(size=st.integers(3, 40), scale=st.sampled_from([0.25, 1 / 3, 0.5, 2.0, 3.0, 4.0]))
def test_a_flat_photo_stays_flat(size: int, scale: float) -> None:
    """Weights sum to one at every size, borders included; the size is rounded up."""
    x = torch.full((1, size, size + 1), 0.3, dtype=torch.float64)
    y = resize_bicubic(x, scale)
    assert y.shape[1:] == (int(np.ceil(size * scale)), int(np.ceil((size + 1) * scale)))
    torch.testing.assert_close(y, torch.full_like(y, 0.3), rtol=0, atol=1e-12)


def test_eight_bit_reduction_equals_the_published_lq(shared: Path) -> None:
    """The LQ photos of Set5, as MATLAB made them, come out bit for bit."""
    folder = shared / "datasets" / "Set5"
    photos = sorted((folder / "HRx4").iterdir())
    assert len(photos) == 5
    for path in photos:
        gt = read_rgb(path).double()[None] / 255
        lq = (Bicubic(4)(gt, torch.Generator()) * 255).round().byte()[0]
        assert torch.equal(lq, read_rgb(folder / "LRx4" / path.name))


def test_a_crop_with_its_margin_is_degraded_like_the_photo() -> None:
    """Behind the margin, the LQ of a crop is the crop of the photo's LQ."""
    gt = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    degrade = Bicubic(4)
    whole = degrade(gt, torch.Generator())
    crop = degrade(gt[..., 32:128, 32:128], torch.Generator())
    inside = slice(degrade.margin, -degrade.margin)
    assert torch.equal(crop[..., inside, inside], whole[..., 8 + 4 : 32 - 4, 8 + 4 : 32 - 4])


def test_wrong_requests_are_named() -> None:
    """A scale that is no scale, and a degradation that is none, are refused in one line."""
    with pytest.raises(ConfigError, match="expected a positive number"):
        resize_bicubic(torch.rand(3, 8, 8), 0.0)
    with pytest.raises(ConfigError, match="no degradation 'blurr'; the nearest is"):
        degradation("blurr", 4)
