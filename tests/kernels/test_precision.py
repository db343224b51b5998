"""In which numbers a device multiplies. The devices are simulated, but for the last test."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from dirformer.kernels import precision
from dirformer.kernels.choose import choose_kernels
from dirformer.kernels.precision import choose_precision, float32_products

CUDA = torch.device("cuda")


def simulate(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.version, "hip", hip)


def switches() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.mark.parametrize(
    ("device", "capability", "hip", "expected", "reason"),
    [
        ("cuda", (9, 0), None, "bfloat16", "Some GPU has"),
        ("cuda:1", (8, 0), None, "bfloat16", "Some GPU has"),
        ("cuda", (7, 5), None, "float32", "Some GPU is not known to have"),
        ("cuda", (9, 0), "7.0", "float32", "Some GPU is not known to have"),  # AMD counts otherwise
        ("mps", (0, 0), None, "float32", "device mps is not known to have"),
        ("cpu", (9, 0), None, "float32", "device cpu is not known to have"),
        ("cpu with bfloat16", (7, 5), None, "bfloat16", "device cpu has"),
    ],
)
def test_auto_goes_by_the_device(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    capability: tuple[int, int],
    hip: str | None,
    expected: str,
    reason: str,
) -> None:
    """`auto` is bfloat16 where the device has its products, else float32; one line says why."""
    simulate(monkeypatch, capability, hip)
    name, _, has = device.partition(" ")
    monkeypatch.setattr(precision, "has_bfloat16", lambda: bool(has))
    with caplog.at_level(logging.INFO):
        assert choose_precision("auto", torch.device(name)) == expected
    assert [r.getMessage() for r in caplog.records] == [
        f"precision auto: {expected}, because {reason} bfloat16 products"
    ]


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16", "float16"])
def test_a_named_precision_is_taken_as_it_is(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is asked of the device, and nothing said."""
    with caplog.at_level(logging.INFO):
        assert choose_precision(name, CUDA) == name
    assert not caplog.records


@pytest.mark.parametrize(
    ("device", "capability", "has"),
    [("cuda", (8, 0), True), ("cuda", (7, 5), False), ("mps", (9, 0), False), ("cpu", (9, 0), False)],
)
def test_tf32_without_its_products(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    capability: tuple[int, int],
    has: bool,
) -> None:
    """A device without them computes in float32, and one warning says so."""
    simulate(monkeypatch, capability)
    kernels = choose_kernels(torch.float32, torch.device(device), tf32=True)
    assert kernels.tf32 is has and kernels.precision == torch.float32
    assert choose_kernels(torch.float32, torch.device(device)).tf32 is False
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    line = f"precision tf32: device {device} has no TF32 products; computing in float32"
    assert warnings == ([] if has else [line])


@pytest.mark.parametrize(("tf32", "inside"), [(False, ("ieee", "ieee")), (True, ("tf32", "tf32"))])
def test_the_process_has_its_settings_back(tf32: bool, inside: tuple[str, str]) -> None:
    """Inside a block they are the block's; behind it, and behind an error, they are as before."""
    before = switches()
    assert before[0] == "tf32"  # PyTorch's own choice for convolutions, which float32 must not have
    with float32_products(CUDA, tf32=tf32), float32_products(CUDA, tf32=tf32):
        assert switches() == inside
    assert switches() == before
    with pytest.raises(ZeroDivisionError), float32_products(CUDA, tf32=tf32):
        raise ZeroDivisionError
    assert switches() == before
    # Programs that read the older settings still can.
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_leave_the_settings_alone(device: str) -> None:
    """Only a CUDA device has them."""
    before = switches()
    with float32_products(torch.device(device), tf32=True):
        assert switches() == before


def test_threads_share_one_setting() -> None:
    """Blocks that want the same run side by side; one that wants another waits until they are out."""
    before, seen = switches(), list[tuple[str, str]]()
    joined, leave, entered = threading.Event(), threading.Event(), threading.Event()

    def same() -> None:
        with float32_products(CUDA):
            joined.set()
            leave.wait()
            seen.append(switches())

    def other() -> None:
        with float32_products(CUDA, tf32=True):
            entered.set()
            seen.append(switches())

    threads = [threading.Thread(target=same), threading.Thread(target=other)]
    with float32_products(CUDA):
        threads[0].start()
        assert joined.wait(60)
        threads[1].start()
        assert not entered.wait(0.05)
    assert not entered.wait(0.05) and switches() == ("ieee", "ieee")
    leave.set()
    for thread in threads:
        thread.join(60)
    assert seen == [("ieee", "ieee"), ("tf32", "tf32")] and switches() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_is_float32_on_a_gpu() -> None:
    """Under PyTorch's settings, against float64: off by float32's rounding, and by more in TF32."""
    torch.manual_seed(0)
    x, weight = torch.rand(1, 64, 64, 64) - 0.5, torch.rand(64, 64, 3, 3) - 0.5
    exact = torch.nn.functional.conv2d(x.double(), weight.double())

    def error(*, tf32: bool) -> float:
        with float32_products(CUDA, tf32=tf32):
            found = torch.nn.functional.conv2d(x.to(CUDA), weight.to(CUDA))
            found = found.permute(0, 2, 3, 1) @ torch.eye(64, device=CUDA)
        return float((found.permute(0, 3, 1, 2).cpu().double() - exact).abs().max() / exact.abs().max())

    assert error(tf32=False) <= 3e-6
    assert (error(tf32=True) >= 1e-4) is precision.has_tf32(CUDA)
