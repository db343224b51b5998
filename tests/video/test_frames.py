"""Folders of frames have what films have: shots, one IPR, averages, going on, memory that does not grow."""

from __future__ import annotations

import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from dirformer.ground.photo import read_rgb
from dirformer.inference.jobs import Job
from dirformer.inference.restorer import Restorer
from dirformer.networks.presets import PRESETS
from dirformer.video import frames as room
from dirformer.video.frames import in_order
from dirformer.video.shots import Shots
from dirformer.video.steady import Steady
from dirformer.weights.checkpoints import save
from helpers import TINY, Outcome, dirformer, picture, tiny

SAME = replace(PRESETS["realsr-x1-compact"], **TINY, refinement_blocks=1)
NUMBERS, CUT = range(6, 11), 9
"""Of the frames, and of the first of the second shot. As texts their names are in another order."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "same.safetensors"
    save(path, tiny(SAME))
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two still shots with noise."""
    folder, random = tmp_path / "frames", np.random.default_rng(0)
    folder.mkdir()
    for number in NUMBERS:
        still = np.asarray(picture(48, 32, seed=int(number >= CUT)).filter(ImageFilter.GaussianBlur(2)))
        shown = (0.4 * still + (100 if number >= CUT else 20) + random.normal(0, 4, still.shape)).clip(0, 255)
        Image.fromarray(shown.astype("uint8")).save(folder / f"f{number}.png")
    return folder


def restored(frames: Path, weights: Path, *more: str) -> Outcome:
    out = frames.with_name("out")
    return dirformer("restore", frames, "-o", out, "--model", weights, "--frames", *more)


def closing(done: Outcome) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("shot_prior", "steady"), [(True, False), (False, True)])
def test_frames_are_restored_as_a_film_is(
    frames: Path, weights: Path, shot_prior: bool, steady: bool
) -> None:
    """In the order of numbers: the IPR is that of the shot's first frame, still parts are averaged in it."""
    options = [*(["--shot-prior"] * shot_prior), *(["--steady"] * steady)]
    done = restored(frames, weights, *options)
    assert closing(done) == "5 restored, 0 skipped, 0 failed"
    assert "2 shots, flicker of still parts " in done.stdout
    restorer, shots, average = Restorer(weights, noise="seed"), Shots(), Steady()
    prior = None
    for number in NUMBERS:
        frame = read_rgb(frames / f"f{number}.png").float() / 255
        if shots.begins(frame):
            prior = restorer.prior(frame)
            average.cut()
        seen = average(frame) if steady else frame
        expected = restorer.restore(seen, prior=prior if shot_prior else None)
        written = read_rgb(frames.with_name("out") / f"f{number}.png")
        assert torch.equal(written, (expected * 255).round().byte())
    assert shots.count == 2


def test_frames_go_on(frames: Path, weights: Path) -> None:
    """What is finished is left alone; what is missing is done again, with the bytes of the first run."""
    options, out = ("--steady", "--shot-prior"), frames.with_name("out")
    restored(frames, weights, *options)
    first = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert closing(restored(frames, weights, *options)) == "0 restored, 5 skipped, 0 failed"
    for name in ("f7.png", "f10.png"):
        (out / name).unlink()
    done = restored(frames, weights, *options)
    assert closing(done) == "2 restored, 3 skipped, 0 failed"
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == first
    # Other options make other frames.
    assert closing(restored(frames, weights, "--steady")) == "5 restored, 0 skipped, 0 failed"


@pytest.mark.parametrize(
    ("options", "changed", "again"),
    [
        (("--steady",), 7, ["f7.png", "f8.png"]),
        (("--shot-prior",), 7, ["f7.png"]),
        (("--shot-prior",), 9, ["f10.png", "f9.png"]),
    ],
)
def test_what_depends_on_a_changed_frame_is_done_again(
    frames: Path, weights: Path, options: tuple[str, ...], changed: int, again: list[str]
) -> None:
    """Averages depend on all frames before in the shot, the IPR on its first; other shots on neither."""
    restored(frames, weights, *options)
    path = frames / f"f{changed}.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    done = restored(frames, weights, *options)
    assert closing(done) == f"{len(again)} restored, {len(NUMBERS) - len(again)} skipped, 0 failed"
    assert sorted(re.findall(r"(f[0-9]+\.png) →", done.stdout)) == again


