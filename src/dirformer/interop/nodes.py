"""The few words that ONNX graphs are written in here: a node, a constant, and what several parts need.

Maps are `1 c h w`: a file restores one photo at a time, of any height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dirformer.ground.errors import MissingExtraError

OPSET = 20
"""The first with GELU, of January 2024."""
IR = 9
"""The file format that goes with it; runtimes of early 2024 read it."""


def require_onnx() -> Any:
    """Import onnx. Raises MissingExtraError if it is not installed."""
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "export") from None
    return onnx


class Nodes:
    """A graph that grows node by node. Values go by their names, as in the file."""

    def __init__(self) -> None:
        self.onnx = require_onnx()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __call__(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node with one result and return the result's name; an empty input is one left out."""
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Cut a value into equal parts."""
        names = [f"split_{len(self.nodes)}_{part}" for part in range(parts)]
        node = self.onnx.helper.make_node("Split", [x], names, name=names[0], axis=axis, num_outputs=parts)
        self.nodes.append(node)
        return names

    def weight(self, name: str, value: Tensor) -> str:
        """Add a tensor of the network under its own name."""
        if name not in self.constants:
            array = value.detach().cpu().float().numpy()
            self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def number(self, value: float) -> str:
        """Add a float32 number."""
        return self.weight(f"number_{value!r}", torch.tensor(value))

    def integers(self, *values: int) -> str:
        """Add a list of int64 numbers."""
        name = "integers" + "".join(f"_{value}" for value in values)
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def integer(self, value: int) -> str:
        """Add one int64 number."""
        name = f"integer_{value}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.array(value, dtype=np.int64), name)
        return name

    # Layers -------------------------------------------------------------------------------------------

    def conv(self, name: str, layer: nn.Conv2d, x: str) -> str:
        """Add a convolution; `name` is its module's."""
        inputs = [x, self.weight(f"{name}.weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self.weight(f"{name}.bias", layer.bias))
        rim = layer.kernel_size[0] // 2
        return self("Conv", *inputs, group=layer.groups, pads=[rim] * 4, kernel_shape=list(layer.kernel_size))

    def linear(self, name: str, layer: nn.Linear, x: str) -> str:
        """Add a linear layer on rows."""
        inputs = [x, self.weight(f"{name}.weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self.weight(f"{name}.bias", layer.bias))
        return self("Gemm", *inputs, transB=1)

    def leaky(self, x: str, slope: float) -> str:
        """Add a LeakyReLU."""
        return self("LeakyRelu", x, alpha=slope)

    def unshuffle(self, x: str, channels: int, factor: int) -> str:
        """Add a pixel-unshuffle of a map of so many channels."""
        if factor == 1:
            return x
        # Written out: ONNX's operator orders channels otherwise, and OpenVINO 2026.4 computes it wrongly.
        inner = self("Div", self("Shape", x, start=2, end=4), self.integers(factor, factor))
        rows, columns = self.split(inner, 2, axis=0)
        ends, side = self.integers(1, channels), self.integers(factor)
        blocks = self("Reshape", x, self("Concat", ends, rows, side, columns, side, axis=0))
        ordered = self("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4])
        whole = self("Concat", self.integers(1, channels * factor**2), inner, axis=0)
        return self("Reshape", ordered, whole)

    def shuffle(self, x: str, factor: int) -> str:
        """Add a pixel-shuffle."""
        return x if factor == 1 else self("DepthToSpace", x, blocksize=factor, mode="CRD")

    def enlarge(self, x: str, factor: int, mode: str) -> str:
        """Add an enlargement: `nearest`, `linear` or `cubic`."""
        if factor == 1:
            return x
        scales = self.weight(f"scales_{factor}", torch.tensor([1.0, 1.0, factor, factor]))
        ways: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel"}
        if mode == "nearest":
            ways = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        elif mode == "cubic":
            ways["cubic_coeff_a"] = -0.75
        return self("Resize", x, "", scales, mode=mode, **ways)

    def file(self, inputs: Sequence[Any], outputs: Sequence[Any], metadata: dict[str, str]) -> Any:
        """Return the whole as an `onnx.ModelProto`, checked."""
        from dirformer import __version__

        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "dirformer", inputs, outputs, list(self.constants.values()))
        model = helper.make_model(
            graph,
            ir_version=IR,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="dirformer",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model)
        return model
