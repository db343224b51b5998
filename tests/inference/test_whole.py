"""On a GPU a photo that fits is restored as a whole, others in bands. The memory is simulated."""

from __future__ import annotations

import pytest
import torch

from dirformer.inference import engine as room
from dirformer.inference.engine import Engine
from dirformer.inference.plan import whole_memory
from dirformer.kernels.stock import StockKernels
from dirformer.networks.diffir import DiffIRS2
from helpers import TINY_SR, tiny

SIDE = 32
NEEDED = whole_memory(TINY_SR, SIDE, SIDE)


class Gpu(StockKernels):
    """Stock kernels that say they are on a GPU; they compute on the CPU."""

    def __init__(self, precision: torch.dtype = torch.float32, *, tf32: bool = False) -> None:
        super().__init__(precision, tf32=tf32)
        self.device = torch.device("cuda")


@pytest.fixture
def model() -> DiffIRS2:
    found = tiny(TINY_SR)
    assert isinstance(found, DiffIRS2)
    return found


def inputs(model: DiffIRS2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, SIDE, SIDE), torch.randn(model.noise_shape[0], 2, model.noise_shape[1])


@pytest.mark.parametrize(
    ("free", "limit", "whole"),
    [
        (2 * NEEDED, None, True),
        (NEEDED, None, False),  # a tenth of the free memory is left alone
        (None, None, False),  # a device that does not say what it has
        (None, NEEDED, True),
        (2 * NEEDED, NEEDED - 1, False),
        (NEEDED, 2 * NEEDED, False),
    ],
)
def test_the_memory_decides(
    model: DiffIRS2, monkeypatch: pytest.MonkeyPatch, free: int | None, limit: int | None, whole: bool
) -> None:
    """The smaller of what is free and what is allowed decides between whole and bands."""
    monkeypatch.setattr(room, "device_memory", lambda _: free)
    assert Engine(model, kernels=Gpu(), max_memory=limit)._fits_whole(SIDE, SIDE) is whole


def test_a_whole_photo_is_the_networks_own(model: DiffIRS2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is `model(lq, noise)`, photo by photo; progress ends at 1."""
    monkeypatch.setattr(room, "device_memory", lambda _: 2 * NEEDED)
    lq, noise = inputs(model)
    told: list[float] = []
    found = Engine(model, kernels=Gpu()).restore(lq, noise, progress=told.append)
    with torch.inference_mode():
        expected = torch.cat([model(lq[i : i + 1], noise[:, i : i + 1]) for i in range(2)])
    assert torch.equal(found, expected) and told == [1.0, 1.0]


def test_bfloat16_that_overflows_is_done_again(model: DiffIRS2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is not finite is computed again in float32."""
    monkeypatch.setattr(room, "device_memory", lambda _: 2 * NEEDED)
    lq, noise = inputs(model)
    calls: list[bool] = []
    original = model.forward

    def forward(photo: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_autocast_enabled("cpu"))
        result = original(photo, z)
        return result * float("nan") if calls[-1] else result

    monkeypatch.setattr(model, "forward", forward)
    found = Engine(model, kernels=Gpu(torch.bfloat16)).restore(lq[:1], noise[:, :1])
    assert calls == [True, False] and bool(found.isfinite().all())


def products() -> str:
    """What PyTorch may compute float32 convolutions in."""
    return str(torch.backends.cudnn.conv.fp32_precision)


@pytest.mark.parametrize(("tf32", "expected"), [(False, ["ieee"]), (True, ["tf32", "ieee"])])
def test_float32_is_float32(
    model: DiffIRS2,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tf32: bool,
    expected: list[str],
) -> None:
    """A whole photo has TF32 products only where asked; a TF32 result that is not finite is done again."""
    monkeypatch.setattr(room, "device_memory", lambda _: 2 * NEEDED)
    lq, noise = inputs(model)
    seen: list[str] = []
    original = model.forward

    def forward(photo: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        seen.append(products())
        return original(photo, z) * (float("inf") if seen[-1] == "tf32" else 1)

    monkeypatch.setattr(model, "forward", forward)
    engine = Engine(model, kernels=Gpu(tf32=tf32))
    assert bool(engine.restore(lq[:1], noise[:, :1]).isfinite().all())
    assert seen == expected and products() == "tf32"
    assert caplog.messages == ["tf32 arithmetic overflowed; this photo is restored in float32"] * tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_bands_have_the_same_products(model: DiffIRS2, tf32: bool) -> None:
    """What the engine computes band by band, too."""
    engine = Engine(model, kernels=Gpu(tf32=tf32))
    with engine._layers(engine.plan):
        assert products() == ("tf32" if tf32 else "ieee")
    assert products() == "tf32" and engine.precision == ("tf32" if tf32 else "float32")


def test_windows_need_bands(model: DiffIRS2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local attention over windows is computed by the engine alone."""
    monkeypatch.setattr(room, "device_memory", lambda _: 100 * NEEDED)
    assert not Engine(model, kernels=Gpu(), window=32)._fits_whole(SIDE, SIDE)
