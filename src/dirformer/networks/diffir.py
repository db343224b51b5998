"""DiffIR, stage by stage: two compositions of the same parts.

Stage 1 (`DiffIRS1`): CPEN sees the clean photo, the DIRformer restores under its IPR. Both are trained.
Stage 2 (`DiffIRS2`): CPEN sees the degraded photo only, T reverse steps estimate the IPR, the DIRformer
restores under the estimate. Everything is trained together, through all T steps.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dirformer.ground import checks
from dirformer.networks.config import ModelConfig
from dirformer.networks.dirformer import DIRformer, ModulatedNorm
from dirformer.networks.prior import CPEN, Denoiser, Diffusion


class DiffIRS1(nn.Module):
    """Stage 1: LQ and GT → IPR → restored photo. The IPR is the best there is, an oracle."""

    stage = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = checks.instance("config", config, ModelConfig)
        self.cpen = CPEN(config, with_gt=True)
        self.dirformer = DIRformer(config)

    def forward(self, lq: Float[Tensor, "b c h w"], gt: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Restore `lq` under the IPR of the pair; `gt` is `scale` times as large per side."""
        return self.dirformer(lq, self.cpen(lq, gt))


class DiffIRS2(nn.Module):
    """Stage 2: LQ → condition D → IPR by T reverse steps → restored photo."""

    stage = 2

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = checks.instance("config", config, ModelConfig)
        self.cpen = CPEN(config, with_gt=False)
        self.denoiser = Denoiser(config) if config.timesteps else None
        self.diffusion = Diffusion(config)
        self.dirformer = DIRformer(config)

    def forward(
        self, lq: Float[Tensor, "b c h w"], noise: Float[Tensor, "n b p"]
    ) -> Float[Tensor, "b 3 H W"]:
        """Algorithm 2: restore `lq` from `noise` (see `estimate`)."""
        return self.dirformer(lq, self.estimate(self.cpen(lq), noise)[-1])

    @property
    def noise_shape(self) -> tuple[int, int]:
        """How much standard normal noise one photo needs: `n p`; n is 1, or T where variance is added."""
        return (max(1, self.config.timesteps) if self.config.reverse_noise else 1), self.config.prior_dim

    def estimate(
        self, condition: Float[Tensor, "b p"], noise: Float[Tensor, "n b p"]
    ) -> list[Float[Tensor, "b p"]]:
        """Run the reverse chain from `noise[0]` = Z_T; return Z after each step, the IPR last.

        With `reverse_noise`, `noise[i]` (i ≥ 1) enters behind step i. Without diffusion (T = 0) the
        condition is the estimate.
        """
        if self.denoiser is None:
            return [condition]
        z, estimates = noise[0], []
        for step in range(self.config.timesteps):
            index = self.config.timesteps - 1 - step
            prediction = self.denoiser(condition, self.diffusion.times[index], z)
            extra = noise[step + 1] if self.config.reverse_noise and index > 0 else None
            z = self.diffusion.reverse_step(z, prediction, index, extra)
            estimates.append(z)
        return estimates

    def restore_and_estimate(
        self, lq: Float[Tensor, "b c h w"], prior_s1: Float[Tensor, "b p"], noise: Float[Tensor, "n b p"]
    ) -> tuple[Float[Tensor, "b 3 H W"], list[Float[Tensor, "b p"]]]:
        """Algorithm 1: noise stage 1's IPR up to t = T, estimate it back, restore under the estimate."""
        estimates = self.estimate_back(lq, prior_s1, noise)
        return self.dirformer(lq, estimates[-1]), estimates

    def estimate_back(
        self, lq: Float[Tensor, "b c h w"], prior_s1: Float[Tensor, "b p"], noise: Float[Tensor, "n b p"]
    ) -> list[Float[Tensor, "b p"]]:
        """Algorithm 1 without the DIRformer: Z after each step, from stage 1's IPR noised up to t = T."""
        if self.denoiser is not None:
            start = self.diffusion.add_noise(prior_s1, noise[0])
            noise = torch.cat([start[None], noise[1:]])
        return self.estimate(self.cpen(lq), noise)

    def predict_at(
        self,
        lq: Float[Tensor, "b c h w"],
        prior_s1: Float[Tensor, "b p"],
        noise: Float[Tensor, "b p"],
        index: Int[Tensor, "b"],
    ) -> Float[Tensor, "b p"]:
        """Traditional diffusion training (ablation V2): one prediction at the step `index` of each photo."""
        assert self.denoiser is not None
        z = self.diffusion.add_noise(prior_s1, noise, index)
        return self.denoiser(self.cpen(lq), self.diffusion.times[index], z)

    def start_from(self, stage1: DiffIRS1) -> None:
        """Take stage 1's DIRformer over (Algorithm 1, line 2); CPEN and denoiser keep their own start."""
        self.dirformer.load_state_dict(stage1.dirformer.state_dict())


DiffIR = DiffIRS1 | DiffIRS2
STAGES: dict[int, type[DiffIRS1 | DiffIRS2]] = {1: DiffIRS1, 2: DiffIRS2}


def start_at_identity(model: DiffIR) -> None:
    """Initialise so that the guidance starts neutral: IPR near 1, scale near 1, shift near 0.

    The release leaves the default initialisation, under which every modulation starts as a small random
    scale; short trainings learn faster from here. Random parts are kept at a tenth of their size, so the
    entries of an IPR can still grow apart.
    """
    heads: list[nn.Module] = [model.cpen.mlp[-1]]
    if isinstance(model, DiffIRS2) and model.denoiser is not None:
        heads.append(model.denoiser.layers[-1])
    with torch.no_grad():
        for head in heads:
            assert isinstance(head, nn.Linear)
            head.weight.mul_(0.1)
            head.bias.fill_(1.0)
        for module in model.dirformer.modules():
            if isinstance(module, ModulatedNorm):
                weight = module.modulation.weight.mul_(0.1)
                weight[: len(weight) // 2] += 1.0 / weight.shape[1]
