"""In which numbers a device multiplies: what `auto` picks, and float32 that is float32."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import torch

from dirformer.kernels.variants import has_bfloat16

log = logging.getLogger(__name__)

CAPABILITY = (8, 0)
"""The first NVIDIA GPUs with products of bfloat16 and TF32 numbers (Ampere)."""


def has_tf32(device: torch.device) -> bool:
    """Say whether a device is known to have TF32 products, of float32 factors cut to 10 bits of mantissa.

    NVIDIA's GPUs that have them have products of bfloat16 numbers, too.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision of that name; `auto` is bfloat16 where the device has its products, else float32.

    TF32 is picked by its name alone: on the GPUs that have it bfloat16 is faster, in half the memory. The log
    says what `auto` picked, and why.
    """
    if name != "auto":
        return name
    found = has_bfloat16() if device.type == "cpu" else has_tf32(device)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"device {device}"
    picked, has = ("bfloat16", "has") if found else ("float32", "is not known to have")
    log.info("precision auto: %s, because %s %s bfloat16 products", picked, what, has)
    return picked


def multiplies_in_tf32() -> bool:
    """Say whether the process multiplies float32 matrices on CUDA devices as TF32."""
    # Not by `allow_tf32`: where a program has set the newer one, reading the older one is an error.
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


class _Borrowed:
    """How many blocks are at work, whether in TF32, and the process's settings before the first of them."""

    gate = threading.Condition()
    blocks = 0
    tf32 = False
    before: tuple[str, ...] = ()


@contextlib.contextmanager
def float32_products(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Multiply float32 numbers on a CUDA device as float32, or as TF32, for the time of the block.

    By itself PyTorch lets cuDNN compute float32 convolutions in TF32. These settings belong to the process,
    not to the thread: several threads may be inside at once if they want the same, others wait until these
    are out, and blocks that want different things must not be nested. What other threads compute on a GPU
    meanwhile, such as a training, has the settings of the block, too. Behind it they are as before.
    """
    if device.type != "cuda":
        yield
        return
    # Not by `allow_tf32`: where a program has set these, reading the older ones is an error.
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    with _Borrowed.gate:
        _Borrowed.gate.wait_for(lambda: not _Borrowed.blocks or _Borrowed.tf32 == tf32)
        if not _Borrowed.blocks:
            _Borrowed.tf32, _Borrowed.before = tf32, tuple(switch.fp32_precision for switch in switches)
            for switch in switches:
                switch.fp32_precision = "tf32" if tf32 else "ieee"
        _Borrowed.blocks += 1
    try:
        yield
    finally:
        with _Borrowed.gate:
            _Borrowed.blocks -= 1
            if not _Borrowed.blocks:
                for switch, setting in zip(switches, _Borrowed.before, strict=True):
                    switch.fp32_precision = setting
                _Borrowed.gate.notify_all()
