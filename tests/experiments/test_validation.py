"""Validation during training: previews beside scores."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from statistics import StatisticsError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dirformer.experiments import validation as validation_room
from dirformer.experiments.train import train
from dirformer.experiments.validation import PREVIEWS, Validation
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.photo import read_rgb
from dirformer.training.config import TrainConfig
from dirformer.training.sections import Data
from helpers import FABRIC_WARNINGS, TINY_INPAINTING, TINY_SR, photo_folder, picture, quiet, tiny, tiny_recipe

pytestmark = FABRIC_WARNINGS


def recipe(room: Path, model: Any, **fields: Any) -> TrainConfig:
    """Two steps, each validated on one large photo and some narrow ones."""
    val = photo_folder(room / "val", 1, (96, 96), seed=10)
    for i in range(1, PREVIEWS + 1):
        picture(96, 64, seed=10 + i).save(val / f"v{i}.png")
    data = {"val": str(val), "patch": 8, "batch": 1, "val_crop": 64}
    photos = photo_folder(room / "photos", 3, (96, 96))
    return tiny_recipe(photos, model=model.to_dict(), data=data, steps=2, val_every=1, **fields)


@pytest.mark.parametrize("model", [TINY_SR, TINY_INPAINTING])
def test_previews_show_lq_result_and_gt(tmp_path: Path, model: Any) -> None:
    """A row for each of the first cases: LQ enlarged, what the network made of it, GT."""
    validation = Validation(recipe(tmp_path, model))
    network, file = tiny(model, stage=1), tmp_path / "previews" / "step-1.jpg"
    assert validation(network) == validation(network, file)
    grid = read_rgb(file).float() / 255
    assert grid.shape == (3, PREVIEWS * 64, 3 * 64)
    first = validation.cases[0]
    panels = (first.lq[0, :3], validation.restore(network, 0), first.gt[0])
    for column, panel in enumerate(panels):
        large = torch.nn.functional.interpolate(panel[None], (64, 64))[0]
        drawn = grid[:, :64, column * 64 : column * 64 + 64]
        # JPEG keeps the means of its blocks.
        difference = torch.nn.functional.avg_pool2d((drawn - large)[None], 16)
        assert float(difference.abs().max()) < 0.05


def test_an_equal_photo_counts_100_db_and_nan_counts_nothing(tmp_path: Path) -> None:
    """So the mean over photos stays a number that can be compared, unless the network is ruined."""
    validation = Validation(recipe(tmp_path, TINY_SR))
    gt = validation.cases[0].gt[0]
    assert validation.score_of(gt.clone(), 0) == 100
    assert validation.score_of(1 - gt, 0) < 20
    spoilt = gt.clone()
    spoilt[0, 20, 20] = float("nan")
    assert math.isnan(validation.score_of(spoilt, 0))


@pytest.mark.parametrize(
    ("model", "degradation"), [(TINY_SR, "realsr"), (TINY_INPAINTING, "bicubic")], ids=["damage", "holes"]
)
def test_runs_of_any_seed_see_the_same(tmp_path: Path, model: Any, degradation: str) -> None:
    """Scores of runs that differ in their seed can be compared: damage, holes and noise are the same."""
    config = recipe(tmp_path, model)
    data = config.data.model_copy(update={"degradation": degradation})
    first, second = (Validation(config.model_copy(update={"seed": seed, "data": data})) for seed in (0, 1))
    for a, b in zip(first.cases, second.cases, strict=True):
        assert torch.equal(a.lq, b.lq)
    network = tiny(model)
    assert first.scores(network) == second.scores(network)


def test_every_validation_of_a_run_leaves_a_preview(tmp_path: Path) -> None:
    """A run's folder has previews named by step."""
    config = recipe(tmp_path, TINY_SR)
    train(config, lambda _: None)
    names = sorted(p.name for p in (config.folder / "previews").iterdir())
    assert names == ["step-1.jpg", "step-2.jpg"]
    with Image.open(config.folder / "previews" / names[0]) as photo:
        assert photo.format == "JPEG"


def pairs(room: Path, lq: tuple[int, int], gt: tuple[int, int]) -> dict[str, str]:
    """Folders of one validation pair of these sizes."""
    return {
        "val": str(photo_folder(room / "gt", 1, gt)),
        "val_lq": str(photo_folder(room / "lq", 1, lq)),
    }


