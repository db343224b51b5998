"""On which devices Triton's kernels compute, and why not on others."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from typing import Any

import torch

from dirformer.kernels.build import SWITCH
from dirformer.kernels.precision import CAPABILITY, has_tf32

log = logging.getLogger(__name__)


def fused_on(device: torch.device) -> Any:
    """Return the module of blocks by Triton, `kernels/fused.py`, if it computes on a device; else None.

    The log says why not, once for each device.
    """
    return None if os.environ.get(SWITCH) == "0" or reason_against(device) else _fused()


def _fused() -> Any:
    return importlib.import_module("dirformer.kernels.fused")


@functools.cache
def reason_against(device: torch.device) -> str | None:
    """Say why Triton's kernels do not compute on a device; None if they do."""
    if device.type != "cuda":
        return f"Triton computes on CUDA devices, not on {device.type}"
    reason = _missing(device)
    if reason is not None:
        log.info("kernels: stock torch on %s (%s)", device, reason)
    return reason


def _missing(device: torch.device) -> str | None:
    if not has_tf32(device):
        return "no NVIDIA GPU of compute capability {}.{} or later".format(*CAPABILITY)
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    try:
        # Triton needs a C compiler, which not every machine has.
        _fused().probe(device)
    except Exception as error:  # noqa: BLE001 - whatever keeps a compiler from working
        return f"Triton cannot compile here: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return None
