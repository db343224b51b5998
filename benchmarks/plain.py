"""The DIRformer as a textbook would write it: the baseline that the engine is measured against.

NCHW maps, one operation after the other: layer norm, its weight, the modulation, 1×1 convolution, depth-wise
convolution, unit-length queries and keys, softmax, attention times values, projection.
Same weights, same results.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.networks.dirformer import Attention, Block, DIRformer, FeedForward, ModulatedNorm


class PlainDIRformer(nn.Module):
    """Borrows the weights of a `DIRformer`; `forward(lq, prior)` gives the same photo."""

    def __init__(self, net: DIRformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, lq: Tensor, prior: Tensor) -> Tensor:
        net = self.net
        x = net.embed(F.pixel_unshuffle(lq, net.config.unshuffle))
        skips = []
        for i in range(3):
            x = level(net.encoder[i], x, prior)
            skips.append(x)
            x = F.pixel_unshuffle(net.down[i](x), 2)
        x = level(net.encoder[3], x, prior)
        for i in (2, 1, 0):
            x = torch.cat([F.pixel_shuffle(net.up[i](x), 2), skips[i]], 1)
            if i:
                x = net.reduce[i - 1](x)
            x = level(net.decoder[i], x, prior)
        return net.tail(level(net.refinement, x, prior)) + net.skip(lq)


def level(blocks: nn.ModuleList, x: Tensor, prior: Tensor) -> Tensor:
    for block in blocks:
        assert isinstance(block, Block)
        x = x + attention(block.attention, x, prior)
        x = x + feed_forward(block.feed_forward, x, prior)
    return x


def norm(part: ModulatedNorm, x: Tensor, prior: Tensor) -> Tensor:
    b, c, h, w = x.shape
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    rows = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
    mean, variance = rows.mean(-1, keepdim=True), rows.var(-1, keepdim=True, unbiased=False)
    if part.bias is None:
        rows = rows / torch.sqrt(variance + 1e-5) * part.weight
    else:
        rows = (rows - mean) / torch.sqrt(variance + 1e-5) * part.weight + part.bias
    x = rows.reshape(b, h, w, c).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    scale, shift = part.modulation(prior).view(b, 2 * c, 1, 1).chunk(2, 1)
    return x * scale + shift


def attention(part: Attention, x: Tensor, prior: Tensor) -> Tensor:
    b, c, h, w = x.shape
    q, k, v = part.qkv_depthwise(part.qkv(norm(part.norm, x, prior))).chunk(3, 1)
    q, k, v = (t.reshape(b, part.heads, c // part.heads, h * w) for t in (q, k, v))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = ((q @ k.transpose(-2, -1)) * part.temperature).softmax(-1)
    return part.project((weights @ v).reshape(b, c, h, w))


def feed_forward(part: FeedForward, x: Tensor, prior: Tensor) -> Tensor:
    gate, value = part.depthwise(part.expand(norm(part.norm, x, prior))).chunk(2, 1)
    return part.project(F.gelu(gate) * value)
