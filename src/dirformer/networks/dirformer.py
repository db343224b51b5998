"""The DIRformer: a U-shaped transformer that restores a photo under the guidance of the IPR.

Read from top to bottom: modulated norm → attention (DMTA) → feed-forward (DGFN) → block → DIRformer.

* Shapes: `b c h w` maps, `b p` priors. Maps are channels-last in memory from end to end, so the
  channels of a pixel lie side by side: norms and 1×1 convolutions read them as rows.
* The attention matrix is c×c, a sum over all pixels; everything else sees 3×3 pixels at most.
  `attention_statistics` and `attention_mixing` are the two halves of an attention, kept apart so that
  large photos can be processed in strips by the same functions.
* This file is the definition. `kernels/` computes the same faster and is held to it by tests.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dirformer.networks.config import LEVELS, ModelConfig

NORM_EPS = 1e-5


class ModulatedNorm(nn.Module):
    """Layer norm over the channels of each pixel, then scale and shift from the prior (Eqs. 6 and 8).

    f = LN(x) ⊙ W₁z + W₂z, one bias-free linear giving both; the scale is used as it is, without `1 +`.
    The norm's own weight and bias are folded into that scale and shift: c numbers per photo instead of
    two more passes over the map.
    """

    def __init__(self, dim: int, prior_dim: int, norm: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if norm == "with_bias" else None
        self.modulation = nn.Linear(prior_dim, 2 * dim, bias=False)

    def folded(self, prior: Float[Tensor, "b p"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """Return scale and shift of the normalised map: k₁⊙w and k₁⊙b + k₂."""
        scale, shift = self.modulation(prior).chunk(2, dim=1)
        return scale * self.weight, shift if self.bias is None else shift + scale * self.bias

    def forward(self, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        rows = x.movedim(1, -1)
        if self.bias is None:
            # Divided by the deviation about the mean, but the mean itself stays.
            normed = rows * torch.rsqrt(rows.var(-1, correction=0, keepdim=True) + NORM_EPS)
        else:
            normed = F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)
        scale, shift = self.folded(prior)
        # One dtype for the product: the prior is float32 even where maps are 16-bit.
        scale, shift = (v[:, None, None].to(normed.dtype) for v in (scale, shift))
        return torch.addcmul(shift, normed, scale).movedim(-1, 1)


def attention_statistics(
    q: Float[Tensor, "b heads d n"], k: Float[Tensor, "b heads d n"]
) -> tuple[Float[Tensor, "b heads d d"], Float[Tensor, "b heads d"], Float[Tensor, "b heads d"]]:
    """Sum q·kᵀ, q² and k² over the pixels n: all that an attention needs to know of a photo.

    Sums over parts of a photo add up to the sums over the photo.
    """
    gram = q @ k.transpose(-2, -1)
    return gram, at_least_float32(q).square().sum(-1), at_least_float32(k).square().sum(-1)


def at_least_float32(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Widen 16-bit values: sums over a photo and what follows from them need the digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Attention(nn.Module):
    """DMTA (Eq. 7): attention between channels, modulated by the prior.

    As released: softmax over key channels of γ·cos(q, k). `qk_norm`, `softmax_axis` and `temperature`
    of the config select the paper's wording.
    """

    def __init__(self, config: ModelConfig, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, config.qk_norm
        self.key_axis, self.divide = config.softmax_axis == "key", config.temperature == "divide"
        self.norm = ModulatedNorm(dim, config.prior_dim, config.norm)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=config.bias)
        self.qkv_depthwise = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=config.bias)
        self.project = nn.Conv2d(dim, dim, 1, bias=config.bias)

    def mixing(
        self,
        gram: Float[Tensor, "b heads d d"],
        q_squared: Float[Tensor, "b heads d"],
        k_squared: Float[Tensor, "b heads d"],
    ) -> Float[Tensor, "b c c"]:
        """Return the c×c matrix that takes values to the output: attention, merged into the projection."""
        logits = at_least_float32(gram)
        if self.qk_norm:
            # Clamped under the root: the slope of a root at 0 is infinite.
            q_length, k_length = (s.clamp_min(1e-24).sqrt() for s in (q_squared, k_squared))
            logits = logits / (q_length.unsqueeze(-1) * k_length.unsqueeze(-2))
        logits = logits / self.temperature if self.divide else logits * self.temperature
        attention = logits.softmax(-1 if self.key_axis else -2)  # rows: query channels
        project = self.project.weight.flatten(1).view(-1, self.heads, gram.shape[-1])  # c heads d
        return torch.einsum("ohi,bhij->bohj", project.to(attention.dtype), attention).flatten(2)

    def forward(self, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        height = x.shape[2]
        q, k, v = self.qkv_depthwise(self.qkv(self.norm(x, prior))).flatten(2).chunk(3, dim=1)  # b c n
        mixing = self.mixing(*attention_statistics(*(t.unflatten(1, (self.heads, -1)) for t in (q, k))))
        rows = v.transpose(1, 2) @ mixing.transpose(1, 2).to(v.dtype)  # b n c: channels-last again
        if self.project.bias is not None:
            rows = rows + self.project.bias
        return rows.transpose(1, 2).unflatten(2, (height, -1))


class FeedForward(nn.Module):
    """DGFN (Eq. 8): a gated feed-forward with depth-wise convolutions, modulated by the prior."""

    def __init__(self, config: ModelConfig, dim: int) -> None:
        super().__init__()
        hidden = config.hidden(dim)
        self.norm = ModulatedNorm(dim, config.prior_dim, config.norm)
        self.expand = nn.Conv2d(dim, 2 * hidden, 1, bias=config.bias)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=config.bias)
        self.project = nn.Conv2d(hidden, dim, 1, bias=config.bias)

    def forward(self, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        gate, value = self.depthwise(self.expand(self.norm(x, prior))).chunk(2, dim=1)
        return self.project(F.gelu(gate) * value)


class Block(nn.Module):
    """One transformer block: attention, then feed-forward, each added to its input."""

    kind = "dmta-dgfn"
    """Which definition this is. Kernels compute the kinds they know; another block states another kind."""

    def __init__(self, config: ModelConfig, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(config, dim, heads)
        self.feed_forward = FeedForward(config, dim)

    def forward(self, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        x = x + self.attention(x, prior)
        return x + self.feed_forward(x, prior)


class Level(nn.ModuleList):
    """The blocks of one level, applied in turn under the same prior."""

    def __init__(self, config: ModelConfig, count: int, dim: int, heads: int) -> None:
        super().__init__(Block(config, dim, heads) for _ in range(count))
        self.recompute = False
        """In training, keep only what enters each block and compute its inside again for the gradient."""

    def forward(self, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        for block in self:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, prior, use_reentrant=False)
            else:
                x = block(x, prior)
        return x


class DIRformer(nn.Module):
    """Four levels down, three up, refinement, tail; every block guided by the prior.

    Input sides must be multiples of 8 behind the unshuffle (`ModelConfig.multiple`). Values are taken and
    returned as they are, photos in [0, 1] nominally; nothing is clamped.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, widths, heads = config.dim, config.widths, config.heads
        self.embed = nn.Conv2d(config.in_channels * config.unshuffle**2, dim, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(
            Level(config, config.blocks[i], widths[i], heads[i]) for i in range(LEVELS)
        )
        # The level above 1 has no reduction, so decoder level 1 runs at the width of both its inputs.
        decoder_widths = (widths[1], widths[1], widths[2])
        self.decoder = nn.ModuleList(
            Level(config, config.blocks[i], decoder_widths[i], heads[i]) for i in range(LEVELS - 1)
        )
        self.down = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i] // 2, 3, padding=1, bias=False) for i in range(LEVELS - 1)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(widths[i + 1], 2 * widths[i + 1], 3, padding=1, bias=False) for i in range(LEVELS - 1)
        )
        self.reduce = nn.ModuleList(
            nn.Conv2d(2 * widths[i], widths[i], 1, bias=config.bias) for i in range(1, LEVELS - 1)
        )
        self.refinement = Level(config, config.refinement_blocks, 2 * dim, heads[0])
        self.tail = _tail(config)

    def forward(self, lq: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]) -> Float[Tensor, "b 3 H W"]:
        """Restore `lq`; the result is `scale` times as large per side."""
        x = lq.contiguous(memory_format=torch.channels_last)
        x = self.embed(F.pixel_unshuffle(x, self.config.unshuffle))
        skips = []
        for level, down in zip(self.encoder, self.down, strict=False):
            x = level(x, prior)
            skips.append(x)
            x = F.pixel_unshuffle(down(x), 2)
        x = self.encoder[-1](x, prior)
        for i in reversed(range(LEVELS - 1)):
            x = torch.cat([F.pixel_shuffle(self.up[i](x), 2), skips.pop()], dim=1)
            if i > 0:
                x = self.reduce[i - 1](x)
            x = self.decoder[i](x, prior)
        return self.tail(self.refinement(x, prior)) + self.skip(lq)

    def skip(self, lq: Float[Tensor, "b c h w"]) -> Float[Tensor, "..."]:
        """Return what the tail's output is added to: the enlarged input, or zero."""
        scale, mode = self.config.scale, self.config.skip
        if mode == "none":
            return lq.new_zeros(())
        rgb = lq[:, :3]
        if scale == 1:
            return rgb
        if mode == "nearest":
            return F.interpolate(rgb, scale_factor=float(scale), mode="nearest")
        return F.interpolate(rgb, scale_factor=float(scale), mode="bicubic", align_corners=False)


def _tail(config: ModelConfig) -> nn.Sequential:
    width, wide = 2 * config.dim, 8 * config.dim
    if config.tail == "conv":
        return nn.Sequential(nn.Conv2d(width, 3, 3, padding=1, bias=False))
    if config.tail == "direct":
        factor = config.scale * config.unshuffle
        return nn.Sequential(nn.Conv2d(width, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor))
    if config.tail == "shuffle":
        return nn.Sequential(
            nn.Conv2d(width, wide, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(width, wide, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(width, 3, 3, padding=1),
        )
    steps = [
        layer
        for _ in range(2)
        for layer in (nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2))
    ]
    steps += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*steps, nn.Conv2d(width, 3, 3, padding=1))
