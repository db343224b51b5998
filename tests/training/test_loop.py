"""Training learns, goes on where it stopped bit for bit, and does not hide trouble."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.checkpoints import load, save
from dirformer.errors import CheckpointError, ConfigError, DataError, TrainingError
from dirformer.evaluation.validation import train
from dirformer.journal import read_journal
from dirformer.networks.config import PRESETS
from dirformer.training import loop
from dirformer.training.config import TrainConfig, load_recipe, recipe_names
from dirformer.training.schedules import learning_rate
from dirformer.training.stages import STAGES
from helpers import SRC, TINY_SR, picture, tiny

pytestmark = pytest.mark.filterwarnings(
    # Raised inside lightning-fabric, about its own use of torch.
    "ignore::DeprecationWarning:lightning_fabric",
    "ignore::FutureWarning:lightning_fabric",
    "ignore:.*`isinstance.treespec, LeafSpec.`.*",
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        picture(96, 96, seed=i).save(folder / f"{i}.png")
    return folder


def recipe(photos: Path, stage: int = 1, **fields: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "name": "run",
        "stage": stage,
        "model": {**TINY_SR.to_dict()},
        "data": {"train": str(photos), "patch": 16, "batch": 2},
        "optimiser": {"rate": 2e-3, "schedule": "constant"},
        "steps": 6,
        "log_every": 2,
        "save_every": 2,
        "out": str(photos.parent / "runs"),
        "device": "cpu",
    }
    for key, value in fields.items():
        values[key] = values[key] | value if isinstance(values.get(key), dict) and key != "model" else value
    return TrainConfig.model_validate(values)


def quiet(line: str) -> None:
    del line


def test_both_stages_overfit_two_photos(photos: Path) -> None:
    """On two photos the loss of each stage falls far below where it began, and stage 2 learns the IPR."""
    small = {
        "data": {"patch": 8, "batch": 2},
        "optimiser": {"rate": 4e-3, "schedule": "cosine"},
        "steps": 120,
    }
    stage1 = train(recipe(photos, name="one", log_every=10, save_every=120, **small), quiet)
    stage2 = train(
        recipe(photos, 2, name="two", stage1=str(stage1), log_every=10, save_every=120, **small), quiet
    )
    logs = {n: list(read_journal(photos.parent / "runs" / n / "journal.jsonl")) for n in ("one", "two")}
    first, last = (logs["one"][i]["image"] for i in (0, -1))
    assert last < 0.6 * first
    # Stage 2 starts from a trained DIRformer: its photo loss stays low while the IPR is learnt.
    assert logs["two"][-1]["image"] < 0.6 * first
    assert logs["two"][-1]["prior"] < 0.5 * logs["two"][0]["prior"]
    assert load(stage2).stage == 2


@pytest.mark.parametrize("stage", [1, 2])
def test_gradients_reach_everything_that_is_trained(photos: Path, stage: int) -> None:
    """Stage 1 trains CPEN and DIRformer, stage 2 also the denoiser, through T steps; the teacher rests."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    config = recipe(
        photos, stage, **({"stage1": str(photos.parent / "s1.safetensors")} if stage == 2 else {})
    )
    current = STAGES[stage](config)
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    losses = current.losses(lq, gt, [torch.Generator().manual_seed(i) for i in range(2)])
    assert set(losses) == ({"image"} if stage == 1 else {"image", "prior"})
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in current.model.parameters())
    assert current.frozen is None or all(p.grad is None for p in current.frozen.parameters())


