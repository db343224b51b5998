"""Photos by a Ray cluster or a pool of processes: complete and equal, whoever dies on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from dirformer.fleet.local import lost
from dirformer.fleet.manifest import read_manifest
from dirformer.fleet.order import Chunk, Item
from dirformer.weights.checkpoints import save
from helpers import SRC, dirformer, picture, tiny
from stores import SECRET, s3_server

pytest.importorskip("ray")
COUNT = 300


def photo_tree(top: Path, count: int = COUNT) -> Path:
    """Small photos in a few folders; one is damaged, one has 40 times the pixels."""
    for number in range(count):
        path = top / f"{number % 3}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (24 * 8, 20 * 5) if number == count // 2 else (24, 20)
        picture(*size, seed=number).save(path)
    damaged = top / "0" / "0000.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    return top


def local(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.png")}
    return {name: path.read_bytes() for name, path in found.items()}


def remote(url: str) -> dict[str, bytes]:
    store, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    names = [name for name in store.find(path) if name.endswith(".png")]
    return {name[len(path.rstrip("/")) + 1 :]: store.cat_file(name) for name in names}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, weights, and what a plain run makes of them."""
    room = tmp_path_factory.mktemp("room")
    save(room / "tiny.safetensors", tiny())
    photo_tree(room / "photos")
    done = dirformer("restore", room / "photos", "-o", room / "plain", "--model", room / "tiny.safetensors")
    assert done.stdout.splitlines()[-1] == "299 restored, 0 skipped, 1 failed"
    return room


class Driver:
    """A run in a process of its own, and the processes it has started."""

    def __init__(self, *arguments: object, verb: str = "restore") -> None:
        self.mark = uuid.uuid4().hex
        self.room = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets need a short name
        extra = {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "DIRFORMER_TEST": self.mark}
        extra["RAY_TMPDIR"] = str(self.room)
        command = [sys.executable, "-m", "dirformer", verb, *map(str, arguments)]
        self.run = subprocess.Popen(
            command, env=os.environ | extra, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.resident: list[int] = []

    def workers(self) -> list[int]:
        """Processes of this run that restore."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or self.mark.encode() not in (entry / "environ").read_bytes():
                    continue
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ray::MapWorker" in line or b"multiprocessing.spawn" in line:
                found.append(int(entry.name))
        return sorted(found)

    def logs(self) -> str:
        """All that Ray has logged."""
        files = (path for path in self.room.rglob("*") if path.is_file() and "logs" in path.parts)
        return "\n".join(path.read_text(errors="replace") for path in files)

    def lines(self) -> Iterator[str]:
        assert self.run.stdout is not None
        for line in self.run.stdout:
            status = Path(f"/proc/{self.run.pid}/status")
            if status.exists() and (match := re.search(r"VmRSS:\s+(\d+)", status.read_text())):
                self.resident.append(int(match[1]))
            yield line.rstrip()


@contextmanager
def driver(*arguments: object, verb: str = "restore") -> Iterator[Driver]:
    run = Driver(*arguments, verb=verb)
    try:
        yield run
    finally:
        run.run.kill()
        run.run.wait()
        assert run.run.stdout is not None
        run.run.stdout.close()
        shutil.rmtree(run.room, ignore_errors=True)


@pytest.mark.slow
def test_a_cluster_of_one(tmp_path: Path) -> None:
    """A few photos by Ray: the plain run's bytes, lines and closing line."""
    photo_tree(tmp_path / "photos", 9)
    save(tmp_path / "tiny.safetensors", tiny())
    model = ("--model", tmp_path / "tiny.safetensors")
    plain = dirformer("restore", tmp_path / "photos", "-o", tmp_path / "plain", *model)
    engine = ("--engine", "ray", "--processes", 1)
    with driver(tmp_path / "photos", "-o", tmp_path / "out", *model, *engine) as run:
        told = list(run.lines())
        assert run.run.wait(60) == plain.returncode == 2
    assert local(tmp_path / "out") == local(tmp_path / "plain")
    assert "8 restored, 0 skipped, 1 failed" in told and len(read_manifest(tmp_path / "out")) == 9
    assert sum(" → " in line for line in told) == 8


def test_a_chunk_whose_workers_die_has_failed() -> None:
    """Each of its photos is said."""
    chunk = Chunk("a", (Item("memory://x", "a", "x.png", 1, ""), Item("memory://y", "a", "y.png", 1, "")))
    report = lost(chunk, 3, "restored")
    assert report.errors == [
        f"a/{name} is not restored: 3 workers died at its chunk; run again" for name in ("x.png", "y.png")
    ]


@contextmanager
def places(store: str, room: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The photos and the place for results, at file:// or at an S3 server."""
    if store == "file":
        yield f"file://{room}/photos", f"file://{tmp_path}/out"
        return
    with s3_server("photos", "results"):
        system = fsspec.filesystem("s3", use_listings_cache=False)
        for name, data in local(room / "photos").items():
            system.pipe_file(f"photos/tree/{name}", data)
        yield "s3://photos/tree", "s3://results/tree"


def made(out: str) -> dict[str, object]:
    """When each result was written."""
    if out.startswith("file://"):
        top = Path(out.removeprefix("file://"))
        return {path.relative_to(top).as_posix(): path.stat().st_mtime_ns for path in top.rglob("*.png")}
    system, path = fsspec.core.url_to_fs(out, use_listings_cache=False)
    found = system.find(path, detail=True)
    return {
        name[len(path) + 1 :]: one["LastModified"] for name, one in found.items() if name.endswith(".png")
    }


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "local"])
@pytest.mark.parametrize("store", ["file", "s3"])
def test_a_worker_dies(room: Path, tmp_path: Path, engine: str, store: str) -> None:
    """300 photos, two workers, one killed on the way, one photo damaged, one large: complete and equal."""
    with places(store, room, tmp_path) as (source, out):
        options = ("--model", room / "tiny.safetensors", "--engine", engine, "--processes", 2)
        with driver(source, "-o", out, *options) as run:
            told, killed = [], 0
            for line in run.lines():
                told.append(line)
                if not killed and sum(" → " in one for one in told) > 30:
                    victims = run.workers()
                    assert len(victims) >= 2
                    killed = victims[-1]
                    os.kill(killed, signal.SIGKILL)
            assert killed and run.run.wait(60) == 2
            logs = run.logs()
        assert told[-1] == "299 restored, 0 skipped, 1 failed", told[-5:]
        results = local(tmp_path / "out") if store == "file" else remote(out)
        assert results == local(room / "plain")
        rows = read_manifest(out)
        assert len(rows) == COUNT and sum(bool(row["error"]) for row in rows) == 1
        assert not [word for word in (SECRET, "AWS") if word in "".join(told) + str(rows)]
        assert SECRET not in logs and (logs or engine == "local")
    # The driver holds addresses of a few chunks, never photos.
    begun = len(run.resident) // 4
    print("driver's memory in kB, from", run.resident[begun], "to", max(run.resident[begun:]))
    assert max(run.resident[begun:]) < run.resident[begun] + 30_000


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "local"])
@pytest.mark.parametrize("store", ["file", "s3"])
def test_the_driver_dies(room: Path, tmp_path: Path, engine: str, store: str) -> None:
    """Killed and run again: what has a record and a result is not done twice, all else is done."""
    with places(store, room, tmp_path) as (source, out):
        options = ("--model", room / "tiny.safetensors", "--engine", engine, "--processes", 2)
        with driver(source, "-o", out, *options) as run:
            for number, _ in enumerate(run.lines()):
                if number == 60:
                    run.run.send_signal(signal.SIGKILL)
                    break
            run.run.wait()
            deadline = time.monotonic() + 30
            while run.workers() and time.monotonic() < deadline:
                time.sleep(0.2)
            assert not run.workers()
        recorded = {row["output"] for row in read_manifest(out) if row["result"]}
        before = {name: when for name, when in made(out).items() if name in recorded}
        assert 40 < len(before) < COUNT
        with driver(source, "-o", out, *options) as run:
            told = list(run.lines())
            assert run.run.wait(60) == 2
        assert told[-1] == f"{299 - len(before)} restored, {len(before)} skipped, 1 failed"
        after = made(out)
        assert {name: after[name] for name in before} == before
        results = local(tmp_path / "out") if store == "file" else remote(out)
        assert results == local(room / "plain")
        assert len(read_manifest(out)) == COUNT


