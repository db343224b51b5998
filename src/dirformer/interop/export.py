"""A weight file → a file for ONNX Runtime or OpenVINO, proved equal before it is handed over."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground import checks
from dirformer.ground.errors import ExportError
from dirformer.ground.paths import atomic_path
from dirformer.inference.restorer import Restorer, start_noise
from dirformer.interop.formats import SUFFIXES, ExportOptions, default_out
from dirformer.interop.graph import build_graph, noise_shape, takes_noise
from dirformer.interop.nodes import require_onnx
from dirformer.interop.runtimes import Run, open_onnx, open_openvino, require_openvino
from dirformer.tasks import TASKS
from dirformer.weights.catalog import find_weights
from dirformer.weights.checkpoints import Header
from dirformer.weights.load import open_weights, require_stage2

SIZES = ((48, 64), (37, 91), (101, 30))
"""Heights and widths of the proof: one is a multiple of what networks need, two are not."""
LARGEST = 1e-4
"""A float32 file may differ from ours by so much, of 1."""
PSNR = 50.0
"""A float16 file must be as near to ours, in dB."""
MOST_BYTES = int(1.9 * 2**30)
"""Protocol buffers end at 2 GiB. The largest released network has 0.2 GiB."""
STEPS = 2 + len(SIZES)
"""What `progress` counts: the graph, the file, and one step for each size."""


@dataclass(frozen=True)
class Exported:
    """Files that were written, and how near they are to the network."""

    paths: tuple[Path, ...]
    largest: float
    """Largest difference of a value from ours over all sizes, of 1."""
    psnr: float
    """Lowest PSNR against ours over all sizes, in dB; infinite if nothing differs."""
    context: str
    """How the network restores best; a file always sees the photo whole (`image`)."""
    fill: str
    """How the network's holes are filled; a file knows no search, and fills them smoothly for `exemplar`."""


