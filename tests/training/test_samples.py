"""How recipes reach the data room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from dirformer.data.shards import write_index, write_shard
from dirformer.degradations.blur import sharpen
from dirformer.experiments.train import train
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError
from dirformer.ground.journal import read_journal
from dirformer.holes.shown import inpainting_input
from dirformer.training import samples
from dirformer.training.config import TrainConfig
from dirformer.training.samples import Clean, Masked, Samples, degrade_crops
from helpers import (
    FABRIC_WARNINGS,
    TINY_INPAINTING,
    photo_folder,
    quiet,
    tiny_recipe,
)

pytestmark = FABRIC_WARNINGS


def recipe(folder: Path, **data: Any) -> TrainConfig:
    """A recipe on these photos; `realsr` kinds with the network that goes with them."""
    model = "realsr-x4" if data.get("degradation", "").startswith("realsr") else "sr-x4-compact"
    return tiny_recipe(folder, model=model, data=data)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", 3, (220, 216))


@pytest.mark.parametrize("kind", ["realsr", "realsr-released", "bicubic"])
def test_a_recipe_names_its_degradation(photos: Path, kind: str) -> None:
    """Patches have the recipe's size, and the draws follow from the seed and the sample's number."""
    samples = Samples(recipe(photos, degradation=kind))
    raw = default_collate([samples.dataset[n] for n in range(2)])
    one, other = (samples.prepare(raw, 0, torch.device("cpu")) for _ in "12")
    assert one.lq.shape == (2, 3, 16, 16) and one.gt.shape == (2, 3, 64, 64)
    assert torch.equal(one.lq, other.lq)


def test_a_crop_is_degraded_as_its_photo_is(photos: Path) -> None:
    """Behind the margin, bicubic crops equal those of the degraded photo."""
    samples = Samples(recipe(photos))
    assert isinstance(samples.mode, Clean)
    gt = samples.dataset[0]["gt"][None].float() / 255
    lq, _ = degrade_crops(samples.mode.degrade, gt, seeded_generator(0))
    grown = torch.nn.functional.pad(gt, [8] * 4, mode="reflect")
    assert torch.equal(lq, samples.mode.degrade(grown, seeded_generator(0))[..., 6:-6, 6:-6])


def test_a_folder_of_shards_is_trained_on(photos: Path, tmp_path: Path) -> None:
    """Samples are those of the folder; leaving photos out is refused instead of ignored."""
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "shard-000000.tar", [(p.name, p.read_bytes()) for p in sorted(photos.iterdir())])
    write_index(shards)
    from_shards, from_folder = (Samples(recipe(folder)).dataset for folder in (shards, photos))
    assert all(torch.equal(from_shards[n]["gt"], from_folder[n]["gt"]) for n in range(5))
    with pytest.raises(ConfigError, match="without has no effect on shards"):
        Samples(recipe(shards, without=tmp_path / "list.txt"))


def test_validation_photos_are_not_trained_on(photos: Path) -> None:
    """Photos of data.val are left out of data.train when both are in one folder."""
    (photos.parent / "photos_val.txt").write_text("1.png\n2.png\n")
    config = tiny_recipe(photos, data={"val": str(photos.parent / "photos_val.txt")})
    crops = samples.Samples(config).dataset
    assert [p.name for p in crops.source.photos] == ["0.png"]
    train(config, quiet)
    assert any(r["kind"] == "val" and r["psnr_y"] > 0 for r in read_journal(config.folder / "journal.jsonl"))


def test_samples_depend_on_their_number_alone(photos: Path) -> None:
    """Sample n is the same in any order, in any batch, on any device of many."""
    from dirformer.data.datasets import CleanCrops, stream

    crops = CleanCrops(sorted(photos.iterdir()), 32, seed=3)
    forwards = [crops[i]["gt"] for i in range(8)]
    backwards = [CleanCrops(sorted(photos.iterdir()), 32, seed=3)[i]["gt"] for i in reversed(range(8))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not torch.equal(forwards[0], forwards[2])
    two = [stream(crops, start=1, steps=3, batch=2, rank=r, world=2) for r in (0, 1)]
    seen = [[batch["index"].tolist() for batch in loader] for loader in two]
    assert seen == [[[4, 5], [8, 9]], [[6, 7], [10, 11]]]


def test_usm_degrades_sharpened_photos_and_has_them_as_target(photos: Path) -> None:
    """V2 of the real-world recipes: LQ and GT are made of sharpened photos, plain ones are kept too."""
    samples = Samples(recipe(photos, usm=True))
    assert isinstance(samples.mode, Clean)
    raw = default_collate([samples.dataset[n] for n in range(2)])
    clean, margin = raw["gt"].float() / 255, 4 * samples.mode.degrade.margin
    plain = clean[..., margin:-margin, margin:-margin]
    given = samples.prepare(raw, 0, torch.device("cpu"))
    assert torch.equal(given.real, plain)
    assert torch.equal(given.gt, sharpen(plain)) and not torch.equal(given.gt, plain)
    draws = [seeded_generator(0, "degrade", n) for n in range(2)]
    assert torch.equal(given.lq, samples.mode.degrade.inside(sharpen(clean), draws))


def test_flips_are_left_to_right_alone(photos: Path) -> None:
    """With `augment: flips` a crop is left as it is or flipped; both happen."""
    flipped, plain = (Samples(recipe(photos, augment=a)).dataset for a in ("flips", "none"))
    seen = []
    for number in range(12):
        ours, crop = flipped[number]["gt"], plain[number]["gt"]
        seen.append(torch.equal(ours, crop.flip(-1)))
        assert seen[-1] or torch.equal(ours, crop)
    assert 0 < sum(seen) < 12


def test_a_pool_does_not_mix_masks(photos: Path) -> None:
    """Pairs of a pool have no masks: one line instead of photos whose holes are elsewhere."""
    config = tiny_recipe(photos, model=TINY_INPAINTING.to_dict(), data={"patch": 32, "pool": 2})
    with pytest.raises(ConfigError, match=r"data.pool mixes degraded photos; it does not go with the masks"):
        Samples(config)


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"pairs": "list.txt", "lq": "lq"}, None, "data.pairs has no effect with data.lq"),
        ({"crop": 128, "lq": "lq"}, None, "data.crop has no effect with data.lq"),
        ({"without": "list.txt", "lq": "lq"}, None, "data.without has no effect with data.lq"),
        ({"fills": ["smooth"]}, None, "data.fills has no effect with the task sr"),
        ({"pairs": "list.txt"}, TINY_INPAINTING, "data.pairs has no effect with the task inpainting"),
        ({"crop": 128}, TINY_INPAINTING, "data.crop has no effect with the task inpainting"),
    ],
)
def test_fields_without_an_effect_are_refused(
    photos: Path, data: dict[str, Any], model: Any, message: str
) -> None:
    """One line before anything is read, in place of a training without what was asked for."""
    fields = {} if model is None else {"model": model.to_dict()}
    with pytest.raises(ConfigError, match=message):
        Samples(tiny_recipe(photos, data={"patch": 32, **data}, **fields))


def test_fillings_are_drawn_each_as_often(photos: Path) -> None:
    """With `data.fills`, a sample is shown one of them; without, the network's own."""
    model = replace(TINY_INPAINTING, fill="exemplar").to_dict()
    data = {"patch": 48, "batch": 1, "masks": ["thick"]}
    own = Masked(tiny_recipe(photos, model=model, data=data))
    drawn = Masked(tiny_recipe(photos, model=model, data=data | {"fills": ["zero", "smooth"]}))
    gt, mask = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 48, 48)
    mask[..., 10:30, 8:40] = 1
    shown = {fill: inpainting_input(fill, gt, mask) for fill in ("zero", "smooth", "exemplar")}
    raw = {"mask": mask.byte()}
    assert torch.equal(own.prepare(raw, gt, [seeded_generator(0)]).lq, shown["exemplar"])
    counts = {"zero": 0, "smooth": 0, "exemplar": 0}
    for number in range(0, 40, 4):
        draws = [seeded_generator(number + n) for n in range(4)]
        batch = drawn.prepare({"mask": mask.byte().repeat(4, 1, 1, 1)}, gt.repeat(4, 1, 1, 1), draws)
        for lq in batch.lq:
            counts[next(fill for fill, seen in shown.items() if torch.equal(lq, seen[0]))] += 1
    assert counts["exemplar"] == 0
    assert min(counts["zero"], counts["smooth"]) >= 10
