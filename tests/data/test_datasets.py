"""Samples for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dirformer.data.datasets import CleanCrops, MaskedCrops, PairedCrops, stream
from dirformer.data.folders import find_photos, pair_photos
from dirformer.degradations.mask_settings import mask_settings
from dirformer.ground.errors import DataError, PhotoError
from helpers import picture


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        picture(40 + number, 36, seed=number).save(folder / f"{number}.png")
    return find_photos(folder)


def test_an_epoch_visits_each_photo_once(photos: list[Path]) -> None:
    """In another order each time, determined by the seed."""
    data = CleanCrops(photos, 16, seed=0)
    orders = [data._epoch(epoch).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert len(data) == 5


def test_a_sample_depends_on_seed_and_number_alone(photos: list[Path]) -> None:
    """Whatever was asked before, in another process or with another batch."""
    data, again = CleanCrops(photos, 16, seed=0), CleanCrops(photos, 16, seed=0)
    for number in (13, 2, 7):
        assert torch.equal(data[number]["gt"], again[number]["gt"])
    assert not torch.equal(data[3]["gt"], CleanCrops(photos, 16, seed=1)[3]["gt"])
    whole = list(stream(data, start=0, steps=4, batch=3))
    rest = list(stream(data, start=2, steps=4, batch=3, workers=2))
    for left, right in zip(whole[2:], rest, strict=True):
        assert torch.equal(left["gt"], right["gt"]) and torch.equal(left["index"], right["index"])
    assert whole[0]["gt"].dtype == torch.uint8


def test_devices_share_each_batch(photos: list[Path]) -> None:
    """Two devices see, together, what one device with the double batch sees."""
    data = CleanCrops(photos, 16, seed=0)
    parts = [list(stream(data, start=1, steps=4, batch=2, rank=rank, world=2)) for rank in range(2)]
    whole = list(stream(data, start=1, steps=4, batch=4))
    for both, one in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.cat([part["index"] for part in both]).tolist() == one["index"].tolist()


def test_patches_grow_without_new_workers(photos: list[Path]) -> None:
    """Side and batch follow the step; a resumed stream goes on with the next sample."""

    def side(step: int) -> int:
        return 16 if step < 3 else 32

    def batch(step: int) -> int:
        return 4 if step < 3 else 2

    data = CleanCrops(photos, 32, seed=0)
    batches = list(stream(data, start=0, steps=6, batch=batch, side=side, workers=1))
    assert [tuple(b["gt"].shape) for b in batches] == [(4, 3, 16, 16)] * 3 + [(2, 3, 32, 32)] * 3
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(18))
    (last,) = stream(data, start=5, steps=6, batch=batch, side=side)
    assert torch.equal(last["gt"], batches[-1]["gt"])


def test_pairs_are_cropped_alike(tmp_path: Path) -> None:
    """LQ and GT show the same place in the same flip, at any scale."""
    for name, size in (("lq", (20, 16)), ("gt", (40, 32))):
        (tmp_path / name).mkdir()
        for number in range(3):
            small = picture(20, 16, seed=number)
            small.resize(size, Image.Resampling.NEAREST).save(tmp_path / name / f"{number}.png")
    data = PairedCrops(pair_photos(tmp_path / "lq", tmp_path / "gt"), 2, 16, seed=0)
    for number in range(9):
        sample = data[number]
        assert sample["lq"].shape == (3, 8, 8)
        enlarged = sample["lq"].repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(sample["gt"], enlarged)


def test_masks_are_drawn_or_given(photos: list[Path], tmp_path: Path) -> None:
    """Drawn masks differ from sample to sample; given ones are cropped like their photo."""
    drawn = MaskedCrops(photos, 32, seed=0, masks=[mask_settings("training", 256)])
    masks = [drawn[number]["mask"] for number in range(8)]
    assert all(mask.shape == (1, 32, 32) and mask.dtype == torch.uint8 for mask in masks)
    assert len({mask.numpy().tobytes() for mask in masks}) > 1
    (tmp_path / "masks").mkdir()
    for path in photos:
        red = np.array(Image.open(path))[..., 0]
        Image.fromarray(((red > 128) * 255).astype(np.uint8)).save(tmp_path / "masks" / path.name)
    given = MaskedCrops(pair_photos(tmp_path / "masks", photos[0].parent), 16, seed=0)
    sample = given[3]
    assert torch.equal(sample["mask"][0], (sample["gt"][0] > 128).byte())
    with pytest.raises(DataError, match="either drawn"):
        MaskedCrops(photos, 16, seed=0)


MODES = {
    "CMYK": ("tif", "CMYK"),
    "palette": ("png", "P"),
    "grey": ("png", "L"),
    "alpha": ("png", "RGBA"),
    "grey and alpha": ("png", "LA"),
    "bilevel": ("png", "1"),
}


@pytest.mark.parametrize("kind", list(MODES))
def test_any_photo_becomes_rgb(tmp_path: Path, kind: str) -> None:
    """CMYK, palette, grey, alpha and bilevel photos are trained on as 8-bit RGB; alpha is dropped."""
    suffix, mode = MODES[kind]
    picture(32, 24).convert("L" if mode == "LA" else "RGB").convert(mode).save(tmp_path / f"a.{suffix}")
    sample = CleanCrops(find_photos(tmp_path), 16, seed=0)[0]
    assert sample["gt"].shape == (3, 16, 16) and sample["gt"].dtype == torch.uint8
    assert float(sample["gt"].float().std()) > 0


def test_a_16_bit_photo_is_read_at_8_bits(tmp_path: Path) -> None:
    """Grey 16-bit values are divided by 257 and rounded."""
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    gt = CleanCrops(find_photos(tmp_path), 16, seed=0)[0]["gt"]
    assert sorted(gt[0].flatten().tolist()) == sorted(np.round(values / 257).astype(int).flatten().tolist())


def test_a_damaged_photo_is_named(tmp_path: Path) -> None:
    """A truncated file stops with its name: a run must not silently train on half of a photo."""
    picture(64, 64).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(PhotoError, match=r"a\.png"):
        CleanCrops(find_photos(tmp_path), 16, seed=0)[0]


def test_a_photo_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    """Where sizes were not checked before, reading checks them."""
    picture(20, 12).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is 20×12; crops need 16"):
        CleanCrops(find_photos(tmp_path), 16, seed=0)[0]
