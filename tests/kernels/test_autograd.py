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

from dirformer.ground.errors import ConfigError
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


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "priors", "message"),
    [
        ((2, 64, 8, 8), 2, r"norm's scale is .*\(2, 32\).*; expected .*\(2, 64\)"),
        ((2, 16, 8, 8), 2, r"norm's scale is .*\(2, 32\).*; expected .*\(2, 16\)"),
        ((2, 32, 8, 8), 3, r"norm's scale is .*\(3, 32\).*; expected .*\(2, 32\)"),
    ],
)
def test_maps_of_other_sizes_are_refused(shape: tuple[int, ...], priors: int, message: str) -> None:
    """Sizes are compared before memory is touched; the line says what was received and expected."""
    block, _, _, _ = make("compact")
    x, prior = torch.randn(shape), torch.randn(priors, TINY_SR.prior_dim)
    with pytest.raises(ConfigError, match=message) as error:
        autograd.forward(block, x, prior)
    assert "\n" not in str(error.value)


def part_of(kind: int) -> dict[str, Tensor | None]:
    """Tensors that fit one part of a block of width 8, hidden width 12, for three photos."""
    wide = {autograd._STATISTICS: 16, autograd._ATTEND: 8, autograd._FEED: 24}[kind]
    project = {autograd._ATTEND: torch.zeros(3, 8, 8), autograd._FEED: torch.zeros(8, 12, 1, 1)}
    return {
        "x": torch.zeros(3, 8, 4, 5),
        "scale": torch.zeros(3, 8),
        "shift": torch.zeros(3, 8),
        "expand": torch.zeros(wide, 8, 1, 1),
        "depthwise": torch.zeros(wide, 1, 3, 3),
        "project": project.get(kind),
    }


def sweep(kind: int, tensors: dict[str, Tensor | None], heads: int = 2) -> None:
    x, scale, shift, *weights = tensors.values()
    autograd._Sweep.apply(kind, heads, False, x, scale, shift, True, *weights)


@needs_compiler
@pytest.mark.parametrize("kind", [autograd._STATISTICS, autograd._ATTEND, autograd._FEED])
def test_each_tensor_of_a_part_is_checked(kind: int) -> None:
    """Another shape, type or place of any tensor is refused; strided ones are copied, and pass."""
    right = part_of(kind)
    sweep(kind, right)
    for name, tensor in right.items():
        if tensor is None:
            continue
        strided = tensor.transpose(0, 1).contiguous().transpose(0, 1)
        sweep(kind, right | {name: strided})
        wrongs = [tensor[None], tensor.double(), tensor.to("meta"), tensor[:0]]
        # Of the map, another number of channels; of the rest, one row less.
        wrongs.append(torch.zeros(3, 6, 4, 5) if name == "x" else tensor[:-1])
        for wrong in wrongs:
            with pytest.raises(ConfigError, match=r"compiled kernels: the .* is .*; expected "):
                sweep(kind, right | {name: wrong})
    with pytest.raises(ConfigError, match="expected channels for 3 heads"):
        sweep(kind, right, heads=3)


@needs_compiler
def test_one_prior_for_all_photos() -> None:
    """It stands for each of them, as in the modules: result and gradients."""
    block, x, prior, gradient = make("compact")
    results = []
    for some in (prior[:1], prior[:1].repeat(len(x), 1)):
        some.requires_grad_()
        y = autograd.forward(block, x, some)
        (prior_gradient,) = torch.autograd.grad(y, some, gradient)
        results.append((y.detach(), prior_gradient.sum(0)))
    for got, expected in zip(*results, strict=True):
        assert distance(got, expected.double()) < 1e-5


@needs_compiler
def test_no_photo_at_all() -> None:
    """An empty batch is left to the modules."""
    block, x, _, _ = make("compact")
    assert not autograd.usable(block, x[:0])
