"""Training learns, goes on where it stopped bit for bit, and does not hide trouble."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.experiments.train import train
from dirformer.ground.errors import CheckpointError, ConfigError, DataError, TrainingError
from dirformer.ground.journal import Pace, read_journal
from dirformer.training import loop, samples
from dirformer.training.player import Player
from dirformer.weights.checkpoints import save
from dirformer.weights.load import load
from helpers import (
    FABRIC_WARNINGS,
    SRC,
    dirformer,
    photo_folder,
    quiet,
    same_weights,
    tiny,
    tiny_recipe,
)

pytestmark = FABRIC_WARNINGS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_run_equals_the_other(photos: Path) -> None:
    """`compile: true` gives the same losses, and a run may go on without it."""
    config = tiny_recipe(photos, steps=2, log_every=1)
    file = photos.parent / "recipe.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    # In a process of its own, where shapes in signatures are not checked: the compiler cannot read that.
    command = [sys.executable, "-m", "dirformer", "train", str(file)]
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    for arguments in (["compile=true"], ["name=eager"], ["compile=false", "log_every=2"]):
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
    losses = []
    for name in ("run", "eager"):
        log = read_journal(config.out / name / "journal.jsonl")
        losses.append([record["image"] for record in log if record["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.timeout(0)  # minutes on a machine that has much else to do
def test_both_stages_overfit_two_photos(photos: Path) -> None:
    """On two photos the loss of each stage falls far below where it began, and stage 2 learns the IPR."""
    small = {
        "data": {"patch": 8, "batch": 2},
        "optimiser": {"lr": 4e-3, "schedule": "cosine"},
        "steps": 120,
    }
    stage1 = train(tiny_recipe(photos, name="one", log_every=10, save_every=120, **small), quiet)
    stage2 = train(
        tiny_recipe(photos, 2, name="two", stage1=str(stage1), log_every=10, save_every=120, **small), quiet
    )
    logs = {n: list(read_journal(photos.parent / "runs" / n / "journal.jsonl")) for n in ("one", "two")}
    first, last = (logs["one"][i]["image"] for i in (0, -1))
    assert last < 0.6 * first
    # Stage 2 starts from a trained DIRformer: its photo loss stays low while the IPR is learnt.
    assert logs["two"][-1]["image"] < 0.6 * first
    assert logs["two"][-1]["prior"] < 0.5 * logs["two"][0]["prior"]
    assert load(stage2).stage == 2


def test_warm_up_trains_cpen_and_denoiser_alone(photos: Path) -> None:
    """Before the joint phase the DIRformer does not move; then it does."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    fields = {"stage1": str(photos.parent / "s1.safetensors"), "ema": 0.0, "save_every": 1}
    before = tiny(stage=1).dirformer.state_dict()
    warm = train(tiny_recipe(photos, 2, name="warm", steps=3, warmup={"steps": 3}, **fields), quiet)
    after = load(warm).dirformer.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    joint = train(tiny_recipe(photos, 2, name="joint", steps=4, warmup={"steps": 3}, **fields), quiet)
    after = load(joint).dirformer.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    log = [r for r in read_journal(photos.parent / "runs/joint/journal.jsonl") if r["kind"] == "train"]
    assert [set(r) & {"image", "prior"} for r in log] == [{"prior"}, {"image", "prior"}]


def test_adversarial_refinement_trains_both_sides(photos: Path) -> None:
    """With an adversarial weight a discriminator learns beside, and both go on after a stop bit for bit."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    fields = {
        "stage1": str(photos.parent / "s1.safetensors"),
        "loss": {"adversarial": 0.1},
        "data": {"batch": 1, "patch": 8},
        "steps": 3,
        "log_every": 1,
        "save_every": 1,
    }
    whole = train(tiny_recipe(photos, 2, name="whole", **fields), quiet)
    log = [r for r in read_journal(photos.parent / "runs/whole/journal.jsonl") if r["kind"] == "train"]
    assert {"image", "prior", "adversarial", "discriminator"} <= set(log[0])
    assert log[0]["discriminator"] != log[-1]["discriminator"]

    def stop(line: str) -> None:
        if line.startswith("step 2/"):
            raise StoppedError

    config = tiny_recipe(photos, 2, name="parts", **fields)
    with pytest.raises(StoppedError):
        train(config, stop)
    same_weights(whole, train(config, quiet))


def test_a_gradient_that_is_not_finite_rolls_back(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is met in the step that it spoils, before anything is saved."""
    config = tiny_recipe(photos, steps=4, save_every=1, optimiser={"clip": 1.0})
    original, steps = Player.step, itertools.count()

    def poisoned(self: Player) -> torch.Tensor | None:
        if next(steps) == 2:
            next(self.module.parameters()).grad.fill_(float("inf"))
        return original(self)

    monkeypatch.setattr(Player, "step", poisoned)
    lines: list[str] = []
    train(config, lines.append)
    assert any("gradient is not finite at step 3: back to step 2" in line for line in lines)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(("stage", "kind"), [(1, "adam"), (2, "adam"), (2, "muon")])
