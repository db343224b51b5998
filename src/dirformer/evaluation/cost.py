"""What a network costs: parameters, Mult-Adds, time and memory, part by part.

Counted as the architecture is drawn, for one photo of any size: a convolution at stride 1 multiplies its
weights once per pixel, a linear layer once per photo, an attention c·(c/heads) numbers per pixel for Q·Kᵀ
and as many for the product with V. Three columns beside that total:

* `published`: how the paper's inpainting and super-resolution figures arise. A module counter sees layers
  only, so the attention products are missing, and it meets CPEN and denoiser under two names each and
  counts both. (With this column sr-x4 gives 0.74 T; the total is 0.72 T.)
* `elementwise`: values written by what only touches elements: norms, modulation, activations, softmax,
  gates, sums.
* `executed`: multiplications that this package really performs; it merges attention and projection into
  one matrix, which saves one product per block.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dirformer.evaluation.count import Part, count_parts, published, total
from dirformer.evaluation.shapes import NETWORKS, SHAPES
from dirformer.ground.device import choose_device
from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.memory import PeakMemory, available_memory
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIR, DiffIRS1
from dirformer.networks.presets import PRESETS
from dirformer.tasks import TASKS
from dirformer.weights.catalog import find_weights
from dirformer.weights.load import open_weights

LARGEST = 1_000_000
"""Largest side of a photo that is counted; torch cannot count the bytes of much larger ones."""
_TWICE = "it leaves out the attention products and counts CPEN and denoiser twice: column `published`"
_ONCE = "it leaves out the attention products: column `published`"
_RATIO = "the same counting of both networks, convolutions + matrix products, gives the ratio below"
PAPER = {
    ("inpainting", 1): ("paper: 47.97 G at 256×256 (quoted, Table 4)", _ONCE),
    ("inpainting", 2): ("paper: 26 M parameters, 51.63 G at 256×256 (quoted, Tables 1 and 4)", _TWICE),
    ("sr-x4", 2): ("paper: 0.74 T at 256×256 (quoted, Table 6: the same network)", _TWICE),
    ("realsr-x4", 2): ("paper: 0.74 T at 256×256 (quoted, Table 6)", _TWICE),
    ("deblurring", 2): ("paper: 78 % of Restormer's (quoted, Sec. 5.4)", _RATIO),
}
"""Preset (its `-paper` and `-literal` sisters too) and stage → what the paper prints, and how it comes
about."""


def executed(config: ModelConfig, height: int, width: int, stage: int = 2) -> int:
    """Multiplications of convolutions and matrix products that a forward pass performs here."""
    height, width = (-(-n // config.multiple) * config.multiple for n in (height, width))
    with torch.device("meta"):
        model = STAGES[stage](config).eval()
        inputs = _inputs(model, height, width)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(*inputs)
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two


def cost(
    model: str,
    size: tuple[int, int] = (256, 256),
    *,
    stage: int | None = None,
    measure: bool = True,
    execute: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Return all costs of a preset, a model, or a network that is written as shapes alone, as JSON values.

    Args:
        model: a preset (`networks.config.PRESETS`; shipped models have the name of theirs), a weight file of
            either stage, or a name of `shapes.SHAPES`.
        size: height and width of the LQ photo.
        stage: of a preset, 2 by default; a file knows its own.
        measure: also run it once on `device` (random weights for a preset): seconds and peak memory.
        execute: also count what a forward pass performs here (`executed`), which takes seconds.
        device: where to measure.

    Raises:
        ConfigError: if there is no such preset or file, the size is not positive or beyond `LARGEST`, the
            file is of another stage, or a photo of that size does not fit into memory.
    """
    if not 1 <= min(size) <= max(size) <= LARGEST:
        raise ConfigError(f"size is {size[0]}×{size[1]}; expected 1×1 to {LARGEST}×{LARGEST}")
    if stage not in (None, 1, 2):
        raise ConfigError(f"stage is {stage}; expected 1 or 2")
    if model in SHAPES:
        return _of_shapes(model, size)
    config, found = _config(model, stage)
    with torch.device("meta"):
        network = STAGES[found](config)
    parts, steps = count_parts(network, *size), config.timesteps if found == 2 else 0
    whole = total(parts, steps)
    denoiser = total((part for part in parts if part.name.startswith("denoiser")), steps)
    plain = model.removesuffix("-paper").removesuffix("-literal")
    result: dict[str, Any] = {
        "schema": 1,
        "model": model,
        "stage": found,
        "size": list(size),
        "timesteps": steps,
        "parts": [_entry(part) for part in parts],
        "total": _entry(whole),
        "published": published(parts, steps, found),
        "executed": executed(config, *size, found) if execute else None,
        "denoiser_share": denoiser.mult_adds / whole.mult_adds,
        "paper": list(PAPER.get((plain, found), ())),
    }
    result |= _compared(config, size, whole, result["published"])
    if measure:
        result["measured"] = _measure(network.__class__, config, size, device)
    return result


def _compared(config: ModelConfig, size: tuple[int, int], whole: Part, published: int) -> dict[str, Any]:
    """Return the costs of the network that the paper compares with, and the share of it."""
    if config.task == "deblurring":
        other = total(SHAPES["restormer"](*size), 0)
        return {
            "restormer_mult_adds": other.mult_adds,
            "of_restormer": (whole.convolutions + whole.linear + whole.matmul) / other.mult_adds,
        }
    if TASKS[config.task].protocol in ("sr", "realsr") and config.scale == 4:
        other = total(SHAPES["rrdbnet-x4"](*size), 0)
        return {"rrdbnet_mult_adds": other.mult_adds, "of_rrdbnet": published / other.mult_adds}
    return {}


