"""Photos in tar files."""

from __future__ import annotations

import gc
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from dirformer.data.datasets import CleanCrops, stream
from dirformer.data.folders import find_photos
from dirformer.data.plans import plan
from dirformer.data.prepare import prepare
from dirformer.data.shards import Shards, write_index, write_shard
from dirformer.ground.errors import DataError, PhotoError
from dirformer.ground.photo import read_rgb
from helpers import picture


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Eleven photos, in shards of four and in a folder in the shards' order."""
    root = tmp_path / "in"
    (root / "data_large/a/abbey").mkdir(parents=True)
    for number in range(11):
        picture(40, 30, seed=number).save(root / f"data_large/a/abbey/{number:08}.png")
    list(prepare(plan("places365", root), tmp_path / "out", shard=4))
    return tmp_path / "out/train"


def _as_folder(shards: Path, folder: Path) -> list[Path]:
    folder.mkdir()
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            for entry in archive:
                data = archive.extractfile(entry)
                assert data is not None
                (folder / f"{len(list(folder.iterdir())):04}.png").write_bytes(data.read())
    return find_photos(folder)


def test_shards_and_folders_give_the_same_samples(prepared: Path, tmp_path: Path) -> None:
    """For the same seed, sample by sample, over more than an epoch."""
    photos = _as_folder(prepared, tmp_path / "folder")
    shards, folder = CleanCrops(Shards(prepared), 16, seed=2), CleanCrops(photos, 16, seed=2)
    assert len(shards) == len(folder) == 11
    for number in range(25):
        assert torch.equal(shards[number]["gt"], folder[number]["gt"])


def test_two_nodes_with_two_workers_see_every_photo_once(prepared: Path) -> None:
    """An epoch of 12 samples on 2 × 2 workers: 11 photos and the first of the next epoch."""
    data = CleanCrops(Shards(prepared), 16, seed=2)
    seen = []
    for rank in range(2):
        for batch in stream(data, start=0, steps=3, batch=2, workers=2, rank=rank, world=2):
            seen += batch["index"].tolist()
    assert sorted(seen) == list(range(12))
    order = data._epoch(0).tolist()
    assert sorted(order[index] for index in seen if index < 11) == list(range(11))


def test_a_run_goes_on_in_the_middle_of_an_epoch(prepared: Path) -> None:
    """From step 2 on, the samples are those the undisturbed run saw then."""
    data = CleanCrops(Shards(prepared), 16, seed=2)
    whole = [batch["gt"] for batch in stream(data, start=0, steps=5, batch=3, workers=2)]
    rest = [batch["gt"] for batch in stream(CleanCrops(Shards(prepared), 16, 2), start=2, steps=5, batch=3)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_shards_are_read_from_any_address(prepared: Path) -> None:
    """From an fsspec address photos come by ranged requests, and are the same."""
    memory = fsspec.filesystem("memory")
    for path in prepared.iterdir():
        memory.pipe_file(f"/places/{path.name}", path.read_bytes())
    remote, local = Shards("memory://places"), Shards(prepared)
    assert len(remote) == len(local)
    assert all(torch.equal(remote.read(n), local.read(n)) for n in range(len(local)))
    with pytest.raises(DataError, match="cannot be read"):
        Shards("memory://nothing")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_shards_are_plain_webdataset_files(prepared: Path) -> None:
    """The webdataset package streams them, each photo once."""
    webdataset = pytest.importorskip("webdataset")
    names = [str(path) for path in sorted(prepared.glob("*.tar"))]
    samples = list(webdataset.WebDataset(names, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == 11
    assert all(sample["png"].startswith(b"\x89PNG") for sample in samples)
    gc.collect()


def test_a_photo_keeps_its_bytes(prepared: Path, tmp_path: Path) -> None:
    """Photos that are not cut go into shards as they came; long names do not shift what lies behind."""
    source = sorted((tmp_path / "in/data_large/a/abbey").iterdir())
    shards = Shards(prepared)
    assert sorted(shards._bytes(n) for n in range(11)) == sorted(path.read_bytes() for path in source)
    long = [(f"{'x' * 150}{n}.png", path.read_bytes()) for n, path in enumerate(source[:3])]
    (tmp_path / "long").mkdir()
    write_shard(tmp_path / "long/shard-000000.tar", long)
    assert write_index(tmp_path / "long") == 3
    assert [Shards(tmp_path / "long")._bytes(n) for n in range(3)] == [data for _, data in long]


def test_shards_are_read_where_there_is_no_pread(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lacks it; the bytes are the same."""
    expected = [Shards(prepared)._bytes(number) for number in range(11)]
    monkeypatch.delattr(os, "pread")
    shards = Shards(prepared)
    assert [shards._bytes(number) for number in range(11)] == expected
    assert not shards.files


def test_a_damaged_shard_is_named(prepared: Path) -> None:
    """A photo that does not decode says where it lies; a folder without an index says what writes one."""
    shard = prepared / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[600:700] = bytes(100)
    shard.write_bytes(data)
    with pytest.raises(PhotoError, match=r"shard-000000\.tar at 512"):
        Shards(prepared).read(0)
    (prepared / "index.npy").unlink()
    with pytest.raises(DataError, match="prepare writes it"):
        Shards(prepared)
    np.save(prepared / "index.npy", np.empty((0, 3), dtype=np.int64))
    with pytest.raises(DataError, match="no photos"):
        Shards(prepared)


def test_a_photo_is_named_by_its_place(prepared: Path) -> None:
    """Its decoded pixels are those of the file."""
    shards = Shards(prepared)
    assert shards.name(5).startswith(f"{prepared}/shard-000001.tar at ")
    assert shards.read(5).shape == read_rgb(prepared.parents[1] / "in/data_large/a/abbey/00000000.png").shape
