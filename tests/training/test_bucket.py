"""Training from and to a bucket: several processes as one, also behind a process that died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pytest
import torch
import yaml
from pydantic import ValidationError

from dirformer.data.shards import Shards, write_index, write_shard
from dirformer.experiments.sweeps import Sweep
from dirformer.experiments.train import train
from dirformer.ground.errors import CheckpointError, ConfigError, DataError
from dirformer.ground.journal import read_journal
from dirformer.ground.mirror import fetched, leave_rooms
from dirformer.ground.places import Place
from dirformer.training import loop
from dirformer.training.config import TrainConfig, load_recipe
from dirformer.training.samples import mode_of
from dirformer.weights.checkpoints import read_header
from dirformer.weights.load import load
from helpers import FABRIC_WARNINGS, photo_folder, python, quiet, same_weights, tiny_recipe
from stores import SECRET, s3_server

pytestmark = FABRIC_WARNINGS
SCRIPT = Path(__file__).with_name("many_devices.py")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Shards at s3://shards/train; and a folder for runs."""
    room = tmp_path_factory.mktemp("room")
    photo_folder(room / "photos", 6)
    files = sorted((room / "photos").iterdir())
    for number in range(2):
        members = [(path.name, path.read_bytes()) for path in files[3 * number : 3 * number + 3]]
        write_shard(room / "shards" / f"shard-{number:06}.tar", members)
    write_index(room / "shards")
    with s3_server("shards"):
        store = fsspec.filesystem("s3")
        for path in (room / "shards").iterdir():
            store.pipe_file(f"shards/train/{path.name}", path.read_bytes())
        yield room


def recipe(room: Path, name: str, **fields: Any) -> TrainConfig:
    data = {"train": "s3://shards/train", "patch": 16, "batch": 2} | fields.pop("data", {})
    optimiser = {"lr": 1e-4, "schedule": "constant"}
    return tiny_recipe(
        room / "photos",
        name=name,
        data=data,
        optimiser=optimiser,
        steps=3,
        log_every=1,
        save_every=2,
        **fields,
    )


class StoppedError(Exception):
    """A run is stopped."""


def torchrun(*configs: TrainConfig, restarts: int = 0, room: Path | None = None) -> None:
    files = []
    for config in configs:
        path = (room or Path(config.out).parent) / f"{config.name}.yaml"
        path.write_text(yaml.safe_dump(config.to_dict()))
        files.append(str(path))
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone")
    # Else torchrun's restarted processes read the addresses of dead ones from its store.
    with mock.patch.dict(os.environ, {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}):
        done = python(*launcher, f"--max-restarts={restarts}", str(SCRIPT), *files)
    assert done.returncode == 0, done.stderr[-3000:]
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bucket_gives_the_folders_samples(bucket: Path, workers: int) -> None:
    """Photos from a bucket are those of the shards on disk, also in the loader's own processes."""
    here, there = Shards(bucket / "shards"), Shards("s3://shards/train")
    assert len(here) == len(there) == 6 and there.name(0) == "s3://shards/train/shard-000000.tar at 512"
    loader = torch.utils.data.DataLoader(
        [*range(6)], batch_size=None, num_workers=workers, collate_fn=there.read, multiprocessing_context=None
    )
    for number, photo in enumerate(loader):
        assert torch.equal(photo, here.read(number))


def test_addresses_in_recipes(bucket: Path) -> None:
    """Shards may lie at an address, for clean photos; a recipe is kept, so no secret may be in it."""
    config = recipe(bucket, "address")
    assert config.data.train == "s3://shards/train"
    assert TrainConfig.model_validate(config.to_dict()) == config
    assert isinstance(recipe(bucket, "folder", data={"train": "photos"}).data.train, Path)
    told = ["out=s3://bucket/runs", "init=s3://bucket/w.safetensors"]
    config = load_recipe("sr-x4-compact-stage1", told)
    assert (config.out, config.init, config.stage1) == ("s3://bucket/runs", "s3://bucket/w.safetensors", None)
    assert str(config.place) == "s3://bucket/runs/sr-x4-compact-stage1"
    assert load_recipe("sr-x4-compact-stage1", ["out=runs"]).place is None
    for url in ("s3://key:word@shards/train", "https://host.example/train?sign=mark"):
        with pytest.raises(ValidationError, match="an address with a password or a query"):
            recipe(bucket, "secret", data={"train": url})
    with pytest.raises(ConfigError, match="at an address there can only be shards, for clean photos"):
        mode_of(recipe(bucket, "pairs", data={"lq": "photos"}))
    with pytest.raises(DataError, match=r"s3://shards/none/index.npy cannot be read .* prepare writes it"):
        mode_of(recipe(bucket, "none", data={"train": "s3://shards/none"}))


