"""Both sets of kernels keep to one protocol, and refuse what they were not made for."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dirformer.ground.errors import ConfigError
from dirformer.inference.context import make_axis
from dirformer.inference.engine import Engine
from dirformer.kernels import abi, native
from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.native import NativeKernels
from dirformer.kernels.protocol import Blend, Conv, Kernels, Modulation, block_weights
from dirformer.kernels.stock import StockKernels
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.dirformer import Block
from helpers import TINY_SR, tiny


@pytest.fixture(params=["native", "stock"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return StockKernels() if request.param == "stock" else compiled()


def compiled() -> NativeKernels:
    try:
        return NativeKernels()
    except CompilerMissingError as reason:
        pytest.skip(f"no compiled kernels here: {reason}")


class Doubled(Block):
    """Computes something else with the same tensors."""

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        return 2 * super().forward(x, prior)


class Named(Doubled):
    kind = "doubled"


def test_both_kernels_have_the_interface(kernels: Kernels) -> None:
    """What the engine calls is there under the protocol's names."""
    assert isinstance(kernels, Kernels)


@pytest.mark.parametrize("other", [Doubled, Named])
def test_an_unknown_block_is_refused(kernels: Kernels, other: type[Block]) -> None:
    """A block of another kind, or a subclass that states none, is never computed as the old one."""
    model = tiny()
    assert isinstance(model, DiffIRS2)
    block = other(TINY_SR, 4, 1)
    block.load_state_dict(model.dirformer.encoder[0][0].state_dict())
    with pytest.raises(ConfigError, match=r"block of kind .*they compute 'dmta-dgfn' only"):
        block_weights(block)
    known = block_weights(model.dirformer.encoder[0][0])
    with pytest.raises(ConfigError, match="block of kind 'doubled'"):
        kernels.pack_block(replace(known, kind="doubled"))
    model.dirformer.encoder[0][0] = block
    with pytest.raises(ConfigError, match="restore with the plain modules"):
        Engine(model, kernels=kernels).restore(torch.rand(1, 3, 16, 16), torch.randn(1, 1, 8))


def call(name: str, **changes: Any) -> None:
    """Call one function of the compiled kernels on a band 5 × 7 × 4, but for the changes."""
    kernels = compiled()
    model = tiny()
    assert isinstance(model, DiffIRS2)
    band = {"x": torch.zeros(5, 7, 4), "above": torch.zeros(1, 7, 4), "below": None}
    band |= {key: changes.pop(key) for key in list(changes) if key in band}
    if name == "convolve":
        conv = kernels.pack_conv(Conv(torch.zeros(8, 4, 3, 3), None), shuffle=changes.pop("shuffle", 0))
        kernels.convolve(conv, **band)
        return
    block = kernels.pack_block(block_weights(model.dirformer.encoder[0][0]))
    norm = changes.pop("norm", Modulation(torch.ones(4), torch.zeros(4)))
    if name == "attend":
        changes.setdefault("mixing", kernels.pack_mixing(torch.eye(4)))
    elif name == "statistics":
        changes.setdefault("rows", 8)
    getattr(kernels, name)(block, norm, **changes, **band)


NAMES = ("statistics", "attend", "feed", "convolve")


@pytest.mark.parametrize("name", NAMES)
def test_a_right_call_passes(name: str) -> None:
    """The case that the wrong ones differ from is accepted."""
    call(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(5, 7, 6)}, r"\(5, 7, 6\); expected rows × columns × 4"),
        ({"x": torch.zeros(0, 7, 4)}, r"\(0, 7, 4\); expected rows × columns × 4"),
        ({"x": torch.zeros(7, 4)}, r"\(7, 4\); expected rows × columns × 4"),
        ({"x": torch.zeros(5, 7, 4).double()}, r"float64 on cpu; expected float32 or bfloat16"),
        ({"x": torch.zeros(5, 7, 4, device="meta")}, r"float32 on meta; expected"),
        ({"x": torch.zeros(7, 5, 4).transpose(0, 1)}, r"strided .*; expected contiguous"),
        ({"above": torch.zeros(1, 6, 4)}, r"the row above is .*\(1, 6, 4\).*expected .*\(1, 7, 4\)"),
        ({"below": torch.zeros(1, 7, 4).bfloat16()}, r"the row below is .*bfloat16.*expected .*float32"),
    ],
)
def test_wrong_bands_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    """Shape, type, place and strides are compared with the packed weights before memory is touched."""
    with pytest.raises(ConfigError, match=message) as error:
        call(name, **changes)
    assert "\n" not in str(error.value)


