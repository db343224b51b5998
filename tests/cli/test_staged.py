"""Verbs on files of this machine take addresses too: copied here, and results put there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dirformer.weights.checkpoints import save
from helpers import dirformer, photo_folder, picture, tiny


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


def upload(store: fsspec.AbstractFileSystem, folder: Path, top: str) -> None:
    for path in folder.rglob("*.png"):
        store.pipe_file(f"/{top}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_degrade_and_evaluate(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """A test set made from an address at an address is the local one; its scores are, too."""
    photos = photo_folder(tmp_path / "photos", 2)
    upload(store, photos, "photos")
    kind = ("--kind", "bicubic", "--scale", "4")
    here = dirformer("degrade", photos, "-o", tmp_path / "set", *kind)
    there = dirformer("degrade", "memory://photos", "-o", "memory://set", *kind)
    assert here.returncode == there.returncode == 0, there
    mine = {
        p.relative_to(tmp_path / "set").as_posix(): p for p in (tmp_path / "set").rglob("*") if p.is_file()
    }
    names = [name.removeprefix("/set/") for name in store.find("/set")]
    assert sorted(mine) == sorted(names)
    images = [name for name in names if name.endswith(".png")]
    assert len(images) == 4
    assert all(store.cat_file(f"/set/{name}") == mine[name].read_bytes() for name in images)
    folders = {Path(name).parent.as_posix() for name in images}
    lq, gt = (next(f for f in folders if kind in f.lower()) for kind in ("lq", "gt"))
    options = ("bicubic", "--protocol", "sr", "--json")
    sets = ("--lq", f"memory://set/{lq}", "--gt", f"memory://set/{gt}")
    done = dirformer("evaluate", *options, "memory://scores/a.json", *sets)
    assert done.returncode == 0, done.stderr
    local = ("--lq", tmp_path / "set" / lq, "--gt", tmp_path / "set" / gt)
    assert dirformer("evaluate", *options, tmp_path / "a.json", *local).returncode == 0
    ours, theirs = json.loads((tmp_path / "a.json").read_text()), json.loads(store.cat_file("/scores/a.json"))
    assert (
        ours["rows"][0]["scores"] == theirs["rows"][0]["scores"]
        if "rows" in ours
        else ours.keys() == theirs.keys()
    )


def test_nothing_is_replaced_unasked(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """An address that holds something, one that is not there, one that is read only: one line each."""
    photos = photo_folder(tmp_path / "photos", 1)
    store.pipe_file("/full/a.txt", b"mine")
    kind = ("--kind", "bicubic", "--scale", "4")
    for arguments, line in (
        ((photos, "-o", "memory://full"), "memory://full exists already"),
        (("memory://none", "-o", tmp_path / "o"), "memory://none is not there"),
        (
            (photos, "-o", "https://user:word@host.example/x?sign=mark"),
            "https://host.example/x can only be read",
        ),
    ):
        done = dirformer("degrade", *arguments, *kind)
        assert done.returncode == 2 and line in done.stderr and "mark" not in done.stderr, done
    assert store.find("/full") == ["/full/a.txt"]


def test_what_fails_is_named_by_its_address(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """A bad photo is left out, the others are put there; exit code 2."""
    photos = photo_folder(tmp_path / "photos", 2)
    (photos / "bad.png").write_bytes(b"no photo")
    upload(store, photos, "photos")
    done = dirformer("degrade", "memory://photos", "-o", "memory://set", "--kind", "bicubic", "--scale", "4")
    assert done.returncode == 2 and "2 made, 0 kept, 1 left out" in done.stdout
    assert len([name for name in store.find("/set") if name.endswith(".png")]) == 4


def test_weights_at_an_address(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """A fleet fetches its weights; a run on this machine says how."""
    save(tmp_path / "tiny.safetensors", tiny())
    store.pipe_file("/weights/tiny.safetensors", (tmp_path / "tiny.safetensors").read_bytes())
    picture(20, 18).save(tmp_path / "a.png")
    model = ("--model", "memory://weights/tiny.safetensors")
    done = dirformer("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", *model)
    assert done.returncode == 2 and "weights at an address are for --engine" in done.stderr
    done = dirformer("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", *model, "--engine", "local")
    assert done.returncode == 0, done.stderr
    again = ("--model", tmp_path / "tiny.safetensors")
    assert dirformer("restore", tmp_path / "a.png", "-o", tmp_path / "c.png", *again).returncode == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    done = dirformer(
        "restore", tmp_path / "a.png", "-o", "memory://o", "--model", "memory://weights/none.safetensors"
    )
    assert done.returncode == 2 and "no model at memory://weights/none.safetensors" in done.stderr
