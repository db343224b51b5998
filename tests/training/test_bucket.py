"""Training on shards in a bucket: several processes as one, also behind a process that died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import yaml
from pydantic import ValidationError

from dirformer.data.shards import Shards, write_index, write_shard
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.journal import read_journal
from dirformer.training import loop
from dirformer.training.config import TrainConfig
from dirformer.training.samples import mode_of
from dirformer.weights.load import load
from helpers import FABRIC_WARNINGS, photo_folder, python, same_weights, tiny_recipe
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


def torchrun(*configs: TrainConfig, restarts: int = 0) -> None:
    files = []
    for config in configs:
        path = config.out.parent / f"{config.name}.yaml"
        path.write_text(yaml.safe_dump(config.to_dict()))
        files.append(str(path))
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone")
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
    for url in ("s3://key:word@shards/train", "https://host.example/train?sign=mark"):
        with pytest.raises(ValidationError, match="an address with a password or a query"):
            recipe(bucket, "secret", data={"train": url})
    with pytest.raises(ConfigError, match="at an address there can only be shards, for clean photos"):
        mode_of(recipe(bucket, "pairs", data={"lq": "photos"}))
    with pytest.raises(DataError, match=r"s3://shards/none/index.npy cannot be read .* prepare writes it"):
        mode_of(recipe(bucket, "none", data={"train": "s3://shards/none"}))


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
    assert (bucket / "runs" / "killed.died").read_text() == "1"
