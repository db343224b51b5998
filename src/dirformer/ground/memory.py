"""Peak memory of a stretch of work."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType

import torch

MIB = 2**20


class PeakMemory:
    """Context manager: `mib` is the peak within the block.

    On CUDA, memory of tensors; elsewhere the resident memory of the process. Linux can reset the process's
    high-water mark; where that is not possible the figure is the peak since the process started.
    """

    mib: float = 0.0

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device if device is not None and device.type == "cuda" else None

    def __enter__(self) -> PeakMemory:
        if self.device is not None:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            # Fails where this is not Linux, or not allowed.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mib = peak_mib(self.device)


def peak_mib(device: torch.device | None = None) -> float:
    """Return the peak so far in MiB: of tensors on CUDA, else of the process's resident memory."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return _peak_resident() / MIB


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0  # not known there
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
