"""A film comes back with all that is around its frames; in pieces as at once; with less flicker."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from PIL import ImageFilter

from dirformer.ground.errors import OutputError, PhotoError
from dirformer.ground.places import Place
from dirformer.inference.restorer import Restorer
from dirformer.networks.presets import PRESETS
from dirformer.video import film as room
from dirformer.video.film import FilmRun, restore_film, segments_folder
from dirformer.video.shots import Flicker, Shots
from dirformer.video.steady import Steady
from dirformer.weights.checkpoints import save
from helpers import SRC, TINY, TINY_SR, dirformer, picture, python, tiny
from stores import SECRET, s3_server

SAME = replace(PRESETS["realsr-x1-compact"], **TINY, refinement_blocks=1)
TIMES = [0, 3, 4, 9, 10, 15, 16, 17, 30, 31]
"""Of a film whose frames come when they like, in hundredths of a second."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "same.safetensors", tiny(SAME))
    save(folder / "sr.safetensors", tiny(TINY_SR))
    return folder


def write_film(path: Path, *, codec: str = "libx264", pixels: str = "yuv420p", count: int = 10) -> Path:
    """A film with frames at irregular times, tags, a rotation, audio, subtitles and chapters."""
    with av.open(
        str(path), "w", options={} if path.suffix == ".mkv" else {"video_track_timescale": "100"}
    ) as out:
        video: Any = out.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 96, 64, pixels
        video.codec_context.time_base = video.time_base = Fraction(1, 100)
        video.codec_context.color_range = ColorRange.JPEG
        video.codec_context.colorspace = Colorspace.ITU709
        video.codec_context.color_primaries, video.codec_context.color_trc = 1, 1
        video.codec_context.options = {"crf": "1", "x265-params": "log-level=none"}
        video.set_display_rotation(90)
        video.metadata["language"] = "fra"
        audio: Any = out.add_stream("aac", rate=8000, layout="mono")
        audio.metadata["language"] = "deu"
        out.metadata["title"] = "A film"
        text: Any = out.add_mux_stream("subrip") if path.suffix == ".mkv" else None
        out.set_chapters(
            [
                {"id": 1, "start": 0, "end": 10, "time_base": Fraction(1, 100), "metadata": {"title": "one"}},
                {
                    "id": 2,
                    "start": 10,
                    "end": 40,
                    "time_base": Fraction(1, 100),
                    "metadata": {"title": "two"},
                },
            ]
        )
        for number in range(count):
            still = np.asarray(picture(96, 64, seed=0).filter(ImageFilter.GaussianBlur(2)))
            shown = 0.8 * still + 3 * number if number < count // 2 else 255 - 0.8 * still
            frame = av.VideoFrame.from_ndarray(shown.astype("uint8"), format="rgb24")
            frame = frame.reformat(
                format=pixels,
                dst_colorspace=1,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG,
            )
            turns, rest = divmod(number, len(TIMES))
            frame.pts, frame.time_base = 40 * turns + TIMES[rest], Fraction(1, 100)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        tone = (8000 * np.sin(np.arange(3200) / 5)).astype("int16")[None]
        sound = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        out.mux(audio.encode(sound))
        out.mux(audio.encode())
        if text is not None:
            line = av.Packet(b"A line")
            line.stream, line.time_base = text, Fraction(1, 1000)
            line.pts = line.dts = 50
            line.duration = 100
            out.mux(line)
    return path


def decoded(path: Path) -> list[tuple[Fraction, str]]:
    """Time and digest of each frame."""
    with av.open(str(path)) as source:
        return [
            (
                frame.pts * frame.time_base,
                hashlib.sha256(b"".join(bytes(plane) for plane in frame.planes)).hexdigest(),
            )
            for frame in source.decode(video=0)
        ]


