"""Training's C++ kernels compute what the modules define: results, all gradients, whole steps."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dirformer.kernels import autograd
from dirformer.kernels.build import SWITCH
from dirformer.networks.diffir import DiffIRS1
from dirformer.networks.dirformer import Block
from helpers import SRC, TINY_SR, tiny

needs_compiler = pytest.mark.skipif(autograd._library() is None, reason="no C++ compiler")

# width, heads, norm, ffn_factor; batch, height, width of the map
CASES = {
    "compact": (32, 1, "with_bias", 2.0, 2, 24, 24),
    "odd sides and hidden width": (36, 2, "bias_free", 1.77, 3, 7, 13),
    "heads narrower than a vector": (20, 4, "with_bias", 2.66, 2, 9, 5),
    "wider than a strip": (16, 2, "bias_free", 2.2, 1, 3, 150),
    "small map, more photos than groups": (64, 8, "with_bias", 2.0, 9, 2, 2),
    "one pixel": (8, 1, "bias_free", 1.0, 1, 1, 1),
}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def make(case: str) -> tuple[Block, Tensor, Tensor, Tensor]:
    """A block with lively norms and modulation, a map, a prior, and a gradient of the result."""
    dim, heads, norm, factor, batch, height, width = CASES[case]
    config = replace(TINY_SR, dim=dim, heads=(heads,) * 4, norm=norm, ffn_factor=factor)
    torch.manual_seed(0)
    block = Block(config, dim, heads)
    autograd.install(block)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "temperature" in name:
                parameter.mul_(2)
    shape = (batch, dim, height, width)
    return block, torch.randn(shape) + 0.3, torch.randn(batch, config.prior_dim), torch.randn(shape)


def gradients(block: Block, x: Tensor, prior: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The result and the gradients of everything that goes in."""
    block = copy.deepcopy(block)
    x, prior = x.clone().requires_grad_(), prior.clone().requires_grad_()
    y = block(x, prior)
    y.backward(gradient.to(y.dtype))
    named = {name: p.grad for name, p in block.named_parameters()}
    return {"result": y.detach(), "x": x.grad, "prior": prior.grad, **named}


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm().clamp_min(1e-6))


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_float32_equals_the_modules_in_float64(case: str, threads: int) -> None:
    """Result and gradients to 1e-5 of their size, on odd widths and sizes, with one thread or two."""
    block, x, prior, gradient = make(case)
    assert autograd.usable(block, x)
    expected = gradients(block.double(), x.double(), prior.double(), gradient.double())
    got = gradients(block.float(), x, prior, gradient)
    for name, value in got.items():
        assert distance(value, expected[name]) < 1e-5, name


