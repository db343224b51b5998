"""`restore` as a process: pipes, signals, kills, two at once; and how soon a wrong argument is answered."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from dirformer.cli.pipes import piped
from dirformer.ground.errors import ConfigError
from dirformer.inference.done import LOG
from dirformer.weights.checkpoints import save
from helpers import SRC, picture, python, tiny

COMMAND = [sys.executable, "-m", "dirformer", "restore"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A test run in the background of a shell ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        **options,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save(tmp_path / "sr.safetensors", tiny())
    return tmp_path


def fill(folder: Path, count: int, side: int = 24) -> Path:
    folder.mkdir()
    for i in range(count):
        picture(side + i % 7, side, seed=i).save(folder / f"{i:03}.jpg")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOG}


def wait_for_results(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many results are there; the process must not have ended before."""
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.png"))) < count and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)


def test_a_pipe_in_and_a_pipe_out(place: Path) -> None:
    """The bytes of a photo in, those of the result out and nothing else; lines go to standard error."""
    picture(20, 12).save(place / "in.jpg")
    model = ("--model", place / "sr.safetensors")
    process = start("-", "-o", "-", "--format", "png", *model, stdin=subprocess.PIPE)
    out, errors = process.communicate((place / "in.jpg").read_bytes(), timeout=120)
    assert process.returncode == 0, errors
    with Image.open(io.BytesIO(out)) as image:
        assert (image.size, image.format) == ((80, 48), "PNG")
    assert b"stdin" in errors and b"1 restored" in errors and b"/dirformer-" not in errors
    process = start("-", "-o", "-", *model, stdin=subprocess.PIPE)
    out, errors = process.communicate(b"no photo", timeout=120)
    assert (process.returncode, out) == (2, b"")
    assert b"dirformer: stdin is not a photo" in errors


def test_a_photo_with_previews_stays_a_jpeg_in_a_pipe(place: Path) -> None:
    """An MPO is a JPEG; with `-o -` it comes back as one, as by name."""
    picture(20, 12).save(place / "in.mpo", save_all=True, append_images=[picture(20, 12)])
    process = start("-", "-o", "-", "--model", place / "sr.safetensors", stdin=subprocess.PIPE)
    out, errors = process.communicate((place / "in.mpo").read_bytes(), timeout=120)
    assert process.returncode == 0, errors
    with Image.open(io.BytesIO(out)) as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(("stream", "photo", "out"), [("stdin", "-", "o.png"), ("stdout", "i.png", "-")])
def test_a_closed_stream_is_said(monkeypatch: pytest.MonkeyPatch, stream: str, photo: str, out: str) -> None:
    """`-` with a closed standard stream is one line, before anything is read."""
    monkeypatch.setattr(sys, stream, None)
    pipe = piped([Path(photo)], Path(out), "same")
    with pytest.raises(ConfigError, match="which is closed; give the name of a file"), pipe:
        pass


def test_several_draws_to_a_pipe(place: Path) -> None:
    """Only the mean goes there, and no file is named that nobody can open; a folder called - is no matter."""
    picture(20, 12).save(place / "in.png")
    (place / "-").mkdir()
    model = ("--model", place / "sr.safetensors", "--samples", 2)
    process = start("-", "-o", "-", *model, stdin=subprocess.PIPE, cwd=place)
    out, errors = process.communicate((place / "in.png").read_bytes(), timeout=120)
    assert process.returncode == 0 and out.startswith(b"\x89PNG"), errors
    assert b"2 draws" in errors and b"spread.png" not in errors


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_the_closing_line(place: Path, kind: signal.Signals) -> None:
    """Exit code 130, whole files only, no temporary file, and how far it came."""
    folder, out = fill(place / "in", 300, 64), place / "out"
    process = start(folder, "-o", out, "--model", place / "sr.safetensors", "--format", "png")
    wait_for_results(out, 2, process)
    process.send_signal(kind)
    lines, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip().endswith(b"dirformer: interrupted")
    assert b" restored, 0 skipped, 0 failed" in lines.splitlines()[-1]
    names = sorted(results(out))
    assert 0 < len(names) < 300 and not [name for name in names if name.startswith(".")]
    for data in results(out).values():
        with Image.open(io.BytesIO(data)) as image:
            image.load()


