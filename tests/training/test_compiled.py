"""`compile` of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from dirformer.networks.dirformer import Block
from dirformer.training.compiled import compile_network
from helpers import python, tiny


def test_blocks_are_compiled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """`blocks` compiles each block by itself for fixed sizes; `true` the DIRformer; `false` nothing."""
    made: list[tuple[nn.Module, dict[str, object]]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: made.append((self, options)))
    network = tiny()
    compile_network(network, how=False)
    assert made == []
    compile_network(network, how=True)
    assert [module for module, _ in made] == [network.dirformer]
    made.clear()
    compile_network(network, how="blocks")
    assert [module for module, _ in made] == [m for m in network.dirformer.modules() if isinstance(m, Block)]
    assert all(options == {"dynamic": False} for _, options in made)


COMPARE = """
import sys
import torch
from dirformer.training.compiled import compile_network
from helpers import tiny

# Without code generation, which takes minutes on a CPU: what is captured and derived is the same.
whole = torch.nn.Module.compile
torch.nn.Module.compile = lambda self, **options: whole(self, backend="aot_eager", **options)
network = tiny()
lq, prior = torch.rand(1, 3, 16, 16), torch.rand(1, 8) + 0.5
results = []
for how in (False, "blocks"):
    compile_network(network, how)
    network.zero_grad()
    restored = network.dirformer(lq, prior)
    restored.square().mean().backward()
    results.append([restored.detach(), *(p.grad.clone() for p in network.dirformer.parameters())])
for ours, theirs in zip(*results):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
from torch._dynamo.utils import counters
print(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
"""


def test_compiled_blocks_compute_the_same() -> None:
    """Results and gradients are the network's to 1e-4; blocks of one size are compiled once, in one piece."""
    # In a process of its own: the checks of shapes in a test run cannot be compiled.
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    outcome = python("-c", path + COMPARE, check=True)
    assert outcome.stdout.split() == ["5", "0"]
