"""Weights of one network in one safetensors file.

The header's `dirformer` entry is JSON: format, stage, config, inference, provenance. The tensor `config`
(uint8) holds stage and config as JSON once more, for tools that see tensors only; together with the shapes
and `diffusion.betas` it rebuilds the network. Nothing in such a file is ever executed, and a network is built
only after the shapes in the file were found to be its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.paths import atomic_path
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIR
from dirformer.networks.prior import CPEN
from dirformer.weights.packed import SCALE, is_packed, pack, unpack

FORMAT, PACKED_FORMAT = 2, 3
READS = (1, 2, 3)
"""Format 1 has `context` and `patch` in its provenance; format 3 has 8-bit weights, see `packed.py`."""
HEADER = "dirformer"
MAX_HEADER = 2**20
"""Characters of the header's entry."""
WHOLE, TEACHER = "whole", "cpen"
"""What a file holds of its network; see `Header.part`."""
CONTEXTS = ("image", "window", "window-prior")
_MAX_PATCH = 2**16
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True)
class Inference:
    """How a network is best used, as its training found. CheckpointError for what cannot be."""

    context: str = "image"
    """What an attention's sums are taken over; see `RestoreOptions.context`."""
    patch: int | None = None
    """Side of the last training patches in pixels of the LQ photo; None: not known."""

    def __post_init__(self) -> None:
        if self.context not in CONTEXTS:
            raise CheckpointError(f"context {short(self.context)}; expected one of {', '.join(CONTEXTS)}")
        if self.patch is not None and (type(self.patch) is not int or not 1 <= self.patch <= _MAX_PATCH):
            raise CheckpointError(f"patch {short(self.patch)}; expected a number of 1 to {_MAX_PATCH} pixels")


@dataclass(frozen=True)
class Header:
    """What a weight file says of itself."""

    stage: int
    config: ModelConfig
    inference: Inference = field(default_factory=Inference)
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: recipe, steps, data, licence … Results never depend on it."""
    version: int = FORMAT
    part: str = WHOLE
    """`whole`, or `cpen`: a teacher, stage 1's CPEN alone, which is all that fine-tuning stage 2 needs."""


@dataclass(frozen=True)
class Weights:
    """A weight file that was read: once, header and network together."""

    path: Path
    header: Header
    model: DiffIR
    """On the CPU, in float32, ready for inference."""


def save(
    path: Path,
    model: DiffIR,
    provenance: dict[str, Any] | None = None,
    inference: Inference | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    part: str = WHOLE,
) -> None:
    """Write `model` to a safetensors file, atomically.

    Args:
        path: file to write.
        model: stage 1 or 2; its device does not matter.
        provenance: JSON values that say where the weights come from (recipe, steps, data, licence …).
        inference: how the network is best used; by default on whole photos.
        dtype: of the stored weights; float16 halves the file, int8 quarters it, see `packed.pack`. Reading
            returns float32 in any case. The schedule stays float32.
        part: `cpen` writes the CPEN of a stage-1 network alone, as a teacher.
    """
    description = {"stage": model.stage, "config": model.config.to_dict()}
    tensors = _stored({k: v for k, v in model.state_dict().items() if _belongs(k, part)}, dtype)
    tensors["config"] = torch.frombuffer(bytearray(json.dumps(description).encode()), dtype=torch.uint8)
    known = inference or Inference()
    header = {
        "format": PACKED_FORMAT if is_packed([*tensors]) else FORMAT,
        **description,
        "part": part,
        "inference": {"context": known.context, "patch": known.patch},
        "provenance": provenance or {},
    }
    with atomic_path(path) as target:
        save_file(tensors, target, metadata={HEADER: json.dumps(header)})


