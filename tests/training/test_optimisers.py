"""Optimisers, against PyTorch's own and against singular values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dirformer.training.config import Optimiser
from dirformer.training.optimisers import Muon, optimiser_of, orthogonalised


def _steps(optimiser: torch.optim.Optimizer, weight: nn.Parameter, target: torch.Tensor) -> None:
    for _ in range(6):
        optimiser.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimiser.step()


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (12, 128)])
def test_orthogonalised_matrices_keep_their_directions(shape: tuple[int, int]) -> None:
    """Singular vectors stay, singular values end near 1, tall and wide alike (torch.linalg.svd)."""
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    ours = orthogonalised(matrix)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ ours @ vh.mT
    values = inside.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_matrices_move_as_under_torchs_muon(shape: tuple[int, int]) -> None:
    """Six steps end where torch.optim.Muon's do, to the digits of its bfloat16."""
    start, target = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    _steps(Muon([ours], 0.05, (0.9, 0.99)), ours, target)
    other = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    _steps(other, theirs, target)
    way = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * way
    assert way > 0.1


def test_a_convolution_is_a_matrix_of_its_windows() -> None:
    """A 3×3 kernel moves as its flattened matrix does."""
    start, target = torch.randn(2, 12, 12, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    _steps(Muon([kernel], 0.05, (0.9, 0.99)), kernel, target)
    _steps(Muon([matrix], 0.05, (0.9, 0.99)), matrix, target.flatten(1))
    torch.testing.assert_close(kernel.flatten(1), matrix)


@pytest.mark.parametrize("shape", [(30,), (48, 1, 3, 3), (2, 1, 1), (8, 8, 1, 1)])
def test_what_is_no_matrix_moves_as_under_adam(shape: tuple[int, ...]) -> None:
    """Vectors, depth-wise kernels and the smallest weights follow torch.optim.Adam."""
    start, target = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    _steps(Muon([ours], 0.05, (0.9, 0.99)), ours, target)
    _steps(torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.99)), theirs, target)
    torch.testing.assert_close(ours, theirs)


def test_parameters_without_a_gradient_stay() -> None:
    """As under a warm-up, where half of a network is not trained."""
    trained, idle = nn.Parameter(torch.ones(12, 12)), nn.Parameter(torch.ones(12, 12))
    optimiser = Muon([trained, idle], 0.05, (0.9, 0.99))
    (trained * torch.randn(12, 12)).sum().backward()
    optimiser.step()
    assert torch.equal(idle, torch.ones(12, 12))
    assert not torch.equal(trained, idle)


def test_a_recipe_chooses_by_name() -> None:
    """`optimiser.kind` names it; frozen parameters are left out."""
    network = nn.Linear(16, 16)
    network.bias.requires_grad_(requires_grad=False)
    for kind, expected in (("adam", torch.optim.Adam), ("muon", Muon)):
        optimiser = optimiser_of(network, Optimiser(kind=kind))
        assert type(optimiser) is expected
        assert sum(len(group["params"]) for group in optimiser.param_groups) == 1
