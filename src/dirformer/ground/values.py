"""Arrays and tensors of callers: the values they hold, whatever their layout, and which hold none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def floats_of(array: np.ndarray) -> Tensor:
    """Return a copy of an array's numbers as float32; what is too large for it is infinite.

    Read-only arrays and those in another byte order are copied as all others.
    """
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, np.float32, order="C"))


def unreadable(tensor: Tensor) -> str | None:
    """Return why a tensor does not hold a value for each of its places, in words; None if it does."""
    kinds = {
        "nested": tensor.is_nested,
        "sparse or packed": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "on the device meta, which keeps no values": tensor.is_meta,
        "not initialised": is_lazy(tensor),
    }
    return next((kind for kind, applies in kinds.items() if applies), None)