def test_a_run_at_an_address(tmp_path: Path) -> None:
    """Its files are there and whole; another process goes on from them, bit by bit; a rotation holds."""
    photos = photo_folder(tmp_path / "photos")
    data = {"val": str(photo_folder(tmp_path / "val", 1, (64, 48), seed=9))}
    (tmp_path / "val" / "0.png").rename(tmp_path / "val" / "v0.png")
    fields: dict[str, Any] = {"data": data, "val_every": 3, "save_every": 1, "keep": 2, "log_every": 1}
    whole = train(tiny_recipe(photos, name="whole", **fields), quiet)
    config, lines = tiny_recipe(photos, out="memory://home/runs", **fields), list[str]()

    def stop(line: str) -> None:
        if line.startswith("step 5/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, stop)
    place = Place("memory://home/runs/run")
    leave_rooms()  # as another process, which has none
    train(config, lines.append)
    assert lines[0] == "going on from step 4 in memory://home/runs/run"
    assert lines[-1] == "weights: memory://home/runs/run/last.safetensors"
    same_weights(whole, fetched("memory://home/runs/run/last.safetensors"))
    folders, files = place.listed()
    assert [one.name for one in files] == sorted(
        path.name for path in whole.parent.iterdir() if path.is_file()
    )
    assert folders == ["previews"] and [one.name for one in place.below("previews").listed()[1]] == [
        "step-3.jpg",
        "step-6.jpg",
    ]
    place.below("journal.jsonl").fetch(tmp_path / "journal.jsonl")
    steps = [r["step"] for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 5, 6]
    provenance = read_header(fetched("memory://home/runs/run/best.safetensors")).provenance
    assert provenance["recipe"]["out"] == "memory://home/runs"
    # Weights at an address are where another run starts.
    other = {"stage1": "memory://home/runs/run/last.safetensors", "steps": 1, "name": "next"}
    weights = train(tiny_recipe(photos, stage=2, **other), quiet)
    assert load(weights).stage == 2


def test_a_damaged_state_at_an_address(tmp_path: Path) -> None:
    """The state before is taken; with neither, one line names the address."""
    config, lines = tiny_recipe(photo_folder(tmp_path / "photos"), out="memory://torn/runs"), list[str]()
    train(config, quiet)
    place = Place("memory://torn/runs/run")
    place.below("state.pt").write(b"damaged")
    leave_rooms()
    train(config, lines.append)
    assert lines[0].startswith("memory://torn/runs/run/state.pt cannot be read: ")
    assert lines[1] == "going on from step 6 in memory://torn/runs/run"
    for name in ("state.pt", "good.pt"):
        place.below(name).write(b"damaged")
    leave_rooms()
    with pytest.raises(CheckpointError, match=r"^memory://torn/runs/run/good.pt cannot be read: .* name=$"):
        train(config, quiet)


def test_places_that_runs_cannot_have(tmp_path: Path) -> None:
    """What can only be read, and what holds a secret, is refused with the recipe; sweeps want a folder."""
    for out, line in (
        ("https://host.example/runs", "can only be read"),
        ("s3://key:word@bucket/runs", "an address with a password"),
    ):
        with pytest.raises(ValidationError, match=line):
            tiny_recipe(tmp_path / "photos", out=out)
    with pytest.raises(ValidationError, match="an address with a password"):
        tiny_recipe(tmp_path / "photos", init="https://host.example/w.safetensors?sign=mark")
    (tmp_path / "rows.yaml").write_text("- {name: A, recipe: sr-x4-compact-stage1}")
    with pytest.raises(ConfigError, match="out is s3://bucket/runs; a sweep needs a folder of this machine"):
        Sweep(str(tmp_path / "rows.yaml"), ["out=s3://bucket/runs", "data.val=val"])


@pytest.mark.slow
def test_two_processes_with_a_run_in_a_bucket(bucket: Path) -> None:
    """Pools and states of two processes that share no folder; one is killed, and the run goes on, bit by bit.

    Then one process goes on with what both have left.
    """
    fields: dict[str, Any] = {
        "data": {"degradation": "realsr-released", "crop": 96, "pool": 2, "batch": 1},
        "devices": 2,
    }
    torchrun(recipe(bucket, "pooled", **fields))
    killed = recipe(bucket, "killed-there", **fields)
    torchrun(killed.model_copy(update={"out": "s3://shards/runs"}), restarts=1, room=bucket)
    leave_rooms()
    ours = fetched("s3://shards/runs/killed-there/last.safetensors")
    same_weights(bucket / "runs" / "pooled" / "last.safetensors", ours)
    place = Place("s3://shards/runs/killed-there")
    assert [one.name for one in place.listed()[1] if one.name.startswith("samples")] == ["samples-3-1.pt"]
    lines = list[str]()
    changes = {"out": "s3://shards/runs", "devices": 1, "steps": 4}
    loop.train(killed.model_copy(update=changes), report=lines.append)
    assert "earlier pairs are dealt out anew" in lines[0] and lines[1].startswith("going on from step 3")
    assert not [one.name for one in place.listed()[1] if one.name.startswith("samples")]


@pytest.mark.slow
def test_two_processes_equal_one_and_outlive_a_rank(bucket: Path) -> None:
    """Three steps of two processes are those of one with the same batch, to 1e-5.

    A process that is killed takes the others with it; torchrun starts them again, and they end with the bits
    of a run without a death.
    """
    one = recipe(bucket, "one", data={"batch": 4})
    loop.train(one, report=lambda _: None)
    torchrun(recipe(bucket, "two", devices=2))
    ours, theirs = (load(bucket / "runs" / n / "last.safetensors").state_dict() for n in ("one", "two"))
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-5
    torchrun(recipe(bucket, "killed", devices=2), restarts=1)
    same_weights(
        bucket / "runs" / "two" / "last.safetensors", bucket / "runs" / "killed" / "last.safetensors"
    )
    steps = [
        r["step"] for r in read_journal(bucket / "runs" / "killed" / "journal.jsonl") if r["kind"] == "train"
    ]
    assert steps == [1, 2, 3]
    assert (bucket / "killed.died").read_text() == "1"
