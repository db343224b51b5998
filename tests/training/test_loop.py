"""Training learns, goes on where it stopped bit for bit, and does not hide trouble."""

from __future__ import annotations

import itertools
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

from dirformer.experiments.train import train
from dirformer.ground.errors import CheckpointError, ConfigError, DataError, TrainingError
from dirformer.ground.journal import read_journal
from dirformer.networks.config import PRESETS
from dirformer.training import devices, loop, samples, trial
from dirformer.training.config import TrainConfig, load_recipe, recipe_names
from dirformer.training.player import Player
from dirformer.training.samples import Batch
from dirformer.training.schedules import scheduled_lr
from dirformer.training.stages import STAGES, PhotoLosses
from dirformer.weights.checkpoints import load, save
from helpers import FABRIC_WARNINGS, SRC, TINY_SR, picture, tiny

pytestmark = FABRIC_WARNINGS


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
        "optimiser": {"lr": 2e-3, "schedule": "constant"},
        "steps": 6,
        "log_every": 2,
        "save_every": 2,
        "out": str(photos.parent / "runs"),
        "device": "cpu",
        "log": [],
    }
    for key, value in fields.items():
        values[key] = values[key] | value if isinstance(values.get(key), dict) and key != "model" else value
    return TrainConfig.model_validate(values)


def quiet(line: str) -> None:
    del line


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_run_equals_the_other(photos: Path) -> None:
    """`compile: true` gives the same losses, and a run may go on without it."""
    config = recipe(photos, steps=2, log_every=1)
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


def test_both_stages_overfit_two_photos(photos: Path) -> None:
    """On two photos the loss of each stage falls far below where it began, and stage 2 learns the IPR."""
    small = {
        "data": {"patch": 8, "batch": 2},
        "optimiser": {"lr": 4e-3, "schedule": "cosine"},
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
    losses = losses_of(current, batch(lq, gt))
    assert set(losses) == ({"image"} if stage == 1 else {"image", "prior"})
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in current.network.parameters())
    assert all(p.grad is None for p in current.frozen.parameters())


def batch(lq: torch.Tensor, gt: torch.Tensor, step: int = 0) -> Batch:
    return Batch(lq, gt, [torch.Generator().manual_seed(i) for i in range(len(lq))], step)


def losses_of(stage: Any, given: Batch) -> dict[str, torch.Tensor]:
    """The losses of a batch, on the stage's own network."""
    return stage.losses(stage.draw(given), stage.network).values


def reached(model: torch.nn.Module) -> set[str]:
    """Rooms of a network whose parameters have a gradient that is not zero."""
    return {
        name.split(".")[0]
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }


def stage2(photos: Path, **fields: Any) -> Any:
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    return STAGES[2](recipe(photos, 2, stage1=str(photos.parent / "s1.safetensors"), **fields))


def test_joint_training_reaches_the_prior_through_the_photo(photos: Path) -> None:
    """V3: the photo's loss alone teaches CPEN and denoiser, through all T steps."""
    current = stage2(photos)
    losses_of(current, batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)))["image"].backward()
    assert reached(current.network) == {"cpen", "denoiser", "dirformer"}


@pytest.mark.parametrize("target", ["x0", "epsilon"])
def test_separate_training_leaves_the_dirformer_alone(photos: Path, target: str) -> None:
    """V2: a step at a random t teaches CPEN and denoiser; the DIRformer stays as stage 1 left it."""
    current = stage2(photos, training="separate", model=TINY_SR.to_dict() | {"target": target})
    losses = losses_of(current, batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)))
    assert set(losses) == {"prior"}
    losses["prior"].backward()
    assert reached(current.network) == {"cpen", "denoiser"}
    assert not any(p.requires_grad for p in current.network.dirformer.parameters())