@pytest.mark.slow
def test_sets_by_a_cluster(tmp_path: Path) -> None:
    """`degrade` and `evaluate` by Ray: the plain run's files and rows, and nothing is done twice."""
    photo_tree(tmp_path / "photos", 9)
    photos = tmp_path / "photos/1"
    kind = ("--kind", "realsr", "--scale", "4")
    engine = ("--engine", "ray", "--processes", "2")
    assert dirformer("degrade", photos, "-o", tmp_path / "plain", *kind).returncode == 0
    for line in ("3 made, 0 kept, 0 left out", "0 made, 3 kept, 0 left out"):
        with driver(photos, "-o", tmp_path / "set", *kind, *engine, verb="degrade") as run:
            told = list(run.lines())
            assert run.run.wait(60) == 0 and told[-1] == f"{tmp_path}/set: {line}", told
    assert local(tmp_path / "set") == local(tmp_path / "plain")
    manifest = (tmp_path / "plain/manifest.jsonl").read_bytes()
    assert (tmp_path / "set/manifest.jsonl").read_bytes() == manifest
    pairs = ("--lq", tmp_path / "set/lq", "--gt", tmp_path / "set/gt", "--protocol", "sr", "--json")
    assert dirformer("evaluate", "bicubic", "lanczos", *pairs, tmp_path / "a.json").returncode == 0
    with driver("bicubic", "lanczos", *pairs, tmp_path / "b.json", *engine, verb="evaluate") as run:
        told = list(run.lines())
        assert run.run.wait(60) == 0, told
    ours, theirs = (json.loads((tmp_path / name).read_text())["models"] for name in ("a.json", "b.json"))
    assert [[row["psnr_y"] for row in entry["images"]] for entry in ours] == [
        [row["psnr_y"] for row in entry["images"]] for entry in theirs
    ]
    assert [entry["interval95"] for entry in ours] == [entry["interval95"] for entry in theirs]
