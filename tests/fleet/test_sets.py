"""`degrade`, `prepare`, `evaluate` by a fleet: the plain run's files and figures, from and to any place."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from dirformer.data.shards import Shards
from dirformer.fleet.manifest import read_manifest
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, Outcome, dirformer, photo_folder, picture, tiny
from stores import files, local, upload

LOCAL = ("--engine", "local")


@pytest.fixture
def memory() -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield "memory://room"
    store.store.clear()


@pytest.fixture(autouse=True)
def no_stray_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRFORMER_METRIC_WEIGHTS", str(tmp_path / "no-weights"))


KINDS = {
    "bicubic": ("--kind", "bicubic", "--scale", "4"),
    "realsr": ("--kind", "realsr", "--scale", "4", "--seed", "3"),
    "frames": ("--kind", "frames", "--frames", "3"),
}


@pytest.mark.parametrize("kind", ["realsr", "frames"])
def test_a_test_set(tmp_path: Path, memory: str, kind: str) -> None:
    """Photos and manifest are the plain run's, by an engine here and from and to an address."""
    photos = photo_folder(tmp_path / "photos", 7, (40, 32))
    upload(photos, f"{memory}/photos")
    plain = dirformer("degrade", photos, "-o", tmp_path / "plain", *KINDS[kind])
    here = dirformer("degrade", photos, "-o", tmp_path / "here", *KINDS[kind], *LOCAL)
    there = dirformer("degrade", f"{memory}/photos", "-o", f"{memory}/set", *KINDS[kind])
    made = "2 made" if kind == "frames" else "7 made"
    for done in (plain, here, there):
        assert done.returncode == 0 and f": {made}, 0 kept, 0 left out" in done.stdout, done
    assert local(tmp_path / "here") == local(tmp_path / "plain") == files(f"{memory}/set")
    assert len(read_manifest(tmp_path / "here")) == int(made[0])


def test_a_test_set_goes_on(tmp_path: Path) -> None:
    """What any run has made is kept; what is gone or new is made; a bad photo is said."""
    photos = photo_folder(tmp_path / "photos", 3, (40, 32))
    (photos / "bad.png").write_bytes(b"no photo")
    one, other = tmp_path / "one", tmp_path / "other"
    kind = KINDS["realsr"]

    def run(out: Path, *options: str) -> str:
        done = dirformer("degrade", photos, "-o", out, *kind, *options)
        assert done.returncode == 2 and "bad: " in done.stderr and f"{photos}/bad.png" in done.stderr
        return done.stdout

    assert "3 made, 0 kept, 1 left out" in run(one)
    assert "3 made, 0 kept, 1 left out" in run(other, *LOCAL)
    (one / "lq/1.png").unlink()
    (other / "lq/1.png").unlink()
    assert "1 made, 2 kept, 1 left out" in run(one, *LOCAL)
    assert "1 made, 2 kept, 1 left out" in run(other, *LOCAL)
    assert "0 made, 3 kept, 1 left out" in run(other)
    assert local(one) == local(other)
    picture(44, 32, seed=9).save(photos / "2.png")
    assert "1 made, 2 kept, 1 left out" in run(other, *LOCAL)
    assert "3 made, 0 kept, 1 left out" in run(other, *LOCAL, "--overwrite")
    done = dirformer(
        "degrade", photos, "-o", other, "--kind", "realsr", "--scale", "4", "--seed", "4", *LOCAL
    )
    assert done.returncode == 2 and f"{other} was made with another seed" in done.stderr


