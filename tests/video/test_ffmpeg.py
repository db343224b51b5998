"""Clips that FFmpeg writes, looked at by ffprobe; runs that are killed; flicker of shipped models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dirformer.ground.photo import read_photo
from dirformer.inference.restorer import Restorer
from dirformer.video.film import segments_folder
from dirformer.video.shots import Flicker
from dirformer.video.steady import Steady
from dirformer.weights.checkpoints import save
from helpers import SRC, TINY_SR, dirformer, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the command ffmpeg"),
]
DEMO = SRC.parent / "docs" / "demo" / "photo.jpg"
CLIPS = {
    "h264": [
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        *("-colorspace", "bt709", "-color_primaries", "bt709"),
    ],
    "hevc": ["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-tag:v", "hvc1", "-colorspace", "bt2020nc"],
}
RATES = {"h264": "25", "hevc": "24000/1001"}


def clip(path: Path, kind: str) -> Path:
    """Three seconds with sound, colour tags and a rotation."""
    source = ["-f", "lavfi", "-i", f"testsrc2=size=96x64:rate={RATES[kind]}:duration=3"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:duration=3"]
    plain = path.with_name(f"plain{path.suffix}")
    lines = path.with_name("lines.srt")
    lines.write_text(
        "1\n00:00:00,500 --> 00:00:01,500\nA line\n\n2\n00:00:02,000 --> 00:00:02,900\nAnother\n"
    )
    tags = ["-color_trc", "bt709", "-color_range", "tv", "-c:a", "aac", "-c:s", "mov_text"]
    sound += ["-i", str(lines)]
    for command in (
        [*source, *sound, *CLIPS[kind], *tags, str(plain)],
        ["-i", str(plain), "-map", "0", "-c", "copy", "-metadata:s:v", "rotate=90", str(path)],
    ):
        subprocess.run(["ffmpeg", "-v", "error", "-y", *command], check=True, capture_output=True)
    return path


def probe(path: Path, *what: str) -> Any:
    command = ["ffprobe", "-v", "error", "-of", "json", *what, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def frames(path: Path) -> str:
    """The digest of each decoded frame, by the command."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v", "-f", "framemd5", "-"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_comes_back(tmp_path: Path, kind: str) -> None:
    """Frame count, times, audio stream, colour tags and rotation, as ffprobe sees them."""
    save(tmp_path / "tiny.safetensors", tiny(TINY_SR))
    film, out = clip(tmp_path / "film.mp4", kind), tmp_path / "out.mp4"
    done = dirformer("restore", film, "-o", out, "--model", tmp_path / "tiny.safetensors")
    assert done.returncode == 0, done.stderr
    fields = ("codec_name", "codec_tag_string", "pix_fmt", "color_range", "color_space", "color_transfer")
    fields += ("color_primaries", "r_frame_rate", "avg_frame_rate", "time_base", "nb_frames", "duration_ts")
    before, after = (probe(path, "-show_streams")["streams"] for path in (film, out))
    for mine, theirs in zip(before, after, strict=True):
        assert {f: mine.get(f) for f in fields} == {f: theirs.get(f) for f in fields}
        assert mine.get("side_data_list") == theirs.get("side_data_list")
    assert before[0]["side_data_list"][0]["rotation"] == 90
    assert (after[0]["width"], after[0]["height"]) == (384, 256)
    times = [
        sorted(
            int(packet["pts"]) for packet in probe(path, "-select_streams", "v", "-show_packets")["packets"]
        )
        for path in (film, out)
    ]
    assert times[0] == times[1] and len(times[0]) == (75 if kind == "h264" else 72)
    assert len(before) == 3 and before[2]["codec_name"] == "mov_text"
    for kind in ("0:a", "0:s"):
        command = ["-map", kind, "-c", "copy", "-f", "framemd5", "-"]
        packets = []
        for path in (film, out):
            line = ["ffmpeg", "-v", "error", "-i", str(path), *command]
            told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
            # A muxer completes the description of its text tracks.
            packets.append([each for each in told.splitlines() if not each.startswith("#extradata")])
        assert packets[0] == packets[1]


def test_killed_and_run_again(tmp_path: Path) -> None:
    """Killed in the middle and run again, the film's decoded frames are those of a run without a stop."""
    save(tmp_path / "tiny.safetensors", tiny(TINY_SR))
    film, out = clip(tmp_path / "film.mp4", "h264"), tmp_path / "out.mp4"
    command = [sys.executable, "-m", "dirformer", "restore", str(film), "-o", str(out), "--model"]
    command.append(str(tmp_path / "tiny.safetensors"))
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list(segments_folder(out).glob("*.nut")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not out.exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "of them restored before" in done.stdout
    whole = tmp_path / "whole.mp4"
    assert dirformer("restore", film, "-o", whole, "--model", tmp_path / "tiny.safetensors").returncode == 0
    assert frames(out) == frames(whole)


def test_flicker_of_a_still_noisy_clip() -> None:
    """Averaged over time, a still noisy clip flickers less than half as much as frame by frame."""
    clean = read_photo(DEMO).pixels[:, 100:196, 100:228]
    generator = torch.Generator().manual_seed(0)
    noisy = [(clean + 0.06 * torch.randn(clean.shape, generator=generator)).clamp(0, 1) for _ in range(12)]
    scores = {}
    for way in ("alone", "seed", "shot", "steady"):
        restorer = Restorer("realsr-x1-compact", noise="photo" if way == "alone" else "seed")
        prior = restorer.prior(noisy[0]) if way in ("shot", "steady") else None
        flicker, steady = Flicker(), Steady()
        for frame in noisy:
            seen = steady(frame) if way == "steady" else frame
            flicker.add(frame, restorer.restore(seen, prior=prior))
        scores[way] = flicker.scores()[1]
    print(scores)
    assert scores["steady"] < scores["alone"] / 2
    # One Z_T and one IPR change next to nothing in this model.
    assert abs(scores["seed"] - scores["alone"]) < 0.01 * scores["alone"]
    assert abs(scores["shot"] - scores["alone"]) < 0.01 * scores["alone"]
