"""Ctrl-C during training: noted, and acted on at the end of the step at hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch


class Interrupts:
    """Within this, the first Ctrl-C (SIGINT) is only noted; a second one stops at once.

    Only the main thread may handle signals. In any other thread nothing changes.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.noted = False
        self.before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True

    def seen(self) -> bool:
        """Return whether any device was interrupted; all devices must ask at the same step."""
        if self.fabric.world_size == 1:
            return self.noted
        flag = torch.tensor(float(self.noted), device=self.fabric.device)
        return bool(self.fabric.all_reduce(flag, reduce_op="sum").item() > 0)
