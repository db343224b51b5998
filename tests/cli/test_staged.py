"""Verbs on files of this machine take addresses too: copied here, results put there, and named by address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import s3fs
from fsspec.implementations.http import HTTPFileSystem

from dirformer.cli.staged import staged, target
from dirformer.ground.errors import DataError
from dirformer.networks.presets import PRESETS
from dirformer.weights.checkpoints import read_header, save
from helpers import TINY, dirformer, photo_folder, picture, same_weights, tiny


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


@pytest.fixture
def weights(tmp_path: Path, store: fsspec.AbstractFileSystem) -> Path:
    """A tiny network here, and at memory://weights/tiny.safetensors."""
    path = tmp_path / "tiny.safetensors"
    save(path, tiny())
    store.pipe_file("/weights/tiny.safetensors", path.read_bytes())
    return path


AT = "memory://weights/tiny.safetensors"


def upload(store: fsspec.AbstractFileSystem, folder: Path, top: str) -> None:
    for path in folder.rglob("*.png"):
        store.pipe_file(f"/{top}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def no_rooms(*texts: str | bytes) -> None:
    """No line and no file names the folder of this machine that an address was copied to."""
    assert not [text for text in texts if "/dirformer-" in (text if isinstance(text, str) else text.decode())]


def test_masks(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """Masks of photos at an address are those of photos here."""
    upload(store, photo_folder(tmp_path / "photos", 2, (300, 280)), "photos")
    kind = ("--kind", "wide", "--size", "256")
    here = dirformer("masks", "-o", tmp_path / "set", "--photos", tmp_path / "photos", *kind)
    there = dirformer("masks", "-o", "memory://set", "--photos", "memory://photos", *kind)
    assert here.returncode == there.returncode == 0, there
    assert "memory://set: 2 made" in there.stdout
    mine = {p.relative_to(tmp_path).as_posix(): p for p in (tmp_path / "set").rglob("*.*")}
    assert {name.lstrip("/") for name in store.find("/set")} == set(mine)
    assert all(store.cat_file(f"/{name}") == path.read_bytes() for name, path in mine.items())
    again = dirformer("masks", "-o", "memory://set", "-n", "1", *kind)
    assert again.returncode == 2 and "memory://set exists already" in again.stderr


def test_weight_files(tmp_path: Path, store: fsspec.AbstractFileSystem, weights: Path) -> None:
    """`convert` there and back; `cost` of weights at an address."""
    theirs = ("memory://out/tiny.pth", "memory://out/back.safetensors")
    save(tmp_path / "released.safetensors", tiny(replace(PRESETS["sr-x4"], **TINY, refinement_blocks=1)))
    store.pipe_file("/weights/released.safetensors", (tmp_path / "released.safetensors").read_bytes())
    again = ("convert", "memory://weights/released.safetensors", "-o", theirs[0])
    assert dirformer(*again).stdout.startswith("memory://out/tiny.pth: ")
    done = dirformer("convert", theirs[0], "-o", theirs[1], "--task", "sr")
    assert done.returncode == 0, done.stderr
    (tmp_path / "back.safetensors").write_bytes(store.cat_file("/out/back.safetensors"))
    same_weights(tmp_path / "released.safetensors", tmp_path / "back.safetensors")
    assert read_header(tmp_path / "back.safetensors").provenance == {"source": "tiny.pth"}
    assert "memory://out/tiny.pth exists already" in dirformer(*again).stderr
    done = dirformer("cost", AT, "--size", "32", "--json", "memory://out/cost.json")
    assert done.returncode == 0, done.stderr
    told = store.cat_file("/out/cost.json")
    assert AT in told.decode() and AT in done.stdout
    no_rooms(done.stdout, told)


def test_what_is_written_beside_a_file_goes_with_it(store: fsspec.AbstractFileSystem) -> None:
    """A file is put under its name, others beside it under theirs; hidden ones are for this machine alone."""
    with staged({"out": target("memory://out/net.xml"), "seed": 3}) as here:
        assert here["seed"] == 3
        for name in ("net.xml", "net.bin", ".net.xml.rows.jsonl"):
            (here["out"].parent / name).write_text(f"weights of {here['out']}")
    assert set(store.find("/out")) == {"/out/net.xml", "/out/net.bin"}


def test_what_a_failed_verb_has_written_is_not_put(store: fsspec.AbstractFileSystem) -> None:
    """An error leaves nothing at the address, and speaks of the address."""

    def fail(path: Path) -> None:
        path.write_text("half")
        raise DataError(f"{path} is bad")

    with (
        pytest.raises(DataError, match=r"^memory://out/net\.xml is bad$"),
        staged({"out": target("memory://out/net.xml")}) as here,
    ):
        fail(here["out"])
    assert store.find("/out") == []


@pytest.mark.slow
def test_export(store: fsspec.AbstractFileSystem, weights: Path) -> None:
    """A network of two files is put as two files."""
    pytest.importorskip("openvino")
    done = dirformer(
        "export", AT, "--to", "openvino", "-o", "memory://out/net.xml", "--json", "memory://out/a.json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("memory://out/net.xml and ")
    assert set(store.find("/out")) == {"/out/net.xml", "/out/net.bin", "/out/a.json"}
    no_rooms(done.stdout, store.cat_file("/out/a.json"), store.cat_file("/out/net.xml"))


def test_results(tmp_path: Path, store: fsspec.AbstractFileSystem, weights: Path) -> None:
    """A result at an address, its page with photos, figures of one photo and of cost."""
    photos = photo_folder(tmp_path / "photos", 2, (48, 40))
    upload(store, photos, "photos")
    kind = ("--kind", "bicubic", "--scale", "4")
    assert dirformer("degrade", "memory://photos", "-o", "memory://set", *kind).returncode == 0
    pairs = ("--lq", "memory://set/lq", "--gt", "memory://set/gt")
    done = dirformer(
        *("evaluate", "bicubic", AT, *pairs, "--protocol", "sr", "--save", "memory://saved"),
        *("--json", "memory://scores/a.json", "--table", "memory://scores/a.md"),
    )
    assert done.returncode == 0, done.stderr
    assert AT in store.cat_file("/scores/a.md").decode()
    page = dirformer("report", "memory://scores/a.json", "-o", "memory://page/a.html")
    assert page.returncode == 0, page.stderr
    assert page.stdout.startswith("memory://page/a.html: 1 results, 4 photos")
    one = ("--lq", "memory://set/lq/0.png", "--gt", "memory://set/gt/0.png")
    figure = dirformer("compare", "bicubic", AT, *one, "-o", "memory://page/a.png", "--region", "4,4,16,16")
    assert figure.returncode == 0, figure.stderr
    assert store.cat_file("/page/a.png")[:4] == b"\x89PNG"
    no_rooms(done.stdout, page.stdout, figure.stdout)
    no_rooms(*(store.cat_file(f"/{name}") for name in ("scores/a.json", "scores/a.md", "page/a.html")))


def test_the_mild_protocol(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """It makes its photos here, of photos at an address."""
    upload(store, photo_folder(tmp_path / "photos", 1, (48, 40)), "photos")
    options = ("evaluate", "input", "--protocol", "mild", "--gt")
    there = dirformer(*options, "memory://photos", "--json", "memory://out/a.json")
    here = dirformer(*options, tmp_path / "photos", "--json", tmp_path / "a.json")
    assert there.returncode == here.returncode == 0, there.stderr
    ours, theirs = json.loads((tmp_path / "a.json").read_text()), json.loads(store.cat_file("/out/a.json"))
    assert ours["groups"] == theirs["groups"] and theirs["settings"]["gt"] == "memory://photos"
    again = dirformer(*options, "memory://photos", "--json", "memory://out/a.json")
    assert again.returncode == 0, "a file of --json is replaced, as on this machine"
    no_rooms(there.stdout, store.cat_file("/out/a.json"))


def test_plans_and_restoring(tmp_path: Path, store: fsspec.AbstractFileSystem, weights: Path) -> None:
    """`plan` of photos at an address; photos here by weights and under a prior from there."""
    picture(20, 18).save(tmp_path / "photos.png")
    store.pipe_file("/photos/a.png", (tmp_path / "photos.png").read_bytes())
    plan = dirformer("plan", "memory://photos/a.png", "--model", AT, "--json", "memory://out/plan.json")
    assert plan.returncode == 0, plan.stderr
    told = json.loads(store.cat_file("/out/plan.json"))
    assert told["photos"][0]["photo"] == "memory://photos/a.png" and told["photos"][0]["model"] == AT
    done = dirformer("plan", "@memory://photos/list.txt")
    assert done.returncode == 2 and "memory://photos/list.txt is a list at an address" in done.stderr
    one = ("restore", tmp_path / "photos.png", "--overwrite", "-o")
    done = dirformer(
        *one, tmp_path / "a.png", "--model", AT, "--save-prior", "memory://out/prior.safetensors"
    )
    assert done.returncode == 0 and AT in done.stdout, done.stderr
    prior = ("--prior", "memory://out/prior.safetensors")
    assert dirformer(*one, tmp_path / "b.png", "--model", AT, *prior).returncode == 0
    assert dirformer(*one, tmp_path / "c.png", "--model", weights).returncode == 0
    by_fleet = dirformer(*one, tmp_path / "d.png", "--model", AT, "--engine", "local")
    assert by_fleet.returncode == 0, by_fleet.stderr
    bytes_of = {(tmp_path / f"{name}.png").read_bytes() for name in "abcd"}
    assert len(bytes_of) == 1
    missing = dirformer(*one, tmp_path / "e.png", "--model", "memory://weights/none.pth")
    assert missing.returncode == 2 and "memory://weights/none.pth is not there" in missing.stderr
    no_rooms(plan.stdout, done.stdout, missing.stderr)


def test_a_table_of_the_paper(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    """`reproduce` with data at an address says what lies there, and draws to an address."""
    for folder, size in (("HRx4", (48, 40)), ("LRx4", (12, 10))):
        photo_folder(tmp_path / "data" / "Set5" / folder, 5, size)
    upload(store, tmp_path / "data", "data")
    options = ("reproduce", "table2", "--model", "Set5=bicubic", "--json")
    here = dirformer(*options, tmp_path / "a.json", "--data", tmp_path / "data")
    there = dirformer(*options, "memory://out/a.json", "--data", "memory://data")
    assert here.returncode == there.returncode == 0, there.stderr + there.stdout
    assert (
        there.stdout.replace("memory://data", str(tmp_path / "data")).splitlines()[0]
        == here.stdout.splitlines()[0]
    )
    no_rooms(there.stdout, store.cat_file("/out/a.json"))


WEB = "https://user:word@host.example/x.safetensors?sign=mark"
S3 = "s3://key:word@bucket/x.safetensors?sign=mark"


@pytest.fixture
def no_systems() -> Iterator[None]:
    """File systems keep the methods that their class had when they were made."""
    for system in (HTTPFileSystem, s3fs.S3FileSystem):
        system.clear_instance_cache()
    yield
    for system in (HTTPFileSystem, s3fs.S3FileSystem):
        system.clear_instance_cache()


@pytest.mark.usefixtures("no_systems")
@pytest.mark.parametrize("url", [WEB, S3])
def test_what_cannot_be_read_or_written_is_one_line_without_secrets(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verb, every place: what was given, without user, password and query."""
    for system in (HTTPFileSystem, s3fs.S3FileSystem):
        for name in ("_info", "_ls", "_cat_file", "_get_file"):
            monkeypatch.setattr(system, name, _refused)
    photo_folder(tmp_path / "p", 1)
    photo = tmp_path / "p/0.png"
    pairs = ("--lq", tmp_path / "p", "--gt", tmp_path / "p", "--protocol", "sr")
    for arguments in (
        ("convert", url, "-o", tmp_path / "a.pth"),
        ("export", url, "-o", tmp_path / "a.onnx"),
        ("cost", url),
        ("report", url, "-o", tmp_path / "a.html"),
        ("compare", url, "--lq", photo, "-o", tmp_path / "a.png"),
        ("compare", "bicubic", "--lq", url, "-o", tmp_path / "a.png"),
        ("reproduce", "table2", "--data", url),
        ("reproduce", "table2", "--model", f"Set5={url}"),
        ("plan", url),
        ("masks", "-o", tmp_path / "m", "--kind", "wide", "--photos", url),
        ("degrade", url, "-o", tmp_path / "d", "--kind", "bicubic"),
        ("prepare", "div2k", url, "-o", tmp_path / "d"),
        ("evaluate", url, *pairs),
        ("evaluate", f"results:A={url}", *pairs),
        ("evaluate", "bicubic", "--lq", url, "--gt", tmp_path / "p", "--protocol", "sr"),
        ("evaluate", "input", "--gt", url, "--protocol", "mild"),
        ("evaluate", "input", "--gt", tmp_path / "p", "--protocol", "mild", "--json", url),
        ("evaluate", "input", "--gt", tmp_path / "p", "--protocol", "mild", "--table", url),
        ("evaluate", "bicubic", *pairs, "--metric-weights", url),
        ("evaluate", "smooth", *pairs[:4], "--protocol", "inpainting", "--masks", url),
        ("restore", photo, "-o", tmp_path / "a.png", "--model", url),
        ("restore", photo, "-o", tmp_path / "a.png", "--prior", url),
        ("doctor", "--json", WEB),
        ("masks", "-o", WEB, "--kind", "wide"),
        ("convert", tmp_path / "none.pth", "-o", WEB),
        ("degrade", tmp_path / "p", "-o", WEB, "--kind", "bicubic"),
        ("compare", "bicubic", "--lq", photo, "-o", WEB),
        ("export", "sr-x4-compact", "-o", WEB),
    ):
        done = dirformer(*arguments)
        told = done.stdout + done.stderr
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, (arguments, done)
        assert "x.safetensors" in told, (arguments, done)
        assert not [word for word in ("word", "sign", "mark", "key:") if word in told], (arguments, done)


def test_a_wrong_command_line_shows_no_secrets() -> None:
    """Arguments that are too many, and options that are none, are named without user, password and query."""
    for arguments in (("export", S3, S3), ("restore", "a.png", "-o", "b.png", f"--{S3}"), ("cost", WEB, WEB)):
        done = dirformer(*arguments)
        assert done.returncode == 2 and "x.safetensors" in done.stderr, done
        assert not [word for word in ("word", "sign", "mark", "key:") if word in done.stdout + done.stderr]


async def _refused(*arguments: object, **options: object) -> None:
    raise PermissionError(f"{arguments} {options} with sign=mark and word")