def _stored(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    schedule = {key: value.float() for key, value in state.items() if key.startswith("diffusion.")}
    weights = {key: value.detach().cpu() for key, value in state.items() if key not in schedule}
    if dtype == torch.int8:
        weights = pack(weights)
    else:
        weights = {key: value.to(dtype) for key, value in weights.items()}
    stored = schedule | weights
    return {key: stored[key].detach().cpu().contiguous() for key in sorted(stored)}


def read_header(path: Path) -> Header:
    """Return the header alone.

    Raises:
        CheckpointError: if the file is missing, is not safetensors, was not written by `save`, or describes a
            network that cannot be built.
    """
    with _opened(path) as file:
        return _parsed(file.metadata() or {}, str(path))


def read(path: Path) -> Weights:
    """Rebuild the network of a file. The file is opened once.

    Raises:
        CheckpointError: as `read_header`; also if tensors are missing, superfluous, of other shapes or not
            finite.
    """
    header, tensors = _tensors(path)
    if header.part != WHOLE:
        raise CheckpointError(
            f"{path} is a teacher, the CPEN of stage 1 alone; it goes with stage1=FILE of stage 2, together "
            "with init=FILE"
        )
    return Weights(path, header, build(header.stage, header.config, tensors, str(path)))


def read_teacher(path: Path) -> tuple[ModelConfig, CPEN, dict[str, Tensor]]:
    """Read what stage 2 learns from: the CPEN of a stage-1 file, a whole one or a teacher.

    Returns:
        Config, CPEN, and the tensors of the DIRformer without their prefix; a teacher has none.

    Raises:
        CheckpointError: as `read`; also if the file is of stage 2.
    """
    header, tensors = _tensors(path)
    if header.stage != 1:
        raise CheckpointError(f"{path} is a stage-2 network; expected stage 1 (one whose CPEN sees the GT)")
    _require_floats(tensors, str(path))
    cpen = CPEN(header.config, with_gt=True)
    parts: dict[str, dict[str, Tensor]] = {"cpen": {}, "dirformer": {}}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        parts[name][rest] = value.float()
    cpen.load_state_dict(parts["cpen"])
    return header.config, cpen.eval(), parts["dirformer"]


def _tensors(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read a file once: its header, and its tensors if their shapes are those of its network."""
    with _opened(path) as file:
        header = _parsed(file.metadata() or {}, str(path))
        keys = [key for key in file.keys() if key != "config"]  # noqa: SIM118
        try:
            if header.part == WHOLE:
                require_blocks(header.config, len(keys), str(path))
            found = {
                key: torch.Size(file.get_slice(key).get_shape()) for key in keys if not key.endswith(SCALE)
            }
            expected = shapes(header.stage, header.config)
            _compare({k: v for k, v in expected.items() if _belongs(k, header.part)}, found, str(path))
            return header, unpack({key: file.get_tensor(key) for key in keys}, str(path))
        except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {short(str(error))}") from None


def from_tensors(tensors: dict[str, Tensor], source: str = "state dict") -> DiffIR:
    """Rebuild a whole network from a file's tensors alone, for tools that leave the header behind.

    Raises:
        CheckpointError: as `read`.
    """
    described = tensors.get("config", torch.empty(0, dtype=torch.uint8))
    if described.dtype != torch.uint8 or not 0 < described.numel() <= MAX_HEADER:
        raise CheckpointError(f"{source} lacks the tensor config; the file is damaged or foreign")
    try:
        said = json.loads(described.cpu().numpy().tobytes(), parse_constant=_no_constant)
        stage, config = said["stage"], ModelConfig.from_dict(dict(said["config"]))
        STAGES[stage]
    except (ConfigError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source} describes a network that cannot be built: {short(str(error))}"
        ) from None
    rest = {key: value for key, value in tensors.items() if key != "config"}
    require_blocks(config, len(rest), source)
    return build(stage, config, unpack(rest, source), source)


def _belongs(key: str, part: str) -> bool:
    return part == WHOLE or key.startswith(f"{part}.")


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there; give a weight file or a name that `dirformer models` lists"
        )
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError):
        raise CheckpointError(
            f"{path} is not a dirformer weight file (safetensors); "
            "an authors' .pth or .ckpt becomes one with: dirformer convert"
        ) from None


def _parsed(metadata: dict[str, str], source: str) -> Header:
    text = metadata.get(HEADER, "null")
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"{source} has a header of {len(text)} characters; expected {MAX_HEADER} at most"
        )
    try:
        header = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} has a header that is not JSON: {short(str(error))}") from None
    if not isinstance(header, dict) or {"format", "stage", "config"} - set(header):
        raise CheckpointError(
            f"{source} has no dirformer header; was it written by `dirformer convert` or `train`?"
        )
    version, stage, config = header["format"], header["stage"], header["config"]
    if type(version) is not int or version not in READS:
        raise CheckpointError(
            f"{source} has format {short(version)}; this version reads {' and '.join(map(str, READS))}: "
            "upgrade dirformer"
        )
    provenance = _dictionary(header, "provenance", source)
    known = provenance if version == 1 else _dictionary(header, "inference", source)
    try:
        inference = Inference(known.get("context", "image"), known.get("patch"))
    except CheckpointError as error:
        raise CheckpointError(f"{source} asks for {error}") from None
    if type(stage) is not int or stage not in STAGES or not isinstance(config, dict):
        raise CheckpointError(
            f"{source} describes a network that cannot be built: stage {short(stage)}, "
            f"config {short(config)}; expected stage 1 or 2 and a config"
        )
    part = header.get("part", WHOLE)
    if part not in (WHOLE, TEACHER) or (part == TEACHER and stage != 1):
        raise CheckpointError(
            f"{source} holds part {short(part)} of stage {stage}; expected whole, or cpen of stage 1"
        )
    try:
        return Header(stage, ModelConfig.from_dict(config), inference, provenance, version, part)
    except ConfigError as error:
        raise CheckpointError(f"{source} describes a network that cannot be built: {error}") from None


def _dictionary(header: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    value = header.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} has a header whose {name} is {short(value)}; expected a dictionary")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# From tensors to a network ----------------------------------------------------------------------------


def require_blocks(config: ModelConfig, tensors: int, source: str) -> None:
    """Raise CheckpointError if a config has more blocks than a file has tensors."""
    blocks = sum(config.blocks) + config.refinement_blocks + config.cpen_blocks + config.denoiser_blocks
    if blocks > tensors:
        raise CheckpointError(f"{source} lacks tensors: it has {tensors}, its config has {blocks} blocks")


def shapes(stage: int, config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shapes of a network's tensors, without the memory for them."""
    with torch.device("meta"):
        return {key: value.shape for key, value in STAGES[stage](config).state_dict().items()}


def build(stage: int, config: ModelConfig, tensors: dict[str, Tensor], source: str) -> DiffIR:
    """Build a network from its tensors, in float32; strict.

    Raises:
        CheckpointError: naming the first key that is missing, unknown, of another shape or not finite.
    """
    _compare(shapes(stage, config), {key: value.shape for key, value in tensors.items()}, source)
    _require_floats(tensors, source)
    model = STAGES[stage](config)
    model.load_state_dict({key: value.float() for key, value in tensors.items()})
    return model.eval()


def _require_floats(tensors: dict[str, Tensor], source: str) -> None:
    """Raise CheckpointError for the first tensor that holds no floats, or one that is not finite."""
    other = (k for k, v in tensors.items() if v.dtype not in _FLOATS)
    _refuse(source, "has other values than floats in", other)
    infinite = (k for k, v in tensors.items() if not v.isfinite().all())
    _refuse(source, "has values that are not finite in", infinite)


def _compare(expected: dict[str, torch.Size], found: dict[str, torch.Size], source: str) -> None:
    _refuse(source, "lacks", expected.keys() - found.keys())
    _refuse(source, "has the unknown", found.keys() - expected.keys())
    _refuse(source, "has another shape for", (k for k in expected if found[k] != expected[k]))


def _refuse(source: str, problem: str, keys: Iterable[str]) -> None:
    first, *more = [*sorted(keys), None]
    if first is not None:
        others = f" and {len(more) - 1} more" if len(more) > 1 else ""
        raise CheckpointError(
            f"{source} {problem} tensor {first[:100]}{others}; the file is damaged or foreign"
        )