@needs_compiler
@pytest.mark.parametrize("case", [case for case in CASES if case != "one pixel"])
def test_bfloat16_is_as_near_as_the_modules(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast, in the same dtypes: everything to 3 %, on average nearer than stock torch."""
    block, x, prior, gradient = make(case)
    x = x.bfloat16()
    expected = gradients(block.double(), x.double(), prior.double(), gradient.double())
    block = block.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(block, x, prior, gradient)
        monkeypatch.setenv(SWITCH, "0")
        stock = gradients(block, x, prior, gradient)
    for name, value in got.items():
        assert value.dtype == stock[name].dtype
        assert distance(value, expected[name]) < 0.03, name
    ours, theirs = (sum(distance(v[name], expected[name]) for name in v) for v in (got, stock))
    assert ours < theirs


@needs_compiler
def test_bits_do_not_depend_on_threads() -> None:
    """The kernels sum over photos in the same groups whatever the number of threads."""
    block, x, _, gradient = make("small map, more photos than groups")
    attention, width = block.attention, x.shape[1]
    parts = {
        autograd._STATISTICS: (
            attention.qkv.weight[: 2 * width],
            attention.qkv_depthwise.weight[: 2 * width],
            None,
        ),
        autograd._FEED: (
            *(getattr(block.feed_forward, n).weight for n in ("expand", "depthwise", "project")),
        ),
    }
    results: list[list[Tensor]] = []
    before = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append([])
        for kind, weights in parts.items():
            leaves = [None if w is None else w.detach().clone().requires_grad_() for w in (x, *weights)]
            norm = (torch.ones(len(x), width), torch.zeros(len(x), width), True)
            y = autograd._Sweep.apply(kind, 8, False, leaves[0], *norm, *leaves[1:])
            if kind == autograd._FEED:
                y.backward(gradient)
                results[-1].append(y.detach())
            else:
                y[:, : width * 8].sum().backward()
            results[-1].extend(leaf.grad for leaf in leaves if leaf is not None)
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@needs_compiler
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
def test_training_with_and_without(
    precision: torch.dtype, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first losses are the same, also where blocks are computed again for the gradient."""

    def losses() -> list[float]:
        model = tiny(stage=1).train()
        assert isinstance(model, DiffIRS1)
        autograd.install(model)
        for level in (*model.dirformer.encoder, *model.dirformer.decoder, model.dirformer.refinement):
            level.recompute = recompute
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        generator = torch.Generator().manual_seed(1)
        values = []
        for _ in range(5):
            lq = torch.rand(2, 3, 16, 24, generator=generator)
            gt = torch.rand(2, 3, 64, 96, generator=generator)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                loss = (model(lq, gt) - gt).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        return values

    with_kernels = losses()
    monkeypatch.setenv(SWITCH, "0")
    assert with_kernels == pytest.approx(losses(), rel=1e-5 if precision == torch.float32 else 5e-3)


@needs_compiler
def test_where_the_modules_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock torch serves double precision, float16, inference, biases, other devices, and when asked to."""
    block, x, _, _ = make("one pixel")
    assert autograd.usable(block, x)
    with torch.no_grad():
        assert not autograd.usable(block, x)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not autograd.usable(block, x)
    assert not autograd.usable(block.double(), x.double())
    block.float()
    assert not autograd.usable(block, x.to("meta"))
    assert not autograd.usable(Block(replace(TINY_SR, bias=True), 4, 1), x)
    monkeypatch.setenv(SWITCH, "0")
    assert not autograd.usable(block, x)


def test_without_a_compiler() -> None:
    """Training goes on in stock torch."""
    program = (
        "import torch; from dirformer.kernels import autograd; from helpers import tiny\n"
        "model = tiny(stage=1)\n"
        "autograd.install(model)\n"
        "model(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)).mean().backward()\n"
        "print(autograd._library())"
    )
    environment = {"PATH": "", "CXX": "none", "PYTHONPATH": f"{SRC}:{SRC.parent / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "None"


class Other(Block):
    """A block that computes something else and does not say so."""

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        return x + self.feed_forward(x, prior)


class Stated(Other):
    """The same, and says so."""

    kind = "dgfn"


@needs_compiler
@pytest.mark.parametrize("other", [Other, Stated])
def test_another_kind_of_block_is_left_to_its_module(other: type[Block]) -> None:
    """Kernels never stand for a block that does not state their kind itself, even if they are installed."""
    _, x, prior, gradient = make("compact")
    config = replace(TINY_SR, dim=32, heads=(1,) * 4, norm="with_bias")
    block = other(config, 32, 1)
    expected = gradients(block, x, prior, gradient)
    autograd.install(block)
    assert "forward" not in vars(block) and not autograd.usable(block, x)
    got = gradients(block, x, prior, gradient)
    assert all(v is None or torch.equal(v, expected[name]) for name, v in got.items())


@needs_compiler
def test_installing_changes_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and pickles of a model compute by kernels on their own parameters; state dicts stay."""
    model = tiny(stage=1).train()
    keys = list(model.state_dict())
    autograd.install(model)
    assert list(model.state_dict()) == keys
    used: list[Block] = []
    forward = autograd.forward
    monkeypatch.setattr(
        autograd, "forward", lambda block, x, prior: (used.append(block), forward(block, x, prior))[1]
    )
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        used.clear()
        other(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)).mean().backward()
        blocks = {id(m) for m in other.modules() if isinstance(m, Block)}
        assert {id(block) for block in used} == blocks and len(used) == len(blocks)
        assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in model.parameters())
