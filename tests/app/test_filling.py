"""Masks of the page: painted, loaded, both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dirformer.ground.errors import PhotoError
from helpers import picture

pytest.importorskip("gradio", reason="gradio is not installed (extra `app`)")

from dirformer.app.filling import Painting, show
from dirformer.app.wishes import Limits


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo."""
    picture(60, 40).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    """A mask with a hole at the left."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 3:8] = 255
    Image.fromarray(mask).save(tmp_path / "loaded.png")
    return tmp_path / "loaded.png"


def paint(width: int, height: int, left: int) -> dict[str, object]:
    """A stroke from `left` to the right edge."""
    layer = np.zeros((height, width, 4), np.uint8)
    layer[:, left:] = (255, 0, 0, 255)
    return {"layers": [Image.fromarray(layer)]}


def test_paint_on_a_smaller_picture(photo: Path, tmp_path: Path) -> None:
    """A mask that was painted on a picture of half the size is as large as the photo, with hard edges."""
    mask = Painting(paint(30, 20, 15), None).mask(photo, tmp_path)
    assert mask is not None and mask.name == "photo_mask.png"
    with Image.open(mask) as opened:
        values = np.asarray(opened)
    assert values.shape == (40, 60) and set(np.unique(values)) == {0, 255}
    assert (values[:, 30:] == 255).all() and (values[:, :30] == 0).all()


def test_loaded_and_painted(photo: Path, loaded: Path, tmp_path: Path) -> None:
    """A loaded mask alone is that file; with paint it is both, the loaded one pixel by pixel."""
    assert Painting(None, str(loaded)).mask(photo, tmp_path) == loaded
    both = Painting(paint(30, 20, 20), str(loaded)).mask(photo, tmp_path)
    assert both is not None
    with Image.open(both) as opened, Image.open(loaded) as before:
        values, old = np.asarray(opened), np.asarray(before)
    assert (values[:, 40:] == 255).all() and np.array_equal(values[:, :40], old[:, :40])


def test_nothing_is_painted(photo: Path, tmp_path: Path) -> None:
    """Without paint and mask there is nothing to fill, unless the photo grows."""
    with pytest.raises(PhotoError, match="nothing is painted"):
        Painting({"layers": []}, None).mask(photo, tmp_path)
    assert Painting(None, None).mask(photo, tmp_path, needed=False) is None


def test_editor_shows_holes_in_red(photo: Path, loaded: Path) -> None:
    """The editor shows the photo, red in the holes of a loaded mask, and nothing as paint."""
    value, line = show(str(photo), str(loaded), Limits())
    pixels = np.asarray(value["background"])
    assert value["layers"] == [] and (pixels[10:20, 3:8] == (255, 0, 0)).all()
    assert np.array_equal(pixels[:, 8:], np.asarray(picture(60, 40))[:, 8:])
    assert "photo.png: 60×40 pixels" in line


def test_mask_of_another_size_is_refused_in_words(photo: Path, tmp_path: Path) -> None:
    """The photo is shown all the same."""
    Image.new("L", (10, 10), 255).save(tmp_path / "other.png")
    value, line = show(str(photo), str(tmp_path / "other.png"), Limits())
    assert value["background"].size == (60, 40)
    assert "the mask other.png is 10×10 and the photo 60×40; expected the same size" in line
    assert str(tmp_path) not in line
