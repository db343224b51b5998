"""Segments, and what a film holds beside its pictures → the film: packets are copied, nothing is coded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from dirformer.ground.errors import OutputError
from dirformer.video.look import Look

_KINDS = ("audio", "subtitle", "data", "attachment")


def join(film: Path, segments: list[Path], out: Path, container: str, look: Look) -> None:
    """Write the film.

    Args:
        film: where all but the pictures comes from.
        segments: the pictures, in order.
        out: file to write.
        container: FFmpeg's name of its format.
        look: the film's coding: how its frames are turned for the eye.

    Raises:
        OutputError: if the container cannot hold what the film holds.
    """
    try:
        with av.open(str(film), metadata_errors="replace") as source, av.open(str(segments[0])) as first:
            # A time base that the film had is kept: times are whole numbers of it.
            options = {"movflags": "+faststart", "video_track_timescale": str(look.time_base.denominator)}
            with av.open(
                str(out), "w", format=container, options=options if container in ("mp4", "mov") else {}
            ) as target:
                _write(source, first.streams.video[0], segments, target, look)
    except (av.error.FFmpegError, ValueError) as error:
        # PyAV says by a ValueError that a container cannot hold a codec.
        what = error.strerror if isinstance(error, av.error.FFmpegError) else error
        raise OutputError(
            f"the film cannot be written as {container}: {what}; give a name with .mkv, which holds most"
        ) from None


def _write(source: Any, pictures: Any, segments: list[Path], target: Any, look: Look) -> None:
    video = target.add_stream_from_template(pictures)
    video.time_base = look.time_base
    if look.turn is not None:
        video.set_display_matrix(look.turn)
    if target.format.name in ("mp4", "mov") and look.encoder == "libx265":
        video.codec_context.codec_tag = "hvc1"  # Apple's players know no other
    video.metadata.update(_told(source.streams.video[0].metadata))
    target.metadata.update(_told(source.metadata))
    others = {}
    # In MP4 the titles of chapters are a track of texts, which the muxer writes anew.
    titles = {one.index for one in source.streams if one.type == "data"} if source.chapters() else set()
    for stream in source.streams:
        if stream.type in _KINDS and stream.index not in titles:
            copy = target.add_stream_from_template(stream)
            copy.time_base = stream.time_base
            copy.metadata.update(_told(stream.metadata))
            others[stream.index] = copy
    target.set_chapters(source.chapters())
    for packet, stream in heapq.merge(_pictures(segments, video), _others(source, others), key=_when):
        packet.stream = stream
        target.mux(packet)


def _told(metadata: dict[str, str]) -> dict[str, str]:
    """Return what people have written of a film; what its muxer wrote, the next one writes anew."""
    own = ("encoder", "major_brand", "minor_version", "compatible_brands", "rotate", "duration")
    return {name: value for name, value in metadata.items() if name.lower() not in own}


def _when(item: tuple[Any, Any]) -> float:
    packet = item[0]
    time = packet.dts if packet.dts is not None else packet.pts
    return float((time or 0) * packet.time_base)


def _pictures(segments: list[Path], stream: Any) -> Iterator[tuple[Any, Any]]:
    for segment in segments:
        with av.open(str(segment)) as source:
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    yield packet, stream


def _others(source: Any, streams: dict[int, Any]) -> Iterator[tuple[Any, Any]]:
    chosen = [stream for stream in source.streams if stream.index in streams]
    if not chosen:
        return
    for packet in source.demux(chosen):
        if packet.size and packet.dts is not None:
            yield packet, streams[packet.stream.index]
