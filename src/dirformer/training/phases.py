"""Equal phases of the pixel shuffles: flat areas of a restored photo then have no grid.

A convolution in front of a pixel shuffle ×f makes f² pixels from one. Each of these phases has weights of its
own. So each may answer a flat area with a mean of its own: a grid of f×f pixels. Losses that ask for sharp
texture find that grid quickly. Here the sums of the weights over the taps are made equal over the phases,
after each step. A flat area then is flat by construction. Edges and texture stay free.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from dirformer.networks.dirformer import DIRformer


@torch.no_grad()
def even_phases(dirformer: DIRformer) -> None:
    """Make the phases of every pixel shuffle of a DIRformer equal in their means, in place.

    These are the shuffles between its levels and those of its tail. All taps of a kernel move by the same
    amount: the smallest change that does it. Doing it twice changes nothing more.
    """
    for conv in dirformer.up:
        _even(conv, 4)
    for conv, shuffle in itertools.pairwise(dirformer.tail):
        if isinstance(shuffle, nn.PixelShuffle):
            _even(conv, shuffle.upscale_factor**2)


def _even(conv: nn.Module, phases: int) -> None:
    assert isinstance(conv, nn.Conv2d)
    outputs, *kernel = conv.weight.shape
    weight = conv.weight.view(outputs // phases, phases, *kernel)  # colours, phases, inputs, rows, columns
    sums = weight.sum((3, 4))
    excess = (sums - sums.mean(1, keepdim=True)) / (weight.shape[3] * weight.shape[4])
    conv.weight -= excess[..., None, None].flatten(0, 1)
    if conv.bias is not None:
        bias = conv.bias.view(-1, phases)
        conv.bias.copy_(bias.mean(1, keepdim=True).expand_as(bias).flatten())