@pytest.mark.slow
def test_two_workers(tmp_path: Path) -> None:
    """Processes of a pool make the same test set."""
    photos = photo_folder(tmp_path / "photos", 4, (24, 16))
    for out, options in (("plain", ()), ("pool", (*LOCAL, "--processes", "2"))):
        assert dirformer("degrade", photos, "-o", tmp_path / out, *KINDS["bicubic"], *options).returncode == 0
    assert local(tmp_path / "pool") == local(tmp_path / "plain")


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
def test_a_data_set(tmp_path: Path, memory: str, archive: bool) -> None:
    """Sub-images, pairs and manifests are the plain run's; an archive at an address is read in place."""
    tree = tmp_path / "tree"
    for number in (1, 2, 3):
        path = tree / f"Flickr2K/Flickr2K_HR/{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(70, 50, seed=number).save(path)
    (tree / "Flickr2K/Flickr2K_HR/000003.png").write_bytes(b"no photo")
    source = tree
    if archive:
        source = tmp_path / "Flickr2K.zip"
        with zipfile.ZipFile(source, "w") as opened:
            for path in tree.rglob("*.png"):
                opened.write(path, path.relative_to(tree).as_posix())
    upload(source, f"{memory}/in")
    url = f"{memory}/in/{source.name}" if archive else f"{memory}/in"
    for shards, counts in (((), "2 made, 0 kept, 1 left out"), (("--shards",), "0 made, 0 kept, 1 left out")):
        options = ("--cut", "32/16", "--partial", "--workers", "1", *shards)
        name = "shards" if shards else "files"
        plain = dirformer("prepare", "flickr2k", source, "-o", tmp_path / f"plain-{name}", *options)
        there = dirformer("prepare", "flickr2k", url, "-o", f"{memory}/{name}", *options)
        assert plain.returncode == there.returncode == 2, there
        assert counts in plain.stdout and counts in there.stdout
        assert files(f"{memory}/{name}") == local(tmp_path / f"plain-{name}")
    assert (
        "0 made, 2 kept, 1 left out"
        in dirformer("prepare", "flickr2k", url, "-o", f"{memory}/files", *options[:3]).stdout
    )
    done = dirformer("prepare", "flickr2k", url, "-o", f"{memory}/whole", "--cut", "32/16")
    assert done.returncode == 2 and f"{url} is not the complete set" in done.stderr
    assert not files(f"{memory}/whole")


def test_shards_at_an_address(tmp_path: Path, memory: str) -> None:
    """Shards and their index are the plain run's, and training reads them where they lie."""
    tree = tmp_path / "Flickr2K/Flickr2K_HR"
    photo_folder(tree, 5, (40, 36))
    for path in list(tree.iterdir()):
        path.rename(path.with_name(f"00000{path.name}"))
    options = ("--shards", "--per-shard", "2", "--partial", "--workers", "1")
    for out in (tmp_path / "plain", f"{memory}/out"):
        done = dirformer("prepare", "flickr2k", tmp_path / "Flickr2K", "-o", out, *options)
        assert done.returncode == 0 and "3 made, 0 kept" in done.stdout, done
    assert files(f"{memory}/out") == local(tmp_path / "plain")
    photos, others = Shards(f"{memory}/out/train"), Shards(tmp_path / "plain/train")
    assert len(photos) == 5 and torch.equal(photos.read(3), others.read(3))
    again = dirformer(
        "prepare", "flickr2k", tmp_path / "Flickr2K", "-o", tmp_path / "plain", *options, *LOCAL
    )
    assert "0 made, 3 kept, 0 left out" in again.stdout


