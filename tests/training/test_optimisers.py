"""Optimisers, against PyTorch's own and against singular values."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dirformer.training.optimisers import (
    Muon,
    optimiser_of,
    orthogonalise_,
    orthogonalised,
    taken_together,
)
from dirformer.training.player import Player
from dirformer.training.sections import Optimiser


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


def test_padded_matrices_end_as_alone() -> None:
    """Matrices of unlike shapes, wide and tall, end where each ends alone, also in one batch with zeros."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 64, 64), (1, 40, 129), (3, 300, 50), (1, 16, 27), (2, 10, 16), (1, 33, 64)]
    stacks = [torch.randn(shape, generator=generator) for shape in shapes]
    expected = [orthogonalised(stack) for stack in stacks]
    assert len(taken_together(tuple((n, min(r, c), max(r, c)) for n, r, c in shapes), 2**24)) == 2
    orthogonalise_(stacks, limit=2**24)
    for ours, alone in zip(stacks, expected, strict=True):
        torch.testing.assert_close(ours, alone, atol=2e-5, rtol=0)


def test_what_goes_together_fits() -> None:
    """Every stack is taken once; a batch with its zeros stays within the limit, if it is not one stack."""
    shapes = tuple((n, r, c) for n in (1, 7) for r in (16, 20, 40, 64) for c in (128, 600, 5000))
    for limit in (0, 10**5, 10**6, 10**9):
        groups = taken_together(shapes, limit)
        assert sorted(place for group in groups for place in group) == list(range(len(shapes)))
        for group in (g for g in groups if len(g) > 1):
            counts, rows, columns = zip(*(shapes[place] for place in group), strict=True)
            assert sum(counts) * max(rows) * max(columns) <= limit
            assert max(rows) < 2 * min(rows)
    assert len(taken_together(shapes, 0)) == len(shapes)
    assert len(taken_together(shapes, 10**9)) == 3  # rows 16, 20, 40 with 64


def test_singular_values_end_in_range_in_bfloat16() -> None:
    """As on GPUs: directions within a few hundredths of float32, singular values near 1."""
    matrices = torch.randn(3, 48, 128, generator=torch.Generator().manual_seed(0))
    ours = [matrices.clone(), matrices[:, :40, :50].mT.clone()]
    orthogonalise_(ours, limit=2**24, dtype=torch.bfloat16)
    for values in (torch.linalg.svdvals(one) for one in ours):
        assert values.min() > 0.6
        assert values.max() < 1.3
    exact = orthogonalised(matrices)
    assert (ours[0] - exact).norm() < 0.03 * exact.norm()


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


def _trained(kind: str, *, fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 12, 3), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 12, 1))
    return network, optimiser_of(network, Optimiser(kind=kind, lr=1e-2), fused=fused)


def _learn(network: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        photo = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        network(photo.to(next(network.parameters()).device)).square().mean().backward()
        optimiser.step()


def _same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["adam", "muon"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_state_goes_on_computed_either_way(kind: str, *, fused: bool) -> None:
    """One kernel for Adam or many: the same weights, also where a state was saved under the other way.

    So a run may move between CPU and GPU. How steps are computed is the new optimiser's, never the file's.
    """
    network, optimiser = _trained(kind, fused=False)
    _learn(network, optimiser, range(6))
    other, first = _trained(kind, fused=not fused)
    _learn(other, first, range(3))
    state = copy.deepcopy(first.state_dict())
    ways = [group["fused"] for group in state["param_groups"]]
    second = optimiser_of(other, Optimiser(kind=kind, lr=1e-2), fused=fused)
    second.load_state_dict(state)
    assert [group["fused"] for group in second.param_groups] == [True if fused else None] * len(ways)
    assert ways == [None if fused else True] * len(ways)
    _learn(other, second, range(3, 6))
    _same(network, other)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_counted_where_adam_reads_them(*, fused: bool) -> None:
    """A state read to a GPU: its steps stay there for one kernel, and come to the CPU for many.

    Else the CPU would wait for the GPU at every weight. The tensors only claim to be on a GPU.
    """
    with FakeTensorMode():
        network: Any = nn.ParameterList([nn.Parameter(torch.empty(8, device="cuda"))])
        optimiser = optimiser_of(network, Optimiser(), fused=fused)
        network[0].grad = torch.empty_like(network[0])
        optimiser.step()
        state = optimiser.state_dict()
        state["state"][0]["step"] = torch.ones((), device="cuda")
        optimiser.load_state_dict(state)
        assert optimiser.state[network[0]]["step"].device.type == ("cuda" if fused else "cpu")
        assert optimiser.state[network[0]]["exp_avg"].device.type == "cuda"


def test_a_state_of_other_groups_is_refused() -> None:
    """Torch's own error comes through: a state with one group more is no state of this optimiser."""
    _, adam = _trained("adam", fused=True)
    _, muon = _trained("muon", fused=True)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        adam.load_state_dict(muon.state_dict())


@pytest.mark.parametrize(
    ("device", "scaler", "fused"),
    [("cpu", None, None), ("cuda", None, True), ("cuda", "a scaler", None), ("mps", None, None)],
)
def test_adam_is_one_kernel_on_cuda(device: str, scaler: object, fused: object) -> None:
    """But not under float16's scaler, which clips; a CPU keeps the numbers that it had."""
    precision = SimpleNamespace(scaler=scaler)
    fabric: Any = SimpleNamespace(
        device=torch.device(device),
        strategy=SimpleNamespace(precision=precision),
        setup=lambda module, optimiser: (module, optimiser),
    )
    player = Player(nn.Linear(16, 16), Optimiser(kind="muon"), fabric, lambda _: 1e-3)
    assert {group["fused"] for group in player.optimiser.param_groups} == {fused}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("kind", "near"), [("adam", 0.02), ("muon", 0.1)])
def test_a_gpu_goes_on_with_a_cpus_state_and_back(kind: str, near: float) -> None:
    """Three steps each on CPU, GPU and CPU end where nine on a CPU do, to the digits of TF32 and bfloat16."""
    network, optimiser = _trained(kind, fused=False)
    start = [p.detach().clone() for p in network.parameters()]
    _learn(network, optimiser, range(9))
    other, first = _trained(kind, fused=False)
    _learn(other, first, range(3))
    for device, steps in (("cuda", range(3, 6)), ("cpu", range(6, 9))):
        state = copy.deepcopy(first.state_dict())
        other.to(device)
        first = optimiser_of(other, Optimiser(kind=kind, lr=1e-2), fused=device == "cuda")
        first.load_state_dict(state)
        _learn(other, first, steps)
    for ours, theirs, before in zip(other.parameters(), network.parameters(), start, strict=True):
        assert (ours - theirs).norm() < near * (theirs - before).norm()