@pytest.mark.parametrize(
    ("lq", "gt", "message"),
    [
        ((48, 48), (96, 96), "48×48 and .* 96×96; expected GT 4 times as large: 192×192"),
        ((7, 24), (28, 96), "28×96; validation needs at least 32×32: take it out of data.val"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, lq: tuple[int, int], gt: tuple[int, int], message: str
) -> None:
    """Another scale, or fewer pixels than the network takes, is one line; nothing is trained."""
    config = recipe(tmp_path, TINY_SR)
    config = config.model_copy(update={"data": Data(**(config.data.model_dump() | pairs(tmp_path, lq, gt)))})
    with pytest.raises(DataError, match=message) as error:
        train(config, quiet)
    assert "\n" not in str(error.value) and not config.folder.exists()


def test_small_photos_are_refused_before_the_first_step(tmp_path: Path) -> None:
    """A validation photo with less than 32 pixels per side is named."""
    config = recipe(tmp_path, TINY_SR)
    picture(96, 31).save(tmp_path / "val" / "small.png")
    with pytest.raises(DataError, match=r"small.png is 96×31; validation needs at least 32×32"):
        train(config, quiet)


def test_given_masks_of_validation_are_refused(tmp_path: Path) -> None:
    """`data.val_lq` of inpainting would be ignored; the line names the field that draws masks."""
    config = recipe(tmp_path, TINY_INPAINTING)
    config = config.model_copy(update={"data": config.data.model_copy(update={"val_lq": tmp_path / "val"})})
    with pytest.raises(ConfigError, match=r"data.val_lq has no effect in inpainting: data.val_masks draws"):
        train(config, quiet)


def test_crops_of_pairs_show_the_same_place(tmp_path: Path) -> None:
    """An odd number of LQ pixels outside the crop shifts GT by whole LQ pixels."""
    config = recipe(tmp_path, TINY_SR)
    gt = picture(27 * 4, 27 * 4)
    (tmp_path / "gt").mkdir()
    (tmp_path / "lq").mkdir()
    gt.save(tmp_path / "gt" / "0.png")
    gt.resize((27, 27), Image.Resampling.BOX).save(tmp_path / "lq" / "0.png")
    fields = {"val": tmp_path / "gt", "val_lq": tmp_path / "lq", "val_crop": 64}
    data = config.data.model_copy(update=fields)
    (case,) = Validation(config.model_copy(update={"data": data})).cases
    means = torch.nn.functional.avg_pool2d(case.gt, 4)
    assert case.gt.shape[-2:] == (64, 64)
    assert float((means - case.lq).abs().max()) < 1 / 255


@pytest.mark.parametrize(("model", "world"), [(TINY_SR, 2), (TINY_SR, 20), (TINY_INPAINTING, 3)])
def test_devices_share_the_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, world: int
) -> None:
    """Each decodes its own; scores, those of each kind of mask, and FID are one device's, bit by bit."""
    config, network = recipe(tmp_path, model), tiny(model)
    alone = Validation(config)
    parts = [
        Validation(config, SimpleNamespace(world_size=world, global_rank=rank, is_global_zero=rank == 0))
        for rank in range(world)
    ]
    assert sorted(case.number for part in parts for case in part.cases) == [*range(len(alone.cases))]
    assert max(len(part.cases) for part in parts) <= -(-len(alone.cases) // world)
    for part in parts:
        for case in part.cases:
            assert torch.equal(case.lq, alone.cases[case.number].lq) and case.name

    def of_all(work: Any) -> list[Any]:
        """What each device gets, when each is given what all others have sent."""
        sent: list[Any] = []

        def send(_: Any, value: Any) -> list[Any]:
            sent.append(value)
            return [value]

        monkeypatch.setattr(validation_room, "gathered", send)
        for part in parts:
            with contextlib.suppress(StatisticsError):  # a device without a photo has no mean of its own
                work(part)
        assert len(sent) == world
        monkeypatch.setattr(validation_room, "gathered", lambda *_: sent)
        return [work(part) for part in parts]

    def features(photo: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(photo, 2).flatten()

    assert of_all(lambda part: part(network)) == [alone(network)] * world
    assert of_all(lambda part: part.scores(network)) == [alone.scores(network)] * world
    fids = of_all(lambda part: part.fid(network, features))
    assert fids == [alone.fid(network, features)] * world
    assert [*fids[0]] == (["fid"] if model is TINY_SR else ["fid_thick", "fid_thin"])
