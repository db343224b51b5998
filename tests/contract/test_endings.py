"""Runs that are killed, and disks that are full: the next run completes, nothing is half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from dirformer.weights.checkpoints import save
from helpers import SRC, photo_folder, picture, tiny, tiny_recipe

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "30"))
"""Of each verb, spread over the time of an undisturbed run."""


def start(*arguments: object, cwd: Path) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dirformer", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(*arguments: object, cwd: Path) -> tuple[int, str]:
    """Run to the end; return exit code and standard error."""
    with start(*arguments, cwd=cwd) as run:
        _, errors = run.communicate(timeout=240)
    return run.returncode, errors.decode()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Twelve photos, their small copies, a tiny network, and recipes of it."""
    gt = photo_folder(tmp_path / "gt", 12, (128, 96))
    (tmp_path / "lq").mkdir()
    for path in gt.iterdir():
        picture(32, 24).save(tmp_path / "lq" / path.name)
    # The layout of a set that is downloaded.
    (tmp_path / "set" / "Flickr2K_HR").mkdir(parents=True)
    for number, path in enumerate(sorted(gt.iterdir()), start=1):
        shutil.copy(path, tmp_path / "set" / "Flickr2K_HR" / f"{number:06}.png")
    save(tmp_path / "net.safetensors", tiny())
    recipe = json.loads(tiny_recipe(gt, steps=60, save_every=5).model_dump_json())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def scores(out: Path) -> Any:
    """What an evaluation found; time and memory are not results."""
    images = json.loads((out / "r.json").read_text())["models"][0]["images"]
    return [{key: row[key] for key in ("name", "psnr_y", "ssim_y")} for row in images]


def bits(out: Path) -> Any:
    """The weights of a run."""
    weights = load_file(next(out.rglob("last.safetensors")))
    return {key: value.numpy().tobytes() for key, value in sorted(weights.items())}


def files(out: Path) -> Any:
    """All files of a folder but logs."""
    found = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in found if path.suffix == ".png"}


VERBS: dict[str, tuple[Callable[[Path, Path], tuple[object, ...]], Callable[[Path], Any]]] = {
    "restore": (lambda w, o: ("restore", w / "lq", "-o", o, "--model", w / "net.safetensors"), files),
    "evaluate": (
        lambda w, o: (
            *("evaluate", w / "net.safetensors", "--lq", w / "lq", "--gt", w / "gt"),
            *("--protocol", "sr", "--json", o / "r.json", "--device", "cpu"),
        ),
        scores,
    ),
    "prepare": (
        lambda w, o: (
            "prepare",
            "flickr2k",
            w / "set",
            "-o",
            o,
            "--partial",
            "--cut",
            "32/16",
            "--workers",
            1,
        ),
        files,
    ),
    "train": (lambda w, o: ("train", w / "recipe.yaml", f"out={o}"), bits),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.timeout(1500)
def test_killed_thirty_times(work: Path, verb: str) -> None:
    """Killed at thirty moments, the same command completes with the bytes of an undisturbed run; nothing else
    is left."""
    arguments, result = VERBS[verb]
    whole, killed = work / "whole", work / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    begun = time.monotonic()
    code, errors = finish(*arguments(work, whole), cwd=work)
    assert code == 0, errors
    seconds, random = time.monotonic() - begun, Random(0)
    for _ in range(KILLS):
        with start(*arguments(work, killed), cwd=work) as run:
            try:
                run.wait(random.uniform(0.3, 1.1) * seconds)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
            run.communicate()
    code, errors = finish(*arguments(work, killed), cwd=work)
    assert code == 0, errors
    assert result(killed) == result(whole)
    assert not [path for path in killed.rglob("*") if path.name.endswith(".part")]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk with hardly any room; only the system's administrator can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("verb", ["restore", "convert", "train", "compare", "report", "evaluate"])
def test_full_disk(work: Path, full: Path, verb: str) -> None:
    """A full disk is one line and exit code 2; what was there stays, and no part of a result is left."""
    torch.save({"params": torch.zeros(1)}, work / "other.pth")
    code, errors = finish(*VERBS["evaluate"][0](work, work), cwd=work)
    assert code == 0, errors
    (full / "mine.txt").write_text("mine")
    (full / "fill").write_bytes(bytes(90_000))
    picture(400, 300).save(work / "large.png")
    commands: dict[str, tuple[object, ...]] = {
        "restore": (
            "restore",
            work / "large.png",
            "-o",
            full / "out.png",
            "--model",
            work / "net.safetensors",
        ),
        "convert": ("convert", work / "net.safetensors", "-o", full / "net.pth"),
        "train": ("train", work / "recipe.yaml", f"out={full}"),
        "compare": (
            *("compare", work / "net.safetensors", "--lq", work / "lq/0.png", "--gt", work / "gt/0.png"),
            *("-o", full / "figure.png"),
        ),
        "report": ("report", work / "r.json", "-o", full / "report.html"),
        "evaluate": (*VERBS["evaluate"][0](work, full), "--save", full / "photos"),
    }
    code, errors = finish(*commands[verb], cwd=work)
    lines = [line for line in errors.splitlines() if line.startswith("dirformer: ")]
    assert code == 2 and lines and "Traceback" not in errors, errors
    assert "no space" in errors.lower() or "cannot be written" in errors, errors
    assert (full / "mine.txt").read_text() == "mine"
    left = [path for path in full.rglob("*") if path.is_file() and path.name not in ("mine.txt", "fill")]
    assert not [
        path for path in left if path.name.endswith((".part", "out.png", "net.pth", "report.html"))
    ], left
