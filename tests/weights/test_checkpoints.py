"""Weight files rebuild the network, and say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dirformer.ground.errors import CheckpointError
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES
from dirformer.weights.checkpoints import HEADER, read_header, save
from dirformer.weights.load import load
from helpers import TINY_INPAINTING, TINY_SR, tiny


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("config", [TINY_SR, TINY_INPAINTING], ids=["sr", "inpainting"])
def test_a_saved_network_comes_back(tmp_path: Path, config: ModelConfig, stage: int) -> None:
    """Stage, config and every tensor survive the file, provenance beside them."""
    model = tiny(config, stage)
    save(tmp_path / "a.safetensors", model, {"steps": 7})
    again = load(tmp_path / "a.safetensors")
    assert again.stage == stage and again.config == config and not again.training
    assert read_header(tmp_path / "a.safetensors").provenance == {"steps": 7}
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    """float16 halves the weights, not the schedule, and computing stays in float32."""
    model = tiny()
    save(tmp_path / "a.safetensors", model, dtype=torch.float16)
    again = load(tmp_path / "a.safetensors")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again.diffusion.betas, model.diffusion.betas)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-6)


def test_tensors_alone_rebuild_the_network(tmp_path: Path) -> None:
    """Tools that drop the header still find stage and config in the tensors."""
    save(tmp_path / "a.safetensors", tiny())
    tensors = load_file(tmp_path / "a.safetensors")
    description = json.loads(bytes(tensors.pop("config").tolist()))
    model = STAGES[description["stage"]](ModelConfig.from_dict(description["config"]))
    model.load_state_dict(tensors)
    assert len(tensors["diffusion.betas"]) == model.config.timesteps


def spoil(path: Path, how: str) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    if how == "missing":
        del tensors["dirformer.embed.weight"]
    elif how == "unknown":
        tensors["surprise"] = torch.zeros(1)
    elif how == "shape":
        tensors["dirformer.embed.weight"] = torch.zeros(2, 2)
    elif how == "nan":
        tensors["cpen.embed.bias"][0] = float("nan")
    elif how == "config":
        header["config"]["dim"] = "wide"
    elif how == "stage":
        header["stage"] = 3
    elif how == "format":
        header["format"] = 99
    metadata = {} if how == "no header" else {HEADER: json.dumps(header)}
    save_file(tensors, path, metadata=metadata)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "foreign":
        path.write_bytes(b"not a weight file at all")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"lacks tensor dirformer.embed.weight"),
        ("unknown", r"has the unknown tensor surprise"),
        ("shape", r"has another shape for tensor dirformer.embed.weight"),
        ("nan", r"not finite in tensor cpen.embed.bias"),
        ("config", r"dim is 'wide'; expected int"),
        ("stage", r"cannot be built"),
        ("format", r"format 99; this version reads 1"),
        ("no header", r"no dirformer header"),
        ("truncated", r"dirformer convert"),
        ("foreign", r"dirformer convert"),
    ],
)
def test_a_spoilt_file_is_named_with_what_is_wrong(tmp_path: Path, how: str, message: str) -> None:
    """Every kind of damage is one line that names the file."""
    path = tmp_path / "a.safetensors"
    save(path, tiny())
    spoil(path, how)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert "a.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error says what to give instead."""
    with pytest.raises(CheckpointError, match="is not there; give a weight file"):
        load(tmp_path / "none.safetensors")