def test_without_diffusion_the_condition_is_the_estimate(photos: Path) -> None:
    """V1: with T = 0, CPEN's own output is compared with stage 1's IPR and guides the DIRformer."""
    current = stage2(photos, model=TINY_SR.to_dict() | {"timesteps": 0})
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    losses = losses_of(current, batch(lq, gt))
    with torch.no_grad():
        expected = (current.network.cpen(lq) - current.teacher(lq, gt)).abs().mean()
    assert float(losses["prior"].detach()) == pytest.approx(float(expected))
    sum(losses.values()).backward()
    assert reached(current.network) == {"cpen", "dirformer"}


@pytest.mark.parametrize("kind", ["l1", "l2", "kl"])
def test_prior_losses_are_chosen_by_the_recipe(photos: Path, kind: str) -> None:
    """Eqs. 13 to 15 by name, weighted."""
    current = stage2(photos, loss={"prior_kind": kind, "prior": 2.0})
    losses = losses_of(current, batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)))
    assert losses["prior"] > 0


def test_warm_up_trains_cpen_and_denoiser_alone(photos: Path) -> None:
    """Before the joint phase the DIRformer does not move; then it does."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    fields = {"stage1": str(photos.parent / "s1.safetensors"), "ema": 0.0, "save_every": 1}
    before = tiny(stage=1).dirformer.state_dict()
    warm = train(recipe(photos, 2, name="warm", steps=3, warmup={"steps": 3}, **fields), quiet)
    after = load(warm).dirformer.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    joint = train(recipe(photos, 2, name="joint", steps=4, warmup={"steps": 3}, **fields), quiet)
    after = load(joint).dirformer.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    log = [r for r in read_journal(photos.parent / "runs/joint/journal.jsonl") if r["kind"] == "train"]
    assert [set(r) & {"image", "prior"} for r in log] == [{"prior"}, {"image", "prior"}]


def test_accumulated_batches_equal_whole_ones(photos: Path) -> None:
    """Two backward passes over halves give the weights of one over the whole, to rounding."""
    whole = train(recipe(photos, name="whole", data={"batch": 4}, steps=3), quiet)
    parts = train(recipe(photos, name="parts", data={"batch": 2}, accumulate=2, steps=3), quiet)
    near_weights(whole, parts, 1e-5)


def test_recomputed_activations_change_nothing(photos: Path) -> None:
    """Keeping less for the gradient gives the same weights."""
    plain = train(recipe(photos, name="plain", steps=3), quiet)
    lean = train(recipe(photos, name="lean", steps=3, checkpoint_activations=True), quiet)
    near_weights(plain, lean, 1e-6)


def near_weights(one: Path, other: Path, tolerance: float) -> None:
    ours, theirs = (load(path).state_dict() for path in (one, other))
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < tolerance


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
    whole = train(recipe(photos, 2, name="whole", **fields), quiet)
    log = [r for r in read_journal(photos.parent / "runs/whole/journal.jsonl") if r["kind"] == "train"]
    assert {"image", "prior", "adversarial", "discriminator"} <= set(log[0])
    assert log[0]["discriminator"] != log[-1]["discriminator"]

    def stop(line: str) -> None:
        if line.startswith("step 2/"):
            raise StoppedError

    config = recipe(photos, 2, name="parts", **fields)
    with pytest.raises(StoppedError):
        train(config, stop)
    same_weights(whole, train(config, quiet))


@pytest.mark.parametrize("fields", [{}, {"warmup": {"steps": 9}}, {"training": "separate"}])
def test_stage_two_computes_in_the_precision_of_the_recipe(photos: Path, fields: dict[str, Any]) -> None:
    """`bf16-mixed` reaches the methods that a step calls, whatever the phase, not `forward` alone."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    config = recipe(photos, 2, stage1=str(photos.parent / "s1.safetensors"), precision="bf16-mixed", **fields)
    run = loop.Run(config, devices.open_fabric(config), quiet)
    seen: set[torch.dtype] = set()
    run.step.generator.module.cpen.embed.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    run.train_step(next(iter(run.batches())))
    assert seen == {torch.bfloat16}


