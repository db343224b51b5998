"""What a run leaves on disk: whatever interrupts a save, the last good checkpoint is there."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.experiments.train import train
from dirformer.ground.errors import CheckpointError, ConfigError, OutputError
from dirformer.ground.journal import read_journal
from dirformer.training import loop, state
from dirformer.training.config import TrainConfig
from dirformer.training.schedules import lr_of_run
from dirformer.weights.checkpoints import save
from dirformer.weights.load import load
from helpers import (
    FABRIC_WARNINGS,
    photo_folder,
    python,
    quiet,
    same_weights,
    tiny_recipe,
)

pytestmark = FABRIC_WARNINGS
SCRIPT = Path(__file__).with_name("killed_saves.py")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


def quick(room: Path, out: Path, **fields: Any) -> TrainConfig:
    """Four steps, each saved."""
    photos = photo_folder(room / "photos", count=1)
    often = {"log_every": 1, "save_every": 1, "steps": 4}
    return tiny_recipe(photos, data={"patch": 8}, out=str(out), **(often | fields))


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_during_a_save_leaves_a_checkpoint(tmp_path: Path, times: int) -> None:
    """SIGKILL at random moments of saving: state, last good state and weights load every time.

    What killed saves left half-written is gone when the run goes on.
    """
    config = quick(tmp_path, tmp_path, loss={"adversarial": 0.1, "discriminator_dim": 4}, steps=100_000)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config.to_dict()))
    done = python(str(SCRIPT), str(tmp_path / "recipe.yaml"), str(times))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{times} kills" in done.stdout
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
    config = quick(tmp_path, folder)

    def fill_at_two(line: str) -> None:
        if line.startswith("step 2/"):
            fill(True)

    with pytest.raises(OutputError, match="cannot be written") as error:
        loop.train(config, report=fill_at_two)
    assert "\n" not in str(error.value) and "state.pt" in str(error.value)
    assert "No space left on device" in str(error.value)
    for name in ("state.pt", "good.pt"):
        assert torch.load(config.folder / name, weights_only=True)["step"] == 1
    load(config.folder / "last.safetensors")
    fill(False)
    weights = loop.train(config, report=lambda _: None)
    whole = loop.train(quick(tmp_path, tmp_path / "whole"), report=lambda _: None)
    ours, theirs = load(weights).state_dict(), load(whole).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_disk_that_fills_while_torch_writes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch tells of a position in its container; the line tells what the disk said."""
    original = torch.save

    class Full:
        """A disk of 4 KiB."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if self.file.tell() + len(data) > 4096:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(data))

        def flush(self) -> None:
            self.file.flush()

    monkeypatch.setattr(torch, "save", lambda value, file: original(value, Full(file)))
    with pytest.raises(OutputError, match=r"state.pt cannot be written: No space left on device; make room"):
        state._write(tmp_path / "state.pt", {"weights": torch.zeros(10_000)})
    assert not list(tmp_path.iterdir())


def test_a_state_of_an_older_version_is_taken_up(photos: Path) -> None:
    """A field that a stored recipe does not have is taken to have had its default."""
    config = tiny_recipe(photos, steps=2)
    train(config, quiet)
    state = torch.load(config.folder / "state.pt", weights_only=True)
    del state["recipe"]["loss"]["stlpips"], state["recipe"]["training"], state["world"], state["precision"]
    torch.save(state, config.folder / "state.pt")
    lines: list[str] = []
    train(config, lines.append)
    assert lines[0].startswith("going on from step 2")


def test_numbered_copies_are_rotated(photos: Path) -> None:
    """`keep` numbered files stay, the newest."""
    config = tiny_recipe(photos, save_every=1, keep=2)
    train(config, quiet)
    names = sorted(p.name for p in config.folder.glob("step-*"))
    assert names == ["step-00000005.safetensors", "step-00000006.safetensors"]


def test_another_recipe_in_the_same_folder_is_refused(photos: Path) -> None:
    """A run is its folder: a changed rate under the same name is an error, a changed interval is not."""
    train(tiny_recipe(photos), quiet)
    with pytest.raises(ConfigError, match=r"holds a run with optimiser = .* choose another name="):
        train(tiny_recipe(photos, optimiser={"lr": 1e-5}), quiet)
    train(tiny_recipe(photos, log_every=1), quiet)


def test_a_run_on_other_data_says_so(photos: Path) -> None:
    """One line names what changed, the journal keeps it, recipe.yaml is what runs; a pool begins anew."""
    pool = {"pool": 4, "batch": 2}
    stop_at(tiny_recipe(photos, data=pool), 4)
    other = tiny_recipe(photo_folder(photos.parent / "odd", seed=7), data={**pool, "patch": 8}, log_every=1)
    lines: list[str] = []
    train(other, lines.append)
    assert lines[0].startswith("going on from step 2")
    assert lines[1] == (
        f"changed from here on: data.patch = 8 (was 16), data.train = '{other.data.train}' "
        f"(was '{photos}'), log_every = 1 (was 2)"
    )
    record = next(r for r in read_journal(other.folder / "journal.jsonl") if r["kind"] == "resume")
    assert record["changed"]["data.patch"] == [16, 8] and record["step"] == 2
    assert yaml.safe_load((other.folder / "recipe.yaml").read_text()) == other.to_dict()
    train(other, lines.append)
    assert not lines[-2].startswith("changed")


def test_a_damaged_state_gives_way_to_the_last_good_one(photos: Path) -> None:
    """A line says so, the run goes on from good.pt, and ends with the weights of an undisturbed one."""
    whole = train(tiny_recipe(photos, name="whole"), quiet)
    config = tiny_recipe(photos)
    for damage in (b"", b"no state", (config.folder.parent / "whole" / "state.pt").read_bytes()[:20_000]):
        stop_at(config, 4)
        (config.folder / "state.pt").write_bytes(damage)
        lines: list[str] = []
        weights = train(config, lines.append)
        assert "state.pt cannot be read: " in lines[0] and lines[0].endswith("; taking good.pt instead")
        assert lines[1].startswith("going on from step 2")
        same_weights(whole, weights)
        shutil.rmtree(config.folder)
    stop_at(config, 4)
    for name in ("state.pt", "good.pt"):
        torch.save({"step": 2}, config.folder / name)
    with pytest.raises(CheckpointError, match=r"good.pt is damaged: best, ema, .* missing") as error:
        train(config, quiet)
    assert "\n" not in str(error.value)


def stop_at(config: TrainConfig, step: int) -> None:
    """Train until the line of a step, then stop as a kill would."""

    def stop(line: str) -> None:
        if line.startswith(f"step {step}/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, stop)


class StoppedError(Exception):
    """A run is stopped."""


def test_a_rollback_to_a_damaged_state_is_one_line(photos: Path) -> None:
    """good.pt is read only then: the error names it."""
    config = tiny_recipe(photos, val_every=2)
    scores = iter([20.0, 10.0])

    def validate(network: Any, step: int) -> dict[str, float]:
        del network
        if step == 4:
            (config.folder / "good.pt").write_bytes(b"half")
        return {"psnr_y": next(scores)}

    with pytest.raises(CheckpointError, match=r"good.pt cannot be read: .*"):
        loop.train(config, validate, quiet)


def test_steps_of_a_finished_run_can_be_raised(photos: Path) -> None:
    """The run goes on, the cosine follows the new number; one line says so. Fewer steps are refused."""
    fields = {"optimiser": {"schedule": "cosine"}, "log_every": 1}
    train(tiny_recipe(photos, steps=4, **fields), quiet)
    longer, lines = tiny_recipe(photos, steps=6, **fields), list[str]()
    assert not state.finished(longer)
    train(longer, lines.append)
    assert lines[0].startswith("going on from step 4")
    assert lines[1] == "steps raised from 4 to 6; the schedule follows the new number"
    log = [r for r in read_journal(longer.folder / "journal.jsonl") if r["kind"] == "train"]
    assert [r["step"] for r in log] == [1, 2, 3, 4, 5, 6]
    assert [r["lr"] for r in log[4:]] == pytest.approx([lr_of_run(step, longer) for step in (4, 5)])
    assert yaml.safe_load((longer.folder / "recipe.yaml").read_text())["steps"] == 6
    assert state.finished(longer)
    with pytest.raises(ConfigError, match="holds a run with steps = 6, not 5; steps can be raised when"):
        train(tiny_recipe(photos, steps=5, **fields), quiet)


def test_steps_of_a_run_on_its_way_stay(photos: Path) -> None:
    """Half a cosine of one length and half of another would be no schedule."""
    stop_at(tiny_recipe(photos), 4)
    with pytest.raises(ConfigError, match="holds a run with steps = 6, not 9; steps can be raised when"):
        train(tiny_recipe(photos, steps=9), quiet)


def test_a_run_of_an_older_version_is_one_line(photos: Path) -> None:
    """Files whose recipe has names of an older version are not finished, cannot go on, and say so."""
    config = tiny_recipe(photos, steps=2)
    weights = train(config, quiet)
    old = config.to_dict()
    old["adversary"] = old.pop("discriminator")
    save(weights, load(weights), {"recipe": old, "step": 2, "scores": {}})
    assert not state.finished(config)
    stored = torch.load(config.folder / "state.pt", weights_only=True)
    torch.save(stored | {"recipe": old}, config.folder / "state.pt")
    with pytest.raises(ConfigError, match=r"of another version of dirformer \(field adversary\); choose"):
        train(config, quiet)
    torch.save({"recipe": old, "average": {}, "step": 2}, config.folder / "state.pt")
    with pytest.raises(ConfigError, match=r"of an older version of dirformer, .*another name= \(init=FILE"):
        train(config, quiet)
