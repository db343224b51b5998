"""Each switch between paper and release, both sides, against a formula written out here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS1, DiffIRS2
from dirformer.networks.dirformer import Attention
from dirformer.networks.prior import CPEN, Denoiser, Diffusion, beta_schedule
from helpers import TINY_SR

T, P = 5, TINY_SR.prior_dim


def config(**fields: object) -> ModelConfig:
    return replace(TINY_SR, timesteps=T, beta_start=0.1, beta_end=0.8, **fields)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["sqrt", "linear"])
def test_betas(kind: str) -> None:
    """Linear: equal steps of β. Square root: equal steps of √β."""
    betas = beta_schedule(T, 0.1, 0.8, kind).tolist()
    for i in range(T):
        if kind == "linear":
            expected = 0.1 + i * (0.8 - 0.1) / (T - 1)
        else:
            expected = (0.1**0.5 + i * (0.8**0.5 - 0.1**0.5) / (T - 1)) ** 2
        assert betas[i] == pytest.approx(expected, rel=1e-12)
    assert Diffusion(config(beta_schedule=kind)).betas.tolist() == pytest.approx(betas, rel=1e-6)


@pytest.mark.parametrize("target", ["x0", "epsilon"])
@pytest.mark.parametrize("index", range(T))
@pytest.mark.parametrize("noisy", [False, True])
def test_one_reverse_step(target: str, index: int, noisy: bool) -> None:
    """Eq. 11, and Eq. 3's variance where noise is given, from β alone; no noise enters the last step."""
    betas = beta_schedule(T, 0.1, 0.8, "sqrt").tolist()
    beta, kept, before = betas[index], 1.0, 1.0
    for b in betas[: index + 1]:
        before, kept = kept, kept * (1 - b)
    z, prediction, noise = (random(2, P, seed=s).double() for s in range(3))
    # Z_t = √ᾱ·x₀ + √(1 − ᾱ)·ε, solved for x₀.
    x0 = (z - (1 - kept) ** 0.5 * prediction) / kept**0.5 if target == "epsilon" else prediction
    expected = (before**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - before) * z) / (1 - kept)
    if noisy and index > 0:
        expected = expected + (beta * (1 - before) / (1 - kept)) ** 0.5 * noise
    diffusion = Diffusion(config(target=target))
    given = noise.float() if noisy else None
    got = diffusion.reverse_step(z.float(), prediction.float(), index, given)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_noise_is_found_again() -> None:
    """With the true ε as prediction, a step at t = 1 gives back the prior that was noised."""
    diffusion = Diffusion(config(target="epsilon"))
    prior, noise = random(2, P), random(2, P, seed=1)
    z = diffusion.add_noise(prior, noise, 0)
    torch.testing.assert_close(diffusion.reverse_step(z, noise, 0), prior, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse_noise", [False, True])
def test_noise_enters_behind_each_step_but_the_last(reverse_noise: bool) -> None:
    """`reverse_noise`: noise i enters behind step i, T − 1 times; without it, never."""
    model = DiffIRS2(config(reverse_noise=reverse_noise))
    assert model.noise_shape == (T if reverse_noise else 1, P)
    noise, condition = random(T, 1, P), random(1, P, seed=1)
    z, diffusion = noise[0], model.diffusion
    with torch.no_grad():
        for step in range(T):
            i = T - 1 - step
            x0 = model.denoiser(condition, torch.tensor(i / (10 * T)), z)
            z = diffusion.posterior_x0[i] * x0 + diffusion.posterior_z[i] * z
            if reverse_noise and i > 0:
                z = z + diffusion.posterior_deviation[i] * noise[step + 1]
        got = model.estimate(condition, noise)
    assert len(got) == T
    torch.testing.assert_close(got[-1], z)


def test_time_as_released() -> None:
    """The release feeds (t − 1)/(10·T)."""
    assert Diffusion(config(time="scaled")).times.tolist() == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])


def test_time_as_in_the_paper() -> None:
    """The paper feeds t itself, 1 to T."""
    assert Diffusion(config(time="index")).times.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("order", ["condition_first", "noise_first"])
