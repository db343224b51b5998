"""A film → a restored film, in segments: each is a file of its own until all are there.

Segments begin with a key frame and need none of the others, so a run that was killed goes on behind the last
whole one, and its film is the same. Frames before that are decoded again and not restored again. Memory
does not depend on the film's length: one frame is at work, and one segment is open.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import OutputError, PhotoError
from dirformer.ground.paths import atomic_path, require_place
from dirformer.inference.consistent import resized
from dirformer.inference.restorer import Restorer
from dirformer.video.join import join
from dirformer.video.look import NARROW, Look
from dirformer.video.names import container_of
from dirformer.video.shots import Flicker, Shots
from dirformer.video.steady import Steady

SEGMENT = 32
"""Frames of a segment."""
KEY = "key.json"


@dataclass(frozen=True)
class FilmRun:
    """How a film is restored."""

    seed: int = 0
    shot_prior: bool = False
    """Restore all frames of a shot under the IPR of its first."""
    steady: bool = False
    """Average still parts over the last frames, see `Steady`."""
    size: tuple[int, int] | None = None
    """Width and height of the result's frames; None is what the network makes."""
    key: dict[str, Any] = field(default_factory=dict)
    """What the result depends on: segments made under another key are not used."""


@dataclass(frozen=True)
class FilmReport:
    """What became of a film."""

    frames: int
    kept: int
    """Frames that an earlier run has restored."""
    shots: int
    flicker: tuple[float, float]
    """Of the film and of its result, of the frames that this run has restored; see `Flicker`."""
    notes: tuple[str, ...] = ()


def segments_folder(out: Path) -> Path:
    """Return where the segments of a result wait."""
    return out.with_name(f".{out.name[:180]}.segments")


def frame_count(film: Path) -> tuple[int, tuple[int, int]]:
    """Return how many frames a film has, about (0 if it does not say), and their width and height.

    Raises:
        PhotoError: if it is none.
    """
    with opened(film) as source:
        stream = source.streams.video[0]
        count = stream.frames
        if not count and stream.duration and stream.average_rate:
            count = round(stream.duration * stream.time_base * stream.average_rate)
        return count, (stream.codec_context.width, stream.codec_context.height)


