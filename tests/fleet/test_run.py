"""Photos from any place to any place: the plain run's bytes, each once, with a record of each."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest

from dirformer.fleet import worker
from dirformer.fleet.cluster import Cluster
from dirformer.fleet.listing import _cut
from dirformer.fleet.manifest import read_manifest
from dirformer.fleet.order import Chunk, Item, Record, Report
from dirformer.fleet.restoring import RestoreOrder
from dirformer.fleet.run import run
from dirformer.ground.errors import ConfigError
from dirformer.ground.places import Place
from dirformer.inference.done import digest_file
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, dirformer, picture, tiny
from stores import SECRET, files, local, s3_server, upload


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, tiny())
    return str(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A tree of photos, a damaged one and what is none."""
    top = tmp_path / "photos"
    for number, name in enumerate(("a.png", "b.jpg", "below/c.png", "below/deep/d.png")):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        picture(20 + number, 18, seed=number).save(top / name)
    (top / "bad.png").write_bytes(b"no photo")
    (top / "text.txt").write_text("text")
    return top


@pytest.fixture
def plain(photos: Path, model: str, tmp_path: Path) -> Path:
    """What `restore` makes of the photos without a fleet."""
    assert dirformer("restore", photos, "-o", tmp_path / "plain", "--model", model).returncode == 2
    return tmp_path / "plain"


@pytest.fixture
def memory() -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield "memory://room"
    store.store.clear()


def test_the_plain_runs_bytes(photos: Path, plain: Path, model: str, memory: str) -> None:
    """From and to an address: bytes, lines, closing line and exit code of a folder of this machine."""
    upload(photos, f"{memory}/in")
    done = dirformer("restore", f"{memory}/in", "-o", f"{memory}/out", "--model", model)
    assert done.returncode == 2
    assert files(f"{memory}/out") == local(plain)
    assert len(local(plain)) == 4
    assert done.stdout.splitlines()[-1] == "4 restored, 0 skipped, 1 failed; 1 passed over: 1 .txt"
    assert f"{memory}/in/below/c.png → {memory}/out/below/c.png (" in done.stdout
    assert done.stderr.startswith(f"dirformer: {memory}/in/bad.png is not a photo that can be read")
    assert not [name for name in files(memory) if name.endswith(".part")]


def test_each_photo_has_a_record(photos: Path, model: str, tmp_path: Path) -> None:
    """Digests of photo, model, options and result; seconds; the error of what has no result."""
    out = tmp_path / "out"
    assert dirformer("restore", photos, "-o", out, "--model", model, "--engine", "local").returncode == 2
    rows = {row["output"]: row for row in read_manifest(out)}
    assert set(rows) == {"a.png", "b.jpg", "bad.png", "below/c.png", "below/deep/d.png"}
    for name, row in rows.items():
        assert row["photo"] == str(photos / name) and row["seconds"] >= 0
        if name == "bad.png":
            assert row["error"].startswith(f"{photos}/bad.png is not a photo") and not row["result"]
            continue
        assert not row["error"]
        assert row["result"] == digest_file(out / name) and row["size"] == (out / name).stat().st_size
        assert row["model_digest"] == digest_file(Path(model)) and row["model"] == model
    assert len({row["options"] for row in rows.values()}) == 1
    assert len({row["input"] for row in rows.values()}) == 5


def test_a_second_run_does_what_is_left(photos: Path, plain: Path, model: str, memory: str) -> None:
    """Finished photos are skipped; what failed, is gone, or has changed is done; other options do all."""
    top, out = f"{memory}/in", f"{memory}/out"
    upload(photos, top)
    again = ("restore", top, "-o", out, "--model", model)
    dirformer(*again)
    assert dirformer(*again).stdout.startswith("0 restored, 4 skipped, 1 failed")
    store = fsspec.filesystem("memory")
    store.rm("/room/out/a.png")
    picture(30, 18, seed=9).save(photos / "bad.png")
    upload(photos, top)
    # Written again, a file in memory is as new as any changed one.
    done = dirformer(*again)
    assert "5 restored, 0 skipped, 0 failed" in done.stdout
    store.rm("/room/out/a.png")
    done = dirformer(*again)
    assert "1 restored, 4 skipped, 0 failed" in done.stdout
    assert {k: v for k, v in files(out).items() if k != "bad.png"} == local(plain)
    assert "5 restored, 0 skipped" in dirformer(*again, "--seed", "1").stdout
    assert "5 restored, 0 skipped" in dirformer(*again, "--seed", "1", "--no-skip-existing").stdout