def _of_shapes(name: str, size: tuple[int, int]) -> dict[str, Any]:
    parts = SHAPES[name](*size)
    whole = total(parts, 0)
    methods = ", ".join(method for method, network in NETWORKS.items() if network == name)
    return {
        "schema": 1,
        "model": name,
        "stage": None,
        "size": list(size),
        "timesteps": 0,
        "parts": [_entry(part) for part in parts],
        "total": _entry(whole),
        "published": published(parts, 0),
        "executed": None,
        "denoiser_share": 0.0,
        "paper": [f"the network of {methods}, written as shapes from its published hyper-parameters"],
    }


def _entry(part: Part) -> dict[str, Any]:
    return {**asdict(part), "mult_adds": part.mult_adds}


def _config(model: str, stage: int | None) -> tuple[ModelConfig, int]:
    """Return a network's description and its stage."""
    if model in PRESETS:
        return PRESETS[model], stage or 2
    try:
        path = find_weights(model)
    except CheckpointError:
        raise ConfigError(f"no preset or weight file {model!r}; presets: {', '.join(PRESETS)}") from None
    network = open_weights(path).model
    if stage not in (None, network.stage):
        raise ConfigError(f"{path} is a stage-{network.stage} network; leave --stage out")
    return network.config, network.stage


def _inputs(model: DiffIR, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a black photo and what else the network takes: the GT in stage 1, noise in stage 2."""
    config = model.config
    lq = torch.zeros(1, config.in_channels, height, width)
    if isinstance(model, DiffIRS1):
        return lq, torch.zeros(1, 3, height * config.scale, width * config.scale)
    return lq, torch.zeros(*model.noise_shape)[:, None]


def _padded(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def _measure(kind: type[DiffIR], config: ModelConfig, size: tuple[int, int], device: str) -> dict[str, Any]:
    place, (height, width) = choose_device(device), _padded(size, config.multiple)
    photos = 4 * height * width * (config.in_channels + 3 * config.scale**2)  # bytes of LQ and HQ alone
    too_large = ConfigError(
        f"a {size[1]}×{size[0]} photo does not fit into memory; give a smaller --size, or --no-measure to "
        "count alone"
    )
    if place.type == "cpu" and photos > (available_memory() or photos):
        raise too_large
    try:
        seconds, mib = _timed(kind(config).eval().to(place), height, width, place)
    except (RuntimeError, MemoryError) as error:
        # torch says by RuntimeErrors of several names that there is no memory left.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise too_large from None
    return {
        "device": str(place),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_mib": mib,
        "note": "one run, the first, random weights",
    }


def _timed(network: DiffIR, height: int, width: int, place: torch.device) -> tuple[float, float]:
    """Return seconds and peak memory in MiB of a run."""
    inputs = [t.to(place) for t in _inputs(network, height, width)]
    with torch.inference_mode(), PeakMemory(place) as memory:
        start = time.perf_counter()
        network(*inputs)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds = time.perf_counter() - start
    return seconds, memory.mib


def cost_table(result: dict[str, Any]) -> str:
    """Lay a result of `cost` out for people; G is 10⁹ Mult-Adds."""
    height, width = result["size"]
    columns = f"{'part':20} {'parameters':>12} {'conv G':>9} {'linear G':>9} {'matmul G':>9}"
    columns += f" {'Mult-Adds G':>12} {'element-wise G':>15}"
    stage = "" if result["stage"] is None else f", stage {result['stage']}, T = {result['timesteps']}"
    lines = [f"{result['model']} at {width}×{height}{stage}", columns]
    for part in [*result["parts"], result["total"]]:
        numbers = [
            part[key] / 1e9 for key in ("convolutions", "linear", "matmul", "mult_adds", "elementwise")
        ]
        conv, linear, matmul, mult_adds, elementwise = numbers
        lines.append(
            f"{part['name']:20} {part['parameters']:>12,} {conv:>9.3f} {linear:>9.4f} {matmul:>9.3f} "
            f"{mult_adds:>12.3f} {elementwise:>15.3f}"
        )
    lines += _sums(result)
    lines += ["; ".join(result["paper"])] if result["paper"] else []
    for name, title in (("restormer", "Restormer's"), ("rrdbnet", "RRDBNet's, as published,")):
        if f"of_{name}" in result:
            share, of = 100 * result[f"of_{name}"], result[f"{name}_mult_adds"] / 1e9
            lines.append(f"{share:.1f} % of {title} {of:.3f} G")
    if "measured" in result:
        run = result["measured"]
        lines.append(
            f"measured on {run['device']} ({run['threads']} threads): {run['seconds']:.2f} s, "
            f"peak {run['peak_mib']:.0f} MiB ({run['note']})"
        )
    return "\n".join(lines)


def _sums(result: dict[str, Any]) -> list[str]:
    """Return the lines of the other ways to count."""
    twice = ", CPEN and denoiser twice" if result["stage"] == 2 else ""
    lines = [f"as published (no attention products{twice}): {result['published'] / 1e9:.3f} G"]
    if result["executed"] is not None:
        lines.append(
            f"executed here (attention merged with its projection): {result['executed'] / 1e9:.3f} G"
        )
    if result["timesteps"]:
        share = 100 * result["denoiser_share"]
        lines.append(f"the denoiser's {result['timesteps']} steps: {share:.4f} % of the total")
    return lines
