"""The vector side: CPEN squeezes photos into the IPR, a short diffusion estimates it.

CPEN → denoiser → schedule → forward noise → reverse step. Priors are `b p`; no randomness in here: noise
is an argument, so the caller decides what a result depends on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.networks.config import ModelConfig

SLOPE = 0.1
"""Negative slope of every LeakyReLU on the vector side."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and the input; no activation behind the sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.second(F.leaky_relu(self.first(x), SLOPE))


class CPEN(nn.Module):
    """Compact IR prior extraction network (Fig. 2): photos → IPR of `prior_dim` numbers.

    Stage 1 sees LQ and GT together (`with_gt`), stage 2 the LQ photo alone; each photo is unshuffled so
    that both meet at one size.
    """

    def __init__(self, config: ModelConfig, *, with_gt: bool) -> None:
        super().__init__()
        self.lq_factor, self.gt_factor = config.cpen_unshuffle, config.cpen_unshuffle * config.scale
        self.gt_first = config.cpen_order == "gt_lq"
        self.constant = config.condition == "constant" and not with_gt
        channels = config.in_channels * self.lq_factor**2 + (3 * self.gt_factor**2 if with_gt else 0)
        dim, prior_dim = config.cpen_dim, config.prior_dim
        self.embed = nn.Conv2d(channels, dim, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(dim) for _ in range(config.cpen_blocks)))
        self.widen = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 3, padding=1)
            for c_in, c_out in ((dim, 2 * dim), (2 * dim, 2 * dim), (2 * dim, prior_dim))
        )
        self.mlp = nn.ModuleList(nn.Linear(prior_dim, prior_dim) for _ in range(2))

    def features(
        self, lq: Float[Tensor, "b c h w"], gt: Float[Tensor, "b 3 H W"] | None = None
    ) -> Float[Tensor, "b p y x"]:
        """Return the map whose mean over all pixels is taken."""
        photos = [F.pixel_unshuffle(lq, self.lq_factor)]
        if gt is not None:
            photos.insert(0 if self.gt_first else 1, F.pixel_unshuffle(gt, self.gt_factor))
        x = torch.cat(photos, dim=1).contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.leaky_relu(self.embed(x), SLOPE))
        for widen in self.widen:
            x = F.leaky_relu(widen(x), SLOPE)
        return x

    def head(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Turn the pooled map into the IPR, which leaves through a last LeakyReLU."""
        if self.constant:
            pooled = pooled * 0  # the biases behind it are one vector for all photos
        for linear in self.mlp:
            pooled = F.leaky_relu(linear(pooled), SLOPE)
        return pooled

    def forward(
        self, lq: Float[Tensor, "b c h w"], gt: Float[Tensor, "b 3 H W"] | None = None
    ) -> Float[Tensor, "b p"]:
        return self.head(self.features(lq, gt).mean((2, 3)))


class Denoiser(nn.Module):
    """ε_θ of Eq. 11: condition D, time and the noised IPR → prediction (IPR or noise)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.prior_dim
        self.noise_first = config.denoiser_order == "noise_first"
        self.linear_end = config.denoiser_output == "linear"
        self.layers = nn.ModuleList(
            nn.Linear(2 * dim + 1 if i == 0 else dim, dim) for i in range(1 + config.denoiser_blocks)
        )

    def forward(
        self, condition: Float[Tensor, "b p"], time: Float[Tensor, "*n"], z: Float[Tensor, "b p"]
    ) -> Float[Tensor, "b p"]:
        """Predict from D, the time (one for all, or one per photo) and Z_t."""
        ends = (z, condition) if self.noise_first else (condition, z)
        x = torch.cat([ends[0], time.to(z).reshape(-1, 1).expand(len(z), 1), ends[1]], dim=1)
        for linear in self.layers:
            # Called a residual MLP in the release, but nothing is added there either.
            x = linear(x)
            if not (self.linear_end and linear is self.layers[-1]):
                x = F.leaky_relu(x, SLOPE)
        return x


def beta_schedule(timesteps: int, start: float, end: float, kind: str) -> Float[Tensor, "t"]:
    """Return β₁ … β_T in float64: linear in its square root (`sqrt`, as released) or itself (`linear`)."""
    if kind == "sqrt":
        return torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64).square()
    return torch.linspace(start, end, timesteps, dtype=torch.float64)


