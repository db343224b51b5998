"""Several devices do together what one does alone, and stop, diverge and go on together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.experiments.validation import Validation
from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.journal import read_journal
from dirformer.training import devices, loop
from dirformer.training.config import TrainConfig
from dirformer.weights.checkpoints import read_header, save
from dirformer.weights.load import load
from helpers import FABRIC_WARNINGS, SRC, TINY_INPAINTING, photo_folder, picture, python, tiny, tiny_recipe

pytestmark = FABRIC_WARNINGS
SCRIPT = Path(__file__).with_name("many_devices.py")

RUNS: dict[str, dict[str, Any]] = {
    "first": {"stage": 1},
    "joint": {"stage": 2, "warmup": {"steps": 2}},
    "warm": {"stage": 2, "warmup": {"steps": 9}},
    "separate": {"stage": 2, "training": "separate"},
    "adversarial": {"stage": 2, "loss": {"adversarial": 0.1, "discriminator_dim": 8}},
    "accumulated": {"stage": 2, "accumulate": 2},
}
"""What two devices must do as one does.

Not batch norm (the patch discriminator's), which sees each device's part alone, nor a discriminator with
accumulation: each part meets spectral norms one iteration further.
"""
RESUMED: dict[str, dict[str, Any]] = {
    "joint": {"stage": 2, "warmup": {"steps": 3}},
    "adversarial": {"stage": 2, "loss": {"adversarial": 0.1, "discriminator_dim": 8}},
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
ELASTIC = {name: fields for name, fields in RESUMED.items() if name in ("joint", "adversarial")}
"""What may be shared by other numbers of devices on the way; see `division` for what differs by nature."""
VALIDATED = {"validated-three": 3, "validated-one": 1}
"""Photos that two devices share."""


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
    if values.get("stage", 1) == 1:
        del values["stage1"]
    return tiny_recipe(room / "photos", **values)


def write(config: TrainConfig) -> str:
    path = config.out.parent / f"{config.name}.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return str(path)


class StoppedError(Exception):
    """A run is stopped."""


def stop_at(config: TrainConfig, step: int) -> None:
    """Train until the state of a step is saved, then stop as a kill would."""

    def stop(line: str) -> None:
        if line.startswith(f"step {step + 1}/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        loop.train(config, report=stop)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes are to train, trained: starting them takes seconds."""
    room = tmp_path_factory.mktemp("room")
    photo_folder(room / "photos")
    save(room / "s1.safetensors", tiny(stage=1))
    files = [write(recipe(room, f"two-{n}", f, devices=2)) for n, f in RUNS.items()]
    for kind in ("whole", "stopped"):
        files += [write(recipe(room, f"{kind}-{n}", f, devices=2, steps=6)) for n, f in RESUMED.items()]
    for n, f in ELASTIC.items():
        # Begun by one, gone on with by two, and to be ended by one.
        config = recipe(room, f"left-{n}", f, data={"batch": 4}, steps=6)
        stop_at(config, 2)
        files.append("leave:" + write(config.model_copy(update={"devices": 2})))
    for n in ("torn", "ruined", "intact"):
        files.append(write(recipe(room, n, {"stage": 1}, devices=2, steps=5, save_every=2)))
    files.append(write(recipe(room, "poisoned", {"stage": 1}, devices=2, steps=4)))
    for n, photos in VALIDATED.items():
        (room / n).mkdir()
        for number in range(photos):
            picture(64, 48, seed=20 + number).save(room / n / f"v{number}.png")
        data = {"val": str(room / n)}
        files.append(write(recipe(room, n, {"stage": 2, "val_every": 2}, data=data, devices=2, steps=4)))
    torchrun(*files)
    return room


def torchrun(*files: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = python(*launcher, str(SCRIPT), *files)
    assert done.returncode == 0, done.stderr[-3000:]


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


@pytest.mark.parametrize("name", ELASTIC)
def test_another_number_of_devices_goes_on(room: Path, name: str) -> None:
    """One, then two, then one again: the same batches, and the weights of one all the way, to 1e-5."""
    fields, lines = ELASTIC[name], list[str]()
    whole = recipe(room, f"alone-{name}", fields, data={"batch": 4}, steps=6)
    loop.train(whole, report=lambda _: None)
    config = recipe(room, f"left-{name}", fields, data={"batch": 4}, steps=6)
    loop.train(config, report=lines.append)
    assert lines[0].startswith("going on with 1 device instead of 2, data.batch=4 accumulate=1: the run's 4")
    assert lines[1].startswith("going on from step 4")
    same(whole.folder, config.folder)
    assert torch.load(config.folder / "state.pt", weights_only=True)["world"] == 1
    assert steps_of(config) == [1, 2, 3, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_one_two(room: Path) -> None:
    """Two devices, one, two again, by the same command but for their number; the same bounds as above."""
    fields = {"stage": 2, "warmup": {"steps": 2}, "data": {"batch": 4}, "steps": 6, "save_every": 1}
    whole = recipe(room, "alone-twice", fields, accumulate=2)
    loop.train(whole, report=lambda _: None)
    config = recipe(room, "two-one-two", fields, devices=2)
    torchrun("leave:" + write(config.model_copy(update={"save_every": 2})))
    lines = list[str]()

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("step 6/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        loop.train(config.model_copy(update={"devices": 1}), report=stop)
    assert lines[0].startswith("going on with 1 device instead of 2, data.batch=4 accumulate=2: the run's 8")
    assert torch.load(config.folder / "state.pt", weights_only=True)["step"] == 5
    torchrun(write(config))
    same(whole.folder, config.folder)
    assert steps_of(config) == [1, 2, 3, 4, 5, 6, 6]


def steps_of(config: TrainConfig) -> list[int]:
    """Steps that the journal has, as they were made."""
    return [r["step"] for r in read_journal(config.folder / "journal.jsonl") if r["kind"] == "train"]


def same(one: Path, other: Path) -> None:
    """Assert that the weights of two runs are equal up to rounding."""
    ours, theirs = (load(folder / "last.safetensors").state_dict() for folder in (one, other))
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-5


def test_pools_are_dealt_out_anew(room: Path, tmp_path: Path) -> None:
    """One device takes up the earlier pairs of two, and its pool is as large as theirs together."""
    shutil.copytree(room / "runs" / "stopped-pooled", tmp_path / "stopped-pooled")
    config = recipe(room, "stopped-pooled", RESUMED["pooled"], steps=6, out=str(tmp_path))
    lines = list[str]()
    run = loop.Run(config, devices.open_fabric(config), lines.append)
    assert run.state.resume(lines.append)
    pools = [torch.load(tmp_path / "stopped-pooled" / "state.pt", weights_only=True)["samples"]]
    pools.append(torch.load(tmp_path / "stopped-pooled" / "samples-6-1.pt", weights_only=True))
    held = run.samples.state_dict()
    assert run.samples.pool is not None and run.samples.pool.size == 4 and run.samples.pool.batch == 2
    for name in ("lq", "gt"):
        assert torch.equal(held[name], torch.cat([pool[name] for pool in pools]))
    assert "earlier pairs are dealt out anew" in lines[0]
    (tmp_path / "stopped-pooled" / "samples-6-1.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"samples-6-1.pt cannot be read"):
        run.state.resume(lines.append)


def test_a_file_that_one_device_cannot_read_is_left_by_all(room: Path) -> None:
    """Both go on from the state before; with no such state both end with one line, and neither waits."""
    runs = room / "runs"
    same(runs / "intact", runs / "torn")
    assert steps_of(recipe(room, "torn", {"stage": 1})) == [1, 2, 3, 3, 4, 5]
    lines = [(runs / f).read_text() for f in ("ruined.error0", "own/ruined.error1")]
    assert lines[0] == f"device 1: {lines[1]}" and "\n" not in lines[0]
    assert "good.pt cannot be read: " in lines[1] and lines[1].endswith("; choose another name=")


def test_a_run_that_some_devices_do_not_see_is_refused(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one would begin where another goes on: one line, before anything is read or written."""
    config = recipe(room, "unseen", {"stage": 1}, out=str(tmp_path / "runs"))
    fabric = devices.open_fabric(config)
    monkeypatch.setattr(loop, "gathered", lambda _, own: [own, "a run"])
    with pytest.raises(ConfigError, match=r"only some devices see the run in .*runs/unseen; expected the"):
        loop.train(config, report=lambda _: None, fabric=fabric)
    assert not config.folder.exists()


def test_two_devices_roll_back_together(room: Path) -> None:
    """A loss that is not finite on one device of two sends both back to the last good state."""
    log = list(read_journal(room / "runs" / "poisoned" / "journal.jsonl"))
    assert [r["step"] for r in log if r["kind"] == "train"] == [1, 2, 3, 4]
    assert [r["reason"].split(" (")[0] for r in log if r["kind"] == "diverged"] == [
        "loss is not finite at step 3"
    ]


@pytest.mark.parametrize("name", VALIDATED)
def test_devices_share_the_validation(room: Path, name: str) -> None:
    """Scores are those of one device, bit by bit, also with a photo too many and with a device too many."""
    data = {"val": str(room / name)}
    config = recipe(room, name, {"stage": 2, "val_every": 2}, data=data, devices=2, steps=4)
    alone, folder = Validation(config), config.folder
    log = [r for r in read_journal(folder / "journal.jsonl") if r["kind"] == "val"]
    assert [r["step"] for r in log] == [2, 4] and len(alone.cases) == VALIDATED[name]
    assert alone(load(folder / "last.safetensors"), room / "grid.jpg")["psnr_y"] == log[1]["psnr_y"]
    best = max(log, key=lambda r: float(r["psnr_y"]))
    header = read_header(folder / "best.safetensors").provenance
    assert (header["step"], header["scores"]["psnr_y"]) == (best["step"], best["psnr_y"])
    assert alone(load(folder / "best.safetensors"))["psnr_y"] == best["psnr_y"]
    assert (folder / "previews" / "step-4.jpg").read_bytes() == (room / "grid.jpg").read_bytes()


def test_the_command_starts_its_processes(room: Path) -> None:
    """`devices=2` needs no launcher, and the same command with one device goes on."""
    config = recipe(room, "command", {"stage": 1}, devices=2, steps=2)
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dirformer", "train", write(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step 2/2") == 1 and done.stdout.count("weights: ") == 1
    lines = list[str]()
    loop.train(config.model_copy(update={"devices": 1, "steps": 3}), report=lines.append)
    assert lines[0] == (
        "going on with 1 device instead of 2, data.batch=2 accumulate=2: the run's 4 samples a step; "
        "sums are rounded in another order"
    )


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


def test_nodes_are_those_that_were_started(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nodes=auto` follows torchrun and SLURM, so that an elastic launcher may start any number."""
    config = recipe(room, "many", {"stage": 1}, devices="auto", nodes="auto")
    assert devices._nodes(config) == 1 and config.stated_devices == 1
    monkeypatch.setenv("SLURM_NNODES", "3")
    assert devices._nodes(config) == 3
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert devices._nodes(config) == 2


def test_auto_precision_is_bfloat16_where_that_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it follows AVX-512; a named precision is taken as it is, or refused."""
    cpu = torch.device("cpu")
    for capability, expected in (("AVX2", "32-true"), ("AVX512", "bf16-mixed"), ("SVE256", "32-true")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert devices.precision_on(cpu, "auto") == expected
        assert devices.precision_on(cpu, "bf16-mixed") == "bf16-mixed"
    with pytest.raises(ConfigError, match="needs a GPU, and the device is a CPU; set precision=bf16-mixed"):
        devices.precision_on(cpu, "16-mixed")
