"""A pass over a photo, recorded as a CUDA graph: its kernels are launched together.

A photo of 256×256 is a thousand kernels of a few microseconds; launched one by one, they keep a fast GPU
waiting for Python. A recording holds the memory of one pass, so only one is kept: that of a size that came
twice in a row.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Recording:
    key: Hashable
    graph: Any
    photo: Tensor
    noise: Tensor
    """What the graph reads."""
    out: Tensor
    """What it writes."""


class Recorder:
    """A function of a photo and its noise that launches kernels and does nothing else, on one CUDA device."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._function = function
        self._busy = threading.Lock()
        self._seen: Hashable = None
        self._kept: _Recording | None = None
        self._refused: set[Hashable] = set()

    def __call__(self, photo: Tensor, noise: Tensor, state: Hashable) -> Tensor:
        """Do what the function does; `state` is whatever else its result depends on.

        While one thread replays, others launch kernel by kernel.
        """
        key = (photo.shape, noise.shape, state)
        if not self._busy.acquire(blocking=False):
            return self._function(photo, noise)
        try:
            kept = self._recording(key, photo, noise)
            if kept is None:
                return self._function(photo, noise)
            kept.photo.copy_(photo)
            kept.noise.copy_(noise)
            kept.graph.replay()
            return kept.out.clone()
        finally:
            self._busy.release()

    def holds(self, height: int, width: int) -> bool:
        """Say whether photos of that size have a recording, and so the memory that they need."""
        return self._kept is not None and tuple(self._kept.photo.shape[2:]) == (height, width)

    def _recording(self, key: Hashable, photo: Tensor, noise: Tensor) -> _Recording | None:
        if self._kept is not None and self._kept.key == key:
            return self._kept
        again, self._seen, self._kept = self._seen == key, key, None
        if again and key not in self._refused:
            self._kept = self._record(key, photo, noise)
        return self._kept

    def _record(self, key: Hashable, photo: Tensor, noise: Tensor) -> _Recording | None:
        photo, noise = photo.clone(), noise.clone()
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads may launch and allocate meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                out = self._function(photo, noise)
        except RuntimeError as error:
            log.info(
                "a pass over %d×%d goes on kernel by kernel; it was not recorded: %s",
                *photo.shape[:1:-1],
                error,
            )
            self._refused.add(key)
            return None
        return _Recording(key, graph, photo, noise, out)