def test_a_record_never_stands_for_an_older_result(
    photos: Path, model: str, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between result and record, a photo is done again, also where old and new have one size."""
    shutil.rmtree(photos / "below")
    steps: list[str] = []
    put, write_part = Place.put, worker.write_part

    def noted_put(self: Place, path: Path) -> None:
        if ".dirformer" not in self.url:
            steps.append(self.name)
        put(self, path)

    def noted_part(*arguments: Any) -> None:
        steps.append("records")
        write_part(*arguments)

    monkeypatch.setattr(Place, "put", noted_put)
    monkeypatch.setattr(worker, "write_part", noted_part)
    again = ("restore", photos, "-o", f"{memory}/out", "--model", model, "--workers", "1")
    dirformer(*again)
    assert steps == ["records", "a.png", "b.jpg"]
    steps.clear()
    dirformer(*again, "--seed", "1")
    assert steps == ["a.png", "b.jpg", "records"]


def test_files_of_others_are_left_alone(photos: Path, model: str, tmp_path: Path) -> None:
    """What lies at the place of a result without a record is replaced only when asked."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    again = ("restore", photos, "-o", out, "--model", model, "--engine", "local")
    done = dirformer(*again)
    assert "3 restored, 0 skipped, 2 failed" in done.stdout
    assert f"{out}/a.png exists already; add --overwrite to replace it" in done.stderr
    assert (out / "a.png").read_bytes() == b"mine"
    assert "1 restored, 3 skipped, 1 failed" in dirformer(*again, "--overwrite").stdout
    assert (out / "a.png").read_bytes() != b"mine"


def test_no_two_results_at_one_place(model: str, tmp_path: Path) -> None:
    """Two photos that would get one name, and a photo that its result would replace, are errors."""
    for name in ("a.gif", "a.png", "b.png"):
        picture(20, 18).save(tmp_path / name)
    done = dirformer("restore", tmp_path, "-o", tmp_path / "out", "--model", model, "--engine", "local")
    assert "2 restored, 0 skipped, 1 failed" in done.stdout
    assert f"{tmp_path}/a.png and {tmp_path}/a.gif would both be written to" in done.stderr
    before = (tmp_path / "b.png").read_bytes()
    done = dirformer("restore", tmp_path / "b.png", "-o", tmp_path, "--model", model, "--engine", "local")
    assert done.returncode == 2 and "b.png would be replaced by its result" in done.stderr
    assert (tmp_path / "b.png").read_bytes() == before


def test_results_below_the_photos_are_no_photos(photos: Path, model: str) -> None:
    """A folder of results inside the folder of photos is not restored by the next run."""
    again = ("restore", photos, "-o", photos / "out", "--model", model, "--engine", "local")
    assert "4 restored, 0 skipped, 1 failed" in dirformer(*again).stdout
    assert "0 restored, 4 skipped, 1 failed" in dirformer(*again).stdout
    assert sum(1 for p in photos.rglob("*.png")) == 4 + 3


def test_one_photo_one_file(photos: Path, plain: Path, model: str, memory: str) -> None:
    """A name with a photo's suffix is one file, without a manifest; what exists is not replaced unasked."""
    one = ("restore", photos / "a.png", "-o", f"{memory}/one.png", "--model", model)
    assert dirformer(*one).returncode == 0
    assert files(memory) == {"one.png": (plain / "a.png").read_bytes()}
    done = dirformer(*one)
    assert done.returncode == 2 and "one.png exists already; add --overwrite" in done.stderr
    assert dirformer(*one, "--overwrite").returncode == 0
    assert "two.png exists" not in dirformer("restore", photos / "a.png", "-o", f"{memory}/two.png").stderr


def test_lists(photos: Path, plain: Path, model: str, memory: str) -> None:
    """A list at an address names photos beside it, or addresses; its folders are kept."""
    upload(photos, f"{memory}/in")
    lines = ["# some", "a.png", "below/c.png", f"{memory}/in/b.jpg", "none.png", ""]
    fsspec.filesystem("memory").pipe_file("/room/in/list.txt", "\n".join(lines).encode())
    for number, name in enumerate((("--list", f"{memory}/in/list.txt"), (f"@{memory}/in/list.txt",))):
        out = f"{memory}/out{number}"
        done = dirformer("restore", *name, "-o", out, "--model", model)
        assert "3 restored, 0 skipped, 1 failed" in done.stdout, done
        assert f"{memory}/in/none.png is not there" in done.stderr
        expected = {k: v for k, v in local(plain).items() if k in ("a.png", "below/c.png", "b.jpg")}
        assert files(out) == expected


def test_masks_by_name(tmp_path: Path, memory: str) -> None:
    """One mask for all, or those of a folder by name, at an address as here."""
    save(tmp_path / "fill.safetensors", tiny(TINY_INPAINTING))
    model = ("--model", tmp_path / "fill.safetensors")
    for name in ("a", "below/b", "c"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(32, 24).save(tmp_path / "in" / f"{name}.png")
        mask = picture(32, 24, mode="L").point(lambda v: 255 if v > 128 else 0)
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        if name != "c":
            mask.save(tmp_path / "masks" / f"{name}_mask001.png")
    upload(tmp_path / "masks", f"{memory}/masks")
    here = dirformer("restore", tmp_path / "in", "-o", tmp_path / "out", "--mask", tmp_path / "masks", *model)
    again = ("restore", tmp_path / "in", "-o", f"{memory}/out", "--mask", f"{memory}/masks", *model)
    there = dirformer(*again)
    assert here.returncode == there.returncode == 2
    assert f"c.png has no mask of the same name in {memory}/masks" in there.stderr
    assert files(f"{memory}/out") == local(tmp_path / "out")
    upload(tmp_path / "masks", f"{memory}/masks")
    assert "2 restored, 0 skipped, 1 failed" in dirformer(*again).stdout, "masks that are new change results"
    one = ("--mask", tmp_path / "masks/a_mask001.png", *model)
    assert dirformer("restore", tmp_path / "in", "-o", f"{memory}/all", *one).returncode == 0


def test_s3_and_no_secrets(
    photos: Path, plain: Path, model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From and to an S3 server: same bytes; no credential and no query in any line, record or log."""
    caplog.set_level(logging.INFO)
    with s3_server("photos-in", "photos-out"):
        upload(photos, "s3://photos-in/tree")
        again = ("restore", "s3://photos-in/tree", "-o", "s3://photos-out/tree", "--model", model)
        done = dirformer(*again)
        assert done.stdout.splitlines()[-1] == "4 restored, 0 skipped, 1 failed; 1 passed over: 1 .txt"
        assert files("s3://photos-out/tree") == local(plain)
        assert "0 restored, 4 skipped, 1 failed" in dirformer(*again).stdout
        rows = read_manifest("s3://photos-out/tree")
        made = ("degrade", "s3://photos-in/tree", "-o", "s3://photos-out/set", "--kind", "noise")
        others = [dirformer(*made), dirformer(*made)]
        assert "2 made, 0 kept, 1 left out" in others[0].stdout, others
        assert "0 made, 2 kept, 1 left out" in others[1].stdout
        pairs = ("--lq", "s3://photos-out/set/lq", "--gt", "s3://photos-out/set/gt")
        scored = ("evaluate", "input", *pairs, "--protocol", "deblurring", "--json", "s3://photos-out/a.json")
        others.append(dirformer(*scored))
        assert others[2].returncode == 0, others
        kept = files("s3://photos-out")
        assert [name for name in kept if ".rows" in name] == []
        texts = [data.decode() for name, data in kept.items() if name.endswith((".json", ".jsonl"))]
        rows_of_set = read_manifest("s3://photos-out/set")
        assert len(texts) == 2 and len(rows_of_set) == 3
        told = done.stdout + done.stderr + caplog.text + json.dumps([*rows, *rows_of_set]) + "".join(texts)
        told += "".join(one.stdout + one.stderr for one in others)
        weights = f"{tmp_path}/none.png"
        assert (
            dirformer("restore", "s3://key:pass@photos-in/none.png?sign=mark", "-o", weights).returncode == 2
        )
        missing = dirformer("restore", "s3://key:pass@photos-in/none.png?sign=mark", "-o", weights)
        told += missing.stdout + missing.stderr
    assert not [word for word in (SECRET, "pass@", "sign=", "mark") if word in told]
    assert len(rows) == 5


def test_a_signed_address(photos: Path, plain: Path, model: str, tmp_path: Path) -> None:
    """A photo of a web server, by its signature, which no line and no record shows."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(photos))

        def do_GET(self) -> None:
            if self.path.endswith("?sign=mark"):
                super().do_GET()
            else:
                self.send_error(403)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        lines = [f"{url}/{name}" for name in ("a.png?sign=mark", "below/c.png?sign=mark", "b.jpg?sign=wrong")]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        out = tmp_path / "out"
        done = dirformer("restore", f"@{tmp_path}/list.txt", "-o", out, "--model", model, "--engine", "local")
        one = dirformer("restore", lines[0], "-o", tmp_path / "one.png", "--model", model)
        server.shutdown()
    assert "2 restored, 0 skipped, 1 failed" in done.stdout, done
    assert one.returncode == 0 and (tmp_path / "one.png").read_bytes() == (plain / "a.png").read_bytes()
    assert (out / "c.png").read_bytes() == (plain / "below/c.png").read_bytes()
    rows = read_manifest(out)
    told = done.stdout + done.stderr + one.stdout + str(rows)
    assert len(rows) == 3 and not [word for word in ("sign=", "mark", "wrong") if word in told]


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    """A folder without photos is an error, as without an engine."""
    (tmp_path / "text.txt").write_text("text")
    done = dirformer("restore", tmp_path, "-o", "memory://out", "--engine", "local")
    assert done.returncode == 2 and f"no photos in {tmp_path}; expected .png" in done.stderr


def test_what_a_fleet_does_not_do_is_said(tmp_path: Path) -> None:
    """Options for photos of this machine, other engines, places that can only be read: one line each."""
    picture(20, 18).save(tmp_path / "a.png")
    one = ("restore", tmp_path / "a.png", "-o")
    for options, line in (
        ((tmp_path / "out", "--engine", "slurm"), "engine is 'slurm'; expected one of local, ray"),
        ((tmp_path / "out", "--engine", "local", "--address", "auto"), "it is for --engine ray"),
        (("https://host.example/a.png?sign=mark",), "https://host.example/a.png can only be read"),
        (("memory://out", "--pages"), "--pages is set"),
        (("memory://out", "--in-place"), "--in-place is for photos of this machine"),
        (("memory://out", "--samples", "2"), "--samples is set"),
        (("memory://out", "--processes", "2"), "memory:// belongs to one process"),
        (("nowhere://out",), "nowhere:// is not known"),
        (("memory://out.gif",), "has no photo suffix that can be written"),
    ):
        done = dirformer(*one, *options)
        assert done.returncode == 2 and line in done.stderr and "mark" not in done.stderr, done
    folder = RestoreOrder((Place.of(tmp_path), Place.of(tmp_path / "a.png")), Place("memory://out"))
    with pytest.raises(ConfigError, match="a fleet takes one folder, one list, or photos"):
        list(run(folder))
    with pytest.raises(ConfigError, match="expected one of local, ray"):
        run(folder, "dask", Cluster())


def test_chunks_are_bounded() -> None:
    """At most 16 photos and 64 MiB of files, unless one is larger; nothing is lost and order is kept."""
    sizes = [2**20] * 20 + [70 * 2**20] + [30 * 2**20] * 4
    items = [Item("memory://a", "", str(n), size, "") for n, size in enumerate(sizes)]
    chunks = list(_cut(items))
    assert [item for chunk in chunks for item in chunk] == items
    assert [len(chunk) for chunk in chunks] == [16, 4, 1, 2, 2]


def test_what_travels_is_text() -> None:
    """Chunks and reports come back equal from their lines; no address shows its secrets."""
    item = Item("s3://key:word@bucket/a.png", "below", "a.png", 3, "v")
    chunk = Chunk("below", (item,), 2, ("error",), {".txt": 1})
    assert Chunk.from_text(chunk.to_text()) == chunk and "word" not in repr(chunk)
    record = Record("below/a.png", "s3://bucket/a.png", "v", notes=("one", "two"))
    report = replace(Report.of(chunk), records=[record])
    assert asdict(Report.from_text(report.to_text())) == asdict(report)
    assert report.told == 1 + 2 + 1


def test_shards_part_a_tree(photos: Path, tmp_path: Path) -> None:
    """Each photo is in one shard; shards are the folders directly below the source, and what lies in it."""
    order = RestoreOrder((Place.of(photos),), Place.of(tmp_path / "out"))
    listing = order.listing()
    shards = list(listing.shards())
    assert [(shard.kind, shard.folder) for shard in shards] == [("folder", ""), ("tree", "below")]
    found = [item.output for shard in shards for chunk in listing.chunks(shard) for item in chunk.items]
    assert found == ["a.png", "b.jpg", "bad.png", "c.png", "d.png"]
    assert listing.count() == 5


def test_a_torn_manifest_counts_for_nothing(photos: Path, model: str, tmp_path: Path) -> None:
    """A part that cannot be read is left out: its photos are said, and done again when asked."""
    out = tmp_path / "out"
    shutil.rmtree(photos / "below")
    again: tuple[Any, ...] = ("restore", photos, "-o", out, "--model", model, "--engine", "local")
    dirformer(*again)
    (part,) = (out / ".dirformer" / "manifest").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    assert "0 restored, 0 skipped, 3 failed" in dirformer(*again).stdout
    assert "2 restored, 0 skipped, 1 failed" in dirformer(*again, "--overwrite").stdout
    assert "0 restored, 2 skipped, 1 failed" in dirformer(*again).stdout