@pytest.mark.parametrize("stage", [1, 2])
def test_stopping_and_going_on_changes_nothing(photos: Path, stage: int) -> None:
    """Four steps, a new process's worth of forgetting, two more: bit-equal to six in one go."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    extra = {"stage1": str(photos.parent / "s1.safetensors")} if stage == 2 else {}
    whole = train(recipe(photos, stage, name="whole", **extra), quiet)

    class StoppedError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("step 4/"):
            raise StoppedError

    config = recipe(photos, stage, name="parts", **extra)
    with pytest.raises(StoppedError):
        train(config, stop)
    lines: list[str] = []
    parts = train(config, lines.append)
    assert lines[0].startswith("going on from step 2")
    same_weights(whole, parts)


def same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load(path).state_dict() for path in (one, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_killed_run_goes_on_bit_for_bit(photos: Path) -> None:
    """SIGKILL in the middle of stage 2, the same command again: the weights of an undisturbed run."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    fields = {"stage1": str(photos.parent / "s1.safetensors"), "steps": 40, "log_every": 1, "save_every": 3}
    whole = train(recipe(photos, 2, name="whole", **fields), quiet)
    config = recipe(photos, 2, name="killed", **fields)
    path = photos.parent / "killed.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dirformer", "train", str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 10/"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    folder = config.folder
    assert torch.load(folder / "state.pt", weights_only=True)["step"] < 40
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "going on from step" in again.stdout
    same_weights(whole, folder / "last.safetensors")