def export(
    model: str | Path,
    out: str | Path | None = None,
    *,
    to: str = "onnx",
    precision: str = "float32",
    seed: int | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Exported:
    """Write a network for another program: any height and width, padding and cropping inside.

    Inputs and output are described in docs/guides/export.md and, as JSON, in the file's metadata. The file is
    run on three sizes and compared with `Restorer` (context `image`) before it gets its name.

    Args:
        model: a shipped model's name or a weight file of stage 2.
        out: file to write, `.onnx` or `.xml`; None: the model's name in the current folder.
        to: `onnx` or `openvino`.
        precision: of the stored weights, `float32` or `float16`.
        seed: fixes the noise that the diffusion starts from, one for all photos; None makes it an input.
        overwrite: replace files that are there.
        progress: told how many of `STEPS` steps are done.

    Raises:
        ConfigError, OutputError: for arguments that cannot be, as `ExportOptions`.
        CheckpointError: if the weights are not there or not those of a stage-2 network.
        ExportError: if the file differs by more than 1e-4 (float32) or is under 50 dB (float16).
        MissingExtraError: if a package of the extras `export` or `openvino` is missing.
    """
    checks.path("model", model)
    checks.function("progress", progress)
    place = default_out(str(model), to) if out is None else checks.path("out", out)
    return write(model, ExportOptions(place, to, precision, seed, overwrite), progress)


def write(
    model: str | Path, options: ExportOptions, progress: Callable[[float], None] | None = None
) -> Exported:
    """Do what `export` does, by options."""
    onnx, told = require_onnx(), progress or (lambda _: None)
    if options.to == "openvino":
        require_openvino()
    weights = open_weights(find_weights(model))
    network = require_stage2(weights)
    size = 4 * sum(parameter.numel() for parameter in network.parameters())
    if size > MOST_BYTES:
        raise ExportError(
            f"{model} has {size / 2**30:.1f} GiB of weights; an ONNX graph holds 1.9 GiB at most"
        )
    fields = {"dirformer": json.dumps(describe(weights.header, options))}
    proto = build_graph(network, seed=options.seed, metadata=fields)
    told(1.0)
    with TemporaryDirectory(prefix="dirformer-") as folder:
        draft = Path(folder) / f"draft{SUFFIXES[options.to]}"
        half = options.precision == "float16"
        if options.to == "onnx":
            if half:
                store_half(onnx, proto)
            onnx.save(proto, draft)
            run = open_onnx(draft)
        else:
            _save_openvino(proto.SerializeToString(), fields, draft, half=half)
            run = open_openvino(draft)
        told(2.0)
        fill = None if network.config.fill == "zero" else "smooth"  # a graph knows no search
        restorer = Restorer(model, device="cpu", context="image", fill=fill)
        noise = None if takes_noise(network, options.seed) else start_noise(network, options.seed or 0)
        largest, psnr = prove(run, restorer, noise, lambda done: told(2 + done))
        _require_near(options, largest, psnr)
        with ExitStack() as stack:
            for path, written in zip(options.paths, (draft, draft.with_suffix(".bin")), strict=False):
                copyfile(written, stack.enter_context(atomic_path(path)))
    return Exported(options.paths, largest, psnr, weights.header.inference.context, network.config.fill)


def describe(header: Header, options: ExportOptions) -> dict[str, Any]:
    """Return what a file says of itself: all that a program needs to use it."""
    config = header.config
    rgb, large = "RGB in [0, 1]", [1, 3, "scale · height", "scale · width"]
    inputs: dict[str, Any] = {"photo": {"shape": [1, 3, "height", "width"], "values": rgb}}
    if TASKS[config.task].has_mask:
        inputs["mask"] = {"shape": [1, 1, "height", "width"], "values": "1 in holes, else 0"}
    if config.timesteps and options.seed is None:
        count = config.timesteps if config.reverse_noise else 1
        inputs["noise"] = {"shape": [count, 1, config.prior_dim], "values": "standard normal"}
    return {
        "schema": 1,
        "task": config.task,
        "scale": config.scale,
        "sizes": f"one photo of any height and width; padding to multiples of {config.multiple} is inside",
        "inputs": inputs,
        "output": {"restored": {"shape": large, "values": rgb}},
        "noise_seed": options.seed,
        "weights": options.precision,
        "arithmetic": "float32; OpenVINO needs the hint INFERENCE_PRECISION_HINT=f32",
        "context": "image",
        "fill": "smooth" if config.fill == "exemplar" else config.fill,
        "licence": str(header.provenance.get("licence", "not stated")),
        "config": config.to_dict(),
    }


def store_half(onnx: Any, proto: Any) -> None:
    """Keep weights as float16, each behind a cast to float32, which runtimes fold when they load.

    Vectors (biases, temperatures, schedules) stay float32: they are small.
    """
    casts = []
    for constant in proto.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or len(constant.dims) < 2:
            continue
        name, values = constant.name, onnx.numpy_helper.to_array(constant)
        half = torch.from_numpy(values.copy()).half().numpy()
        constant.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _save_openvino(content: bytes, fields: dict[str, str], path: Path, *, half: bool) -> None:
    openvino = require_openvino()
    model = openvino.Core().read_model(content)
    for name, value in fields.items():
        model.set_rt_info(value, [name])
    openvino.save_model(model, str(path), compress_to_fp16=half)


# The proof --------------------------------------------------------------------------------------------


def prove(
    run: Run, restorer: Restorer, noise: Tensor | None = None, progress: Callable[[float], None] | None = None
) -> tuple[float, float]:
    """Run a file on photos of `SIZES` and compare it with our own restoration.

    Args:
        run: the opened file.
        restorer: ours, which sees photos whole.
        noise: what is fixed in the file, `n 1 p`; None if it is an input.
        progress: told how many sizes are done.

    Returns:
        The largest difference and the lowest PSNR in dB.
    """
    largest, psnr = 0.0, math.inf
    generator = torch.Generator().manual_seed(1)
    for number, (height, width) in enumerate(SIZES, start=1):
        photo = _test_photo(height, width, generator)
        inputs, mask = {"photo": photo[None]}, None
        if TASKS[restorer.task].has_mask:
            mask = torch.zeros(1, height, width)
            mask[:, height // 4 : height // 2, width // 3 : width - 4] = 1
            inputs["mask"] = mask[None]
        start = noise
        if noise is None:
            start = torch.randn(noise_shape(restorer.model), generator=generator)
            if restorer.config.timesteps:
                inputs["noise"] = start
        assert start is not None
        ours = restorer.restore(photo, mask, noise=start[:, 0])
        theirs = run(inputs)[0]
        off = (theirs - ours).abs().double() if theirs.shape == ours.shape else torch.full((1,), math.inf)
        # NaN is further away than anything else.
        off = off.nan_to_num(nan=math.inf)
        largest = max(largest, float(off.max()))
        error = float(off.square().mean())
        psnr = min(psnr, -10 * math.log10(error) if error else math.inf)
        if progress is not None:
            progress(float(number))
    return largest, psnr


def _test_photo(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return smooth colours with some noise over them."""
    smooth = torch.rand(1, 3, 5, 5, generator=generator)
    smooth = F.interpolate(smooth, size=(height, width), mode="bilinear")[0]
    return (smooth + 0.05 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)


def _require_near(options: ExportOptions, largest: float, psnr: float) -> None:
    near = psnr >= PSNR if options.precision == "float16" else largest <= LARGEST
    if not near:
        limit = f"{PSNR:g} dB" if options.precision == "float16" else f"{LARGEST:g}"
        raise ExportError(
            f"the {options.to} file differs from the network by up to {largest:.2g} ({psnr:.1f} dB); "
            f"expected {limit}: nothing was written; try another precision, or report it with the weight file"
        )
