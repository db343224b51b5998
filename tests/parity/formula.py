"""Weights and inputs computed from their names, so that agreement can be tested without any weight file.

A hash (splitmix64, seeded with the CRC-32 of a name) gives uniform numbers; every weight, photo and noise
of the golden entries follows from it. The files `data/formula_*.json` hold the numbers of the released
networks under these weights.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIR
from dirformer.weights.authors import _their_key, module_table

DATA = Path(__file__).parent / "data"


@cache
def golden(part: str) -> dict[str, Any]:
    return json.loads((DATA / f"formula_{part}.json").read_text())


def hashed(name: str, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        k = np.arange(1, count + 1, dtype=np.uint64)
        z = np.uint64(zlib.crc32(name.encode()) << 32) + k * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z >> np.uint64(32)


def u(name: str, count: int) -> np.ndarray:
    return hashed(name, count) / 2.0**32


def v(name: str, count: int) -> np.ndarray:
    return hashed(name, count) / 2.0**31 - 1


def weight(key: str, shape: torch.Size) -> Tensor:
    n = shape.numel()
    values, fan = v(key, n), n / shape[0]
    if key.endswith("attn.temperature"):
        values = 3 + 1.5 * values
    elif key.endswith(("norm1.body.weight", "norm2.body.weight")):
        values = 1 + 0.2 * values
    elif key.endswith(".bias"):
        values = 0.1 * values
    elif key.endswith("kernel.0.weight"):
        values = 0.05 * values
        values[: n // 2] += 0.0125
    else:
        values = _gain(key) * np.sqrt(3 / fan) * values
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _gain(key: str) -> float:
    if key.startswith(("E.", "condition.")):
        return 0.3 if key.endswith("body.2.weight") else 1.4
    if key.startswith("denoise."):
        return 1.5
    if key.endswith("attn.project_out.weight"):
        return 2.0
    return 0.5 if key in ("G.output.weight", "G.tail.1.weight") else 1.0


def config_of(arguments: dict[str, Any]) -> ModelConfig:
    """Constructor arguments of the released classes → our config."""
    scale = arguments.get("scale", 1)
    is_sr = "scale" in arguments
    inpainting = arguments["inp_channels"] == 4
    return ModelConfig(
        task="sr" if is_sr else "inpainting" if inpainting else "deblurring",
        scale=scale,
        dim=arguments["dim"],
        blocks=tuple(arguments["num_blocks"]),
        refinement_blocks=0 if inpainting else arguments["num_refinement_blocks"],
        heads=tuple(arguments["heads"]),
        ffn_factor=float(arguments["ffn_expansion_factor"]),
        norm="with_bias" if arguments["LayerNorm_type"] == "WithBias" else "bias_free",
        bias=arguments["bias"],
        unshuffle=4 // scale if is_sr else 1,
        tail="shuffle" if is_sr else "conv",
        skip="none" if inpainting else "nearest",
        cpen_blocks=arguments["n_encoder_res"],
        cpen_unshuffle=4 // scale if is_sr else 4,
        timesteps=arguments.get("timesteps", 4),
        beta_start=arguments.get("linear_start", 0.1),
        beta_end=arguments.get("linear_end", 0.99),
        denoiser_blocks=arguments.get("n_denoise_res", 1),
    )


def key_map(model: DiffIR) -> dict[str, str]:
    """Our parameter names → theirs, in the order of their state dict."""
    table = module_table(model.config, model.stage)
    return {name: _their_key(name, table) for name, _ in model.named_parameters()}


def build(arguments: dict[str, Any], stage: int) -> DiffIR:
    """The network of these arguments with the weights of the formula."""
    model = STAGES[stage](config_of(arguments)).eval()
    names = key_map(model)
    with torch.no_grad():
        for ours, parameter in model.named_parameters():
            # Both CPENs and all tasks share streams: the name alone decides.
            parameter.copy_(weight(names[ours], parameter.shape))
    return model


def photo(noise: str, height: int, width: int, batch: int = 2) -> Tensor:
    b, c = np.meshgrid(np.arange(batch), np.arange(3), indexing="ij")
    plane = 3 * b + c
    base = 0.1 + 0.3 * u("image#base", 3 * batch)[plane]
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    value = base[..., None, None] + np.zeros((batch, 3, height, width))
    for j in (0, 1):
        phase = u("image#phase", 6 * batch)[2 * plane + j]
        fy = 1 + 3 * u("image#fy", 2 * batch)[2 * b + j]
        fx = 1 + 3 * u("image#fx", 2 * batch)[2 * b + j]
        t = phase[..., None, None] + fy[..., None, None] * y[:, None] + fx[..., None, None] * x
        f = t - np.floor(t)
        value = value + 0.2 * (4 * f * (1 - f))
    value = value + 0.15 * u(noise, value.size).reshape(value.shape)
    return torch.from_numpy((np.floor(256 * value) / 256).astype(np.float32))


def mask(height: int, width: int, batch: int = 2) -> Tensor:
    holes = torch.zeros(batch, 1, height, width)
    for b in range(batch):
        columns = slice((1 + 2 * b) * width // 8, (4 + 2 * b) * width // 8)
        holes[b, :, height // 4 : height // 4 + height // 2, columns] = 1
    return holes


def noise(name: str, batch: int = 2, size: int = 256) -> Tensor:
    sums = u(name, 12 * batch * size).reshape(-1, 12).sum(1) - 6
    return torch.from_numpy(sums.astype(np.float32)).reshape(batch, size)


def inputs(entry: dict[str, Any]) -> dict[str, Tensor]:
    """lq (or net_input under that name), gt, z_T, train_noise of an entry."""
    result = {"gt": photo("gt#noise", *entry["inputs"]["gt"]["shape"][2:])}
    if "net_input" in entry["inputs"]:
        hole = mask(*result["gt"].shape[2:])
        result["lq"] = torch.cat([result["gt"] * (1 - hole), hole], 1)
    else:
        result["lq"] = photo("lq#noise", *entry["inputs"]["lq"]["shape"][2:])
    if "z_T" in entry["inputs"]:
        result |= {name: noise(name) for name in ("z_T", "train_noise")}
    return result


def crc(tensors: list[Tensor]) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.detach().numpy().astype("<f4").tobytes(), value)
    return value


def sample_indices(n: int) -> Tensor:
    h = hashed("sample", 32)
    return torch.tensor([((i << 32) + int(h[i])) * n >> 37 for i in range(32)])
