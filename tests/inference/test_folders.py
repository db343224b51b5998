"""A folder, again and again: finished photos are skipped, changed ones done again, others' files stay."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from PIL import Image

import dirformer
from dirformer.ground.errors import ConfigError, OutputError, PhotoError
from dirformer.inference.done import LOG
from dirformer.inference.files import FileRun, restore_files
from dirformer.inference.jobs import FileOptions, plan_jobs
from dirformer.inference.restorer import Restorer
from dirformer.weights.checkpoints import save
from helpers import dirformer as command
from helpers import picture, tiny


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three photos in a tree, and a model."""
    save(tmp_path / "sr.safetensors", tiny())
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "deep/c")):
        picture(16, 12, seed=i).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


def call(place: Path, *options: object, out: str = "out") -> str:
    """Restore the folder; return the closing line."""
    model = ("--model", place / "sr.safetensors")
    outcome = command("restore", place / "in", "-o", place / out, *model, *options)
    return outcome.stdout.splitlines()[-1] + f" [{outcome.returncode}]"


def test_maps_of_several_draws_belong_to_their_results(place: Path) -> None:
    """Both are there, both are skipped; a map that is missing is made again, one that was changed stays."""
    three = "3 restored, 0 skipped, 0 failed [0]"
    assert call(place, "--samples", 2) == three
    assert call(place, "--samples", 2) == "0 restored, 3 skipped, 0 failed [0]"
    spread = place / "out" / "a_spread.png"
    known = spread.read_bytes()
    spread.unlink()
    assert call(place, "--samples", 2) == "1 restored, 2 skipped, 0 failed [0]"
    assert spread.read_bytes() == known
    spread.write_text("mine")
    assert call(place, "--samples", 2) == "0 restored, 2 skipped, 1 failed [2]"
    assert spread.read_text() == "mine"
    assert call(place, "--samples", 2, "--overwrite") == "1 restored, 2 skipped, 0 failed [0]"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOG]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_finished_is_skipped(place: Path) -> None:
    """A second run does nothing; a changed photo, option or model is done again, and only that."""
    assert call(place) == "3 restored, 0 skipped, 0 failed [0]"
    first = contents(place / "out")
    assert sorted(first) == ["a.png", "b.png", "deep/c.png"]
    assert call(place) == "0 restored, 3 skipped, 0 failed [0]"
    picture(16, 12, seed=7).save(place / "in" / "b.png")
    assert call(place) == "1 restored, 2 skipped, 0 failed [0]"
    second = contents(place / "out")
    assert second["a.png"] == first["a.png"] and second["b.png"] != first["b.png"]
    assert call(place, "--seed", 1) == "3 restored, 0 skipped, 0 failed [0]"
    assert call(place, "--seed", 1, "--max-memory", "1GiB") == "0 restored, 3 skipped, 0 failed [0]"
    assert call(place, "--strength", 0.5) == "3 restored, 0 skipped, 0 failed [0]"
    assert call(place) == "3 restored, 0 skipped, 0 failed [0]"
    save(place / "sr.safetensors", tiny(seed=1))
    assert call(place) == "3 restored, 0 skipped, 0 failed [0]"
    assert call(place, "--no-skip-existing") == "3 restored, 0 skipped, 0 failed [0]"


def test_a_touched_photo_is_not_a_changed_one(place: Path) -> None:
    """Contents decide, not dates; a folder that was moved stays finished."""
    call(place)
    os.utime(place / "in" / "a.png", (1, 1))
    shutil.move(place / "out", place / "moved")
    assert call(place, out="moved") == "0 restored, 3 skipped, 0 failed [0]"


def test_files_of_others_are_left_alone(place: Path) -> None:
    """A result that somebody changed, or made, is replaced by --overwrite alone; the rest goes on."""
    call(place)
    (place / "out" / "a.png").write_bytes(b"painted over")
    assert call(place, "--seed", 1) == "2 restored, 0 skipped, 1 failed [2]"
    assert (place / "out" / "a.png").read_bytes() == b"painted over"
    assert call(place, "--seed", 1, "--overwrite") == "1 restored, 2 skipped, 0 failed [0]"


def test_a_missing_result_is_made_again(place: Path) -> None:
    """The log alone is no result; a damaged log costs work and nothing else."""
    call(place)
    before = contents(place / "out")
    (place / "out" / "b.png").unlink()
    assert call(place) == "1 restored, 2 skipped, 0 failed [0]"
    log = place / "out" / LOG
    log.write_bytes(b"\xff{\n[]\n" + log.read_bytes()[:-20])
    assert call(place, "--overwrite").endswith("0 failed [0]")
    assert contents(place / "out") == before


