"""What a restorer takes: stated kinds of photos and masks, and one line for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dirformer.ground.errors import DirformerError, PhotoError
from dirformer.inference.inputs import as_mask, as_photo
from helpers import picture

FAST = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
SIDES = st.integers(1, 9)


def unchecked(function: Any) -> Any:
    """The function without the tests' own check of its types, as users have it."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@FAST
@given(height=SIDES, width=SIDES, seed=st.integers(0, 99), kind=st.sampled_from(["uint8", "uint16", "float"]))
def test_arrays_are_scaled_by_their_type(height: int, width: int, seed: int, kind: str) -> None:
    """uint8 by 255, uint16 by 65535, floats not at all; `h w 3` and `h w` give `3 h w`."""
    values = np.random.default_rng(seed).random((height, width, 3))
    most = {"uint8": 255, "uint16": 65535, "float": 1}[kind]
    array = (values * most).astype(np.float32 if kind == "float" else kind)
    expected = array.astype(np.float64).transpose(2, 0, 1) / most
    np.testing.assert_allclose(as_photo(array).numpy(), expected, atol=1e-6)
    grey = as_photo(array[..., 1])
    assert grey.shape == (3, height, width) and torch.equal(grey[0], grey[2])
    np.testing.assert_allclose(grey[0].numpy(), expected[1], atol=1e-6)


@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8", "g"])
def test_byte_order_and_layout_do_not_matter(kind: str) -> None:
    """Arrays of the other byte order, read-only or turned, give what plain ones give, as masks, too."""
    values = np.random.default_rng(0).random((5, 4, 3))
    plain = (values * {"u1": 255, "u2": 65535}.get(kind, 1)).astype(kind)
    other = plain.astype(plain.dtype.newbyteorder())
    other.flags.writeable = False
    assert torch.equal(as_photo(other), as_photo(plain))
    assert torch.equal(as_photo(other[::-1, ::-1]), as_photo(plain[::-1, ::-1].copy()))
    if kind != "u2":
        assert torch.equal(as_mask(other[..., 0]), as_mask(plain[..., 0].copy()))
        assert 0 < float(as_mask(other[..., 0]).mean()) < 1
    holes = values[..., 0] > 0.5
    holes.flags.writeable = False
    assert torch.equal(as_mask(holes)[0], torch.from_numpy(holes.copy()).float())


@FAST
@given(batch=st.integers(0, 3), height=SIDES, width=SIDES)
def test_tensors_are_taken_as_they_are(batch: int, height: int, width: int) -> None:
    """`3 h w` and `b 3 h w` in [0, 1] keep every bit."""
    photo = torch.rand(*([batch] if batch else []), 3, height, width)
    assert torch.equal(as_photo(photo), photo)


def test_a_slight_overshoot_is_cut() -> None:
    """Resampled photos leave [0, 1] a little; up to a hundredth is cut off."""
    photo = torch.tensor([-0.01, 0.5, 1.01]).view(3, 1, 1)
    assert as_photo(photo).flatten().tolist() == [0, 0.5, 1]


def test_pictures_and_files_are_one_photo(tmp_path: Path) -> None:
    """A PIL image, its file by text and by Path, and its array give the same."""
    image = picture(7, 5)
    image.save(tmp_path / "a.png")
    expected = as_photo(np.array(image))
    for photo in (image, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(as_photo(photo), expected)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (torch.rand(1, 4, 4), r"shape \(1, 4, 4\); expected 3 h w or b 3 h w"),
        (torch.rand(4, 4), r"shape \(4, 4\)"),
        (torch.rand(3), r"shape \(3,\)"),
        (torch.rand(4, 5, 3), "an array h w 3 must come as NumPy"),
        (torch.rand(3, 0, 4), r"shape \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"torch.uint8; expected floats in \[0, 1\]: photo.float"),
        (torch.full((3, 4, 4), 200.0), r"values of 200 to 200; expected \[0, 1\]: divide by 255"),
        (torch.full((3, 4, 4), -1.0), r"values of -1 to -1; expected \[0, 1\]$"),
        (torch.full((3, 4, 4), float("nan")), "not finite"),
        (torch.full((3, 4, 4), float("inf")), "not finite"),
        (np.zeros((4, 4, 4), np.uint8), r"an array of shape \(4, 4, 4\); expected h w 3 or h w"),
        (np.zeros((4, 4), np.int64), "an array of int64; expected uint8, uint16 or floats"),
        (np.zeros((4, 4), "O"), "an array of object; expected uint8, uint16 or floats"),
        (torch.rand(3, 4, 4).to_sparse(), "a tensor that is sparse or packed; expected a plain one"),
        (torch.rand(3, 4, 4).to("meta"), "a tensor that is on the device meta"),
        (Image.new("RGB", (0, 5)), "the picture is 0×5; expected at least one pixel"),
        (np.full((4, 4), 255.0), "divide by 255"),
        ([[1, 2], [3, 4]], "the photo is a list; expected 3 h w"),
        (None, "the photo is a NoneType"),
    ],
)
def test_everything_else_is_named(photo: Any, message: str) -> None:
    """What came and what was expected, in one line."""
    with pytest.raises(PhotoError, match=message) as error:
        unchecked(as_photo)(photo)
    assert "\n" not in str(error.value)


@FAST
@given(height=SIDES, width=SIDES, seed=st.integers(0, 99), flat=st.booleans())
def test_masks_of_every_type_are_one_mask(height: int, width: int, seed: int, flat: bool) -> None:
    """Booleans, bytes of 0 and 255 or 0 and 1, floats and arrays of them, `h w` or `1 h w`."""
    holes = np.random.default_rng(seed).random((height, width)) > 0.5
    expected = torch.from_numpy(holes).float()[None]
    shaped = holes if flat else holes[None]
    for array in (
        shaped,
        shaped.astype(np.uint8) * 255,
        shaped.astype(np.uint8),
        shaped.astype(np.float32),
        np.where(shaped, 0.6, 0.4),
    ):
        assert torch.equal(as_mask(array), expected)
        assert torch.equal(as_mask(torch.from_numpy(array)), expected)
    assert torch.equal(as_mask(Image.fromarray(holes.astype(np.uint8) * 255)), expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(3, 4, 4), r"the shape \(3, 4, 4\); expected h w or 1 h w"),
        (torch.full((4, 4), 255.0), "divide by 255"),
        (torch.full((4, 4), float("nan")), "not finite"),
        (torch.zeros(4, 4, dtype=torch.int64), "int64 values; expected bool, uint8 or floats"),
        (np.zeros((4, 4), ">u2"), ">u2 values; expected bool, uint8 or floats"),
        (np.zeros((4, 4), "S1"), r"\|S1 values; expected bool, uint8 or floats"),
        (torch.zeros(4, 4, device="meta"), "a tensor that is on the device meta"),
        (torch.zeros(4, 4).to_sparse(), "a tensor that is sparse"),
        ([[0, 1]], "the mask is a list"),
    ],
)
def test_other_masks_are_named(mask: Any, message: str) -> None:
    """So are masks."""
    with pytest.raises(DirformerError, match=message):
        unchecked(as_mask)(mask)
