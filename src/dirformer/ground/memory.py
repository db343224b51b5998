"""Memory of this machine and this process, read in this file alone.

Linux says everything. Elsewhere some of it is unknown, and the answer is None; nothing else depends on it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType

import torch

MIB = 2**20
_PROC = Path("/proc")


def available_memory() -> int | None:
    """Return the bytes this machine can give without swapping; None where unknown."""
    return _entry("meminfo", "MemAvailable")


def total_memory() -> int | None:
    """Return the bytes of memory this machine has; None where unknown."""
    known = _entry("meminfo", "MemTotal")
    if known is not None or not hasattr(os, "sysconf"):
        return known
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def resident_memory() -> int | None:
    """Return the bytes this process holds now; None where unknown."""
    return _entry("self/status", "VmRSS")


def peak_memory() -> int | None:
    """Return the most bytes held since the start or `forget_peak_memory`; None where unknown."""
    peak = _entry("self/status", "VmHWM")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return known if sys.platform == "darwin" else known * 1024


def device_memory(device: torch.device) -> int | None:
    """Return the bytes a GPU can give now, those cached by PyTorch included; None where unknown."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def forget_peak_memory() -> None:
    """Let `peak_memory` start afresh, where the system can do that."""
    # Fails where this is not Linux, or not allowed.
    with contextlib.suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5", encoding="ascii")


def _entry(file: str, field: str) -> int | None:
    """Return the bytes a line such as `MemTotal: 16 kB` tells."""
    try:
        lines = (_PROC / file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


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
            forget_peak_memory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mib = peak_mib(self.device)


def peak_mib(device: torch.device | None = None) -> float:
    """Return the peak so far in MiB: of tensors on CUDA, else of the process; 0 where unknown."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return (peak_memory() or 0) / MIB
