"""What an exported file computes: a photo of any size in, the restored photo out.

Everything that `Restorer` does around the network is part of the graph: filling of holes, padding, cropping,
clamping, and putting the photo back outside holes. A program that has the file needs nothing of this package.
"""

from __future__ import annotations

from typing import Any

import torch

from dirformer.holes.smooth import SWEEPS
from dirformer.inference.restorer import start_noise
from dirformer.interop.network import network
from dirformer.interop.nodes import Nodes
from dirformer.networks.diffir import DiffIRS2
from dirformer.tasks import TASKS

HALVINGS = 14
"""A graph has no loop that ends with the last hole: it halves as often as sides of 16,384 pixels need."""


def build_graph(model: DiffIRS2, *, seed: int | None, metadata: dict[str, str]) -> Any:
    """Return the network and all that surrounds it as an `onnx.ModelProto`.

    Inputs are `photo` (1 3 height width, RGB in [0, 1]), `mask` (1 1 height width, 1 in holes; inpainting
    only) and `noise` (n 1 p, standard normal; only where `takes_noise`). The output `restored` is in [0, 1].

    Args:
        model: the network; its device does not matter.
        seed: fixes the noise, one for all photos; None makes it an input.
        metadata: text to go with the graph.

    Raises:
        MissingExtraError: if onnx is not installed.
    """
    g = Nodes()
    config, floats = model.config, g.onnx.TensorProto.FLOAT
    inputs = [g.onnx.helper.make_tensor_value_info("photo", floats, [1, 3, "height", "width"])]
    lq, mask = "photo", TASKS[config.task].has_mask
    if mask:
        inputs.append(g.onnx.helper.make_tensor_value_info("mask", floats, [1, 1, "height", "width"]))
        lq = _seen(g, smooth=config.fill != "zero")  # in place of exemplars, too
    noise = None
    if takes_noise(model, seed):
        noise = "noise"
        inputs.append(g.onnx.helper.make_tensor_value_info(noise, floats, list(noise_shape(model))))
    elif config.timesteps:
        noise = g.weight("fixed_noise", start_noise(model, seed or 0))
    for axis in (2, 3):
        lq = g("Gather", lq, _padded(g, axis, config.multiple), axis=axis)
    restored = network(g, model, lq, noise)
    # Cropped to `scale` times the photo's sides, then clamped.
    sides = g("Mul", g("Shape", "photo", start=2, end=4), g.integers(config.scale, config.scale))
    restored = g("Slice", restored, g.integers(0, 0), sides, g.integers(2, 3))
    restored = g("Clip", restored, g.number(0.0), g.number(1.0), out="" if mask else "restored")
    if mask:
        known = g("Mul", _complement(g, "mask"), "photo")
        g("Add", g("Mul", "mask", restored), known, out="restored")
    result = g.onnx.helper.make_tensor_value_info("restored", floats, [1, 3, "out_height", "out_width"])
    return g.file(inputs, [result], metadata)


def takes_noise(model: DiffIRS2, seed: int | None) -> bool:
    """Return whether noise is an input: not if a seed fixes it, nor for a network without diffusion."""
    return seed is None and model.config.timesteps > 0


def noise_shape(model: DiffIRS2) -> tuple[int, int, int]:
    """Return the shape of the noise of one photo, `n 1 p`."""
    count, width = model.noise_shape
    return count, 1, width


def _padded(g: Nodes, axis: int, multiple: int) -> str:
    """Add which row (or column) of the photo each one of the padded photo shows.

    `inference.restorer.pad_to_multiple`: mirrored as far as the photo reaches, then the last of the mirrored.
    """
    size = g("Squeeze", g("Shape", "photo", start=axis, end=axis + 1))
    last = g("Sub", size, g.integer(1))
    blocks = g("Add", g("Div", last, g.integer(multiple)), g.integer(1))
    index = g("Range", g.integer(0), g("Mul", blocks, g.integer(multiple)), g.integer(1))
    mirrored = g("Max", g("Sub", g("Add", last, last), index), g.integer(0))
    return g("Where", g("Less", index, size), index, mirrored)


def _complement(g: Nodes, x: str) -> str:
    return g("Sub", g.number(1.0), x)


# Holes ------------------------------------------------------------------------------------------------


def _seen(g: Nodes, *, smooth: bool) -> str:
    """Add `holes.shown.inpainting_input` of photo and mask."""
    known = _complement(g, "mask")
    black = g("Mul", "photo", known)
    return g("Concat", _filled(g, black, known) if smooth else black, "mask", axis=1)


def _filled(g: Nodes, colour: str, known: str) -> str:
    """Add `holes.smooth.fill_smoothly`, in a fixed number of steps for every photo.

    A level without holes gives its pixels back unchanged, so going further down than the definition does no
    harm. Where the definition stops because a side is one pixel, `Where` takes that level as it is.
    """
    side = g("ReduceMin", g("Shape", "photo", start=2, end=4), keepdims=0)
    levels = []
    for _ in range(HALVINGS):
        levels.append((colour, known))
        share, colour = (_halved(g, x) for x in (known, colour))
        colour = g("Div", colour, g("Max", share, g.number(0.25)))
        known = g("Cast", g("Greater", share, g.number(0.0)), to=g.onnx.TensorProto.FLOAT)
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]) / 4
    kernel = g.weight("mean_of_neighbours", cross.expand(3, 1, 3, 3))
    for level in reversed(range(HALVINGS)):
        fixed, known = levels[level]
        ends = g("Shape", fixed, start=2, end=4)
        wide = g("Slice", g.enlarge(colour, 2, "linear"), g.integers(0, 0), ends, g.integers(2, 3))
        hole = _complement(g, known)
        kept = g("Mul", fixed, known)
        relaxed = g("Add", kept, g("Mul", wide, hole))
        for _ in range(SWEEPS):
            rim = g("Pad", relaxed, g.integers(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
            mean = g("Conv", rim, kernel, group=3, kernel_shape=[3, 3])
            relaxed = g("Add", kept, g("Mul", mean, hole))
        colour = g("Where", g("Greater", side, g.integer(2**level)), relaxed, fixed)
    return colour


def _halved(g: Nodes, x: str) -> str:
    """Add the mean of each two by two pixels; a last odd row or column meets zeros.

    One row more than an even side needs falls out of the pooling again.
    """
    even = g("Pad", x, g.integers(0, 0, 0, 0, 0, 0, 1, 1))
    return g("AveragePool", even, kernel_shape=[2, 2], strides=[2, 2])
