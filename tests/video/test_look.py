"""Colours of films, against the formulas of ITU-R BT.601, BT.709 and BT.2020."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from av import VideoFrame

from dirformer.video.look import Look

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Matrix of ITU-T H.273 → weights of red and blue."""


def look(pixels: str, matrix: int, *, full: bool = False, height: int = 32) -> Look:
    context = SimpleNamespace(
        name="h264",
        color_range=2 if full else 1,
        colorspace=matrix,
        color_primaries=1,
        color_trc=1,
    )
    stream: Any = SimpleNamespace(
        codec_context=context,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        guessed_rate=None,
        sample_aspect_ratio=None,
    )
    frame = VideoFrame(32, height, pixels)
    frame.color_range = 2 if full else 1
    return Look.of(stream, frame)


def planes(rgb: tuple[float, float, float], matrix: int, bits: int, *, full: bool) -> list[float]:
    """Y, Cb and Cr of a colour in [0, 1] by the formulas."""
    red, blue = WEIGHTS[matrix]
    r, g, b = rgb
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if full:
        most = 2**bits - 1
        return [most * y, most * cb + 2 ** (bits - 1), most * cr + 2 ** (bits - 1)]
    unit = 2 ** (bits - 8)
    return [unit * (219 * y + 16), unit * (224 * cb + 128), unit * (224 * cr + 128)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_range_and_matrix_are_those_of_the_film(matrix: int, pixels: str, full: bool) -> None:
    """Flat colours become the RGB of the formulas, and the same values again, to a level of 8 bit."""
    bits = 10 if "10" in pixels else 8
    own = look(pixels, matrix, full=full)
    for rgb in ((0.8, 0.3, 0.1), (0.1, 0.6, 0.9), (1.0, 1.0, 1.0)):
        values = [round(v) for v in planes(rgb, matrix, bits, full=full)]
        values = [min(v, 2**bits - 1) for v in values]
        frame = VideoFrame(32, 32, pixels)
        for plane, value in zip(frame.planes, values, strict=True):
            dtype = np.uint16 if bits > 8 else np.uint8
            plane.update(np.full(plane.buffer_size // dtype().itemsize, value, dtype))
        tensor = own.tensor(frame)
        assert tensor.shape == (3, 32, 32)
        # A level of Y, Cb and Cr is up to two and a half of RGB.
        assert torch.allclose(tensor.mean((1, 2)), torch.tensor(rgb), atol=2.6 / 255)
        again = own.frame(tensor, pts=7)
        assert again.format.name == pixels and again.pts == 7
        for plane, value in zip(again.planes, values, strict=True):
            dtype = np.uint16 if bits > 8 else np.uint8
            level = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
            assert np.abs(level.astype(int) - value).max() <= (2 if bits > 8 else 1)


def test_a_film_that_says_no_matrix() -> None:
    """BT.709 from 720 lines on, else BT.601, as players do."""
    assert look("yuv420p", 2).matrix_of(480) == 6 and look("yuv420p", 2).matrix_of(720) == 1
    assert look("yuv420p", 9).matrix_of(480) == 9


def test_pixels_of_results() -> None:
    """The film's own format where the encoder takes it, the nearest where not."""
    for pixels, written in (
        ("yuv422p", "yuv422p"),
        ("yuv420p10le", "yuv420p10le"),
        ("yuva420p", "yuv420p"),
        ("yuv420p12le", "yuv420p10le"),
        ("rgb24", "yuv420p"),
    ):
        assert look(pixels, 1).written == written
