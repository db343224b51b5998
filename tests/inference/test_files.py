"""Restoring files: one call for one photo, and progress within large ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import dirformer
from dirformer.ground.errors import ConfigError, OutputError, PhotoError
from dirformer.inference.files import restore_files
from dirformer.inference.jobs import plan_jobs
from dirformer.inference.restorer import Restorer
from dirformer.weights.checkpoints import save
from helpers import picture, tiny


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(tmp_path / "sr.safetensors", tiny())
    return tmp_path / "sr.safetensors"


def test_one_call_restores_one_photo(tmp_path: Path, weights: Path) -> None:
    """`dirformer.restore(photo, out)` writes the file it returns; into a folder, the name is kept."""
    picture(12, 8).save(tmp_path / "in.png")
    written = dirformer.restore(tmp_path / "in.png", tmp_path / "out.png", model=weights)
    assert written == tmp_path / "out.png"
    again = dirformer.restore(str(tmp_path / "in.png"), str(tmp_path / "folder"), model=weights)
    assert again == tmp_path / "folder" / "in.png" and again.read_bytes() == written.read_bytes()
    with Image.open(written) as image:
        assert image.size == (48, 32)


def test_what_cannot_be_restored_is_raised(tmp_path: Path, weights: Path) -> None:
    """Errors are those of the command line."""
    picture(12, 8).save(tmp_path / "in.png")
    with pytest.raises(PhotoError, match="is not there"):
        dirformer.restore(tmp_path / "none.png", tmp_path / "out.png", model=weights)
    with pytest.raises(OutputError, match="exists already"):
        dirformer.restore(tmp_path / "in.png", tmp_path / "in.png", model=weights)
    with pytest.raises(ConfigError, match="task is deblurring, but"):
        dirformer.restore(tmp_path / "in.png", tmp_path / "out.png", model=weights, task="deblurring")


def test_progress_goes_on_within_a_photo(tmp_path: Path, weights: Path) -> None:
    """Behind each block the share of the work done is told; it rises to the number of photos."""
    for name in ("a", "b"):
        picture(16, 16).save(tmp_path / f"{name}.png")
    jobs = plan_jobs([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out").jobs
    told: list[float] = []
    list(restore_files(Restorer(weights, device="cpu"), jobs, progress=told.append))
    assert told == sorted(told) and len(told) == 2 * 8
    assert told[7] == pytest.approx(1.0) and told[-1] == pytest.approx(2.0)