@contextlib.contextmanager
def opened(film: Path) -> Iterator[Any]:
    """Open a film to read. Raises PhotoError if it is none, or has no pictures."""
    try:
        source = av.open(str(film), metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        what = error.strerror or type(error).__name__
        raise PhotoError(f"{film} cannot be read as a film: {what}") from None
    with source:
        if not source.streams.video:
            raise PhotoError(f"{film} has no pictures; expected a film")
        yield source


def restore_film(
    restorer: Restorer,
    film: Path,
    out: Path,
    run: FilmRun | None = None,
    *,
    progress: Callable[[float], None] | None = None,
    saved: Callable[[], None] | None = None,
) -> FilmReport:
    """Restore a film: frames by the network, all else (audio, subtitles, chapters, tags) as it is.

    Args:
        restorer: the network; with the option `noise="seed"` all frames start from one Z_T.
        film: file to read.
        out: file to write; its suffix names the container.
        run: how.
        progress: told how many frames are done.
        saved: called when a further segment is whole, to keep a copy of `segments_folder` elsewhere.

    Raises:
        PhotoError: if the film cannot be read.
        OutputError: if the result cannot be written.
    """
    run = run or FilmRun()
    container_of(out)
    require_place(out)
    folder = _claimed(segments_folder(out), run.key)
    work = _Work(restorer, run, folder, progress, saved)
    with opened(film) as source:
        work.go(film, source)
    with atomic_path(out) as part:
        join(film, work.segments(), part, container_of(out), work.look)
    shutil.rmtree(folder)
    return FilmReport(work.done, work.kept, work.shots.count, work.flicker.scores(), tuple(work.notes))


def made_under(folder: Path, key: dict[str, Any]) -> bool:
    """Return whether the segments in a folder were made under a key."""
    try:
        return bool(json.loads((folder / KEY).read_text("utf-8")) == key)
    except (OSError, ValueError):
        return False


def _claimed(folder: Path, key: dict[str, Any]) -> Path:
    """Return the folder of segments, emptied unless they were made under the same key."""
    try:
        if not made_under(folder, key):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with atomic_path(folder / KEY) as part:
                part.write_text(json.dumps(key), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}; give another name") from None
    return folder


class _Work:
    """One film at work."""

    def __init__(
        self,
        restorer: Restorer,
        run: FilmRun,
        folder: Path,
        progress: Callable[[float], None] | None,
        saved: Callable[[], None] | None,
    ) -> None:
        self._restorer, self._run, self._folder = restorer, run, folder
        self._progress, self._saved = progress, saved
        self.shots, self.flicker = Shots(), Flicker()
        self.done = self.kept = self.damaged = 0
        self.notes = list[str]()
        self._steady = Steady() if run.steady else None
        self._first: Tensor | None = None
        self._prior: Tensor | None = None
        self._look: Look | None = None
        self._last = -(1 << 62)
        """Time of the last frame."""

    @property
    def look(self) -> Look:
        """The film's coding, which its first frame shows."""
        assert self._look is not None
        return self._look

    def segments(self) -> list[Path]:
        """Return the segments that are whole, in order, as far as none is missing before them."""
        named = (self._name(number) for number in itertools.count())
        return list(itertools.takewhile(Path.is_file, named))

    def _name(self, number: int) -> Path:
        return self._folder / f"{number:06}.nut"

    def go(self, film: Path, source: Any) -> None:
        """Restore all frames that no segment holds."""
        frames = self._frames(film, source)
        whole = len(self.segments())
        for number in range(1 << 30):
            batch = _taken(frames, SEGMENT)
            first = next(batch, None)
            if first is None:
                break
            if number < whole:
                self._skip(first, batch)
            else:
                self._segment(number, first, batch)
                if self._saved is not None:
                    self._saved()
        if not self.done:
            raise PhotoError(f"{film} has no frame that can be decoded; expected a film")
        if self.damaged:
            self.notes.append(f"{self.damaged} packets are damaged and left out")
        self.notes += _cut_off(source.streams.video[0], self._last)

    def _frames(self, film: Path, source: Any) -> Iterator[tuple[Float[Tensor, "3 h w"], int]]:
        """Yield frames and their times in the stream's time base."""
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        last = self._last
        for packet in source.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                if self._look is None:
                    self._look = Look.of(stream, frame)
                if (frame.width, frame.height) != (self.look.width, self.look.height):
                    raise PhotoError(f"{film} changes its size on the way; expected frames of one size")
                pts = frame.pts if frame.pts is not None else last + 1
                self._last = last = max(pts, last + 1)
                yield self.look.tensor(frame), last

    def _skip(self, first: tuple[Tensor, int], rest: Iterator[tuple[Tensor, int]]) -> None:
        self._seen(first[0])
        self._count()
        for frame, _ in rest:
            self._seen(frame)
            self._count()
        self.kept = self.done

    def _count(self) -> None:
        self.done += 1
        if self._progress is not None:
            self._progress(float(self.done))

    def _seen(self, frame: Tensor) -> Tensor:
        """Return a frame as the network gets it; keep the first of the shot, whose IPR may be needed."""
        if self.shots.begins(frame):
            self._first, self._prior = frame, None
            self.flicker.cut()
            if self._steady is not None:
                self._steady.cut()
        return frame if self._steady is None else self._steady(frame)

    def _restored(self, frame: Tensor) -> Tensor:
        seen = self._seen(frame)
        run, prior = self._run, None
        if run.shot_prior:
            if self._prior is None:
                assert self._first is not None
                self._prior = self._restorer.prior(self._first, seed=run.seed)
            prior = self._prior
        result = self._restorer.restore(seen, seed=run.seed, prior=prior)
        result = result if run.size is None else resized(result, *run.size)
        self.flicker.add(frame, result)
        return result

    def _segment(self, number: int, first: tuple[Tensor, int], rest: Iterator[tuple[Tensor, int]]) -> None:
        with atomic_path(self._name(number)) as part:
            result = self._restored(first[0])
            if self.look.encoder == "libx265" and result.shape[2] < NARROW:
                raise OutputError(
                    f"frames of {result.shape[2]} pixels are too narrow for HEVC; give a larger size"
                )
            try:
                with av.open(str(part), "w", format="nut") as target:
                    stream: Any = target.add_stream(self.look.encoder)
                    height, width = result.shape[1:]
                    self.look.set_up(stream, width, height, keyframes=SEGMENT)
                    target.mux(stream.encode(self.look.frame(result, first[1])))
                    self._count()
                    for frame, pts in rest:
                        target.mux(stream.encode(self.look.frame(self._restored(frame), pts)))
                        self._count()
                    target.mux(stream.encode())
            except av.error.FFmpegError as error:
                raise OutputError(
                    f"{self.look.encoder} cannot write frames {self.look.written}: {error.strerror}"
                ) from None


def _cut_off(stream: Any, last: int) -> list[str]:
    """Return a line if a film ends before the time that it states, by more than 2.5 frames and 2 %."""
    stated = _stated_seconds(stream)
    if stated is None or not stream.average_rate:
        return []
    found = float((last - (stream.start_time or 0)) * stream.time_base + 1 / stream.average_rate)
    if stated - found <= max(2.5 / float(stream.average_rate), 0.02 * stated):
        return []
    return [f"the film states {stated:.2f} s and ends after {found:.2f}; it may have been cut off"]


def _stated_seconds(stream: Any) -> float | None:
    """Return how long a film says its pictures last, by the container or by Matroska's tag."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    parts = (stream.metadata.get("DURATION") or "").split(":")
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _taken(frames: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        one = next(frames, None)
        if one is None:
            return
        yield one