def killed_and_run_again(place: Path, count: int, kills: int) -> None:
    folder, out = fill(place / "in", count), place / "out"
    options = ("--model", place / "sr.safetensors", "--format", "png")
    undisturbed = start(folder, "-o", place / "whole", *options)
    _, errors = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, errors
    chance = random.Random(0)
    for number in range(kills):
        process = start(folder, "-o", out, *options)
        # At the latest while the last photos are at work; the rest is chance.
        wait_for_results(out, min(count, number * count // kills + 1), process)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate(timeout=60)
    process = start(folder, "-o", out, *options)
    lines, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert lines.splitlines()[-1].endswith(b" skipped, 0 failed")
    assert results(out) == results(place / "whole")
    for line in (out / LOG).read_bytes().splitlines():
        if line.endswith(b"}"):
            json.loads(line)


def test_a_killed_run_is_completed_by_the_next(place: Path) -> None:
    """Three kills: the same bytes as undisturbed, and nothing left over."""
    killed_and_run_again(place, count=24, kills=3)


@pytest.mark.slow
def test_thirty_kills(place: Path) -> None:
    """Thirty kills at random moments of a run over 60 photos."""
    killed_and_run_again(place, count=60, kills=30)


def test_two_runs_into_one_folder(place: Path) -> None:
    """Both end well, and all results are right."""
    folder, out = fill(place / "in", 30), place / "out"
    options = ("--model", place / "sr.safetensors", "--format", "png")
    both = [start(folder, "-o", out, *options) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    whole = start(folder, "-o", place / "whole", *options)
    whole.communicate(timeout=300)
    assert results(out) == results(place / "whole") and len(results(out)) == 30


@pytest.mark.parametrize(
    "arguments",
    [
        ["none.png", "-o", "out.png"],
        ["in.png", "-o", "out.png", "--model", "sr-x9"],
        ["in.png", "-o", "out.png", "--task", "deblur"],
        ["in.png", "-o", "out.png", "--device", "abacus"],
        ["in.png", "-o", "out.png", "--precision", "int4"],
        ["in.png", "-o", "out.png", "--context", "all"],
        ["in.png", "-o", "out.png", "--max-memory", "much"],
        ["in.png", "-o", "out.png", "--size", "large"],
        ["in.png", "-o", "out.png", "--model", "sr-x4-compact", "--task", "deblurring"],
    ],
)
def test_wrong_arguments_are_answered_without_torch(place: Path, arguments: list[str]) -> None:
    """Importing torch takes seconds; what is wrong without it is said without it."""
    picture(8, 8).save(place / "in.png")
    code = (
        "import sys, dirformer.cli\n"
        f"sys.argv = ['dirformer', 'restore', *{arguments!r}]\n"
        "try:\n    dirformer.cli.main()\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    outcome = python("-c", code, cwd=place)
    assert outcome.stdout.splitlines()[-1] == "2 False", outcome.stderr


def test_a_finished_folder_needs_no_torch(place: Path) -> None:
    """The second run says so at once."""
    folder = fill(place / "in", 2)
    arguments = ["restore", str(folder), "-o", str(place / "out"), "--model", str(place / "sr.safetensors")]
    first = start(*arguments[1:])
    first.communicate(timeout=120)
    assert first.returncode == 0
    code = (
        "import sys, dirformer.cli\n"
        f"sys.argv = ['dirformer', *{arguments!r}]\n"
        "try:\n    dirformer.cli.main()\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    outcome = python("-c", code)
    assert outcome.stdout.splitlines()[-2:] == ["0 restored, 2 skipped, 0 failed", "0 False"], outcome.stderr