def scores(path: Path | bytes) -> dict[str, Any]:
    """A result without what is measured and where it was read."""
    result: dict[str, Any] = json.loads(path if isinstance(path, bytes) else path.read_text())
    for entry in result["models"]:
        for part in (entry["mean"], *entry["images"]):
            del part["seconds"], part["peak_mib"]
    for name in ("lq", "gt", "masks", "save"):
        del result["settings"][name]
    return result


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A ×4 test set, made of photos of our own."""
    photos = photo_folder(tmp_path / "photos", 3, (48, 40))
    assert dirformer("degrade", photos, "-o", tmp_path / "set", *KINDS["bicubic"]).returncode == 0
    return tmp_path / "set"


def table(done: Outcome) -> list[str]:
    """What `evaluate` says, without seconds and memory."""
    assert done.returncode == 0, done.stderr
    return [re.sub(r" +\d+\.\d\d +\d+$", "", line) for line in done.stdout.splitlines()]


def test_scores(pairs: Path, tmp_path: Path, memory: str) -> None:
    """Rows, means, table and saved photos are the plain run's; models by name, file, address, folder."""
    save(tmp_path / "tiny.safetensors", tiny())
    upload(pairs, f"{memory}/set")
    upload(tmp_path / "tiny.safetensors", f"{memory}/weights")
    photo_folder(tmp_path / "theirs", 3, (48, 40), seed=7)
    upload(tmp_path / "theirs", f"{memory}/theirs")
    options = ("--protocol", "sr", "--metric", "gmsd", "--seeds", "2")
    models = ("bicubic", tmp_path / "tiny.safetensors", f"results:theirs={tmp_path}/theirs")
    places = ("--lq", pairs / "lq", "--gt", pairs / "gt", "--save", tmp_path / "saved")
    plain = dirformer("evaluate", *models, *options, *places, "--json", tmp_path / "a.json")
    by_engine = ("--lq", pairs / "lq", "--gt", pairs / "gt", "--json", tmp_path / "b.json", *LOCAL)
    assert table(dirformer("evaluate", *models, *options, *by_engine)) == table(plain)
    assert scores(tmp_path / "b.json") == scores(tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    models = ("bicubic", f"{memory}/weights/tiny.safetensors", f"results:theirs={memory}/theirs")
    places = ("--lq", f"{memory}/set/lq", "--gt", f"{memory}/set/gt", "--save", f"{memory}/saved")
    there = dirformer("evaluate", *models, *options, *places, "--json", f"{memory}/scores/a.json")
    assert there.returncode == 0, there.stderr
    found = files(memory)
    ours, theirs = scores(tmp_path / "a.json"), scores(found["scores/a.json"])
    assert [entry.pop("model") for entry in theirs["models"]] == ["bicubic", models[1], "theirs"]
    for entry in ours["models"]:
        del entry["model"]
    # A method's name says where its finished results lie; weights are known by their digest.
    assert ours["models"][2].pop("sha256") != theirs["models"][2].pop("sha256")
    assert theirs == ours
    assert files(f"{memory}/saved") == local(tmp_path / "saved")
    assert json.loads(found["scores/a.json"])["settings"]["lq"] == f"{memory}/set/lq"
    told = there.stdout + there.stderr + found["scores/a.json"].decode()
    assert "/dirformer-" not in told, "a folder of this machine"


def test_scores_go_on(pairs: Path, tmp_path: Path, memory: str) -> None:
    """A bad photo leaves no table but all other rows, which the next run has."""
    good = (pairs / "lq/1.png").read_bytes()
    (pairs / "lq/1.png").write_bytes(b"no photo")
    again = (
        "--lq",
        pairs / "lq",
        "--gt",
        pairs / "gt",
        "--protocol",
        "sr",
        "--json",
        f"{memory}/a.json",
        *LOCAL,
    )
    done = dirformer("evaluate", "bicubic", *again)
    assert done.returncode == 2 and "1 of 3 photos have no score" in done.stderr
    assert f"1: {pairs}/lq/1.png is not a photo" in done.stderr and not done.stdout
    assert list(files(memory)) == [name for name in files(memory) if name.startswith(".a.json.rows/")] != []
    (pairs / "lq/1.png").write_bytes(good)
    rows = read_manifest(f"{memory}/.a.json.rows")
    assert sum(bool(row["error"]) for row in rows) == 1
    assert dirformer("evaluate", "bicubic", *again).returncode == 0
    plain = ("--lq", pairs / "lq", "--gt", pairs / "gt", "--protocol", "sr", "--json", tmp_path / "a.json")
    assert dirformer("evaluate", "bicubic", *plain).returncode == 0
    (name,) = files(memory)
    assert name == "a.json" and scores(files(memory)["a.json"]) == scores(tmp_path / "a.json")


def test_finished_rows_are_not_scored_again(
    pairs: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With saved photos, rows stay; a method that is added is the only one at work."""
    from dirformer.evaluation.run import Scoring

    scored, score = list[str](), Scoring.score
    monkeypatch.setattr(
        Scoring,
        "score",
        lambda self, method, *more: (scored.append(method.name), score(self, method, *more))[1],
    )
    places = ("--lq", pairs / "lq", "--gt", pairs / "gt", "--protocol", "sr", "--save", f"{memory}/saved")
    first = dirformer("evaluate", "bicubic", *places)
    second = dirformer("evaluate", "bicubic", "lanczos", *places)
    assert first.returncode == second.returncode == 0
    assert scored == ["bicubic"] * 3 + ["lanczos"] * 3
    assert len(files(f"{memory}/saved")) == 6


def test_holes_and_fid(tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are found by name, and FID is that of features which workers have computed."""

    def features(photo: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(photo.double(), 2).flatten()

    monkeypatch.setattr("dirformer.metrics.scorer.inception", lambda *_: features)
    photos = photo_folder(tmp_path / "gt", 4, (64, 64))
    masks = tmp_path / "masks"
    assert (
        dirformer("masks", "-o", tmp_path / "drawn", "--kind", "wide", "--size", "256", "-n", "4").returncode
        == 0
    )
    from PIL import Image

    masks.mkdir()
    for number in range(4):
        with Image.open(tmp_path / f"drawn/mask_{number:05}.png") as mask:
            mask.resize((64, 64)).save(masks / f"{number}_mask000.png")
    save(tmp_path / "fill.safetensors", tiny(TINY_INPAINTING))
    upload(photos, f"{memory}/gt")
    upload(masks, f"{memory}/masks")
    options = ("evaluate", "smooth", tmp_path / "fill.safetensors", "--protocol", "inpainting")
    here = ("--lq", photos, "--gt", photos, "--masks", masks, "--json", tmp_path / "a.json")
    there = ("--lq", f"{memory}/gt", "--gt", f"{memory}/gt", "--masks", f"{memory}/masks")
    plain = dirformer(*options, *here)
    assert table(dirformer(*options, *there, "--json", f"{memory}/a.json")) == table(plain)
    ours, theirs = scores(tmp_path / "a.json"), scores(files(memory)["a.json"])
    assert ours == theirs and ours["models"][0]["mean"]["fid"] > 0


def test_what_a_fleet_cannot_do_is_said(pairs: Path, tmp_path: Path) -> None:
    """One line each, before any work: read-only places, the protocol that makes its photos, no model."""
    gt = ("--gt", pairs / "gt")
    sets = ("--lq", pairs / "lq", *gt, "--protocol", "sr")
    web = "https://user:word@host.example/x?sign=mark"
    for arguments, line in (
        (("degrade", pairs / "gt", "-o", web, *KINDS["bicubic"]), "https://host.example/x can only be read"),
        (
            ("evaluate", "bicubic", *gt, "--protocol", "mild", *LOCAL),
            "makes its photos on this machine; leave --engine",
        ),
        (("evaluate", "none.pth", *sets, *LOCAL), "none.pth"),
        (("evaluate", "bicubic", *sets, "--precision", "auto", *LOCAL), "precision is auto"),
        (("evaluate", "bicubic", *sets, "--save", web), "https://host.example/x can only be read"),
        (("evaluate", "bicubic", *sets, "--engine", "slurm"), "engine is 'slurm'"),
        (
            ("degrade", pairs / "gt", "-o", tmp_path / "o", *KINDS["bicubic"], "--engine", "slurm"),
            "engine is 'slurm'",
        ),
        (("degrade", "memory://none", "-o", tmp_path / "o", *KINDS["bicubic"]), "memory://none is not there"),
        (("prepare", "flickr2k", "memory://none", "-o", tmp_path / "o"), "memory://none is not there"),
    ):
        done = dirformer(*arguments)
        assert done.returncode == 2 and line in done.stderr, done
        assert "mark" not in done.stderr and "word" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "o").exists()
