"""Feature maps of the engine: in memory, or partly on disk; given back row by row as they are used up."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from dirformer.ground.errors import OutputError

PAGE = mmap.PAGESIZE


class Map:
    """A feature map `y x c`, channels side by side.

    `resident` rows stay in memory; of the rest only what is being worked on, the remainder lies in an unnamed
    file in `folder`; OutputError if there is no room. Rows can be given back before the map is: `release`.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        resident: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.resident = height if resident is None else resident
        self.row_bytes = width * channels * dtype.itemsize
        self._pages: mmap.mmap | None = None
        self.rows: Tensor
        if device is not None and device.type != "cpu":
            # Of a map that does not fit there, all of it waits on the host.
            place = device if self.resident >= height else torch.device("cpu")
            self.rows = torch.empty(height, width, channels, dtype=dtype, device=place)
            return
        size = height * self.row_bytes
        if self.resident < height:
            self._pages = _on_disk(size, folder)
        elif hasattr(mmap, "MADV_DONTNEED"):
            # Private pages: those given back are freed at once.
            self._pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            self.rows = torch.empty(height, width, channels, dtype=dtype)
            return
        self.rows = torch.frombuffer(self._pages, dtype=dtype).view(height, width, channels)

    def evict(self, start: int, stop: int) -> None:
        """Let rows start to stop leave memory, if they are among those that may not stay."""
        if self.resident < self.height:
            self.release(max(start, self.resident), stop)

    def release(self, start: int, stop: int) -> None:
        """Give the memory of rows start to stop back; those of a map on disk can be read again."""
        if self._pages is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = -(-start * self.row_bytes // PAGE) * PAGE
        last = stop * self.row_bytes if stop == self.height else stop * self.row_bytes // PAGE * PAGE
        if last > first:
            self._pages.madvise(mmap.MADV_DONTNEED, first, last - first)


def _on_disk(size: int, folder: Path | None) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                # Room is taken now: a full disk would otherwise end the process at some later row.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise OutputError(
            f"{size / 2**20:.0f} MiB of feature maps cannot wait in {folder or tempfile.gettempdir()} "
            f"({error.strerror}); raise the memory limit, or set TMPDIR to a folder with room"
        ) from error
