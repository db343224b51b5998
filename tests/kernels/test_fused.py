"""Triton's kernels compute what the modules define: results and all gradients, training and restoring.

Where there is no GPU, Triton's interpreter runs them: `make test-gpu-rehearsal`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dirformer.kernels import autograd, gpus
from dirformer.networks.dirformer import Block
from dirformer.networks.presets import PRESETS
from helpers import TINY_SR
from triton_device import DEVICE

from dirformer.kernels import fused, launches  # isort: skip - behind `triton_device`

LITERAL = {"qk_norm": False, "softmax_axis": "query", "temperature": "divide"}
# width, heads, norm, ffn_factor, further fields; batch, height, width of the map
CASES: dict[str, tuple[int, int, str, float, dict[str, Any], int, int, int]] = {
    "compact": (16, 1, "with_bias", 2.0, {}, 2, 5, 18),
    "odd sides and widths": (20, 2, "bias_free", 1.77, {}, 2, 9, 7),
}
WIDTHS = sorted(
    {
        (w, h)
        for c in PRESETS.values()
        for w, h in zip((*c.widths, 2 * c.dim), (*c.heads, c.heads[0]), strict=True)
    }
)
SLOW = {
    "as the paper words it": (24, 2, "with_bias", 2.66, LITERAL, 2, 6, 17),
    "one pixel": (8, 1, "bias_free", 1.0, {}, 1, 1, 1),
    "heads of four channels": (16, 4, "with_bias", 2.0, {}, 3, 2, 33),
} | {
    f"{width} channels, {heads} heads": (width, heads, "with_bias", 2.2, {}, 1, 3, 18)
    for width, heads in WIDTHS
}
ALL = [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]


def make(case: str, **fields: Any) -> tuple[Block, Tensor, Tensor, Tensor]:
    """A block with lively norms and modulation, a map, a prior, and a gradient of the result."""
    dim, heads, norm, factor, more, batch, height, width = (CASES | SLOW)[case]
    config = replace(TINY_SR, norm=norm, ffn_factor=factor, **more, **fields)
    torch.manual_seed(0)
    block = Block(config, dim, heads)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.1))
    shape = (batch, dim, height, width)
    return block, torch.randn(shape) + 0.3, torch.randn(batch, config.prior_dim), torch.randn(shape)


def gradients(call: Any, block: Block, x: Tensor, prior: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The result and the gradients of everything that goes in."""
    block, x, prior = copy.deepcopy(block), x.clone().requires_grad_(), prior.clone().requires_grad_()
    y = call(block, x, prior)
    y.backward(gradient.to(y.dtype))
    named = {name: p.grad for name, p in block.named_parameters()}
    return {"result": y.detach(), "x": x.grad, "prior": prior.grad, **named}


def expected_and_got(case: str, *, low: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    block, *tensors = make(case)
    expected = gradients(lambda b, x, z: b(x, z), block.double(), *(t.double() for t in tensors))

    def call(block: Block, x: Tensor, prior: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=low):
            return fused.forward(block, x, prior)

    got = gradients(call, block.float().to(DEVICE), *(t.to(DEVICE) for t in tensors))
    return expected, {name: value.cpu() for name, value in got.items()}


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm().clamp_min(1e-6))


@pytest.mark.parametrize("case", ALL)
def test_float32_equals_the_modules_in_float64(case: str) -> None:
    """Result and gradients to 1e-5 of their size, at all widths of the presets and odd ones."""
    expected, got = expected_and_got(case)
    for name, value in got.items():
        assert value.shape == expected[name].shape
        assert distance(value, expected[name]) < 1e-5, name


@pytest.mark.parametrize("case", ["compact", pytest.param("heads of four channels", marks=pytest.mark.slow)])
def test_bfloat16_is_near(case: str) -> None:
    """Under autocast: results and gradients of matrices to 3 %."""
    expected, got = expected_and_got(case, low=True)
    for name, value in got.items():
        assert distance(value, expected[name]) < (0.2 if "temperature" in name else 0.03), name


