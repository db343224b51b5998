"""Exported files, run by the programs they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirformer.ground.errors import MissingExtraError

Run = Callable[[dict[str, Tensor]], Tensor]
"""Inputs by name → the restored photo, `1 3 H W`."""


def open_onnx(path: Path) -> Run:
    """Open a file in ONNX Runtime, on the CPU. Raises MissingExtraError if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "export") from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, Tensor]) -> Tensor:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def open_openvino(path: Path) -> Run:
    """Open a file in OpenVINO, on the CPU, in float32. Raises MissingExtraError if it is not installed."""
    openvino = require_openvino()
    # Left to itself OpenVINO takes bfloat16 where the processor has it.
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)

    def run(inputs: dict[str, Tensor]) -> Tensor:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return torch.from_numpy(compiled(arrays)[0].copy())

    return run


def require_openvino() -> Any:
    """Import OpenVINO. Raises MissingExtraError if it is not installed."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    return openvino