def test_order_of_the_denoisers_inputs(order: str) -> None:
    """(D, t, Z) as released, (Z, t, D) as in the paper: the columns of the first matrix, and no residual."""
    torch.manual_seed(0)
    denoiser = Denoiser(config(denoiser_order=order, denoiser_blocks=2))
    condition, z = random(2, P), random(2, P, seed=1)
    first, *others = denoiser.layers
    parts = (condition, z) if order == "condition_first" else (z, condition)
    w = first.weight
    with torch.no_grad():
        x = parts[0] @ w[:, :P].T + 0.3 * w[:, P] + parts[1] @ w[:, P + 1 :].T + first.bias
        x = torch.where(x > 0, x, 0.1 * x)
        for layer in others:
            x = x @ layer.weight.T + layer.bias
            x = torch.where(x > 0, x, 0.1 * x)
        got = denoiser(condition, torch.tensor(0.3), z)
    torch.testing.assert_close(got, x)


def test_the_denoisers_last_activation() -> None:
    """`linear` leaves the last LeakyReLU out, and no other."""
    torch.manual_seed(0)
    leaky, linear = Denoiser(config()), Denoiser(config(denoiser_output="linear"))
    linear.load_state_dict(leaky.state_dict())
    arguments = random(4, P), torch.tensor(0.3), random(4, P, seed=1)
    with torch.no_grad():
        plain, bent = linear(*arguments), leaky(*arguments)
    assert float(plain.min()) < 0
    torch.testing.assert_close(torch.where(plain > 0, plain, 0.1 * plain), bent)


@pytest.mark.parametrize("order", ["lq_gt", "gt_lq"])
def test_order_of_cpens_photos(order: str) -> None:
    """Stage 1 stacks LQ and GT in the order asked for: the input channels of the first convolution."""
    torch.manual_seed(0)
    cpen = CPEN(replace(TINY_SR, cpen_order=order), with_gt=True)
    lq, gt = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    parts = [F.pixel_unshuffle(lq, cpen.lq_factor), F.pixel_unshuffle(gt, cpen.gt_factor)]
    assert parts[0].shape[2:] == parts[1].shape[2:]
    weights = cpen.embed.weight
    if order == "lq_gt":
        w_lq, w_gt = weights.split([parts[0].shape[1], parts[1].shape[1]], dim=1)
    else:
        w_gt, w_lq = weights.split([parts[1].shape[1], parts[0].shape[1]], dim=1)
    expected = F.conv2d(parts[0], w_lq, cpen.embed.bias, padding=1) + F.conv2d(parts[1], w_gt, padding=1)
    seen: list[Tensor] = []
    cpen.embed.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        cpen(lq, gt)
    torch.testing.assert_close(seen[0], expected.detach())


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("axis", ["key", "query"])
@pytest.mark.parametrize("temperature", ["multiply", "divide"])
def test_attention(qk_norm: bool, axis: str, temperature: str) -> None:
    """Eq. 7 head by head and entry by entry: lengths, γ, and the axis whose weights sum to 1."""
    heads, d, n = 2, 3, 11
    dim = heads * d
    torch.manual_seed(0)
    fields = {"qk_norm": qk_norm, "softmax_axis": axis, "temperature": temperature}
    attention = Attention(replace(TINY_SR, dim=dim, heads=(2, 2, 2, 2), **fields), dim, heads).double()
    with torch.no_grad():
        attention.temperature.copy_(torch.tensor([0.5, 3.0]).view(2, 1, 1))
    q, k = (random(1, heads, d, n, seed=s).double() for s in (1, 2))
    project = attention.project.weight.detach().view(dim, dim)
    expected = torch.zeros(dim, dim, dtype=torch.float64)
    for h in range(heads):
        logits = torch.zeros(d, d, dtype=torch.float64)
        gamma = (0.5, 3.0)[h]
        for i in range(d):
            for j in range(d):
                value = float((q[0, h, i] * k[0, h, j]).sum())
                if qk_norm:
                    value /= float(q[0, h, i].norm() * k[0, h, j].norm())
                logits[i, j] = value * gamma if temperature == "multiply" else value / gamma
        weights = logits.exp() / logits.exp().sum(1 if axis == "key" else 0, keepdim=True)
        expected[:, h * d : (h + 1) * d] = project[:, h * d : (h + 1) * d] @ weights
    with torch.no_grad():
        got = attention.mixing(q @ k.transpose(-2, -1), q.square().sum(-1), k.square().sum(-1))
    torch.testing.assert_close(got[0], expected)


def test_stage_1_sees_both_photos() -> None:
    """The prior changes with the GT and with the LQ photo."""
    torch.manual_seed(0)
    model = DiffIRS1(TINY_SR)
    lq, gt = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        prior = model.cpen(lq, gt)
        assert not torch.equal(model.cpen(1 - lq, gt), prior)
        assert not torch.equal(model.cpen(lq, 1 - gt), prior)