def solve_beta_end(
    timesteps: int, start: float = 0.1, kind: str = "sqrt", signal: float | None = None
) -> float:
    """Return the β_T with which ᾱ_T is `signal`; None stands for what T = 4 has, 0.0026 (Fig. 6).

    A start that leaves as much signal whatever T is what makes chains of other lengths comparable. With
    T = 1 the only β is the first one: the result is then `beta_start` too.
    """
    if signal is None:
        signal = float((1 - beta_schedule(4, 0.1, 0.99, "sqrt")).prod())
    if timesteps == 1:
        return 1 - signal
    low, high = 0.0, 1.0
    for _ in range(60):  # ᾱ_T falls as β_T grows
        end = (low + high) / 2
        left = float((1 - beta_schedule(timesteps, start, end, kind)).prod())
        low, high = (end, high) if left > signal else (low, end)
    return (low + high) / 2


class Diffusion(nn.Module):
    """The schedule and its two directions. Index i counts from 0, so i = t − 1.

    Numbers are computed in float64 and kept in float32, as released; `betas` alone is stored in files.
    """

    betas: Tensor
    signal: Tensor
    noise: Tensor
    posterior_x0: Tensor
    posterior_z: Tensor
    posterior_deviation: Tensor
    times: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.timesteps, self.target = config.timesteps, config.target
        betas = beta_schedule(config.timesteps, config.beta_start, config.beta_end, config.beta_schedule)
        alphas = 1 - betas
        cumulative = alphas.cumprod(0)
        previous = torch.cat([torch.ones(min(1, len(betas)), dtype=torch.float64), cumulative[:-1]])
        self.register_buffer("betas", betas.float())
        derived = {
            "signal": cumulative.sqrt(),  # √ᾱ
            "noise": (1 - cumulative).sqrt(),  # √(1 − ᾱ)
            "posterior_x0": betas * previous.sqrt() / (1 - cumulative),
            "posterior_z": (1 - previous) * alphas.sqrt() / (1 - cumulative),
            "posterior_deviation": (betas * (1 - previous) / (1 - cumulative)).sqrt(),
        }
        for name, values in derived.items():
            self.register_buffer(name, values.float(), persistent=False)
        index = torch.arange(config.timesteps, dtype=torch.float32)
        times = index + 1 if config.time == "index" else index / (10 * max(1, config.timesteps))
        self.register_buffer("times", times, persistent=False)

    def add_noise(
        self, prior: Float[Tensor, "b p"], noise: Float[Tensor, "b p"], index: int | Int[Tensor, "b"] = -1
    ) -> Float[Tensor, "b p"]:
        """Eqs. 2 and 10: Z_t = √ᾱ_t·Z + √(1 − ᾱ_t)·ε; by default t = T, where training starts.

        `index` is one for all photos or one for each.
        """
        return self.signal[index, None] * prior + self.noise[index, None] * noise

    def reverse_step(
        self,
        z: Float[Tensor, "b p"],
        prediction: Float[Tensor, "b p"],
        index: int,
        noise: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b p"]:
        """Eq. 11: Z_t → Z_{t−1}, the posterior mean; with `noise`, also Eq. 3's variance (not at t = 1)."""
        if self.target == "epsilon":
            prediction = (z - self.noise[index] * prediction) / self.signal[index]
        z = self.posterior_x0[index] * prediction + self.posterior_z[index] * z
        if noise is not None and index > 0:
            z = z + self.posterior_deviation[index] * noise
        return z
