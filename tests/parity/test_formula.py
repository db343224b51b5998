"""Agreement with the released networks: sampled tensors, losses, gradients, Adam steps, at full size too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2
from parity import formula

SMALL = list(formula.golden("small")["entries"])
FULL = list(formula.golden("full")["entries"])
PRIORS = ("ipr", "ipr_s1", "d", "x0.", "z.", "train.x0.", "train.z")

OUR_LEVELS = {
    "patch_embed": "embed",
    "encoder_level1": "encoder.0",
    "encoder_level2": "encoder.1",
    "encoder_level3": "encoder.2",
    "latent": "encoder.3",
    "decoder_level3": "decoder.2",
    "decoder_level2": "decoder.1",
    "decoder_level1": "decoder.0",
    "refinement": "refinement",
}


def entry(name: str) -> dict[str, Any]:
    part = "full" if name.startswith("full_") else "small"
    return formula.golden(part)["entries"][name]


def our_module(model: DiffIR, theirs: str) -> nn.Module | None:
    level, _, inner = theirs.removeprefix("G.").partition(".")
    inner = inner.replace("attn", "attention").replace("ffn", "feed_forward")
    path = f"dirformer.{OUR_LEVELS[level]}" + (f".{inner}" if inner else "")
    module = model.get_submodule(path)
    return None if isinstance(module, nn.ModuleList) and not len(module) else module


def watch(model: DiffIR, names: list[str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name in names:
        module = our_module(model, name)
        if module is not None:
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach()))
    return seen


def teacher(model: DiffIRS2, arguments: dict[str, Any]) -> nn.Module:
    known = {
        k: v
        for k, v in arguments.items()
        if k not in ("timesteps", "linear_start", "linear_end", "n_denoise_res")
    }
    return formula.build(known, 1).cpen.requires_grad_(requires_grad=False)


def forward_tensors(model: DiffIR, data: dict[str, Tensor], e: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor an entry names, computed by our network."""
    seen = watch(model, [name for name in e["tensors"] if name.startswith("G.")])
    with torch.no_grad():
        if isinstance(model, DiffIRS1):
            result = {"ipr": model.cpen(data["lq"], data["gt"]), "output": model(data["lq"], data["gt"])}
            return result | seen
        result = {"d": model.cpen(data["lq"]), "output": model(data["lq"], data["z_T"][None])}
        result |= dict(seen)
        z = data["z_T"]
        result |= chain(model, result["d"], z, "")
        prior = teacher(model, e["constructor_args"]).to(z)(data["lq"], data["gt"])
        result["ipr_s1"] = prior
        result["train.z_start"] = model.diffusion.add_noise(prior, data["train_noise"])
        result |= chain(model, result["d"], result["train.z_start"], "train.")
        result["train.output"], estimates = model.restore_and_estimate(
            data["lq"], prior, data["train_noise"][None]
        )
        steps = model.config.timesteps
        assert torch.equal(estimates[-1], result[f"train.z.{steps - 1}"])
    return result


def chain(model: DiffIRS2, condition: Tensor, z: Tensor, prefix: str) -> dict[str, Tensor]:
    result = {}
    for step in range(model.config.timesteps):
        index = model.config.timesteps - 1 - step
        prediction = model.denoiser(condition, model.diffusion.times[index], z)
        z = model.diffusion.reverse_step(z, prediction, index)
        result[f"{prefix}x0.{step}"], result[f"{prefix}z.{step}"] = prediction, z
    return result