@pytest.mark.parametrize("bias", [False, True])
def test_restoring_equals_the_modules(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gradient too, with biases, and where the wide maps are written row by row."""
    block, x, prior, _ = make("compact", bias=bias)
    with torch.no_grad():
        expected = copy.deepcopy(block).double()(x.double(), prior.double())
        block, x, prior = block.to(DEVICE), x.to(DEVICE), prior.to(DEVICE)
        whole = fused.restored(block, x, prior)
        monkeypatch.setattr(launches, "WIDE", 8000)
        assert (
            len(
                dict(
                    launches._turns(
                        fused._packed(block, torch.float32).feed, x.movedim(1, -1)[:1]
                    ).__next__()[1]
                )
            )
            > 1
        )
        in_turns = fused.restored(block, x, prior)
    assert distance(whole.cpu(), expected) < 1e-5 and distance(in_turns.cpu(), expected) < 1e-5


def test_other_weights_are_packed_anew() -> None:
    """Weights that changed since the last photo are seen."""
    block, x, prior, _ = make("compact")
    with torch.no_grad():
        before = fused.restored(block.to(DEVICE), x.to(DEVICE), prior.to(DEVICE))
        block.feed_forward.project.weight.mul_(2)
        after = fused.restored(block, x.to(DEVICE), prior.to(DEVICE))
        assert distance(after.cpu(), copy.deepcopy(block).cpu()(x, prior).double()) < 1e-5
    assert not torch.allclose(before, after)


def test_what_is_left_to_the_modules() -> None:
    """float16 and biases in training, heads that do not fit, other types of numbers, nothing at all."""
    block, x, _, _ = make("compact")
    assert fused.usable(block, x)
    assert (
        not fused.usable(block, x.double())
        and not fused.usable(block, x[:0])
        and not fused.usable(block, x.half())
    )
    assert not fused.usable(make("compact", bias=True)[0], x)
    with torch.no_grad():
        assert fused.usable(block, x.half()) and fused.usable(make("compact", bias=True)[0], x)
    assert not fused.usable(Block(TINY_SR, 136, 1), torch.rand(1, 136, 2, 2))


class Elsewhere(torch.Tensor):
    """A map that says that it is on a GPU."""

    device = torch.device("cuda")  # type: ignore[assignment]


@pytest.mark.parametrize("there", [True, False])
def test_an_installed_block_asks_where_its_map_is(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU with Triton its kernels run; without, the block's own definition does."""
    block, x, prior, _ = make("compact")
    autograd.install(block)

    class Stand:
        usable = staticmethod(lambda *_: True)
        run = staticmethod(lambda *_: torch.tensor(7.0))

    monkeypatch.setattr(autograd, "fused_on", lambda _: Stand if there else None)
    monkeypatch.setattr(autograd, "usable", lambda *_: False)
    found = block(x.as_subclass(Elsewhere), prior)
    assert (found.shape == ()) is there


def test_the_reason_against_triton_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An old GPU, a missing compiler and AMD's are named, once, and stock torch computes."""
    device = torch.device("cuda")
    monkeypatch.setattr(torch.version, "hip", None)
    caplog.set_level("INFO", logger="dirformer")
    for capability, probe, said in (
        ((7, 5), None, "no NVIDIA GPU of compute capability 8.0"),
        ((9, 0), RuntimeError("no C compiler"), "cannot compile here: RuntimeError: no C compiler"),
    ):
        gpus.reason_against.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)

        def failing(_: object, error: Exception | None = probe) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(fused, "probe", failing)
        assert gpus.fused_on(device) is None and said in caplog.text
    gpus.reason_against.cache_clear()
    monkeypatch.setattr(fused, "probe", lambda _: None)
    assert gpus.fused_on(device) is fused
    monkeypatch.setenv("DIRFORMER_NATIVE", "0")
    assert gpus.fused_on(device) is None
    gpus.reason_against.cache_clear()
