"""Masks: which pixels are hole, and which file belongs to which photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dirformer.ground.errors import PhotoError
from dirformer.ground.mask import read_mask, read_mask_for, soften
from dirformer.ground.mask_names import masks_by_name, split_masks

DATA = Path(__file__).parent / "data"


def hole() -> np.ndarray:
    values = np.zeros((40, 56), dtype=bool)
    values[10:30, 15:40] = True
    return values


@pytest.mark.parametrize("paint", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_decides_where_it_varies(tmp_path: Path, paint: tuple[int, ...], kind: str) -> None:
    """Paint on transparency is hole, whatever its colour and whatever is beneath the transparency."""
    values = np.zeros((40, 56, 4), dtype=np.uint8)
    values[..., :3] = paint
    values[..., 3] = hole() * 255
    lossless = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    Image.fromarray(values).save(tmp_path / "m", kind, **lossless)
    assert np.array_equal(read_mask(tmp_path / "m")[0].numpy(), hole())


@pytest.mark.parametrize("name", ["rgba_white_on_transp.png", "offblack.png"])
def test_masks_of_editors(name: str) -> None:
    """White on transparency, and white on a background that is not quite black."""
    assert 0.05 < float(read_mask(DATA / name).mean()) < 0.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_of_any_depth(tmp_path: Path, mode: str, suffix: str) -> None:
    """White is hole at every depth; opaque transparency decides nothing."""
    image = Image.fromarray(hole().astype(np.uint8) * 255)
    deep = Image.fromarray(hole().astype(np.uint16) * 65535)
    image = deep if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / f"m{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"m{suffix}")[0].numpy(), hole())


def test_the_threshold_is_the_middle(tmp_path: Path) -> None:
    """127 of 255 is photo, 128 is hole; likewise with 16 bits and in transparency."""
    Image.fromarray(np.array([[0, 1, 127, 128, 255]], np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[0, 256, 32767, 32768, 65535]], np.uint16)).save(tmp_path / "16.png")
    alpha = np.zeros((1, 5, 2), np.uint8)
    alpha[..., 1] = [0, 1, 127, 128, 255]
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for name in ("8", "16", "alpha"):
        assert read_mask(tmp_path / f"{name}.png").tolist() == [[[0, 0, 0, 1, 1]]], name


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_masks_are_sharp(tmp_path: Path, quality: int) -> None:
    """The ringing of JPEG around an edge is no hole."""
    Image.fromarray(hole().astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=quality)
    assert np.array_equal(read_mask(tmp_path / "m.jpg")[0].numpy(), hole())


def test_masks_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    """Of another size, empty, nearly everything, or the photo itself: with the numbers."""
    photo = tmp_path / "p.png"
    Image.new("RGB", (56, 40)).save(photo)
    for name, level, size, message in (
        ("none.png", 0, (56, 40), r"marks 0 % of the photo as hole; .* white"),
        ("all.png", 255, (56, 40), r"marks 100 % of the photo"),
        ("small.png", 255, (40, 56), r"is 40×56 and .*p\.png 56×40"),
    ):
        Image.new("L", size, level).save(tmp_path / name)
        with pytest.raises(PhotoError, match=message):
            read_mask_for(photo, tmp_path / name, (40, 56))
    (tmp_path / "link.png").symlink_to(photo)
    for same in (photo, tmp_path / "link.png"):
        with pytest.raises(PhotoError, match="its own mask"):
            read_mask_for(photo, same, (40, 56))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 14), st.integers(1, 12), st.integers(1, 12), st.integers(0, 14), st.integers(0, 2**31 - 1)
)
def test_holes_grow_in_all_directions(by: int, height: int, width: int, feather: int, seed: int) -> None:
    """A pixel is in the grown hole if one of the hole is near; weights fall from the mask to its edge."""
    mask = (torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed)) > 0.8).float()
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    far = torch.full((height, width), 99)
    for y, x in mask[0].nonzero().tolist():
        far = torch.minimum(far, torch.maximum((rows - y).abs(), (columns - x).abs()))
    grown, weights = soften(mask, by, feather)
    assert torch.equal(grown[0], (far <= max(by, feather)).float())
    assert torch.equal(weights > 0, grown > 0)
    assert bool((weights[mask > 0] == 1).all())
    expected = ((max(by, feather) - far + 1) / (feather + 1)).clamp(0, 1)
    assert torch.allclose(weights[0], expected.float())


def test_a_wide_blend_takes_no_longer_than_a_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes over a mask are counted: as many for 60,000 pixels as for one."""
    mask, rows = torch.zeros(1, 20, 30), []
    mask[0, 9, 9] = 1
    minimum = np.minimum
    monkeypatch.setattr(np, "minimum", lambda *given, **out: rows.append(1) or minimum(*given, **out))
    soften(mask, 0, 1)
    once = len(rows)
    grown, weights = soften(mask, 0, 60_000)
    assert len(rows) == 2 * once and bool(grown.all())
    assert float(weights[0, 9, 29]) == pytest.approx((60_001 - 20) / 60_001)


def test_masks_are_told_from_photos_by_name() -> None:
    """NAME_mask001.png is a mask beside NAME.png, of any suffix, and a photo where there is no NAME."""
    names = ["a.png", "a_mask000.png", "a_mask001.png", "iron_mask.jpg", "b.jpg", "b_mask.png"]
    photos, masks = split_masks(Path(name) for name in names)
    assert [path.name for path in photos] == ["a.png", "iron_mask.jpg", "b.jpg"]
    found = masks_by_name(masks)
    assert {name: found[name].name for name in ("a", "b")} == {"a": "a_mask000.png", "b": "b_mask.png"}
    apart = masks_by_name(Path("m") / name for name in ("iron_mask.png", "c.tif", "d_mask003.jpg"))
    assert [apart[name].name for name in ("iron_mask", "c", "d")] == [
        "iron_mask.png",
        "c.tif",
        "d_mask003.jpg",
    ]
