"""Optimisers: Adam as in the paper, or Muon, which updates a weight matrix as a whole.

PyTorch's own Muon takes two-dimensional weights only and computes in bfloat16. Nearly all weights here are
convolutions, and bfloat16 is slow on most CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dirformer.training.config import Optimiser

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x³ and x⁵: all singular values below 1 end between about 0.7 and 1.2 (Jordan)."""
ADAM_RMS = 0.2
"""Root mean square of the entries of an update of Adam, in units of the learning rate (Liu)."""
SMALLEST, LARGEST = 10, 128
"""Range of the shorter side of Muon's matrices. Depth-wise kernels are smaller; larger ones cost too much."""


def optimiser_of(network: nn.Module, config: Optimiser) -> torch.optim.Optimizer:
    """Return the optimiser of a network's trained parameters."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if config.kind == "adam":
        return torch.optim.Adam(trained, lr=config.lr, betas=config.betas)
    return Muon(trained, config.lr, config.betas)


class Muon(torch.optim.Adam):
    """Nesterov momentum with all singular values made about 1; Adam for weights that are no matrices.

    K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024, with the scale of Liu et
    al., "Muon is scalable for LLM training", 2025 (arXiv 2502.16982): an update has the size of one of
    Adam's, so learning rates carry over. A convolution's kernel is the matrix from its window to its output;
    vectors and depth-wise kernels are left to Adam.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, betas: tuple[float, float]) -> None:
        matrices: dict[tuple[int, int], list[nn.Parameter]] = {}
        others = []
        for p in params:
            if p.ndim > 1 and SMALLEST <= min(len(p), p[0].numel()) <= LARGEST:
                matrices.setdefault((len(p), p[0].numel()), []).append(p)
            else:
                others.append(p)
        groups: list[dict[str, Any]] = [{"params": ps, "matrices": True} for ps in matrices.values()]
        if others:
            groups.append({"params": others, "matrices": False})
        super().__init__(groups, lr=lr, betas=betas)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; parameters without a gradient stay."""
        loss = None if closure is None else closure()
        groups = self.param_groups
        for group in groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["matrices"] and params:
                self._move(params, group["lr"])
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _move(self, params: list[Tensor], lr: float) -> None:
        """Move matrices of one shape."""
        for p in params:
            if not self.state[p]:  # Adam wants a step of every state it loads
                self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
        gradients: list[Tensor] = [p.grad for p in params if p.grad is not None]
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # noqa: SLF001
        updates = orthogonalised(torch.stack([matrix.flatten(1) for matrix in ahead]))
        scale = ADAM_RMS * max(updates.shape[1:]) ** 0.5
        moves = [update.view_as(p) for p, update in zip(params, updates, strict=True)]
        torch._foreach_add_(params, moves, alpha=-lr * scale)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return roughly the nearest (semi-)orthogonal matrices of `n r c`, by Newton-Schulz steps."""
    a, b, c = QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
