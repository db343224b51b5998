"""The authors' files come in and go out by one key table; nothing they contain is executed."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from dirformer.ground.errors import CheckpointError, OutputError
from dirformer.networks.config import ModelConfig
from dirformer.networks.presets import PRESETS
from dirformer.weights.authors import convert, from_authors, infer_config, to_authors
from dirformer.weights.load import load, load_stage1, load_stage2
from dirformer.weights.unpickle import Inert, read_foreign
from helpers import tiny

SMALL = {"dim": 4, "blocks": (1, 2, 1, 1), "heads": (1, 1, 2, 2), "cpen_blocks": 1}
CONFIGS = {
    "inpainting": replace(PRESETS["inpainting"], **SMALL),
    "deblurring": replace(PRESETS["deblurring"], **SMALL, refinement_blocks=1, denoiser_blocks=2),
    "sr-x4": replace(PRESETS["sr-x4"], **SMALL, refinement_blocks=2, bias=True),
    "sr-x2": replace(PRESETS["sr-x2"], **SMALL, refinement_blocks=1, timesteps=6, beta_end=0.8),
    "realsr-x1": replace(PRESETS["realsr-x1"], **SMALL, refinement_blocks=1, norm="with_bias"),
}


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_read_off_the_tensors(name: str, stage: int) -> None:
    """Task, scale, sizes, norm, bias, T and β come back from keys and shapes alone."""
    config = CONFIGS[name]
    inferred = infer_config(dict(to_authors(tiny(config, stage))), task=config.task)
    # What stage 1 does not hold keeps its default.
    diffusion = ("timesteps", "beta_start", "beta_end", "denoiser_blocks")
    default = ModelConfig(task="sr", tail="direct")
    expected = replace(config, **{f: getattr(default, f) for f in diffusion}) if stage == 1 else config
    assert inferred == expected


@pytest.mark.parametrize("names", [("conv_up1", "conv_up2", "conv_hr"), ("upconv1", "upconv2", "HRconv")])
def test_the_tail_of_esrgan_loads_under_its_own_names(names: tuple[str, str, str]) -> None:
    """A tail written here, in either of ESRGAN's spellings, is found, loaded and computed as ESRGAN does."""
    config = replace(CONFIGS["sr-x4"], tail="nearest")
    tensors = {k: v for k, v in to_authors(tiny(config)).items() if "G.conv_" not in k}
    width, tail = 2 * config.dim, {}
    generator = torch.Generator().manual_seed(5)
    for name in (*names, "conv_last"):
        outputs = 3 if name == "conv_last" else width
        tail[f"G.{name}.weight"] = torch.randn(outputs, width, 3, 3, generator=generator)
        tail[f"G.{name}.bias"] = torch.randn(outputs, generator=generator)
    model = from_authors(tensors | tail, task="sr")
    assert model.config == replace(config, cpen_unshuffle=1)
    x = torch.randn(1, width, 5, 6, generator=generator)

    def layer(y: torch.Tensor, name: str) -> torch.Tensor:
        return functional.conv2d(y, tail[f"G.{name}.weight"], tail[f"G.{name}.bias"], padding=1)

    y = x
    for name in names[:2]:
        doubled = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = functional.leaky_relu(layer(doubled, name), 0.2)
    expected = layer(functional.leaky_relu(layer(y, names[2]), 0.2), "conv_last")
    with torch.no_grad():
        torch.testing.assert_close(model.dirformer.tail(x), expected)


def test_what_the_released_classes_do_not_compute_is_not_written() -> None:
    """A network after the paper's words would load into the released classes and compute something else."""
    for field, value in {"target": "epsilon", "qk_norm": False, "denoiser_output": "linear"}.items():
        with pytest.raises(CheckpointError, match=f"the released classes compute {field} = "):
            to_authors(tiny(replace(CONFIGS["deblurring"], **{field: value})))


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
@pytest.mark.parametrize("stage", [1, 2])
def test_there_and_back_through_files(tmp_path: Path, suffix: str, stage: int) -> None:
    """Ours → theirs → ours keeps every weight."""
    from dirformer.weights.checkpoints import save

    model = tiny(CONFIGS["inpainting"], stage)
    save(tmp_path / "a.safetensors", model)
    convert(tmp_path / "a.safetensors", tmp_path / f"b{suffix}")
    message = convert(tmp_path / f"b{suffix}", tmp_path / "c.safetensors")
    assert f"inpainting ×1, stage {stage}" in message
    again = load(tmp_path / "c.safetensors")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