def test_in_place(place: Path) -> None:
    """--in-place replaces photos once: the results are not restored again."""
    model = ("--model", place / "sr.safetensors")
    arguments = ("restore", place / "in", "-o", place / "in", *model)
    assert command(*arguments, "--overwrite").returncode == 2
    assert command(*arguments, "--in-place").returncode == 0
    with Image.open(place / "in" / "a.png") as image:
        assert image.size == (64, 48)
    again = command(*arguments, "--in-place")
    assert "0 restored, 3 skipped, 0 failed" in again.stdout


@pytest.mark.parametrize("process", ["99999999", "own"])
def test_what_a_killed_run_left_is_removed(place: Path, process: str) -> None:
    """Temporary files of a process that is gone; those of a living one stay."""
    number = os.getppid() if process == "own" else process
    left = place / "out" / "deep" / f".c.png.{number}.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    (place / "out" / ".notes.part").write_text("not ours")
    call(place)
    assert left.exists() == (process == "own") and (place / "out" / ".notes.part").exists()


def test_results_and_log_do_not_depend_on_workers(place: Path) -> None:
    """0, 1 and 5 workers: the same bytes, the same records in the same order, a bad photo included."""
    (place / "in" / "aa.png").write_text("not a photo")
    for i in range(4):
        picture(20 + 8 * i, 12, seed=i).save(place / "in" / f"x{i}.jpg")
    seen = []
    for workers in (0, 1, 5):
        out = f"out{workers}"
        assert call(place, "--workers", workers, out=out) == "7 restored, 0 skipped, 1 failed [2]"
        lines = (place / out / LOG).read_text().splitlines()
        records = [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]
        seen.append((contents(place / out), records))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_any_failure_is_that_photo_s(place: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """No memory, or an error nobody thought of: the photo is named, the others are restored."""
    restorer = Restorer(place / "sr.safetensors", device="cpu")
    whole, raised = restorer.restore, [MemoryError(), ValueError("odd\nthing")]

    def fail_twice(*arguments, **options):
        if raised:
            raise raised.pop(0)
        return whole(*arguments, **options)

    monkeypatch.setattr(restorer, "restore", fail_twice)
    jobs = plan_jobs([place / "in"], place / "out").jobs
    records = list(restore_files(restorer, jobs, workers=workers))
    assert [record.job.photo.stem for record in records] == ["a", "b", "c"]
    assert "does not fit into memory" in str(records[0].error)
    assert "ValueError: odd thing" in str(records[1].error) and records[2].error is None


def test_a_full_disk_is_a_line_per_photo(place: Path) -> None:
    """No file may become larger than 2000 bytes: small results are written, nothing is half-written."""
    picture(2, 2).save(place / "in" / "tiny.png")
    jobs = plan_jobs([place / "in"], place / "out", options=FileOptions()).jobs
    restorer = Restorer(place / "sr.safetensors", device="cpu")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        records = list(restore_files(restorer, jobs, FileRun()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record.job.photo.name for record in records if record.error is None] == ["tiny.png"]
    assert all("cannot be written: File too large" in str(r.error) for r in records if r.error)
    assert [path.name for path in (place / "out").rglob("*") if path.is_file()] == ["tiny.png"]


def test_a_folder_from_python(place: Path) -> None:
    """`restore_folder` returns every result, also of a second call; `restore` names it for folders."""
    call_options = {"model": place / "sr.safetensors"}
    first = dirformer.restore_folder(place / "in", place / "out", **call_options)
    assert [path.relative_to(place / "out").as_posix() for path in first] == ["a.png", "b.png", "deep/c.png"]
    before = contents(place / "out")
    assert dirformer.restore_folder(str(place / "in"), str(place / "out"), **call_options) == first
    assert contents(place / "out") == before
    with pytest.raises(ConfigError, match="restore_folder"):
        dirformer.restore(place / "in", place / "out", **call_options)
    with pytest.raises(ConfigError, match="is no folder"):
        dirformer.restore_folder(place / "in" / "a.png", place / "out", **call_options)
    (place / "in" / "bad.png").write_text("no photo")
    picture(16, 12, seed=9).save(place / "in" / "new.png")
    with pytest.raises(PhotoError, match=r"bad.png is not a photo"):
        dirformer.restore_folder(place / "in", place / "out", **call_options)
    assert (place / "out" / "new.png").is_file()
    (place / "out" / "a.png").write_bytes(b"foreign")
    with pytest.raises((OutputError, PhotoError)):
        dirformer.restore_folder(place / "in", place / "out", **call_options)
