"""Agreement with ten small released networks and their two checkpoint files, through `convert`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dirformer.networks.diffir import DiffIRS1, DiffIRS2
from dirformer.networks.prior import CPEN
from dirformer.weights.authors import from_authors, to_authors
from dirformer.weights.load import load_stage2
from dirformer.weights.unpickle import read_foreign
from parity import formula

ENTRIES = [
    "inpainting_s1",
    "inpainting_s2",
    "deblurring_s1",
    "deblurring_s2",
    "sr_x4_s1",
    "sr_x4_s2",
    "realsr_x4_s2",
    "realsr_x2_s2",
    "realsr_x1_s1",
    "realsr_x1_s2",
]


class Golden:
    def __init__(self, folder: Path) -> None:
        self.tensors = load_file(folder / "released_small.safetensors")
        self.notes = json.loads((folder / "released_small.json").read_text())

    def get(self, name: str) -> Tensor:
        return self.tensors[self.notes["aliases"].get(name, name)].float()

    def state(self, entry: str) -> dict[str, Tensor]:
        return {
            k: self.get(f"{entry}/state_dict/{k}") for k in self.notes["entries"][entry]["state_dict_keys"]
        }

    def inputs(self, entry: str) -> dict[str, Tensor]:
        names = self.notes["entries"][entry]["inputs"]
        data = {k: self.get(f"{entry}/inputs/{k}") for k in names}
        if "net_input" in data:
            data["lq"] = data["net_input"]
        return data

    def output(self, entry: str, name: str) -> Tensor:
        return self.get(f"{entry}/outputs/{name}")


@cache
def _golden(folder: Path) -> Golden:
    return Golden(folder)


@pytest.fixture
def golden(shared: Path) -> Golden:
    return _golden(shared / "reference")


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.abs().max()) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("name", ENTRIES)
def test_converted_network_agrees(golden: Golden, name: str) -> None:
    """Weights taken in by their keys give the released IPR, reverse steps, features and output."""
    model = from_authors(golden.state(name))
    notes, data = golden.notes["entries"][name], golden.inputs(name)
    assert model.config == formula.config_of(notes["constructor_args"])
    watched = {"g_latent": "encoder.3", "g_encoder_level1": "encoder.0"}
    watched["g_refinement" if model.config.refinement_blocks else "g_decoder_level1"] = (
        "refinement" if model.config.refinement_blocks else "decoder.0"
    )
    seen: dict[str, Tensor] = {}
    for feature, path in watched.items():
        model.dirformer.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, feature=feature: seen.__setitem__(feature, out)
        )
    if isinstance(model, DiffIRS1):
        priors = {"ipr": model.cpen(data["lq"], data["gt"])}
        outputs = {"output": model(data["lq"], data["gt"])} | seen
    else:
        priors, outputs = stage2(golden, name, model, data, seen)
    for key, actual in priors.items():
        assert_close(actual, golden.output(name, key), 1e-5)
    for key in notes["outputs"]:
        if key in outputs:
            assert_close(outputs[key], golden.output(name, key), 1e-4)
    covered = set(priors) | set(outputs) | {"train_l_abs", "train_l_kd"}
    assert set(notes["outputs"]) <= covered


def stage2(
    golden: Golden, name: str, model: DiffIRS2, data: dict[str, Tensor], seen: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    d = model.cpen(data["lq"])
    priors: dict[str, Any] = {"d": d, "train_d": d}
    priors["z_steps"] = torch.stack(model.estimate(d, data["z_T"][None]))
    z, predictions = data["z_T"], []
    for index in reversed(range(model.config.timesteps)):
        predictions.append(model.denoiser(d, model.diffusion.times[index], z))
        z = model.diffusion.reverse_step(z, predictions[-1], index)
    priors["x0_pred"] = torch.stack(predictions)
    outputs = {"output": model(data["lq"], data["z_T"][None])} | dict(seen)
    prefix = f"{name}/cpen_s1/E."
    keys = [k for k in [*golden.tensors, *golden.notes["aliases"]] if k.startswith(prefix)]
    teacher = {k.removeprefix(prefix): golden.get(k) for k in keys}
    stage1 = golden.state(name) | {f"E.{k}": t for k, t in teacher.items()}
    stage1 = {k: t for k, t in stage1.items() if k.startswith(("G.", "E."))}
    cpen: CPEN = from_authors(stage1).cpen
    priors["ipr_s1"] = cpen(data["lq"], data["gt"])
    priors["train_z_T"] = model.diffusion.add_noise(priors["ipr_s1"], data["train_eps"])
    restored, estimates = model.restore_and_estimate(data["lq"], priors["ipr_s1"], data["train_eps"][None])
    priors["train_z_steps"] = torch.stack(estimates)
    outputs["train_output"] = restored
    assert float(F.l1_loss(estimates[-1], priors["ipr_s1"])) == pytest.approx(
        float(golden.output(name, "train_l_abs")), rel=1e-5
    )
    if "inpainted" in golden.notes["entries"][name]["outputs"]:
        outputs["inpainted"] = data["mask"] * outputs["output"] + (1 - data["mask"]) * data["gt"]
    return priors, outputs


@pytest.mark.parametrize("name", [n for n in ENTRIES if n.endswith("s2")])
def test_schedule_agrees(golden: Golden, name: str) -> None:
    """The twelve exported schedule buffers equal the released ones to a float32 rounding."""
    exported = to_authors(from_authors(golden.state(name)))
    for key, expected in golden.notes["entries"][name]["schedule"].items():
        actual = exported[f"diffusion.{key}"].tolist()
        assert actual == pytest.approx(expected, rel=1e-6, abs=1e-9), key


@pytest.mark.parametrize("name", ENTRIES)
def test_conversion_there_and_back_gives_the_same_file(golden: Golden, name: str) -> None:
    """Export writes every key of the released class and the same values, so it loads with strict=True."""
    state = golden.state(name)
    exported = to_authors(from_authors(state))
    assert set(exported) == set(state)
    for key, value in state.items():
        assert exported[key].shape == value.shape
        torch.testing.assert_close(exported[key], value, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_basicsr_checkpoint_file(golden: Golden, shared: Path) -> None:
    """A BasicSR .pth restores as the released network does, from `params_ema`, not `params`."""
    model = load_stage2(shared / "reference" / "small_sr_x4_s2.pth")
    data = golden.inputs("sr_x4_s2")
    assert_close(model(data["lq"], data["z_T"][None]), golden.output("sr_x4_s2", "output"), 1e-4)


@torch.no_grad()
def test_lightning_checkpoint_file(golden: Golden, shared: Path) -> None:
    """A LaMa-style .ckpt restores as the released network does, and gives up its stage-1 teacher."""
    content = read_foreign(shared / "reference" / "small_inpainting_s2.ckpt")
    data = golden.inputs("inpainting_s2")
    model = from_authors(content)
    assert_close(model(data["lq"], data["z_T"][None]), golden.output("inpainting_s2", "output"), 1e-4)
    stage1 = from_authors(content, teacher=True)
    assert isinstance(stage1, DiffIRS1)
    data = golden.inputs("inpainting_s1")
    assert_close(stage1(data["lq"], data["gt"]), golden.output("inpainting_s1", "output"), 1e-4)
