"""Optimisers: Adam as in the paper, or Muon, which updates a weight matrix as a whole.

PyTorch's own Muon takes two-dimensional weights only and computes in bfloat16. Nearly all weights here are
convolutions, and bfloat16 is slow on most CPUs.

On a GPU the time of a step is that of its launches: Adam is one kernel over all weights, and Muon takes
matrices of many shapes together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dirformer.training.sections import Optimiser

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x³ and x⁵: all singular values below 1 end between about 0.7 and 1.2 (Jordan)."""
ADAM_RMS = 0.2
"""Root mean square of the entries of an update of Adam, in units of the learning rate (Liu)."""
SMALLEST, LARGEST = 10, 128
"""Range of the shorter side of Muon's matrices. Depth-wise kernels are smaller; larger ones cost too much."""
PADDED = 2**24
"""On a GPU: how many numbers a batch of padded matrices may have."""
WAYS = ("foreach", "fused", "capturable")
"""Entries of a parameter group that say how a step is computed, not what it computes."""


def optimiser_of(network: nn.Module, config: Optimiser, *, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimiser of a network's trained parameters.

    Args:
        network: may be moved to another device before the first step.
        config: which optimiser, its learning rate and betas.
        fused: Adam as one kernel, the same formula. For CUDA, and not under a scaler of gradients: a fused
            Adam unscales them itself, which Muon does not, and they could not be clipped.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser: torch.optim.Optimizer
    if config.kind == "adam":
        optimiser = torch.optim.Adam(trained, lr=config.lr, betas=config.betas, fused=fused or None)
    else:
        optimiser = Muon(trained, config.lr, config.betas, fused=fused)
    optimiser.register_load_state_dict_pre_hook(_keep_ways)
    return optimiser


def _keep_ways(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Let a state be computed on as this optimiser does, whatever the device that it was saved on."""
    ours, theirs = optimiser.param_groups, state["param_groups"]
    if len(ours) != len(theirs):
        return state  # torch says what is wrong
    ways = [{name: group[name] for name in WAYS} for group in ours]
    entries = state["state"]
    if not any(group["fused"] for group in ours):
        # Only a fused Adam reads its steps on the device. Any other would wait for the device at each weight.
        entries = {key: entry | {"step": entry["step"].cpu()} for key, entry in entries.items()}
    groups = [group | way for group, way in zip(theirs, ways, strict=True)]
    return state | {"state": entries, "param_groups": groups}


class Muon(torch.optim.Adam):
    """Nesterov momentum with all singular values made about 1; Adam for weights that are no matrices.

    K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024, with the scale of Liu et
    al., "Muon is scalable for LLM training", 2025 (arXiv 2502.16982): an update has the size of one of
    Adam's, so learning rates carry over. A convolution's kernel is the matrix from its window to its output;
    vectors and depth-wise kernels are left to Adam.

    Singular values are moved in float32. GPUs with matrix units for bfloat16 do it in bfloat16, as Jordan
    does: the values end in the same range, and momentum and weights stay float32.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, betas: tuple[float, float], *, fused: bool = False
    ) -> None:
        matrices: dict[tuple[int, int], list[nn.Parameter]] = {}
        others = []
        for p in params:
            rows, columns = (len(p), p.numel() // len(p)) if p.ndim > 1 else (0, 0)
            if SMALLEST <= min(rows, columns) <= LARGEST:
                matrices.setdefault((rows, columns), []).append(p)
            else:
                others.append(p)
        groups: list[dict[str, Any]] = [{"params": ps, "matrices": True} for ps in matrices.values()]
        if others:
            groups.append({"params": others, "matrices": False})
        super().__init__(groups, lr=lr, betas=betas, fused=fused or None)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; parameters without a gradient stay."""
        loss = None if closure is None else closure()
        groups = self.param_groups
        self._move_matrices([group for group in groups if group["matrices"]])
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _move_matrices(self, groups: list[dict[str, Any]]) -> None:
        """Move the matrices of all groups; those of a group have one shape."""
        shapes = [[p for p in group["params"] if p.grad is not None] for group in groups]
        moved = [p for params in shapes for p in params]
        if not moved:
            return
        for p in moved:
            if not self.state[p]:  # Adam wants a step of every state it loads
                self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
        gradients: list[Tensor] = [p.grad for p in moved]
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in moved]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = iter(torch._foreach_lerp(gradients, momenta, MOMENTUM))  # noqa: SLF001
        stacks = [torch.stack([next(ahead).flatten(1) for _ in params]) for params in shapes if params]
        orthogonalise_(stacks, *_capacity(moved[0].device))
        lrs = [group["lr"] for group, params in zip(groups, shapes, strict=True) if params]
        scales = [-lr * ADAM_RMS * max(s.shape[1:]) ** 0.5 for lr, s in zip(lrs, stacks, strict=True)]
        torch._foreach_mul_(stacks, scales)
        updates = [update for stack in stacks for update in stack.unbind()]
        torch._foreach_add_(moved, [u.view_as(p) for u, p in zip(updates, moved, strict=True)])


@functools.cache
def _capacity(device: torch.device) -> tuple[int, torch.dtype | None]:
    """Return `limit` and `dtype` of `orthogonalise_` for a device."""
    if device.type != "cuda":
        return 0, None
    return PADDED, torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None


def orthogonalise_(stacks: list[Tensor], limit: int = 0, dtype: torch.dtype | None = None) -> None:
    """Put roughly the nearest (semi-)orthogonal matrices in the place of the matrices in each stack.

    Zeros around a matrix stay zeros on the way, and change nothing inside. So matrices of unlike shapes can
    go together: a step of a small network is then fewer launches.

    Args:
        stacks: matrices of one shape each, `n r c`.
        limit: how many numbers, with the zeros, may go together; 0 takes each stack alone.
        dtype: in which they are computed; None is the stacks' own.
    """
    wide = [stack if stack.shape[1] <= stack.shape[2] else stack.mT for stack in stacks]
    for places in taken_together(tuple(tuple(stack.shape) for stack in wide), limit):
        parts = [wide[place] for place in places]
        if len(parts) == 1:
            parts[0].copy_(orthogonalised(parts[0].to(dtype or parts[0].dtype)))
            continue
        padded = parts[0].new_zeros(_extent([part.shape for part in parts]), dtype=dtype)
        for spot, part in zip(_spots(padded, parts), parts, strict=True):
            spot.copy_(part)
        for spot, part in zip(_spots(orthogonalised(padded), parts), parts, strict=True):
            part.copy_(spot)


def _spots(padded: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Return where the parts lie in the padded matrices."""
    shares = torch.split(padded, [len(part) for part in parts])
    sizes = [part.shape for part in parts]
    return [share.narrow(1, 0, r).narrow(2, 0, c) for share, (_, r, c) in zip(shares, sizes, strict=True)]


@functools.cache
def taken_together(shapes: tuple[tuple[int, ...], ...], limit: int) -> list[list[int]]:
    """Return which stacks of shape `n r c`, r ≤ c, go together: those with like r, while they fit the limit.

    The work for a matrix grows with r²·c. So r is padded to less than twice itself, c to any length.
    """
    order = sorted(range(len(shapes)), key=lambda i: (_octave(shapes[i]), shapes[i][2]), reverse=True)
    groups: list[list[int]] = []
    for place in order:
        more = [shapes[i] for i in [*(groups[-1] if groups else []), place]]
        if groups and _octave(more[0]) == _octave(more[-1]) and math.prod(_extent(more)) <= limit:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _octave(shape: tuple[int, ...]) -> int:
    return (shape[1] - 1).bit_length()


def _extent(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Return how many matrices there are in all, and their longest sides."""
    counts, rows, columns = zip(*shapes, strict=True)
    return sum(counts), max(rows), max(columns)


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
