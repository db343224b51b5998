"""The manifest of a fleet's results: Parquet files below `OUT/.dirformer/manifest`, one for each chunk.

A chunk's file is written when its results lie ready and before they get their names, so no result is without
a record; a record without its result is one to do again. The file's name is the digest of the chunk, so a
chunk that is done twice leaves one file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dirformer.fleet.order import Chunk, Record
from dirformer.ground.errors import DirformerError, MissingExtraError
from dirformer.ground.places import Place
from dirformer.inference.done import digest_of

FOLDER = ".dirformer/manifest"
_JSON = ("files", "values")
"""Columns that hold JSON."""


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "s3") from None
    return pa, parquet


def parts_of(out: Place, folder: str) -> Place:
    """Return where the records of one folder of results lie."""
    return out.below(FOLDER).below(folder)


def write_part(out: Place, chunk: Chunk, options: str, records: Sequence[Record]) -> None:
    """Write the records of a chunk.

    Raises:
        OutputError: if they cannot be written.
        MissingExtraError: without pyarrow.
    """
    pa, parquet = _parquet()
    columns = {
        name: [getattr(record, name) for record in records] for name in Record.__dataclass_fields__
    } | {"notes": ["\n".join(record.notes) for record in records]}
    columns |= {name: [json.dumps(getattr(record, name)) for record in records] for name in _JSON}
    data = io.BytesIO()
    parquet.write_table(pa.table(columns), data)
    names = "\0".join(f"{item.output}\0{item.version}" for item in chunk.items)
    name = digest_of(chunk.folder.encode(), options.encode(), names.encode())
    parts_of(out, chunk.folder).below(f"{name}.parquet").write(data.getvalue())


def read_records(out: Place, folder: str) -> dict[str, list[Record]]:
    """Return the records of one folder of results by output; a part that cannot be read counts for nothing.

    Raises:
        DataError: if the place cannot be listed.
        MissingExtraError: without pyarrow.
    """
    pa, parquet = _parquet()
    place = parts_of(out, folder)
    known: dict[str, list[Record]] = {}
    for name in place.hidden():
        if not name.endswith(".parquet"):
            continue
        try:
            rows = parquet.read_table(io.BytesIO(place.below(name).read())).to_pylist()
            records = [_record(row) for row in rows]
        except (DirformerError, pa.ArrowException, TypeError, KeyError, ValueError, AttributeError):
            continue
        for record in records:
            known.setdefault(record.output, []).append(record)
    return known


def _record(row: dict[str, Any]) -> Record:
    texts = {name: json.loads(row[name]) for name in _JSON if name in row}
    return Record(**row | {"notes": tuple(row["notes"].split("\n"))} | texts)


def read_manifest(out: str | Path) -> list[dict[str, Any]]:
    """Return all rows of a fleet's manifest, of all folders below `out`, the latest attempt of each result.

    A row that has a result comes before one that failed.

    Raises:
        DataError: if the place cannot be listed.
        MissingExtraError: without pyarrow.
    """
    top = Place.of(out)
    rows: dict[str, dict[str, Any]] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        for output, records in read_records(top, folder).items():
            rows[output] = asdict(max(records, key=lambda one: not one.error))
        inner, _ = parts_of(top, folder).listed()
        folders += [f"{folder}/{name}".lstrip("/") for name in inner]
    return [rows[name] for name in sorted(rows)]
