"""Several devices do together what one does alone, and stop, diverge and go on together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.ground.errors import ConfigError
from dirformer.ground.journal import read_journal
from dirformer.training import devices, loop
from dirformer.training.config import TrainConfig
from dirformer.weights.checkpoints import save
from dirformer.weights.load import load
from helpers import FABRIC_WARNINGS, SRC, TINY_INPAINTING, photo_folder, python, tiny, tiny_recipe

pytestmark = FABRIC_WARNINGS
SCRIPT = Path(__file__).with_name("many_devices.py")

RUNS: dict[str, dict[str, Any]] = {
    "first": {"stage": 1},
    "joint": {"stage": 2, "warmup": {"steps": 2}},
    "warm": {"stage": 2, "warmup": {"steps": 9}},
    "separate": {"stage": 2, "training": "separate"},
    "adversarial": {"stage": 2, "loss": {"adversarial": 0.1}},
    "accumulated": {"stage": 2, "accumulate": 2},
}
"""What two devices must do as one does.

Not batch norm (the patch discriminator's), which sees each device's part alone, nor a discriminator with
accumulation: each part meets spectral norms one iteration further.
"""
RESUMED: dict[str, dict[str, Any]] = {
    "joint": {"stage": 2, "warmup": {"steps": 3}},
    "adversarial": {"stage": 2, "loss": {"adversarial": 0.1}},
    "masked": {
        "stage": 1,
        "model": TINY_INPAINTING.to_dict(),
        "data": {"patch": 32},
        "loss": {
            "adversarial": 1.0,
            "discriminator": "patch",
            "discriminator_dim": 4,
            "feature_matching": 1.0,
        },
    },
    "pooled": {"stage": 1, "data": {"degradation": "realsr-released", "crop": 96, "pool": 2, "batch": 1}},
}


def recipe(room: Path, name: str, fields: dict[str, Any], **more: Any) -> TrainConfig:
    """A recipe in the room's folder; `more` is merged over `fields`."""
    values: dict[str, Any] = {
        "name": name,
        # Smaller patches end in one pixel, where queries of unit length have gradients of pure rounding.
        "data": {"patch": 16, "batch": 2},
        "optimiser": {"lr": 1e-4, "schedule": "constant"},
        "stage1": str(room / "s1.safetensors"),
        "steps": 3,
        "log_every": 1,
    }
    for key, value in (fields | more).items():
        values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
    return tiny_recipe(room / "photos", **values)


def write(config: TrainConfig) -> str:
    path = config.out.parent / f"{config.name}.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return str(path)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes are to train, trained: starting them takes seconds."""
    room = tmp_path_factory.mktemp("room")
    photo_folder(room / "photos")
    save(room / "s1.safetensors", tiny(stage=1))
    files = [write(recipe(room, f"two-{n}", f, devices=2)) for n, f in RUNS.items()]
    for kind in ("whole", "stopped"):
        files += [write(recipe(room, f"{kind}-{n}", f, devices=2, steps=6)) for n, f in RESUMED.items()]
    files.append(write(recipe(room, "poisoned", {"stage": 1}, devices=2, steps=4)))
    files.append(write(recipe(room, "validated", {"stage": 1, "val_every": 2}, devices=2, steps=4)))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = python(*launcher, str(SCRIPT), *files)
    assert done.returncode == 0, done.stderr[-3000:]
    return room


@pytest.mark.parametrize("name", RUNS)
def test_two_devices_equal_one(room: Path, name: str) -> None:
    """Three steps of two processes with half the batch each give the weights of one process, to 1e-5.

    Warm-up and discriminator included: gradients of every phase are averaged over devices.
    """
    one = recipe(room, f"one-{name}", RUNS[name], data={"batch": 4})
    loop.train(one, report=lambda _: None)
    other = room / "runs" / f"two-{name}"
    start = tiny(stage=1).state_dict()
    ours, theirs = (load(f / "last.safetensors").state_dict() for f in (one.folder, other))
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-5
    # Adam makes rounding visible where a gradient is all but zero; the gradients themselves are closer.
    states = [
        torch.load(f / "state.pt", weights_only=True)["generator"]["optimiser"]["state"]
        for f in (one.folder, other)
    ]
    for mine, yours in zip(*(state.values() for state in states), strict=True):
        largest = float(mine["exp_avg"].abs().max())
        assert float((mine["exp_avg"] - yours["exp_avg"]).abs().max()) <= 1e-3 * largest + 1e-9
    moved = {
        k.split(".")[0]
        for k in ours
        if k in start and ours[k].shape == start[k].shape and (ours[k] != start[k]).any()
    }
    assert ("dirformer" in moved) == (name not in ("warm", "separate"))
    logs = [
        [
            {k: r[k] for k in r if k in ("image", "prior", "adversarial", "discriminator")}
            for r in read_journal(f / "journal.jsonl")
        ]
        for f in (one.folder, other)
    ]
    for mine, yours in zip(*logs, strict=True):
        assert mine == pytest.approx(yours, rel=1e-3)


@pytest.mark.parametrize("name", RESUMED)
def test_two_devices_go_on_where_they_stopped(room: Path, name: str) -> None:
    """Stopped and started again, two processes end bit-equal; each has its own pool of earlier pairs back."""
    ours, theirs = (
        torch.load(room / "runs" / f"{k}-{name}" / "state.pt", weights_only=True)
        for k in ("whole", "stopped")
    )
    parts = [(state["generator"]["weights"], state["ema"]) for state in (ours, theirs)]
    if "discriminator" in ours:
        parts = [(*p, s["discriminator"]["weights"]) for p, s in zip(parts, (ours, theirs), strict=True)]
    for mine, yours in zip(*parts, strict=True):
        assert all(torch.equal(mine[k], yours[k]) for k in mine)
    pools = [
        sorted(p.name for p in (room / "runs" / f"{k}-{name}").glob("samples-*"))
        for k in ("whole", "stopped")
    ]
    assert pools == [["samples-6-1.pt"] if name == "pooled" else []] * 2


def test_two_devices_roll_back_together(room: Path) -> None:
    """A loss that is not finite on one device of two sends both back to the last good state."""
    log = list(read_journal(room / "runs" / "poisoned" / "journal.jsonl"))
    assert [r["step"] for r in log if r["kind"] == "train"] == [1, 2, 3, 4]
    assert [r["reason"].split(" (")[0] for r in log if r["kind"] == "diverged"] == [
        "loss is not finite at step 3"
    ]


def test_one_of_two_devices_validates(room: Path) -> None:
    """Scores are taken once, by the first device, and both know the best."""
    log = list(read_journal(room / "runs" / "validated" / "journal.jsonl"))
    assert [(r["step"], r["psnr_y"]) for r in log if r["kind"] == "val"] == [(2, 20.0), (4, 20.0)]
    assert load(room / "runs" / "validated" / "best.safetensors").stage == 1


def test_the_command_starts_its_processes(room: Path) -> None:
    """`devices=2` needs no launcher, and a run goes on with as many devices only."""
    config = recipe(room, "command", {"stage": 1}, devices=2, steps=2)
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dirformer", "train", write(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step 2/2") == 1 and done.stdout.count("weights: ") == 1
    with pytest.raises(ConfigError, match="holds a run on 2 devices, not on 1"):
        loop.train(config.model_copy(update={"devices": 1}), report=lambda _: None)


def test_devices_that_are_not_there_are_said(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many devices, or another number of processes than the recipe's, is one line with the remedy."""
    monkeypatch.setattr(devices, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="devices is 8, but this machine has 2; set devices=2 accumulate=4"):
        devices.open_fabric(recipe(room, "many", {"stage": 1}, devices=8))
    monkeypatch.undo()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a launcher started 2 processes, the recipe has devices=1 nodes=1"):
        devices.open_fabric(recipe(room, "many", {"stage": 1}))


def test_auto_precision_is_bfloat16_where_that_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it follows AVX-512; a named precision is taken as it is."""
    cpu = torch.device("cpu")
    for capability, expected in (("AVX2", "32-true"), ("AVX512", "bf16-mixed"), ("SVE256", "32-true")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert devices.precision_on(cpu, "auto") == expected
        assert devices.precision_on(cpu, "16-mixed") == "16-mixed"
