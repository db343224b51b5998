"""`dirformer.degrade`: what it takes, and that names are known before torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dirformer import degrade
from dirformer.degradations.table import DEGRADATIONS
from dirformer.ground.errors import ConfigError, PhotoError
from helpers import picture, python


def test_files_arrays_and_tensors_are_one(tmp_path: Path) -> None:
    """The same photo as a file (str or Path), as uint8 or float, array or tensor gives the same result."""
    photo = picture(48, 40)
    photo.save(tmp_path / "a.png")
    array = np.array(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        array,
        array / np.float32(255),
        tensor,
        tensor / 255,
    ]
    first, *others = (degrade(form, "noise", seed=3) for form in forms)
    assert first.shape == (3, 40, 48) and first.dtype == torch.float32
    assert all(torch.equal(first, other) for other in others)


def test_a_photo_of_a_batch_has_draws_of_its_own() -> None:
    """The first of a batch is what it is alone; the second, of the same pixels, gets other noise."""
    photo = torch.rand(3, 32, 32)
    batch = degrade(torch.stack([photo, photo]), "noise")
    assert torch.equal(batch[0], degrade(photo, "noise")) and not torch.equal(batch[0], batch[1])


def test_sides_are_cut_to_the_scale() -> None:
    """Of 45 × 42 pixels at ×4 the degraded photo has 11 × 10."""
    assert degrade(torch.rand(3, 42, 45), "bicubic", scale=4).shape == (3, 10, 11)


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        (torch.rand(4, 8, 8), r"shape \(4, 8, 8\); expected a tensor 3 H W"),
        (torch.rand(3, 8, 8) * 255, "divide by 255"),
        (torch.full((3, 8, 8), float("nan")), "from nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "dtype torch.int64; expected uint8"),
    ],
)
def test_what_is_no_photo_is_named(photo: torch.Tensor, words: str) -> None:
    """Shape, type and values are checked; the message says what was received and expected."""
    with pytest.raises(PhotoError, match=words):
        degrade(photo, "noise")


def test_unknown_kinds_and_scales_are_named() -> None:
    """The nearest name, and the scales there are."""
    with pytest.raises(ConfigError, match="the nearest is 'realsr-graded'"):
        degrade(torch.rand(3, 8, 8), "realsr_graded")
    with pytest.raises(ConfigError, match="expected 4 or 2 or 1"):
        degrade(torch.rand(3, 8, 8), "realsr", scale=3)


def test_names_are_known_without_torch() -> None:
    """The table of names loads neither torch nor numpy: a typing error is answered at once."""
    code = "import sys, dirformer.degradations.table; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert python("-c", code, check=True).stdout.strip() == "False"
    assert "realsr-graded" in DEGRADATIONS