def test_a_gradient_that_is_not_finite_rolls_back(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is met in the step that it spoils, before anything is saved."""
    config = recipe(photos, steps=4, save_every=1, optimiser={"clip": 1.0})
    original, steps = Player.step, itertools.count()

    def poisoned(self: Player) -> torch.Tensor | None:
        if next(steps) == 2:
            next(self.module.parameters()).grad.fill_(float("inf"))
        return original(self)

    monkeypatch.setattr(Player, "step", poisoned)
    lines: list[str] = []
    train(config, lines.append)
    assert any("gradient is not finite at step 3: back to step 2" in line for line in lines)


def test_every_part_of_a_batch_meets_the_discriminator(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accumulation the discriminator learns from all that was restored in a step."""
    config = recipe(photos, data={"batch": 1, "patch": 8}, accumulate=3, loss={"adversarial": 0.1}, steps=1)
    seen: list[torch.Tensor] = []
    original = PhotoLosses.of_discriminator

    def losses(self: Any, batch: Batch, restored: torch.Tensor, judge: Any) -> dict[str, torch.Tensor]:
        seen.append(restored)
        return original(self, batch, restored, judge)

    monkeypatch.setattr(PhotoLosses, "of_discriminator", losses)
    train(config, quiet)
    assert len(seen) == 3 and not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_a_state_of_an_older_version_is_taken_up(photos: Path) -> None:
    """A field that a stored recipe does not have is taken to have had its default."""
    config = recipe(photos, steps=2)
    train(config, quiet)
    state = torch.load(config.folder / "state.pt", weights_only=True)
    del state["recipe"]["loss"]["stlpips"], state["recipe"]["training"], state["world"], state["precision"]
    torch.save(state, config.folder / "state.pt")
    lines: list[str] = []
    train(config, lines.append)
    assert lines[0].startswith("going on from step 2")


class StoppedError(Exception):
    pass


def test_perceptual_loss_asks_for_its_weights(photos: Path) -> None:
    """VGG-19's weights cannot be shipped: the error says which file to give."""
    with pytest.raises(ConfigError, match=r"give loss.vgg19=FILE"):
        stage2(photos, loss={"perceptual": 1.0})


@pytest.mark.parametrize(("stage", "kind"), [(1, "adam"), (2, "adam"), (2, "muon")])
def test_stopping_and_going_on_changes_nothing(photos: Path, stage: int, kind: str) -> None:
    """Four steps, a new process's worth of forgetting, two more: bit-equal to six in one go."""
    save(photos.parent / "s1.safetensors", tiny(stage=1))
    extra: dict[str, Any] = {"stage1": str(photos.parent / "s1.safetensors")} if stage == 2 else {}
    extra["optimiser"] = {"kind": kind}
    whole = train(recipe(photos, stage, name="whole", **extra), quiet)

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
    config = recipe(photos, steps=20, save_every=1, recovery={"tries": 0})
    poison(monkeypatch, {4})
    with pytest.raises(TrainingError, match=r"not finite at step 4 \(image nan\).*optimiser.clip=1"):
        train(config, quiet)
    assert load(config.folder / "last.safetensors").stage == 1
    assert [r["kind"] for r in read_journal(config.folder / "journal.jsonl")][-1] == "diverged"


def test_a_diverged_run_rolls_back(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite sends the run back to its last good state with half the rate, and it ends."""
    config = recipe(photos, steps=6, save_every=2, log_every=1)
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
        train(recipe(photos, save_every=2), quiet)


def test_a_collapse_of_the_score_rolls_back(photos: Path) -> None:
    """A validation score far below the best sends the run back; the best weights are untouched."""
    scores = iter([20.0, 10.0, 20.5, 21.0])
    lines: list[str] = []
    config = recipe(photos, val_every=2)
    loop.train(config, lambda *_: {"psnr_y": next(scores)}, lines.append)
    assert any("psnr_y fell to 10.00 at step 4; the best was 20.00: back to step 2" in line for line in lines)
    assert load_provenance(config.folder / "best.safetensors")["scores"] == {"psnr_y": 21.0}


def test_numbered_copies_are_rotated(photos: Path) -> None:
    """`keep` numbered files stay, the newest."""
    config = recipe(photos, save_every=1, keep=2)
    train(config, quiet)
    names = sorted(p.name for p in config.folder.glob("step-*"))
    assert names == ["step-00000005.safetensors", "step-00000006.safetensors"]


def test_validation_keeps_the_best(photos: Path) -> None:
    """Scores are taken from the averaged network; the best so far is kept apart from the last."""
    scores = iter([1.0, 3.0, 2.0])
    seen: list[bool] = []
    steps: list[int] = []

    def validate(model: torch.nn.Module, step: int) -> dict[str, float]:
        seen.append(model.training)
        steps.append(step)
        return {"psnr_y": next(scores)}

    config = recipe(photos, val_every=2)
    loop.train(config, validate, quiet)
    assert seen == [False] * 3 and steps == [2, 4, 6]
    best = [r["step"] for r in read_journal(config.folder / "journal.jsonl") if r["kind"] == "val"]
    assert best == [2, 4, 6]
    header = json.loads(json.dumps(load_provenance(config.folder / "best.safetensors")))
    assert header["step"] == 4 and header["scores"] == {"psnr_y": 3.0}


def load_provenance(path: Path) -> dict[str, Any]:
    from dirformer.weights.checkpoints import read_header

    return read_header(path)["provenance"]


def test_validation_photos_are_not_trained_on(photos: Path) -> None:
    """Photos of data.val are left out of data.train when both are in one folder."""
    (photos.parent / "photos_val.txt").write_text("1.png\n")
    config = recipe(photos, data={"val": str(photos.parent / "photos_val.txt")})
    crops = samples.Samples(config).dataset
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
        train(recipe(photos, optimiser={"lr": 1e-5}), quiet)
    train(recipe(photos, log_every=1), quiet)


def test_rates_follow_their_schedules() -> None:
    """Constant, multi-step and cosine rates have their values at known steps; warm-up is linear."""
    from dirformer.training.config import Optimiser

    constant = Optimiser(lr=1e-3, schedule="constant")
    assert scheduled_lr(99, 100, constant) == 1e-3
    steps = Optimiser(lr=2e-4, schedule="multistep", milestones=(500_000, 700_000))
    assert [scheduled_lr(s, 10**6, steps) for s in (0, 499_999, 500_000, 700_000)] == [
        2e-4,
        2e-4,
        1e-4,
        5e-5,
    ]
    cosine = Optimiser(lr=1.0, schedule="cosine", final_lr=0.0)
    assert scheduled_lr(50, 100, cosine) == pytest.approx(0.5)
    assert scheduled_lr(0, 100, cosine) == 1.0
    # The released deblurring stage 1: two cosines, the first of which rises.
    cycles = Optimiser(lr=2e-4, schedule="cycles", cycles=((92_000, 2.85e-4), (208_000, 1e-6)))
    rates = [scheduled_lr(s, 300_000, cycles) for s in (0, 46_000, 92_000, 196_000, 300_000)]
    assert rates == pytest.approx([2e-4, 2.425e-4, 2e-4, 1.005e-4, 1e-6])
    warm = Optimiser(lr=1.0, schedule="constant", warmup=4)
    assert [scheduled_lr(s, 100, warm) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]


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
        (["optimiser.lr=-1"], "optimiser.lr is -1"),
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
    assert config.network_config.dim == 32 and config.network_config.tail == "direct"
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
    config = recipe(photos)
    fabric = devices.open_fabric(config)
    fitted = trial.steps_in(config, 0.05, lines.append, fabric)
    assert fitted.steps >= 1 and lines[-1].endswith(f"{fitted.steps} steps in 0.05 minutes")
    assert not fitted.folder.exists()
    train(recipe(photos), quiet)
    assert trial.steps_in(config, 60.0, quiet, fabric).steps == 6
