"""Every shipped recipe can be trained: its network made small, its batches tiny, its rules as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.experiments.train import train
from dirformer.ground.journal import read_journal
from dirformer.networks.diffir import STAGES, start_at_identity
from dirformer.networks.features import VGG19_WIDTHS, DilatedResNet50, ShiftTolerantAlexNet, VGG19Features
from dirformer.networks.presets import PRESETS
from dirformer.training import stages
from dirformer.training.config import TrainConfig, load_recipe, recipe_names
from dirformer.training.schedules import lr_of_run, scheduled_lr
from dirformer.weights.checkpoints import save
from helpers import FABRIC_WARNINGS, picture

pytestmark = FABRIC_WARNINGS

SMALL = {
    "dim": 4,
    "blocks": [1, 1, 1, 1],
    "refinement_blocks": 0,
    "heads": [1, 1, 1, 2],
    "cpen_dim": 4,
    "cpen_blocks": 1,
    "prior_dim": 8,
}


class NarrowVGG(VGG19Features):
    """VGG-19's layers and keys, four channels each."""

    def __init__(self) -> None:
        super().__init__(tuple(4 if width else 0 for width in VGG19_WIDTHS))


class NarrowResNet(DilatedResNet50):
    """The encoder's stages and keys, one narrow block each."""

    def __init__(self) -> None:
        super().__init__(dim=4, blocks=(1, 1, 1, 1))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos, pairs, and weight files of the published formats whose networks are narrow."""
    for folder in ("gt", "lq"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            picture(304, 304, seed=i).save(tmp_path / folder / f"{i}.png")
    torch.save(dict(NarrowVGG().state_dict()), tmp_path / "vgg19.pth")
    torch.save(dict(NarrowResNet().state_dict()), tmp_path / "resnet50.pth")
    published = {"convs": ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")}
    alexnet = {}
    for key, value in ShiftTolerantAlexNet().state_dict().items():
        kind, number, part = key.split(".")
        name = f"net.{published[kind][int(number)]}" if kind in published else f"lin{number}.model.1"
        alexnet[f"{name}.{part}"] = value
    torch.save(alexnet, tmp_path / "stlpips.pth")
    narrow: dict[str, Any] = {"perceptual": NarrowVGG, "resnet": NarrowResNet}
    table = {
        name: (field, narrow.get(name, build), hint)
        for name, (field, build, hint) in stages._EXTRACTORS.items()
    }
    monkeypatch.setattr(stages, "_EXTRACTORS", table)
    return tmp_path


def shrunk(name: str, room: Path) -> TrainConfig:
    """The recipe as it is shipped, in small, for one step of each phase; two with an adversary."""
    values = load_recipe(name).to_dict()
    data, loss = values["data"], values["loss"]
    gan = loss["adversarial"] > 0
    values["model"] = {"preset": values["model"]} | SMALL
    data |= {
        "train": str(room / "gt"),
        "patch": 32 if load_recipe(name).network_config.scale < 4 else 16,
        "batch": 2,
        "workers": 0,
    }
    if data["progressive"]:
        data["progressive"] = [[1, 64, 1]]
        data["lq"] = str(room / "lq")
    if data["crop"]:
        data["crop"] = data["patch"] * load_recipe(name).network_config.scale + 32
    if data["pool"]:
        data["pool"] = 2
    loss |= {"discriminator_dim": 4}
    for field in ("vgg19", "resnet50", "stlpips"):
        loss[field] = str(room / f"{field}.pth")
    if values["stage"] == 2:
        torch.manual_seed(0)
        teacher = STAGES[1](TrainConfig.model_validate(values).network_config)
        start_at_identity(teacher)
        save(room / "s1.safetensors", teacher)
        values["stage1"] = str(room / "s1.safetensors")
    if values["warmup"]["steps"]:
        values["warmup"]["steps"] = 1
    values |= {"steps": 2 if gan or values["warmup"]["steps"] or data["progressive"] else 1, "log_every": 1}
    values |= {"out": str(room / "runs"), "device": "cpu", "devices": 1, "log": []}
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_can_be_stepped(name: str, room: Path) -> None:
    """A recipe is called as its file is, trains a preset, and its losses are finite and move the network.

    With an adversary both sides make two steps.
    """
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.model in PRESETS
    config = shrunk(name, room)
    train(config, lambda _: None)
    log = [r for r in read_journal(config.folder / "journal.jsonl") if r["kind"] == "train"]
    assert len(log) == config.steps
    expected = {"image"} | ({"prior"} if recipe.stage == 2 else set())
    expected |= {name for name in stages._EXTRACTORS if getattr(recipe.loss, name)}
    expected |= {"adversarial", "discriminator"} if recipe.loss.adversarial else set()
    expected |= {"features"} if recipe.loss.feature_matching else set()
    numbers = {"time", "kind", "step", "lr", "seconds_per_step", "images_per_second", "data_wait"}
    assert set(log[-1]) - numbers - {"memory_mib"} == expected


@pytest.mark.parametrize("name", recipe_names())
def test_headers_say_what_a_recipe_is(name: str) -> None:
    """A recipe begins with what it trains, its data and its command, which names it."""
    from dirformer.training.config import _recipes

    head = [line for line in (_recipes() / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    text = "\n".join(head)
    assert all(f"# {word}:" in text for word in ("Data", "Command"))
    assert f"dirformer train {name} " in text
    if "compact" not in name:
        assert all(f"# {word}:" in text for word in ("Paper", "Batch", "Hours", "Expected score"))


def described(name: str) -> dict[str, Any]:
    """All fields of a recipe and of its network, dotted; names left out."""
    recipe = load_recipe(name)
    values = {k: v for k, v in recipe.to_dict().items() if k not in ("name", "model")}
    flat = {k: v for k, v in values.items() if not isinstance(v, dict)}
    flat |= {f"{k}.{field}": v for k, d in values.items() if isinstance(d, dict) for field, v in d.items()}
    return flat | {f"model.{k}": v for k, v in recipe.network_config.to_dict().items()}


@pytest.mark.parametrize("name", [n for n in recipe_names() if "-paper-" in n or "-literal-" in n])
def test_headers_name_every_difference_to_the_release(name: str) -> None:
    """A recipe after the paper names, field by field, what differs from a released one, and nothing else."""
    from dirformer.training.config import _recipes

    (line,) = [
        x for x in (_recipes() / f"{name}.yaml").read_text().splitlines() if x.startswith("# Against ")
    ]
    partner, _, said = line.removeprefix("# Against ").removesuffix(".").partition(": ")
    theirs, ours = described(partner), described(name)
    assert "-paper" not in partner and "-literal" not in partner
    differences = {
        f"{key} {json.dumps(theirs[key])} → {json.dumps(ours[key])}"
        for key in ours
        if ours[key] != theirs[key]
    }
    assert set(said.split("; ")) == differences


def test_released_rates() -> None:
    """Rates of the released option files and step rules, at known steps."""
    real = load_recipe("realsr-x4-stage2")
    rule = {0: 2e-4, 59_999: 2e-4, 60_000: 2e-5, 99_999: 2e-5, 100_000: 2e-4, 699_999: 2e-4, 700_000: 1e-4}
    assert {step: pytest.approx(lr_of_run(step, real)) for step in rule} == rule
    deblur = load_recipe("deblurring-stage2")
    rule = {99_999: 2e-5, 100_000: 2e-4, 180_000: 1e-4, 260_000: 5e-5, 340_000: 2.5e-5, 399_999: 2.5e-5}
    assert {step: pytest.approx(lr_of_run(step, deblur)) for step in rule} == rule
    first = load_recipe("deblurring-stage1")
    rule = {0: 2e-4, 46_000: 2.425e-4, 92_000: 2e-4, 196_000: 1.005e-4}
    assert {step: pytest.approx(lr_of_run(step, first)) for step in rule} == rule
    gan = load_recipe("sr-x4-gan")
    both = [(lr_of_run(s, gan), scheduled_lr(s, gan.steps, gan.discriminator)) for s in (199_999, 200_000)]
    assert both == [(2e-4, 1e-4), (1e-4, 5e-5)]
    fine = load_recipe("realsr-x4-gan-v2")
    both = [(lr_of_run(s, fine), scheduled_lr(s, fine.steps, fine.discriminator)) for s in (299_999, 300_000)]
    assert both == [(1e-4, 1e-4), (5e-5, 1e-4)]


@pytest.mark.parametrize(
    ("name", "global_batches"),
    [
        ("inpainting-celeba-stage1", {0: 32}),
        ("inpainting-places-big-stage2", {0: 120}),
        ("inpainting-celeba-paper-stage1", {0: 30}),
        ("sr-x4-stage1", {0: 64}),
        ("sr-x2-gan", {0: 64}),
        ("realsr-x4-stage1", {0: 72}),
        ("realsr-x4-paper-stage1", {0: 64}),
        ("deblurring-stage1", {0: 64, 92_000: 32, 172_000: 16, 243_000: 8}),
        ("deblurring-stage2", {0: 64, 150_000: 32, 210_000: 16, 320_000: 8}),
        ("deblurring-paper-stage1", {0: 64, 92_000: 40, 156_000: 32, 204_000: 16, 240_000: 8}),
    ],
)
def test_published_batches(name: str, global_batches: dict[int, int]) -> None:
    """Batch per device × devices is what the paper or the release trained with."""
    recipe = load_recipe(name)
    stages_of_run = [(0, recipe.data.patch, recipe.data.batch), *recipe.data.progressive]
    assert isinstance(recipe.devices, int)
    for step, batch in global_batches.items():
        assert [b for first, _, b in stages_of_run if step >= first][-1] * recipe.devices == batch