class Evil:
    """Pickles to a call of os.mkdir."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Hyper(collections.OrderedDict):
    """Stands for the config objects of real Lightning files."""


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    """A file that calls a function on loading is read without the call; its tensors are still there."""
    trap = tmp_path / "trap"
    tensors = to_authors(tiny(CONFIGS["deblurring"]))
    torch.save({"evil": Evil(trap), "params": tensors}, tmp_path / "a.pth")
    content = read_foreign(tmp_path / "a.pth")
    assert not trap.exists()
    assert isinstance(content["evil"], Inert)
    assert from_authors(content).config == CONFIGS["deblurring"]


def test_unknown_classes_become_inert(tmp_path: Path) -> None:
    """Config objects of other packages do not have to be importable."""
    state = {f"generator.{k}": v for k, v in to_authors(tiny(CONFIGS["inpainting"], 1)).items()}
    content = {"state_dict": state, "hyper_parameters": Hyper(a=Hyper(b=1)), "callbacks": {Hyper: [1, 2]}}
    torch.save(content, tmp_path / "a.ckpt")
    read = read_foreign(tmp_path / "a.ckpt")
    assert isinstance(read["hyper_parameters"], Inert)
    assert from_authors(read).config.task == "inpainting"


def test_lightning_files_give_up_their_teacher() -> None:
    """`teacher` takes the stage-1 network of an inpainting stage-2 file, whatever its prefix."""
    stage2, stage1 = tiny(CONFIGS["inpainting"], 2, seed=1), tiny(CONFIGS["inpainting"], 1, seed=2)
    state = {f"generator.{k}": v for k, v in to_authors(stage2).items()}
    state |= {f"generatorT.{k}": v for k, v in to_authors(stage1).items()}
    state |= {"discriminator.model0.0.weight": torch.zeros(2)}
    assert from_authors({"state_dict": state}).stage == 2
    teacher = from_authors({"state_dict": state}, teacher=True)
    assert torch.equal(teacher.cpen.embed.weight, stage1.cpen.embed.weight)
    with pytest.raises(CheckpointError, match="no stage-1 teacher"):
        from_authors({"params": to_authors(stage2)}, teacher=True)


def test_flat_and_wrapped_dictionaries_are_accepted() -> None:
    """params_ema before params, a bare state dict, and names with `module.` in front."""
    ema, raw = (to_authors(tiny(CONFIGS["deblurring"], 1, seed=s)) for s in (1, 2))
    for content in (
        {"params": raw, "params_ema": ema},
        ema,
        {"params": {f"module.{k}": v for k, v in ema.items()}},
    ):
        assert torch.equal(from_authors(content).dirformer.embed.weight, ema["G.patch_embed.proj.weight"])


def broken(how: str) -> dict[str, Any]:
    state = to_authors(tiny(CONFIGS["sr-x4"]))
    if how == "missing":
        del state["G.latent.0.attn.qkv.weight"]
    elif how == "no tail":
        del state["G.tail.1.weight"], state["G.patch_embed.proj.weight"]
    elif how == "copies":
        state["diffusion.condition.E.0.bias"] = state["condition.E.0.bias"] + 1
    elif how == "nan":
        state["condition.mlp.0.bias"][0] = float("inf")
        state["diffusion.condition.mlp.0.bias"][0] = float("inf")
    elif how == "extra":
        state["G.tail.7.weight"] = torch.zeros(1)
    elif how == "schedule":
        state["diffusion.betas"] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    elif how == "foreign":
        return {"params": {"conv_first.weight": torch.zeros(3)}}
    elif how == "nothing":
        return {"params": 3}
    return {"params": state}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "lacks tensor dirformer.encoder.3.0.attention.qkv.weight"),
        ("no tail", "not all"),
        ("copies", "differ; the file is damaged"),
        ("nan", "not finite"),
        ("extra", "unknown tensor G.tail.7.weight"),
        ("schedule", "not linear in their square root"),
        ("foreign", "holds no DiffIR network .its keys begin: conv_first.weight"),
        ("nothing", "no state dict"),
    ],
)
def test_wrong_contents_are_named(how: str, message: str) -> None:
    """A foreign or damaged state dict is one line that says what is wrong."""
    with pytest.raises(CheckpointError, match=message) as error:
        from_authors(broken(how))
    assert "\n" not in str(error.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    """Missing, foreign, empty and truncated files are one line each."""
    torch.save({"params": to_authors(tiny(CONFIGS["deblurring"]))}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    files = {
        "text.pth": b"hello",
        "empty.pth": b"",
        "cut.pth": whole[: len(whole) // 2],
        "pickle.pth": pickle.dumps(Evil(tmp_path / "trap")),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            read_foreign(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a.txt", "nothing here")
    with pytest.raises(CheckpointError, match="without tensors"):
        read_foreign(tmp_path / "zip.pth")
    with pytest.raises(CheckpointError, match="is not there"):
        read_foreign(tmp_path / "none.pth")
    assert not (tmp_path / "trap").exists()


def test_tensors_larger_than_their_storage_are_refused(tmp_path: Path) -> None:
    """A tiny file cannot claim a huge tensor by repeating its storage."""
    torch.save({"params": {"a": torch.zeros(1).expand(10**9)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="1000000000 values on a storage of 1"):
        read_foreign(tmp_path / "a.pth")


def test_the_wrong_stage_is_named(tmp_path: Path) -> None:
    """Stage 1 where stage 2 is needed, and the other way round, is said, with what to do."""
    torch.save({"params": to_authors(tiny(CONFIGS["deblurring"], 1))}, tmp_path / "s1.pth")
    torch.save({"params": to_authors(tiny(CONFIGS["deblurring"], 2))}, tmp_path / "s2.pth")
    with pytest.raises(CheckpointError, match="is a stage-1 network, which needs the clean photo"):
        load_stage2(tmp_path / "s1.pth")
    with pytest.raises(CheckpointError, match="is a stage-2 network; expected stage 1"):
        load_stage1(tmp_path / "s2.pth")


def test_results_are_not_overwritten_and_suffixes_checked(tmp_path: Path) -> None:
    """An existing file stays; an unknown suffix is refused; a compact network cannot become theirs."""
    from dirformer.weights.checkpoints import save

    save(tmp_path / "a.safetensors", tiny())
    with pytest.raises(OutputError, match="exists already"):
        convert(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(OutputError, match="no known suffix"):
        convert(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="the released classes have no such network"):
        convert(tmp_path / "a.safetensors", tmp_path / "a.pth")