def test_stopping_and_going_on_changes_nothing(photos: Path, stage: int, kind: str) -> None:
    """Four steps, a new process's worth of forgetting, two more: bit-equal to six in one go."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    extra: dict[str, Any] = {"stage1": str(photos.parent / "s1.safetensors")} if stage == 2 else {}
    extra["optimiser"] = {"kind": kind}
    whole = train(tiny_recipe(photos, stage, name="whole", **extra), quiet)

    def stop(line: str) -> None:
        if line.startswith("step 4/"):
            raise StoppedError

    config = tiny_recipe(photos, stage, name="parts", **extra)
    with pytest.raises(StoppedError):
        train(config, stop)
    lines: list[str] = []
    parts = train(config, lines.append)
    assert lines[0].startswith("going on from step 2")
    same_weights(whole, parts)


def test_a_killed_run_goes_on_bit_for_bit(photos: Path) -> None:
    """SIGKILL in the middle of stage 2, the same command again: the weights of an undisturbed run."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    fields = {"stage1": str(photos.parent / "s1.safetensors"), "steps": 40, "log_every": 1, "save_every": 3}
    whole = train(tiny_recipe(photos, 2, name="whole", **fields), quiet)
    config = tiny_recipe(photos, 2, name="killed", **fields)
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


def poison(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Make the LQ photos of these calls (from 1) not a number."""
    count = 0
    original = samples.degrade_crops

    def poisoned(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal count
        count += 1
        lq, gt = original(*arguments)
        return (lq * float("nan") if count in calls else lq), gt

    monkeypatch.setattr(samples, "degrade_crops", poisoned)


def test_a_non_finite_loss_stops_with_advice(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tries left, the run ends in one line naming step, loss and remedy; what was saved is finite."""
    config = tiny_recipe(photos, steps=20, save_every=1, recovery={"tries": 0})
    poison(monkeypatch, {4})
    with pytest.raises(TrainingError, match=r"not finite at step 4 \(image nan\).*optimiser.clip=1"):
        train(config, quiet)
    assert load(config.folder / "last.safetensors").stage == 1
    assert [r["kind"] for r in read_journal(config.folder / "journal.jsonl")][-1] == "diverged"


def test_a_diverged_run_rolls_back(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite sends the run back to its last good state with half the lr; it ends."""
    config = tiny_recipe(photos, steps=6, save_every=2, log_every=1)
    poison(monkeypatch, {4})
    lines: list[str] = []
    train(config, lines.append)
    assert any("back to step 2, lr × 0.5 (try 1 of 3)" in line for line in lines)
    log = [r for r in read_journal(config.folder / "journal.jsonl") if r["kind"] == "train"]
    assert [r["step"] for r in log] == [1, 2, 3, 3, 4, 5, 6]
    assert log[-1]["lr"] == pytest.approx(0.5 * log[0]["lr"])


def test_a_run_that_keeps_diverging_gives_up(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the stated number of tries the run says so and ends."""
    poison(monkeypatch, {3, 4, 5, 6})
    with pytest.raises(TrainingError, match="not finite at step 3"):
        train(tiny_recipe(photos, save_every=2), quiet)


def test_a_collapse_of_the_score_rolls_back(photos: Path) -> None:
    """A validation score far below the best sends the run back; the best weights are untouched."""
    scores = iter([20.0, 10.0, 20.5, 21.0])
    lines: list[str] = []
    config = tiny_recipe(photos, val_every=2)
    loop.train(config, lambda *_: {"psnr_y": next(scores)}, lines.append)
    assert any("psnr_y fell to 10.00 at step 4; the best was 20.00: back to step 2" in line for line in lines)
    assert load_provenance(config.folder / "best.safetensors")["scores"] == {"psnr_y": 21.0}


def test_a_score_of_nan_is_a_collapse(photos: Path) -> None:
    """It is neither best nor good: the run goes back, and what was best stays."""
    scores, lines = iter([20.0, float("nan"), 20.5, 19.0]), list[str]()
    config = tiny_recipe(photos, val_every=2)
    loop.train(config, lambda *_: {"psnr_y": next(scores)}, lines.append)
    assert any("psnr_y is nan at step 4" in line and "back to step 2" in line for line in lines)
    assert load_provenance(config.folder / "best.safetensors")["scores"] == {"psnr_y": 20.5}
    for line in (config.folder / "journal.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_after_an_infinite_score_no_other_is_a_collapse(photos: Path) -> None:
    """Every score is infinitely far below it, itself too."""
    scores, lines = iter([float("inf"), float("inf"), 20.0]), list[str]()
    loop.train(tiny_recipe(photos, val_every=2), lambda *_: {"psnr_y": next(scores)}, lines.append)
    assert not any("back to" in line for line in lines) and next(scores, None) is None


@pytest.mark.parametrize("val", [False, True])
def test_huge_finite_weights_are_not_kept(photos: Path, val: bool) -> None:
    """Weights that restore NaN never become best, good or last: the run ends where it was sound."""
    schedule = {"schedule": "multistep", "milestones": [3], "gamma": 1e34, "clip": 1.0}
    data = {"val": str(photo_folder(photos.parent / "val", 1, seed=9))} if val else {}
    config = tiny_recipe(photos, steps=4, val_every=2, optimiser=schedule, data=data)
    with pytest.raises(TrainingError, match=r"at step 4.*is from before"):
        train(config, quiet)
    kept = ["best", "last"] if val else ["last"]
    for name in kept:
        assert load_provenance(config.folder / f"{name}.safetensors")["step"] == 2
    for name in ("good", "state"):
        assert torch.load(config.folder / f"{name}.pt", weights_only=True)["step"] == 2
    nothing = tiny_recipe(photos, name="nothing", steps=1, optimiser={"lr": 1e30})
    with pytest.raises(TrainingError, match="step 1; nothing was saved before"):
        train(nothing, quiet)


def test_validation_keeps_the_best(photos: Path) -> None:
    """Scores are taken from the averaged network; the best so far is kept apart from the last."""
    scores = iter([1.0, 3.0, 2.0])
    seen: list[bool] = []
    steps: list[int] = []

    def validate(model: torch.nn.Module, step: int) -> dict[str, float]:
        seen.append(model.training)
        steps.append(step)
        return {"psnr_y": next(scores)}

    config = tiny_recipe(photos, val_every=2)
    loop.train(config, validate, quiet)
    assert seen == [False] * 3 and steps == [2, 4, 6]
    best = [r["step"] for r in read_journal(config.folder / "journal.jsonl") if r["kind"] == "val"]
    assert best == [2, 4, 6]
    header = json.loads(json.dumps(load_provenance(config.folder / "best.safetensors")))
    assert header["step"] == 4 and header["scores"] == {"psnr_y": 3.0}


def load_provenance(path: Path) -> dict[str, Any]:
    from dirformer.weights.checkpoints import read_header

    return read_header(path).provenance


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
        train(tiny_recipe(photos, **fields), quiet)


def test_time_left_is_shown(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines for people carry step, losses, speed and the time left: 10 s a step, four steps to go."""
    monkeypatch.setattr(Pace, "seconds_per_step", lambda *_: 10.0)
    lines: list[str] = []
    train(tiny_recipe(photos), lines.append)
    assert re.match(
        r"step 2/6  image 0\.\d{5}  lr 2\.00e-03  0\.2 images/s  eta 0:00:40  data wait", lines[0]
    )


def test_ctrl_c_saves_after_the_step_at_hand(photos: Path) -> None:
    """The state of that step is saved though none was due, and the run goes on bit for bit."""
    rare = {"save_every": 100, "log_every": 1}
    whole = train(tiny_recipe(photos, name="whole", **rare), quiet)
    before = signal.getsignal(signal.SIGINT)  # a job in the background is born with Ctrl-C ignored
    config, lines = tiny_recipe(photos, **rare), list[str]()

    def press(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, press)
    assert (
        lines[-1] == f"interrupted: step 3 is saved in {config.folder}; the same command goes on from there"
    )
    assert torch.load(config.folder / "state.pt", weights_only=True)["step"] == 3
    assert signal.getsignal(signal.SIGINT) is before
    same_weights(whole, train(config, quiet))


def test_a_second_ctrl_c_stops_at_once(photos: Path) -> None:
    """Nothing more is waited for or saved."""

    def press_twice(line: str) -> None:
        if line.startswith("step 2/"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    config = tiny_recipe(photos)
    with pytest.raises(KeyboardInterrupt):
        train(config, press_twice)
    assert not (config.folder / "state.pt").exists()


def test_the_command_ends_with_130_on_ctrl_c(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As commands do that were interrupted."""
    train_step = loop.Run.train_step

    def interrupted(self: Any, raw: dict[str, Any]) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return train_step(self, raw)

    monkeypatch.setattr(loop.Run, "train_step", interrupted)
    file = photos.parent / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_recipe(photos).to_dict()))
    outcome = dirformer("train", file)
    assert outcome.returncode == 130 and "interrupted: step 1 is saved in" in outcome.stdout
