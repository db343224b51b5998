"""Weights in 8 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dirformer.ground.errors import CheckpointError
from dirformer.weights.checkpoints import HEADER, PACKED_FORMAT, read, read_header, save
from dirformer.weights.packed import LEAST, SCALE, pack, unpack
from helpers import tiny


def test_error_is_at_most_half_a_step_or_clipped() -> None:
    """Values are at most half a step from their number, but for those beyond a channel's largest one."""
    torch.manual_seed(0)
    weight = torch.randn(24, 16, 3, 3) * torch.logspace(-4, 2, 24)[:, None, None, None]
    packed = pack({"w": weight})
    assert packed["w"].dtype == torch.int8 and packed["w" + SCALE].shape == (24,)
    back = unpack(packed, "test")["w"]
    step = packed["w" + SCALE][:, None, None, None]
    inside = packed["w"].abs() < 127
    assert bool(((back - weight).abs() <= step * 0.5001)[inside].all())
    # Against the plain rule, the largest value at 127, the chosen clip is never worse.
    plain = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    rule = (weight / plain).round() * plain
    assert bool(
        ((back - weight).square().sum((1, 2, 3)) <= 1.0001 * (rule - weight).square().sum((1, 2, 3))).all()
    )


def test_zero_and_small_tensors_stay() -> None:
    """A channel of zeros stays zero; vectors and small matrices stay floats."""
    weight = torch.zeros(4, LEAST)
    weight[1] = 1.0
    packed = pack({"w": weight, "b": torch.ones(LEAST), "s": torch.ones(8, 8)})
    assert packed["b"].dtype == packed["s"].dtype == torch.float16
    assert torch.equal(unpack(packed, "test")["w"][0], torch.zeros(LEAST))
    assert torch.allclose(unpack(packed, "test")["w"][1], torch.ones(LEAST), rtol=1e-6)


def test_file_is_smaller_and_restores_alike(tmp_path: Path) -> None:
    """A file in 8 bits says so in its header, is smaller, and its network does nearly the same."""
    model = tiny()
    save(tmp_path / "h.safetensors", model, dtype=torch.float16)
    save(tmp_path / "q.safetensors", model, {"recipe": "r"}, dtype=torch.int8)
    assert read_header(tmp_path / "q.safetensors").version == PACKED_FORMAT
    assert read_header(tmp_path / "h.safetensors").version == 2
    assert (tmp_path / "q.safetensors").stat().st_size < (tmp_path / "h.safetensors").stat().st_size
    again = read(tmp_path / "q.safetensors").model
    lq = torch.rand(1, 3, 16, 16)
    noise = torch.randn(*model.noise_shape)[:, None]
    with torch.inference_mode():
        assert (again(lq, noise) - model(lq, noise)).abs().max() < 0.02
    assert torch.equal(again.diffusion.betas, model.diffusion.betas)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("lost", "has other values than floats in tensor"),
        ("foreign", "that fit no 8-bit tensor"),
        ("shape", "that fit no 8-bit tensor"),
        ("whole", "that are no floats"),
        ("infinite", "has values that are not finite in tensor"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: str, words: str) -> None:
    """Factors that are lost, foreign, of another shape or type, or infinite are refused in one line."""
    save(tmp_path / "q.safetensors", tiny(), dtype=torch.int8)
    tensors = load_file(tmp_path / "q.safetensors")
    with safe_open(tmp_path / "q.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert HEADER in metadata
    name = next(key for key in tensors if key.endswith(SCALE))
    if damage == "lost":
        del tensors[name]
    elif damage == "foreign":
        tensors["nothing" + SCALE] = torch.ones(3)
    elif damage == "shape":
        tensors[name] = torch.ones(len(tensors[name]) + 1)
    elif damage == "whole":
        tensors[name] = torch.ones(len(tensors[name]), dtype=torch.int32)
    else:
        tensors[name] = torch.full_like(tensors[name], torch.inf)
    save_file(tensors, tmp_path / "d.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=words) as error:
        read(tmp_path / "d.safetensors")
    assert "\n" not in str(error.value)