def losses(model: DiffIR, prior: Tensor | None, data: dict[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(model, DiffIRS1):
        return {"image": F.l1_loss(model(data["lq"], data["gt"]), data["gt"])}
    output, estimates = model.restore_and_estimate(data["lq"], prior, data["train_noise"][None])
    return {"image": F.l1_loss(output, data["gt"]), "ipr": F.l1_loss(estimates[-1], prior)}


@pytest.mark.parametrize("name", SMALL + FULL)
def test_forward_agrees_with_the_released_network(name: str) -> None:
    """Priors, every reverse step, features and outputs equal the released numbers, weights bit for bit."""
    e = entry(name)
    model = formula.build(e["constructor_args"], e["stage"])
    names = formula.key_map(model)
    parameters = {names[k]: p for k, p in model.named_parameters()}
    assert sum(p.numel() for p in model.parameters()) == e["parameters"]
    assert formula.crc([parameters[k] for k in e["training"]["gradients"]]) == e["weights_crc32"]
    data = formula.inputs(e)
    for key, expected in e["inputs"].items():
        if key != "mask":
            assert formula.crc([data["lq" if key == "net_input" else key]]) == expected["crc32"]
    ours = forward_tensors(model, data, e)
    for key, expected in e["tensors"].items():
        actual = ours[key].contiguous()
        assert list(actual.shape) == expected["shape"], key
        tolerance = 5e-6 if key.startswith(PRIORS) else 2e-5
        samples = actual.flatten()[formula.sample_indices(actual.numel())]
        difference = (samples - torch.tensor(expected["samples"])).abs().max() / expected["peak"]
        assert difference < tolerance, f"{key}: {difference:.2e}"
        assert float(actual.double().mean()) == pytest.approx(expected["mean"], abs=2e-5 * expected["rms"])
        assert float(actual.double().square().mean().sqrt()) == pytest.approx(expected["rms"], rel=2e-5)


@pytest.mark.parametrize("name", SMALL)
def test_float64_forward_agrees_to_the_stored_digits(name: str) -> None:
    """In float64 the agreement is limited by the digits of the golden file, not by rounding."""
    e = entry(name)
    model = formula.build(e["constructor_args"], e["stage"]).double()
    ours = forward_tensors(model, {k: t.double() for k, t in formula.inputs(e).items()}, e)
    for key, expected in e["tensors"].items():
        samples = ours[key].contiguous().flatten()[formula.sample_indices(ours[key].numel())]
        golden = torch.tensor(expected["samples"], dtype=torch.float64) + torch.tensor(
            expected["f64_minus_f32"], dtype=torch.float64
        )
        assert (samples - golden).abs().max() / expected["peak"] < 1e-7, key


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in SMALL + FULL),
        *((name, torch.float64) for name in SMALL),
        *(pytest.param(name, torch.float64, marks=pytest.mark.slow) for name in FULL),
    ],
)
def test_one_training_step_agrees_with_the_released_network(name: str, dtype: torch.dtype) -> None:
    """Losses and the gradient of every parameter equal the released ones, through all T steps.

    In float32 a single temperature's gradient can nearly cancel: those have a tolerance of their own. In
    float64 the agreement is limited by the digits of the golden file alone.
    """
    e = entry(name)
    precise = dtype == torch.float64
    model = formula.build(e["constructor_args"], e["stage"]).to(dtype)
    data = {k: t.to(dtype) for k, t in formula.inputs(e).items()}
    prior = None
    if isinstance(model, DiffIRS2):
        prior = teacher(model, e["constructor_args"]).to(dtype)(data["lq"], data["gt"]).detach()
    training = e["training"]
    parts = losses(model, prior, data)
    for part, value in parts.items():
        expected = training[f"loss_{part}"]
        assert float(value.detach()) == pytest.approx(expected, rel=1e-9 if precise else 5e-6)
    torch.stack(list(parts.values())).sum().backward()
    names = formula.key_map(model)
    for ours, parameter in model.named_parameters():
        theirs = names[ours]
        rms, probe = training["gradients"][theirs]
        gradient = parameter.grad.double().contiguous().flatten()
        direction = torch.from_numpy(formula.v(f"{theirs}#probe", gradient.numel()))
        usual = 1e-3 if gradient.numel() == 1 else 5e-4
        tolerance = 1e-8 if precise else max(usual, 10 * training["weak"].get(theirs, 0))
        assert float(gradient.square().mean().sqrt()) == pytest.approx(rms, rel=tolerance), theirs
        scale = float(gradient.norm() * direction.norm())
        assert abs(float(gradient @ direction) - probe) < tolerance * scale, theirs


@pytest.mark.parametrize("name", SMALL)
def test_adam_steps_agree_with_the_released_network(name: str) -> None:
    """Three Adam steps change the losses as they change the released network's."""
    e = entry(name)
    data = {k: t.double() for k, t in formula.inputs(e).items()}
    model = formula.build(e["constructor_args"], e["stage"]).double()
    prior = None
    if e["stage"] == 2:
        prior = teacher(model, e["constructor_args"]).double()(data["lq"], data["gt"]).detach()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.99))
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    names = formula.key_map(model)
    adam = e["training"]["adam"]
    for step in (1, 2, 3):
        optimiser.zero_grad()
        torch.stack(list(losses(model, prior, data).values())).sum().backward()
        optimiser.step()
        after = [float(value.detach()) for value in losses(model, prior, data).values()]
        assert after == pytest.approx(adam[f"losses_after_{step}"], rel=1e-6)
        if step == 1:
            for ours, parameter in model.named_parameters():
                change = float((parameter.detach() - before[ours]).square().mean().sqrt())
                assert change == pytest.approx(adam["change_rms_1"][names[ours]], rel=1e-5), ours