def test_a_non_finite_loss_stops_with_advice(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with one line naming step, loss and remedy; the last checkpoint is finite."""
    config = recipe(photos, steps=20, save_every=1)

    def poisoned(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        lq, gt = original(*arguments)
        calls.append(1)
        return (lq * float("nan") if len(calls) == 4 else lq), gt

    calls: list[int] = []
    original = loop.degrade_crops
    monkeypatch.setattr(loop, "degrade_crops", poisoned)
    with pytest.raises(TrainingError, match=r"not finite at step 4 \(image nan\).*optimiser.clip=1"):
        train(config, quiet)
    assert load(config.folder / "last.safetensors").stage == 1
    assert [r["kind"] for r in read_journal(config.folder / "journal.jsonl")][-1] == "non-finite"


def test_validation_keeps_the_best(photos: Path) -> None:
    """Scores are taken from the averaged network; the best so far is kept apart from the last."""
    scores = iter([1.0, 3.0, 2.0])
    seen: list[bool] = []

    def validate(model: torch.nn.Module) -> dict[str, float]:
        seen.append(model.training)
        return {"psnr_y": next(scores)}

    config = recipe(photos, val_every=2)
    loop.train(config, validate, quiet)
    assert seen == [False] * 3
    best = [r["step"] for r in read_journal(config.folder / "journal.jsonl") if r["kind"] == "val"]
    assert best == [2, 4, 6]
    header = json.loads(json.dumps(load_provenance(config.folder / "best.safetensors")))
    assert header["step"] == 4 and header["scores"] == {"psnr_y": 3.0}


def load_provenance(path: Path) -> dict[str, Any]:
    from dirformer.checkpoints import read_header

    return read_header(path)["provenance"]


def test_validation_photos_are_not_trained_on(photos: Path) -> None:
    """Photos of data.val are left out of data.train when both are in one folder."""
    (photos.parent / "photos_val.txt").write_text("1.png\n")
    config = recipe(photos, data={"val": str(photos.parent / "photos_val.txt")})
    _, crops = loop.training_data(config)
    assert [p.name for p in crops.source.photos] == ["0.png"]
    train(config, quiet)
    assert any(r["kind"] == "val" and r["psnr_y"] > 0 for r in read_journal(config.folder / "journal.jsonl"))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"data": {"train": None}}, ConfigError, "data.train is not set"),
        ({"data": {"train": "/nowhere"}}, DataError, "/nowhere is not there"),
        ({"data": {"patch": 12}}, ConfigError, "patch is 12; this network needs a multiple of 8"),
        ({"data": {"patch": 64}}, DataError, "96×96; crops need at least 288×288"),
        ({"data": {"degradation": "rain"}}, ConfigError, "no degradation 'rain'"),
        ({"stage": 2}, ConfigError, "give stage1=FILE"),
        ({"stage": 2, "stage1": "s2.safetensors"}, CheckpointError, "is a stage-2 network"),
        (
            {"stage": 2, "stage1": "s1.safetensors", "model": "sr-x4-compact"},
            ConfigError,
            "network with dim = 4",
        ),
        ({"init": "s2.safetensors"}, CheckpointError, "expected stage 1"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(
    photos: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Data, weights and sizes are checked before the first step."""
    for stage in (1, 2):
        save(photos.parent / f"s{stage}.safetensors", tiny(stage=stage))
    for key in ("stage1", "init"):
        if key in fields:
            fields = fields | {key: str(photos.parent / fields[key])}
    with pytest.raises(error, match=message):
        train(recipe(photos, **fields), quiet)


def test_another_recipe_in_the_same_folder_is_refused(photos: Path) -> None:
    """A run is its folder: a changed rate under the same name is an error, a changed interval is not."""
    train(recipe(photos), quiet)
    with pytest.raises(ConfigError, match=r"holds a run with optimiser = .* choose another name="):
        train(recipe(photos, optimiser={"rate": 1e-5}), quiet)
    train(recipe(photos, log_every=1), quiet)


def test_rates_follow_their_schedules() -> None:
    """Constant, multi-step and cosine rates have their values at known steps; warm-up is linear."""
    from dirformer.training.config import Optimiser

    constant = Optimiser(rate=1e-3, schedule="constant")
    assert learning_rate(99, 100, constant) == 1e-3
    steps = Optimiser(rate=2e-4, schedule="multistep", milestones=(500_000, 700_000))
    assert [learning_rate(s, 10**6, steps) for s in (0, 499_999, 500_000, 700_000)] == [
        2e-4,
        2e-4,
        1e-4,
        5e-5,
    ]
    cosine = Optimiser(rate=1.0, schedule="cosine", final_rate=0.0)
    assert learning_rate(50, 100, cosine) == pytest.approx(0.5)
    assert learning_rate(0, 100, cosine) == 1.0
    warm = Optimiser(rate=1.0, schedule="constant", warmup=4)
    assert [learning_rate(s, 100, warm) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    """A shipped recipe is called as its file is and trains the preset it names."""
    config = load_recipe(name)
    assert config.name == name and config.model in PRESETS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["step=3"], "unknown field step; the nearest valid one is steps"),
        (["data.pach=3"], "unknown field data.pach; the nearest valid one is patch"),
        (["steps=many"], "steps is 'many'"),
        (["optimiser.rate=-1"], "optimiser.rate is -1"),
        (["model=sr-x9"], "no preset 'sr-x9'"),
        (["model.dims=3"], "no field 'dims'; the nearest valid one is 'dim'"),
        (["steps"], "is not key=value"),
        (["steps.x=3"], "steps has no fields"),
    ],
)
def test_wrong_recipes_are_one_line(overrides: list[str], message: str) -> None:
    """Unknown keys are answered with the nearest valid one, wrong values with what was received."""
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe("sr-x4-compact-stage1", overrides)
    assert "\n" not in str(error.value)


def test_overrides_reach_nested_fields() -> None:
    """`model.dim=32` changes one field of the recipe's preset."""
    config = load_recipe("sr-x4-compact-stage1", ["model.dim=32", "data.batch=3", "data.train=DIR"])
    assert config.network.dim == 32 and config.network.tail == "direct"
    assert config.data.batch == 3 and config.data.train == Path("DIR")


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


def test_time_left_is_shown(photos: Path) -> None:
    """Lines for people carry step, losses, speed and the time left."""
    lines: list[str] = []
    started = time.time()
    train(recipe(photos), lines.append)
    assert time.time() >= started
    assert lines[0].startswith("step 2/6  image 0.") and "images/s  eta 0:00:" in lines[0]


def test_a_schedule_is_fitted_to_the_time(photos: Path) -> None:
    """`minutes` sets the number of steps from a measured pace; a run that has begun keeps its number."""
    lines: list[str] = []
    fitted = loop.steps_in(recipe(photos), 0.05, lines.append)
    assert fitted.steps >= 1 and lines[-1].endswith(f"{fitted.steps} steps in 0.05 minutes")
    assert not fitted.folder.exists()
    train(recipe(photos), quiet)
    assert loop.steps_in(recipe(photos), 60.0, quiet).steps == 6
