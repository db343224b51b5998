"""Whatever interrupts a save, the last good checkpoint is there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.ground.errors import OutputError
from dirformer.training import loop
from dirformer.training.config import TrainConfig
from dirformer.weights.checkpoints import load
from helpers import FABRIC_WARNINGS, TINY_SR, picture, python

pytestmark = FABRIC_WARNINGS
SCRIPT = Path(__file__).with_name("killed_saves.py")


def recipe(room: Path, out: Path, **fields: Any) -> TrainConfig:
    (room / "photos").mkdir(exist_ok=True)
    picture(96, 96).save(room / "photos" / "0.png")
    values = {
        "name": "run",
        "stage": 1,
        "model": TINY_SR.to_dict(),
        "data": {"train": str(room / "photos"), "patch": 8, "batch": 2},
        "steps": 4,
        "log_every": 1,
        "save_every": 1,
        "out": str(out),
        "device": "cpu",
        "log": [],
    }
    return TrainConfig.model_validate(values | fields)


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_during_a_save_leaves_a_checkpoint(tmp_path: Path, times: int) -> None:
    """SIGKILL at random moments of saving: state, last good state and weights load every time.

    What killed saves left half-written is gone when the run goes on.
    """
    config = recipe(tmp_path, tmp_path, loss={"adversarial": 0.1, "discriminator_dim": 4}, steps=100_000)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config.to_dict()))
    done = python(str(SCRIPT), str(tmp_path / "recipe.yaml"), str(times))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{times} kills" in done.stdout and "step 1 reached" not in done.stdout
    (config.folder / ".state.pt.1.part").write_bytes(b"half")
    state = torch.load(config.folder / "state.pt", weights_only=True)

    def stop(line: str) -> None:
        if line.startswith("going on from step"):
            assert line == f"going on from step {state['step']} in {config.folder}"
        elif line.startswith("step "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, report=stop)
    assert not list(config.folder.glob(".*.part"))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Callable[[bool], None]]]:
    """A folder, and a function that fills the disk under it or empties it again.

    A file system of 8 MiB where it may be mounted, else writing fails as it would on a full disk.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    torch_save = torch.save

    def fill(full: bool) -> None:
        filler = folder / "filler"
        if not mounted:

            def failing(*_: Any) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(torch, "save", failing if full else torch_save)
        elif full:
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    return
        else:
            filler.unlink()

    yield folder, fill
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, disk: tuple[Path, Callable[[bool], None]]
) -> None:
    """A save that finds no room is one line, the state before it loads, and with room the run goes on."""
    folder, fill = disk
    config = recipe(tmp_path, folder)

    def fill_at_two(line: str) -> None:
        if line.startswith("step 2/"):
            fill(True)

    with pytest.raises(OutputError, match="cannot be written") as error:
        loop.train(config, report=fill_at_two)
    assert "\n" not in str(error.value) and "state.pt" in str(error.value)
    for name in ("state.pt", "good.pt"):
        assert torch.load(config.folder / name, weights_only=True)["step"] == 1
    load(config.folder / "last.safetensors")
    fill(False)
    weights = loop.train(config, report=lambda _: None)
    whole = loop.train(recipe(tmp_path, tmp_path / "whole"), report=lambda _: None)
    ours, theirs = load(weights).state_dict(), load(whole).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
