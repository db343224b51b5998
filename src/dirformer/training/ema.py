"""The exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dirformer.networks.diffir import DiffIR


class Ema:
    """A copy of a network that follows its weights slowly. It is what is validated and kept."""

    def __init__(self, network: DiffIR, decay: float) -> None:
        """Copy the network; `decay` in [0, 1) is the share that each step leaves of the old average."""
        self.decay = decay
        self.network: DiffIR = copy.deepcopy(network).requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after step number `step` (from 1)."""
        # A shorter memory in the first steps, so that short runs do not keep their random start.
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