AXIS = make_axis(7, 3)
WINDOWS = Modulation(torch.ones(7, 2, 4), torch.ones(7, 2, 4), AXIS)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("feed", {"norm": Modulation(torch.ones(5), torch.ones(5))}, r"norm.scale is .*\(5,\).*\(4,\)"),
        ("feed", {"norm": Modulation(*[torch.ones(5, 2, 4)] * 2, AXIS)}, r"norm.scale is .*\(7, 2, 4\)"),
        ("feed", {"norm": replace(WINDOWS, columns=make_axis(9, 3))}, r"norm.columns.left is .*\(7,\)"),
        ("attend", {"mixing": torch.zeros(3)}, r"mixing is .*\(3,\)"),
        ("attend", {"blend": Blend(torch.zeros(2, 1), torch.zeros(5), AXIS)}, r"mixing is"),
        ("statistics", {"rows": 0}, r"rows per sum is 0; expected at least 1"),
        ("statistics", {"bounds": [0, 3, 9]}, r"bounds of cells is \[0, 3, 9\]; expected a rising list to 7"),
        ("statistics", {"bounds": [0, 5, 3, 7]}, r"bounds of cells"),
        ("convolve", {"shuffle": -2}, r"unshuffle by 2 is \(5, 7, 4\); expected an even number"),
    ],
)
def test_wrong_arguments_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    """So are modulations, attentions and cells of other sizes."""
    with pytest.raises(ConfigError, match=message):
        call(name, **changes)


@pytest.mark.parametrize(
    ("name", "weight", "bias"),
    [
        ("qkv", (9, 4, 1, 1), None),
        ("qkv", (12, 4, 1, 1), (11,)),
        ("qkv_depthwise", (12, 1, 1, 1), None),
        ("expand", (16, 6, 1, 1), None),
        ("depthwise", (14, 1, 3, 3), None),
        ("project", (4, 8), None),
    ],
)
def test_weights_that_do_not_belong_together(
    name: str, weight: tuple[int, ...], bias: tuple[int, ...] | None
) -> None:
    """Packing compares the tensors of a block with each other; the kernels trust what was packed."""
    model = tiny()
    assert isinstance(model, DiffIRS2)
    weights = block_weights(model.dirformer.encoder[0][0])
    wrong = object.__new__(Conv)  # past the annotated shapes, as for users
    vars(wrong).update(weight=torch.zeros(weight), bias=None if bias is None else torch.zeros(bias))
    with pytest.raises(ConfigError, match=r"compiled kernels: .* is .*; expected"):
        compiled().pack_block(replace(weights, **{name: wrong}))
    with pytest.raises(ConfigError, match="heads is 3; expected a divisor of 4"):
        compiled().pack_block(replace(weights, heads=3))


@pytest.mark.parametrize(
    ("weight", "bias", "shuffle"),
    [
        ((8, 4, 5, 5), (8,), 0),
        ((8, 4, 3, 1), (8,), 0),
        ((8, 4, 3, 3), (7,), 0),
        ((8, 4, 3, 3), (8,), 3),
        ((8, 4, 3, 3), (8,), -3),
    ],
)
def test_convolutions_that_cannot_be_packed(weight: tuple[int, ...], bias: tuple[int], shuffle: int) -> None:
    """Other windows, another number of biases, a shuffle of too few channels."""
    wrong = object.__new__(Conv)
    vars(wrong).update(weight=torch.zeros(weight), bias=torch.zeros(bias))
    with pytest.raises(ConfigError, match=r"compiled kernels: a .* is .*; expected"):
        compiled().pack_conv(wrong, shuffle=shuffle)


def test_structs_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python struct that differs from the compiled one is found on loading, in one line."""
    compiled()

    class Longer(ctypes.Structure):
        _fields_ = [*abi.Sweep._fields_, ("more", ctypes.c_long)]

    size = ctypes.sizeof(abi.Sweep)
    monkeypatch.setattr(abi, "Sweep", Longer)
    with pytest.raises(CompilerMissingError, match=f"Longer has {size} bytes in the compiled kernels"):
        native.library.__wrapped__()
