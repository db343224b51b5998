"""Networks that the paper compares with, as shapes alone: what they cost, without any weights or code of
theirs.

A network is a list of its layers' sizes, from the published hyper-parameters:

* `rrdbnet-x4`, the generator of ESRGAN, BebyGAN, BSRGAN and Real-ESRGAN: 64 channels, 23 residual-in-residual
  blocks of three dense blocks, 32 channels grown by each convolution, two enlargements by nearest neighbour.
* `restormer`: a DIRformer of 48 channels, blocks 4, 6, 6, 8 and 4 in the refinement, FFN factor 2.66, without
  guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from dirformer.evaluation.count import Part, count_dirformer
from dirformer.networks.config import ModelConfig
from dirformer.networks.dirformer import DIRformer, ModulatedNorm

RESTORMER = ModelConfig(task="deblurring", dim=48, blocks=(4, 6, 6, 8), refinement_blocks=4, ffn_factor=2.66)


def rrdbnet(height: int, width: int, *, dim: int = 64, blocks: int = 23, growth: int = 32) -> list[Part]:
    """Count RRDBNet ×4 for one photo of that size, part by part."""
    pixels = height * width

    def conv(c_in: int, c_out: int, factor: int = 1) -> Part:
        weights = 9 * c_in * c_out
        return Part("", parameters=weights + c_out, convolutions=weights * pixels * factor**2)

    def joined(name: str, parts: list[Part]) -> Part:
        return sum(parts, Part(name))

    dense = [conv(dim + i * growth, growth) for i in range(4)] + [conv(dim + 4 * growth, dim)]
    return [
        joined("first", [conv(3, dim)]),
        joined("blocks", dense * 3 * blocks),
        joined("behind the blocks", [conv(dim, dim)]),
        joined("enlarging", [conv(dim, dim, 2), conv(dim, dim, 4)]),
        joined("tail", [conv(dim, dim, 4), conv(dim, 3, 4)]),
    ]


def restormer(height: int, width: int) -> list[Part]:
    """Count Restormer for one photo of that size, level by level."""
    multiple = RESTORMER.multiple
    height, width = (-(-n // multiple) * multiple for n in (height, width))
    with torch.device("meta"):
        network = DIRformer(RESTORMER)
    counted = zip(count_dirformer(network, height, width), _in_order(network), strict=True)
    return [
        replace(part, parameters=part.parameters - _guidance(module), linear=0) for part, module in counted
    ]


def _guidance(module: nn.Module) -> int:
    return sum(m.modulation.weight.numel() for m in module.modules() if isinstance(m, ModulatedNorm))


def _in_order(network: DIRformer) -> list[nn.Module]:
    return [*network.encoder, *reversed(network.decoder), network.refinement, network.tail]


SHAPES: dict[str, Callable[[int, int], list[Part]]] = {"rrdbnet-x4": rrdbnet, "restormer": restormer}
"""Name for `dirformer cost` → function of height and width."""
NETWORKS = {
    "ESRGAN": "rrdbnet-x4",
    "BebyGAN": "rrdbnet-x4",
    "BSRGAN": "rrdbnet-x4",
    "Real-ESRGAN": "rrdbnet-x4",
    "Restormer": "restormer",
}
"""Methods of the paper's tables whose networks are written here."""


def mult_adds_of(method: str, side: int = 256) -> float | None:
    """Return Mult-Adds of a compared method for a square input; None where its network is not written."""
    if method not in NETWORKS:
        return None
    return float(sum(part.mult_adds for part in SHAPES[NETWORKS[method]](side, side)))
