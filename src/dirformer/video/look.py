"""How the frames of a film are coded, and frames ↔ tensors under that coding.

Range and matrix are applied as the film says them. Where it says no matrix, the one that players take is:
BT.709 from 720 lines on, else BT.601. Where the result's lines would make players take the other one, the
result says its matrix.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import torch
from av.video.reformatter import ColorRange, Interpolation
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.errors import PhotoError

_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp9": "libvpx-vp9",
    "ffv1": "ffv1",
    "mpeg4": "mpeg4",
    "prores": "prores_ks",
}
"""Codec of the film → encoder of the result; others become H.264."""
_OPTIONS = {
    "libx264": {"crf": "16", "preset": "medium"},
    "libx265": {"crf": "18", "x265-params": "bframes=0:log-level=none:pools=1:frame-threads=1:info=0"},
    "libsvtav1": {"crf": "24", "preset": "6", "svtav1-params": "pred-struct=1"},
    "libvpx-vp9": {"crf": "20", "b": "0", "lag-in-frames": "0"},
    "mpeg4": {"q": "2"},
}
NARROW = 64
"""Pixels below which x265 writes beyond its memory: such films become H.264."""
_UNSAID = 2
_BT709, _BT601, _RGB = 1, 6, 0
_SWS = {_BT709: 1, 4: 4, 5: 5, _BT601: 5, 7: 7, 9: 9, 10: 9}
"""Matrix in a stream (ITU-T H.273) → swscale's number of it."""
_LINES = 720
_HOW = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
)


@dataclass(frozen=True)
class Look:
    """The coding of a film's frames."""

    codec: str
    pixels: str
    """FFmpeg's name of the pixel format."""
    depth: int
    """Bits of a component."""
    width: int
    height: int
    """Of the stored frame, before any rotation."""
    full: bool
    """Whether values use the full range."""
    range: int
    matrix: int
    primaries: int
    transfer: int
    """As the stream says them, by ITU-T H.273."""
    time_base: Fraction
    rate: Fraction | None
    """Frames a second, about."""
    aspect: Fraction | None
    """Of a pixel."""
    turn: tuple[int, ...] | None
    """The display matrix: how the frame is to be turned for the eye."""

    @classmethod
    def of(cls, stream: Any, frame: Any) -> Look:
        """Take the coding of a stream and its first frame. Raises PhotoError for pixels nobody can read."""
        context = stream.codec_context
        format_ = frame.format
        if format_.name.startswith("pal8") or not format_.components:
            raise PhotoError(f"the frames are {format_.name}; expected YUV, RGB or grey")
        turn = next((bytes(d) for d in frame.side_data if d.type.name == "DISPLAYMATRIX"), None)
        return cls(
            codec=context.name,
            pixels=format_.name,
            depth=max(component.bits for component in format_.components),
            width=frame.width,
            height=frame.height,
            full=format_.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG or format_.is_rgb,
            range=int(context.color_range),
            matrix=int(context.colorspace),
            primaries=int(context.color_primaries),
            transfer=int(context.color_trc),
            time_base=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate,
            aspect=stream.sample_aspect_ratio,
            turn=None if turn is None else struct.unpack("=9i", turn[:36]),
        )

    @property
    def encoder(self) -> str:
        """The encoder of the result."""
        found = _ENCODERS.get(_family(self.codec), "libx264")
        return "libx264" if found == "libx265" and self.width < NARROW else found

    @property
    def written(self) -> str:
        """Pixel format of the result: the film's own, or the nearest that the encoder takes."""
        able = [one.name for one in av.Codec(self.encoder, "w").video_formats or ()]
        plain = self.pixels.replace("yuva", "yuv").replace("gbrap", "gbrp")
        nearest = "yuv420p10le" if self.depth > 8 else "yuv420p"
        return next((name for name in (self.pixels, plain, nearest) if name in able or not able), able[0])

    def matrix_of(self, lines: int) -> int:
        """Return the matrix that is said or, for a film of so many lines, taken."""
        if self.matrix != _UNSAID:
            return self.matrix
        return _BT709 if lines >= _LINES else _BT601

    def tensor(self, frame: Any) -> Float[Tensor, "3 h w"]:
        """Return a frame as RGB in [0, 1]."""
        name = "rgb48le" if self.depth > 8 else "rgb24"
        options: dict[str, Any] = {"dst_color_range": ColorRange.JPEG, "interpolation": _HOW, "threads": 1}
        if not frame.format.is_rgb:
            options["src_colorspace"] = _SWS.get(self.matrix_of(self.height), 5)
            options["src_color_range"] = ColorRange.JPEG if self.full else ColorRange.MPEG
        levels = torch.from_numpy(frame.reformat(format=name, **options).to_ndarray().copy())
        if self.depth > 8:
            return levels.to(torch.int32).permute(2, 0, 1).float() / 65535
        return levels.permute(2, 0, 1).float() / 255

    def frame(self, pixels: Float[Tensor, "3 H W"], pts: int) -> Any:
        """Return RGB in [0, 1] as a frame of the result."""
        deep = self.depth > 8
        values = (pixels.clamp(0, 1) * (65535 if deep else 255)).round().permute(1, 2, 0).contiguous()
        array = values.to(torch.int32).numpy().astype("uint16" if deep else "uint8")
        frame = av.VideoFrame.from_ndarray(array, format="rgb48le" if deep else "rgb24")
        name = self.written
        if not av.VideoFormat(name).is_rgb:
            frame = frame.reformat(
                format=name,
                dst_colorspace=_SWS.get(self.matrix_of(self.height), 5),
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if self.full else ColorRange.MPEG,
                interpolation=_HOW,
                threads=1,
            )
        elif name != frame.format.name:
            frame = frame.reformat(format=name)
        frame.pts, frame.time_base = pts, self.time_base
        return frame

    def set_up(self, stream: Any, width: int, height: int, *, keyframes: int) -> None:
        """Make an encoder write frames as this film's are, in one group of pictures that looks not ahead."""
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, self.written
        context.time_base = stream.time_base = self.time_base
        if self.rate:
            context.framerate = self.rate
        said = self.matrix_of(height) == self.matrix_of(self.height)
        context.color_range, context.color_primaries, context.color_trc = (
            self.range,
            self.primaries,
            self.transfer,
        )
        if not av.VideoFormat(self.written).is_rgb:
            context.colorspace = self.matrix if said else self.matrix_of(self.height)
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        context.gop_size, context.max_b_frames, context.thread_count = keyframes, 0, 1
        context.options = dict(_OPTIONS.get(self.encoder, {}))


def _family(codec: str) -> str:
    """Return the codec of a decoder: several read AV1 and VP9."""
    return {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9"}.get(codec, codec)
