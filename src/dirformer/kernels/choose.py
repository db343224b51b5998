"""Which kernels a device and a precision get."""

from __future__ import annotations

import logging

import torch

from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.native import NativeKernels
from dirformer.kernels.protocol import Kernels
from dirformer.kernels.stock import StockKernels

log = logging.getLogger(__name__)


def choose_kernels(precision: torch.dtype = torch.float32, device: torch.device | None = None) -> Kernels:
    """Return the compiled kernels where they can be built for device and precision, else stock torch's.

    The log says which, and why.
    """
    if device is None or device.type == "cpu":
        try:
            kernels = NativeKernels(precision)
        except CompilerMissingError as reason:
            log.info("kernels: stock torch (%s)", reason)
            return StockKernels(precision, device)
        log.info("kernels: native (compiled for this processor)")
        return kernels
    log.info("kernels: stock torch (device %s)", device)
    return StockKernels(precision, device)