def around(path: Path) -> dict[str, Any]:
    """All of a film but its pictures."""
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        context = video.codec_context
        first = next(source.decode(video))
        found: dict[str, Any] = {
            "codec": context.name,
            "pixels": context.pix_fmt,
            "colour": [context.color_range, context.colorspace, context.color_primaries, context.color_trc],
            "rotation": first.rotation,
            "title": source.metadata.get("title"),
            "chapters": [
                (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"].get("title"))
                for c in source.chapters()
            ],
        }
    with av.open(str(path)) as source:
        for stream in source.streams:
            if stream.type != "video":
                packets = [(p.pts, p.dts, p.duration, bytes(p)) for p in source.demux(stream) if p.size]
                found[f"stream {stream.index}"] = (stream.type, stream.metadata.get("language"), packets)
                source.seek(0)
    return found


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mp4", "libx264", "yuvj420p"), (".mkv", "libx265", "yuv420p10le"), (".mov", "libx264", "yuv444p10le")],
)
def test_all_around_the_frames_is_kept(
    tmp_path: Path, weights: Path, suffix: str, codec: str, pixels: str
) -> None:
    """Frame count and times, codec, depth, colour tags, rotation, audio packets, title, chapters."""
    film = write_film(tmp_path / f"film{suffix}", codec=codec, pixels=pixels)
    out = tmp_path / f"out{suffix}"
    report = restore_film(Restorer(weights / "sr.safetensors", noise="seed"), film, out)
    assert [t for t, _ in decoded(out)] == [t for t, _ in decoded(film)]
    assert report.frames == 10 and report.shots == 2
    before, after = around(film), around(out)
    assert before["rotation"] == 90 and len(before["chapters"]) == 2 and "stream 1" in before
    assert (suffix == ".mkv") == ("stream 2" in before and before["stream 2"][0] == "subtitle")
    assert after == before
    with av.open(str(out)) as source:
        assert (source.streams.video[0].width, source.streams.video[0].height) == (384, 256)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([film.name, out.name])


@pytest.mark.parametrize(("codec", "pixels"), [("libx264", "yuv420p"), ("libx265", "yuv420p10le")])
def test_colours_stay(tmp_path: Path, weights: Path, codec: str, pixels: str) -> None:
    """At strength 0, which shows the input, a film is its input up to what the encoder loses."""
    film = write_film(tmp_path / "film.mkv", codec=codec, pixels=pixels)
    out = tmp_path / "out.mkv"
    restore_film(Restorer(weights / "same.safetensors", strength=0.0), film, out)
    with av.open(str(film)) as one, av.open(str(out)) as other:
        for before, after in zip(one.decode(video=0), other.decode(video=0), strict=True):
            most = 2 ** (10 if "10" in pixels else 8) - 1
            for mine, theirs in zip(before.planes, after.planes, strict=True):
                dtype = np.uint16 if most > 255 else np.uint8
                levels = [np.frombuffer(p, dtype).reshape(p.height, -1)[:, : p.width] for p in (mine, theirs)]
                error = (levels[0].astype(float) - levels[1]) / most
                assert -10 * np.log10((error**2).mean()) > 38 and abs(error.mean()) < 1 / 255


