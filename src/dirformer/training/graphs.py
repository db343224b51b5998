"""CUDA graphs: the kernels of a step, recorded once and then launched together.

A step of a small network is thousands of kernels of a few microseconds each; launching them one by one
takes a CPU several times as long as a fast GPU needs to run them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dirformer.ground.errors import ConfigError
from dirformer.training.config import TrainConfig
from dirformer.training.samples import Batch

WARM = 3
"""Runs before a recording, in which libraries choose kernels and allocate what they keep."""


@dataclass(frozen=True)
class _Recording:
    graph: Any
    inputs: dict[str, Tensor]
    """What the graph reads."""
    losses: dict[str, Tensor]
    gradients: list[Tensor | None]
    """What it writes."""


class Recorder:
    """A function that computes gradients from a batch, recorded for each shape of it, and replayed."""

    def __init__(self, function: Callable[[Batch], dict[str, Tensor]], networks: list[nn.Module]) -> None:
        """Take a function that launches kernels and does nothing else; it fills the networks' gradients."""
        self.function = function
        self.parameters = [p for network in networks for p in network.parameters()]
        self.buffers = [b for network in networks for b in network.buffers()]
        self.recordings: dict[Any, _Recording] = {}

    def __call__(self, batch: Batch, phase: object) -> dict[str, Tensor]:
        """Do what the function does; the losses are valid until the next call.

        `phase` names which of the function's ways a batch takes, where there are several.
        """
        tensors = batch.tensors()
        key = (phase, *((name, tensor.shape) for name, tensor in tensors.items()))
        if key not in self.recordings:
            self.recordings[key] = self._record(batch)
        recording = self.recordings[key]
        for name, tensor in tensors.items():
            recording.inputs[name].copy_(tensor)
        for parameter, gradient in zip(self.parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        recording.graph.replay()
        return recording.losses

    def _record(self, batch: Batch) -> _Recording:
        inputs = {name: tensor.clone() for name, tensor in batch.tensors().items()}
        batch = replace(batch, **inputs)
        # Spectral norms move with every forward pass; those made here must leave no trace.
        before = [buffer.clone() for buffer in self.buffers]
        # Shapes are fixed from here on: cuDNN tries its ways to convolve, and the fastest are recorded.
        tries, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                self.function(batch)
        torch.cuda.current_stream().wait_stream(stream)
        for parameter in self.parameters:
            parameter.grad = None  # the recording makes gradients of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self.function(batch)
        torch.backends.cudnn.benchmark = tries
        for buffer, value in zip(self.buffers, before, strict=True):
            buffer.copy_(value)
        return _Recording(graph, inputs, losses, [parameter.grad for parameter in self.parameters])


def require_graphs(config: TrainConfig, fabric: Any) -> None:
    """Raise ConfigError if this run cannot be recorded."""
    if fabric.device.type != "cuda" or fabric.world_size > 1:
        raise ConfigError(
            f"graphs=true records the kernels of one CUDA device; this run has {fabric.world_size} "
            f"({fabric.device.type}); set graphs=false"
        )
    if config.checkpoint_activations or config.precision == "16-mixed":
        raise ConfigError(
            "graphs=true goes with neither checkpoint_activations nor precision=16-mixed, "
            "which decide things on the way"
        )