def test_a_damaged_frame_does_not_stop_the_film(frames: Path, weights: Path) -> None:
    """It is named, and the others are restored as if it had not been there."""
    (frames / "f7.png").write_bytes(b"damaged")
    done = restored(frames, weights, "--steady")
    assert done.returncode == 2 and done.stdout.splitlines()[-1] == "4 restored, 0 skipped, 1 failed"
    assert "f7.png" in done.stderr and len(done.stderr.splitlines()) == 1
    (frames / "f7.png").unlink()
    assert closing(restored(frames, weights, "--steady")) == "0 restored, 4 skipped, 0 failed"


def test_each_folder_is_a_film(frames: Path, weights: Path) -> None:
    """A folder begins a shot, also with the same picture; so does another size of the frames."""
    for number in NUMBERS[2:]:
        (frames / f"f{number}.png").unlink()
    (frames / "other").mkdir()
    with Image.open(frames / "f6.png") as photo:
        photo.save(frames / "other" / "f1.png")
        photo.crop((0, 0, 32, 32)).save(frames / "other" / "f2.png")
    done = restored(frames, weights, "--steady")
    assert closing(done) == "4 restored, 0 skipped, 0 failed" and "3 shots" in done.stdout


def test_the_order_of_names() -> None:
    """Numbers count as numbers, folders stay together, pages follow each other."""
    names = ["b/1.png", "a/f10.png", "a/f9.png", "a/f09.png", "a/g1.png", "a/f.png"]
    jobs = [Job(Path(name), Path("out")) for name in names] + [Job(Path("a/f9.png"), Path("out"), page=1)]
    found = [(str(job.photo), job.page) for job in in_order(jobs)]
    assert [name for name, _ in found] == [
        "a/f.png",
        "a/f09.png",
        "a/f9.png",
        "a/f9.png",
        "a/f10.png",
        "a/g1.png",
        "b/1.png",
    ]
    assert found[2:4] == [("a/f9.png", 0), ("a/f9.png", 1)]


def test_what_does_not_go_together(frames: Path, weights: Path) -> None:
    """One line each, before anything is done."""
    out = frames.with_name("out")
    for arguments, line in (
        (("-o", out, "--steady"), "for a folder of frames add --frames"),
        (("-o", "memory://frames", "--frames", "--steady"), "from folders of this machine; leave --engine"),
        (("-o", out, "--frames", "--steady", "--engine", "local"), "from folders of this machine"),
        (("-o", frames, "--frames", "--steady", "--in-place"), "results depend on the frames before"),
        (("-o", out, "--frames", "--shot-prior", "--samples", "2"), "--shot-prior is for one prior"),
    ):
        done = dirformer("restore", frames, *arguments, "--model", weights)
        assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_memory_does_not_grow_with_the_frames(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 frames, no more live at once than the threads and the averages hold."""
    (tmp_path / "frames").mkdir()
    for number in range(20):
        picture(16, 16).save(tmp_path / "frames" / f"{number}.png")
    live = most = 0
    read = room.read_job

    def gone() -> None:
        nonlocal live
        live -= 1

    def watched(*arguments: Any) -> Any:
        nonlocal live, most
        ready = read(*arguments)
        live += 1
        most = max(most, live)
        weakref.finalize(ready.prepared.seen, gone)
        return ready

    monkeypatch.setattr(room, "read_job", watched)
    closing(restored(tmp_path / "frames", weights, "--steady", "--shot-prior"))
    assert 0 < most <= 8