@pytest.mark.parametrize("steady", [False, True])
def test_in_pieces_as_at_once(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    """A run that stops goes on behind its last whole segment; its frames are those of a whole run."""
    monkeypatch.setattr(room, "SEGMENT", 3)
    film = write_film(tmp_path / "film.mp4", count=10)
    run = FilmRun(shot_prior=True, steady=steady, key={"model": "one"})
    restorer = Restorer(weights / "same.safetensors", noise="seed")
    restore_film(restorer, film, tmp_path / "whole.mp4", run)

    def stop(done: float) -> None:
        if done == 8:
            raise KeyboardInterrupt

    out = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        restore_film(restorer, film, out, run, progress=stop)
    assert not out.exists() and len(list(segments_folder(out).glob("*.nut"))) == 2
    report = restore_film(restorer, film, out, run)
    assert (report.kept, report.frames) == (6, 10)
    assert decoded(out) == decoded(tmp_path / "whole.mp4")
    with pytest.raises(KeyboardInterrupt):
        restore_film(restorer, film, out, run, progress=stop)
    assert restore_film(restorer, film, out, replace(run, key={"model": "other"})).kept == 0
    assert not segments_folder(out).exists()


def test_steady_films_flicker_less() -> None:
    """Of a still noisy film: the score is the formula's, and averaged over time it is a third and less."""
    generator = torch.Generator().manual_seed(0)
    flicker, steady = Flicker(), Steady()
    for _ in range(24):
        frame = (0.5 + 0.05 * torch.randn(3, 64, 64, generator=generator)).clamp(0, 1)
        flicker.add(frame, steady(frame))
    before, after = flicker.scores()
    assert before == pytest.approx(255 * 0.05 * 2**0.5, rel=0.05)
    assert after < before / 3


def test_what_moves_is_not_averaged() -> None:
    """A part that moves is the new frame's, bit by bit; the rest is the mean of both."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 128, 64, generator=generator).repeat_interleave(2, 1).repeat_interleave(2, 2)
    old = texture[:, :128, :64].clone()
    new = old.clone()
    new[:, :64] = new[:, :64].roll(2, 2)  # moves inside its blocks: their means stay
    new[:, 96:] += 0.001
    steady = Steady()
    steady(old)
    result = steady(new)
    assert torch.equal(result[:, :64], new[:, :64])
    assert torch.allclose(result[:, 96:], old[:, 96:] + 0.0005, atol=1e-6)


def test_shots() -> None:
    """A cut to another picture begins a shot; noise, motion and slow fades do not."""
    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.from_numpy(np.asarray(picture(64, 48, seed=s)).copy()).permute(2, 0, 1) / 255 for s in (0, 1)
    )
    shots = Shots()
    frames = [one + 0.1 * torch.randn(one.shape, generator=generator) for _ in range(3)]
    frames += [one.roll(n, 2) for n in range(3)] + [one * (1 - n / 20) for n in range(5)] + [other, other]
    assert [shots.begins(frame) for frame in frames] == [True, *[False] * 10, True, False]
    assert shots.count == 2


def test_one_start_for_all_frames(weights: Path) -> None:
    """With `noise="seed"` Z_T follows from the seed alone; else from the photo too."""
    photos = [torch.full((3, 16, 16), value) for value in (0.2, 0.7)]
    for noise, same in (("seed", True), ("photo", False)):
        restorer = Restorer(weights / "same.safetensors", noise=noise)
        starts = [restorer._seen(photo, 3)[1] for photo in photos]
        assert torch.equal(*starts) == same
        assert not torch.equal(starts[0], restorer._seen(photos[0], 4)[1])


def test_the_command(tmp_path: Path, weights: Path) -> None:
    """A film in, a film out, with the closing line; errors are one line and leave nothing."""
    film = write_film(tmp_path / "film.mp4")
    same = ("--model", weights / "same.safetensors")
    done = dirformer("restore", film, "-o", tmp_path / "out.mp4", *same, "--shot-prior", "--steady")
    assert done.returncode == 0 and "out.mp4: 10 frames\n" in done.stdout
    assert re.search(r"2 shots, flicker of still parts \d+\.\d\d → \d+\.\d\d", done.stdout)
    assert done.stdout.splitlines()[-1] == "1 restored, 0 skipped, 0 failed"
    (tmp_path / "torn.mp4").write_bytes(film.read_bytes()[:300])
    (tmp_path / "photo.png").write_bytes(b"")
    names = sorted(p.name for p in tmp_path.iterdir())
    for arguments, line in (
        ((film, "-o", tmp_path / "out.mp4"), "out.mp4 exists already; add --overwrite"),
        ((film, "-o", film, "--overwrite"), "would be replaced by its result"),
        ((film, "-o", tmp_path / "out.avi"), "out.avi is no film that can be written"),
        ((tmp_path / "torn.mp4", "-o", tmp_path / "new.mp4"), "torn.mp4 cannot be read as a film"),
        ((tmp_path / "none.mp4", "-o", tmp_path / "new.mp4"), "none.mp4 is not there"),
        ((film, tmp_path / "photo.png", "-o", tmp_path / "o"), "films and photos are given together"),
        ((film, film, "-o", tmp_path / "new.mp4"), "several films cannot go into the one file"),
        ((film, "-o", tmp_path / "new.mp4", "--pages"), "--pages is for photos"),
        ((film, "-o", "-"), "- is for photos, and a film cannot be written to a pipe"),
        ((film, "-o", tmp_path / "new.png"), "new.png has the name of a picture"),
        ((film, "-o", tmp_path / "new.gif"), "new.gif has the name of a picture"),
        ((film, "-o", tmp_path / "new.mp4", "--engine", "ray"), "--engine is for photos"),
        (
            (tmp_path / "photo.png", "-o", tmp_path / "o", "--steady"),
            "--shot-prior and --steady are for films",
        ),
    ):
        done = dirformer("restore", *arguments, *same)
        assert done.returncode == 2 and line in done.stderr, done
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    done = dirformer("restore", film, "-o", tmp_path / "half.mkv", *same, "--scale", "0.5")
    with av.open(str(tmp_path / "half.mkv")) as source:
        assert (source.streams.video[0].width, source.streams.video[0].height) == (48, 32)


def test_films_that_cannot_be(tmp_path: Path, weights: Path) -> None:
    """Sound alone is no film; a container that cannot hold the audio is said, and segments stay."""
    restorer = Restorer(weights / "same.safetensors")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        audio: Any = out.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "int16"), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(audio.encode(frame))
        out.mux(audio.encode())
    with pytest.raises(PhotoError, match="has no pictures"):
        restore_film(restorer, tmp_path / "sound.mp4", tmp_path / "out.mp4")
    film = write_film(tmp_path / "film.mp4", count=3)
    with pytest.raises(OutputError, match=r"cannot be written as webm: .*libx264.* with \.mkv"):
        restore_film(restorer, film, tmp_path / "out.webm")
    assert not (tmp_path / "out.webm").exists()


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_a_film_that_was_cut_off_is_said(tmp_path: Path, weights: Path, name: str) -> None:
    """What is there is restored, and a line says how much the film states; a whole film has no such line."""
    restorer, film = Restorer(weights / "same.safetensors"), tmp_path / name
    with av.open(str(film), "w", options={"movflags": "faststart"} if film.suffix == ".mp4" else {}) as out:
        video: Any = out.add_stream("ffv1" if film.suffix == ".mkv" else "libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.options = {"g": "1"}
        for number in range(12):
            frame = av.VideoFrame.from_image(picture(48, 32, seed=number))
            out.mux(video.encode(frame.reformat(format="yuv420p")))
        out.mux(video.encode())
    report = restore_film(restorer, film, tmp_path / f"whole{film.suffix}")
    assert (report.frames, report.notes) == (12, ())
    data = film.read_bytes()
    film.write_bytes(data[: 2 * len(data) // 3])
    report = restore_film(restorer, film, tmp_path / f"torn{film.suffix}")
    assert 0 < report.frames < 10
    assert "the film states 0.48 s and ends after" in report.notes[-1], report.notes


def test_a_film_at_an_address_goes_on(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its segments wait beside the result; a run that was stopped goes on, and the film is put whole."""
    monkeypatch.setattr(room, "SEGMENT", 3)
    film = write_film(tmp_path / "film.mp4")
    Place("memory://films/in/film.mp4").put(film)
    model = ("--model", weights / "same.safetensors")
    assert dirformer("restore", film, "-o", tmp_path / "whole.mp4", *model).returncode == 0
    put, names = Place.put, list[str]()

    def stopping(self: Place, local: Path) -> None:
        put(self, local)
        names.append(self.name)
        if self.name == "000001.nut":
            raise KeyboardInterrupt

    monkeypatch.setattr(Place, "put", stopping)
    command = ("restore", "memory://films/in/film.mp4", "-o", "memory://films/out/film.mp4", *model)
    assert dirformer(*command).returncode == 130
    assert names == ["000000.nut", "key.json", "000001.nut"]
    out, waiting = Place("memory://films/out"), Place("memory://films/out/.film.mp4.segments")
    assert out.listed()[1] == [] and waiting.hidden() == ["000000.nut", "000001.nut", "key.json"]
    monkeypatch.setattr(Place, "put", put)
    done = dirformer(*command)
    assert done.returncode == 0 and "10 frames, 6 of them restored before" in done.stdout
    assert [one.name for one in out.listed()[1]] == ["film.mp4"] and waiting.hidden() == []
    out.below("film.mp4").fetch(tmp_path / "film-back.mp4")
    assert decoded(tmp_path / "film-back.mp4") == decoded(tmp_path / "whole.mp4")
    # Segments of other options are not used, and do not stay.
    monkeypatch.setattr(Place, "put", stopping)
    assert dirformer(*command, "--overwrite").returncode == 130
    monkeypatch.setattr(Place, "put", put)
    done = dirformer(*command, "--overwrite", "--seed", "1")
    assert done.returncode == 0 and "10 frames\n" in done.stdout and waiting.hidden() == []


@pytest.mark.slow
def test_killed_on_the_way_to_a_bucket(tmp_path: Path, weights: Path) -> None:
    """SIGKILL of a process that restores from and to S3: another one goes on, and the film is that of one."""
    film = write_film(tmp_path / "film.mp4", count=120)
    same = ["--model", str(weights / "same.safetensors")]
    with s3_server("films"):
        Place("s3://films/in/film.mp4").put(film)
        out, waiting = Place("s3://films/out/film.mp4"), Place("s3://films/out/.film.mp4.segments")
        command = [
            sys.executable,
            "-m",
            "dirformer",
            "restore",
            "s3://films/in/film.mp4",
            "-o",
            out.url,
            *same,
        ]
        environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while "000001.nut" not in waiting.hidden():
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
        run.wait()
        assert out.entry() is None
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert re.search(r"120 frames, (64|96) of them restored before", done.stdout)
        assert SECRET not in done.stdout + done.stderr and waiting.hidden() == []
        out.fetch(tmp_path / "back.mp4")
    assert dirformer("restore", film, "-o", tmp_path / "whole.mp4", *same).returncode == 0
    assert decoded(tmp_path / "back.mp4") == decoded(tmp_path / "whole.mp4")


class Live:
    """How many of some things live at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watched(self, thing: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(thing, self._gone)
        return thing

    def _gone(self) -> None:
        self.now -= 1


def test_memory_does_not_grow_with_the_film(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 frames and their results, no more live at once than a shot, the averages and one step hold."""
    monkeypatch.setattr(room, "SEGMENT", 3)
    live = Live()
    for owner, name in ((room.Look, "tensor"), (Restorer, "restore")):
        made = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, made=made, **k: live.watched(made(*a, **k)))
    film = write_film(tmp_path / "film.mkv", count=24)
    run = FilmRun(shot_prior=True, steady=True)
    report = restore_film(
        Restorer(weights / "same.safetensors", noise="seed"), film, tmp_path / "out.mkv", run
    )
    assert report.frames == 24 and 0 < live.most <= 8


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_film(tmp_path: Path, weights: Path) -> None:
    """A process that restores 192 frames has no larger peak than one that restores 24.

    The further frames alone would take 148 MiB as floats.
    """
    peaks = []
    for count in (24, 192):
        film = tmp_path / f"{count}.mkv"
        with av.open(str(film), "w") as out:
            video: Any = out.add_stream("libx264", rate=25)
            video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
            video.codec_context.options = {"preset": "ultrafast", "tune": "zerolatency"}
            still = np.asarray(picture(320, 240))
            for number in range(count):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.roll(still, number, 1), format="rgb24")))
            out.mux(video.encode())
        code = (
            "import resource, sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
            "from dirformer.inference.restorer import Restorer\n"
            "from dirformer.video.film import FilmRun, restore_film\n"
            f"restore_film(Restorer({str(weights / 'same.safetensors')!r}), Path({str(film)!r}),\n"
            f"    Path({str(tmp_path / f'out{count}.mkv')!r}), FilmRun(shot_prior=True, steady=True))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        peaks.append(int(python("-c", code, check=True).stdout) / 1024)
    print(peaks)
    assert peaks[1] < peaks[0] + 40
