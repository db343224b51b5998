"""Which kernels a device and a precision get."""

from __future__ import annotations

import importlib
import logging
from typing import cast

import torch

from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.gpus import fused_on
from dirformer.kernels.native import NativeKernels
from dirformer.kernels.precision import has_tf32
from dirformer.kernels.protocol import Kernels
from dirformer.kernels.stock import StockKernels
from dirformer.kernels.variants import has_bfloat16

log = logging.getLogger(__name__)


def choose_kernels(
    precision: torch.dtype = torch.float32, device: torch.device | None = None, *, tf32: bool = False
) -> Kernels:
    """Return the compiled kernels where there are some for device and precision, else stock torch's.

    A processor without bfloat16 products, or a device without TF32 ones, gets float32 in their place. The log
    says what was chosen, and why.
    """
    if tf32 and not has_tf32(device or torch.device("cpu")):
        log.warning("precision tf32: device %s has no TF32 products; computing in float32", device or "cpu")
        tf32 = False
    if device is None or device.type == "cpu":
        if precision == torch.bfloat16 and not has_bfloat16():
            # In software they were measured 28 times slower than float32.
            log.warning("precision bfloat16: this processor has no bfloat16 products; computing in float32")
            precision = torch.float32
        try:
            kernels = NativeKernels(precision)
        except CompilerMissingError as reason:
            log.info("kernels: stock torch (%s)", reason)
            return StockKernels(precision, device)
        log.info("kernels: native")
        return kernels
    if fused_on(device) is not None:
        log.info("kernels: Triton")
        triton = importlib.import_module("dirformer.kernels.triton")
        return cast("Kernels", triton.TritonKernels(precision, device, tf32=tf32))
    log.info("kernels: stock torch (device %s)", device)
    return StockKernels(precision, device, tf32=tf32)
