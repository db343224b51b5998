"""Photos in tar files: millions of them without listing millions of files.

Shards are plain tar files in WebDataset's layout, one member per photo. Beside them an index says where
each photo lies, so any of them can be read alone: from disk, or by a ranged request from any place that
fsspec knows (s3://, gs://, https://, memory:// …). That is why training on shards gives the samples that
training on folders gives, in the same order, whatever the number of devices and workers, and goes on in
the middle of an epoch.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from dirformer.ground.errors import DataError, PhotoError
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import decode_rgb
from dirformer.ground.places import Place, is_url, shown

INDEX = "index.npy"
_TABLE = re.compile(r"shard-(\d+)\.npy")


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write a tar file and, beside it, where its members lie; return the names of both.

    The bytes depend on the members alone: no times, no owners.
    """
    places = []
    with atomic_path(path) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
            places.append((archive.offset - -(-len(data) // 512) * 512, len(data)))
    table = path.with_suffix(".npy")
    with atomic_path(table) as part, part.open("wb") as file:
        np.save(file, np.array(places, dtype=np.int64).reshape(-1, 2))
    return [path.name, table.name]


def write_index(folder: Path | Place) -> int:
    """Join the tables of a folder's shards to one index; return the number of photos.

    Rows are (shard, offset, size). Shards whose table is missing are not finished and not counted in.
    """
    place = Place.of(folder) if isinstance(folder, Path) else folder
    rows = []
    for name in (one.name for one in place.listed()[1]):
        if (match := _TABLE.fullmatch(name)) is not None:
            table = np.load(io.BytesIO(place.below(name).read()))
            rows.append(np.column_stack([np.full(len(table), int(match[1]), dtype=np.int64), table]))
    index = np.concatenate(rows) if rows else np.empty((0, 3), dtype=np.int64)
    data = io.BytesIO()
    np.save(data, index)
    place.below(INDEX).write(data.getvalue())
    return len(index)


class Shards:
    """The photos of a folder of shards, by number; a `datasets.Source`."""

    def __init__(self, url: str | Path) -> None:
        """Open the index.

        Args:
            url: a folder, or an address that fsspec knows.

        Raises:
            DataError: if there is no index.
            MissingExtraError: if an address is given and fsspec is not installed.
        """
        self.url = str(url).rstrip("/")
        self.remote = is_url(self.url)
        self.files: dict[int, int] = {}
        try:
            if not self.remote:
                # Mapped, not read: every worker shares the pages.
                self.index = np.load(Path(self.url) / INDEX, mmap_mode="r", allow_pickle=False)
            else:
                self.index = np.load(io.BytesIO(self._place(INDEX).read()), allow_pickle=False)
        except (OSError, ValueError, PhotoError) as error:
            raise DataError(f"{self._place(INDEX)} cannot be read ({error}); prepare writes it") from None
        if not len(self.index):
            raise DataError(f"{shown(self.url)} has no photos; expected shards that prepare has written")

    def __len__(self) -> int:
        return len(self.index)

    def name(self, number: int) -> str:
        """Return the shard and the place in it."""
        shard, offset, _ = self.index[number]
        return f"{shown(self.url)}/shard-{shard:06}.tar at {offset}"

    def read(self, number: int) -> UInt8[Tensor, "3 h w"]:
        """Decode a photo; PhotoError names its place if it is damaged."""
        return decode_rgb(self._bytes(number), self.name(number))

    def _bytes(self, number: int) -> bytes:
        shard, offset, size = (int(value) for value in self.index[number])
        name = f"shard-{shard:06}.tar"
        if self.remote:
            # Opened in each process: connections do not live through a fork.
            return self._place(name).read(offset, offset + size)
        if not hasattr(os, "pread"):  # Windows
            with (Path(self.url) / name).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        if shard not in self.files:
            if len(self.files) >= 64:
                os.close(self.files.pop(next(iter(self.files))))
            self.files[shard] = os.open(Path(self.url) / name, os.O_RDONLY)
        # pread: no position that forked workers would share.
        return os.pread(self.files[shard], size, offset)

    def _place(self, name: str) -> Place:
        return Place.of(f"{self.url}/{name}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"files": {}}

    def __del__(self) -> None:
        for file in getattr(self, "files", {}).values():
            os.close(file)
