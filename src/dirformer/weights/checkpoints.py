"""Weights of one network in one safetensors file.

The header's `dirformer` entry is JSON: format, stage, config, provenance. The tensor `config` (uint8)
holds stage and config as JSON once more, for tools that see tensors only; together with the shapes and
`diffusion.betas` it rebuilds the network. Nothing in such a file is ever executed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.paths import atomic_path
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIR

FORMAT = 1
HEADER = "dirformer"


def save(
    path: Path, model: DiffIR, provenance: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write `model` to a safetensors file, atomically.

    Args:
        path: file to write.
        model: stage 1 or 2; its device does not matter.
        provenance: JSON values that say where the weights come from (recipe, steps, data, licence …).
        dtype: of the stored weights; float16 halves the file, `load` returns float32 in any case. The
            schedule stays float32.
    """
    description = {"stage": model.stage, "config": model.config.to_dict()}
    tensors = {
        key: value.detach().cpu().to(torch.float32 if key.startswith("diffusion.") else dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    tensors["config"] = torch.frombuffer(bytearray(json.dumps(description).encode()), dtype=torch.uint8)
    header = {"format": FORMAT, **description, "provenance": provenance or {}}
    with atomic_path(path) as part:
        save_file(tensors, part, metadata={HEADER: json.dumps(header)})


def read_header(path: Path) -> dict[str, Any]:
    """Return the header: `format`, `stage`, `config`, `provenance`.

    Raises:
        CheckpointError: if the file is missing, is not safetensors, or was not written by `save`.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there; give a weight file or a name that `dirformer models` lists"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
    except (SafetensorError, OSError, ValueError):
        raise CheckpointError(
            f"{path} is not a dirformer weight file (safetensors); "
            "an authors' .pth or .ckpt becomes one with: dirformer convert"
        ) from None
    if not isinstance(header, dict) or {"format", "stage", "config"} - set(header):
        raise CheckpointError(
            f"{path} has no dirformer header; was it written by `dirformer convert` or `train`?"
        )
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {header['format']}; this version reads {FORMAT}: upgrade dirformer"
        )
    return header


def load(path: Path) -> DiffIR:
    """Rebuild the network of a file, on the CPU, in float32, ready for inference.

    Raises:
        CheckpointError: as `read_header`; also if tensors are missing, superfluous, of other shapes or not
            finite.
    """
    header = read_header(path)
    try:
        config = ModelConfig.from_dict(header["config"])
        build = STAGES[header["stage"]]
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"{path} describes a network that cannot be built: {error}") from None
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != "config"}  # noqa: SIM118
    model = build(config)
    fill(model, tensors, str(path))
    return model.eval()


def fill(model: DiffIR, tensors: dict[str, Tensor], source: str) -> None:
    """Copy `tensors` into `model` as float32; strict.

    Raises:
        CheckpointError: naming the first key that is missing, unknown, of another shape or not finite.
    """
    expected = model.state_dict()
    for problem, keys in (
        ("lacks", sorted(set(expected) - set(tensors))),
        ("has the unknown", sorted(set(tensors) - set(expected))),
        (
            "has another shape for",
            sorted(k for k in expected if k in tensors and tensors[k].shape != expected[k].shape),
        ),
        (
            "has values that are not finite in",
            sorted(k for k, v in tensors.items() if not v.isfinite().all()),
        ),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(
                f"{source} {problem} tensor {keys[0]}{more}; the file is damaged or foreign"
            )
    model.load_state_dict({key: value.float() for key, value in tensors.items()})
