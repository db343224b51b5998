"""What is to be restored, in words that travel: an order, its chunks of photos, and what became of each.

No photo travels. A chunk holds addresses; the worker that takes it fetches, restores and puts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from dirformer.ground.errors import CheckpointError, ConfigError
from dirformer.ground.places import Place, is_url
from dirformer.inference.choice import influences
from dirformer.inference.done import digest_file, digest_options
from dirformer.inference.jobs import FileOptions
from dirformer.inference.options import RestoreOptions
from dirformer.weights.catalog import CATALOG, find_weights


@dataclass(frozen=True)
class Order:
    """What holds for all photos of a run. A ConfigError says what a fleet does not do."""

    sources: tuple[Place, ...]
    """Photos, folders, and lists of photos (whose name begins with `@`)."""
    out: Place
    mask: Place | None = None
    model: str | None = None
    task: str | None = None
    sharp: bool = False
    seed: int = 0
    options: RestoreOptions = field(default_factory=RestoreOptions)
    files: FileOptions = field(default_factory=FileOptions)
    overwrite: bool = False
    skip: bool = True
    """Whether photos that an earlier run has finished are skipped."""
    workers: int = 2
    """Threads of a worker that fetch and decode, and as many that encode and put."""
    one_file: bool = False
    """Whether `out` is the name of the one result, not a folder."""

    def __post_init__(self) -> None:
        self.out.require_writable()
        if self.files.pages:
            raise ConfigError(
                "--pages is set; a fleet takes the first page: restore pages from a local folder"
            )
        if self.options.samples > 1:
            raise ConfigError("--samples is set; a fleet writes one result a photo: leave --samples out")

    def digest(self) -> str:
        """Return the digest of all that changes results, beside the photo, its mask and the model chosen."""
        models = [_weights_digest(name) for name in ([self.model] if self.model else CATALOG)]
        choice = {"models": models, "task": self.task, "sharp": self.sharp, "masks": self._masks()}
        return digest_options(influences(self.options, self.files, seed=self.seed) | choice)

    def _masks(self) -> list[str]:
        """Return what masks there are: one that changes changes the results of all."""
        if self.mask is None:
            return []
        found, waiting = [], [""] if self.mask.is_folder() else []
        if not waiting and (one := self.mask.entry()) is not None:
            found.append(one.version)
        while waiting:
            folder = waiting.pop()
            inner, files = self.mask.below(folder).listed()
            found += [f"{folder}/{one.name} {one.version}" for one in files]
            waiting += [f"{folder}/{name}".lstrip("/") for name in inner]
        return sorted(found)


def _weights_digest(name: str) -> str:
    if not is_url(name):
        return digest_file(find_weights(name))
    found = Place(name).entry()
    if found is None:
        raise CheckpointError(f"no model at {Place(name)}; give an address that exists")
    return found.version


@dataclass(frozen=True)
class Item:
    """One photo of a chunk."""

    url: str = field(repr=False)
    place: str
    """Folder of its result, below the folder of all results."""
    output: str
    """Name of its result."""
    size: int
    """Bytes of the file."""
    version: str


@dataclass(frozen=True)
class Chunk:
    """What one worker does at a time."""

    folder: str
    """Folder of the results, below the folder of all results."""
    items: tuple[Item, ...] = ()
    skipped: int = 0
    """Photos of this folder that are finished, said once."""
    errors: tuple[str, ...] = ()
    passed: dict[str, int] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the chunk as a line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Chunk:
        """Return the chunk of a line."""
        fields = json.loads(text)
        items = tuple(Item(**item) for item in fields.pop("items"))
        return cls(items=items, errors=tuple(fields.pop("errors")), **fields)


@dataclass(frozen=True)
class Record:
    """What became of one photo: a row of the manifest."""

    output: str
    """Name of the result, below the folder of all results."""
    photo: str
    """Where it was read from, without secrets."""
    version: str
    """Of the photo, as its store says it."""
    input: str = ""
    """Digest of the photo and its mask."""
    model: str = ""
    model_digest: str = ""
    options: str = ""
    """Digest of the options."""
    result: str = ""
    """Digest of the result."""
    size: int = 0
    """Bytes of the result."""
    seconds: float = 0.0
    """Of fetching, restoring and encoding it."""
    error: str = ""
    """Why there is no result."""
    notes: tuple[str, ...] = ()


@dataclass
class Report:
    """What became of a chunk."""

    records: list[Record] = field(default_factory=list)
    skipped: int = 0
    errors: list[str] = field(default_factory=list)
    """Of what is no photo of a chunk: names that cannot be read, places that are not free."""
    passed: Counter[str] = field(default_factory=Counter)

    @property
    def told(self) -> int:
        """Photos that this report speaks of."""
        return len(self.records) + self.skipped + len(self.errors)

    def to_text(self) -> str:
        """Return the report as a line."""
        fields = {"skipped": self.skipped, "errors": self.errors, "passed": dict(self.passed)}
        return json.dumps(fields | {"records": [asdict(record) for record in self.records]})

    @classmethod
    def from_text(cls, text: str) -> Report:
        """Return the report of a line."""
        fields: dict[str, Any] = json.loads(text)
        records = [Record(**each | {"notes": tuple(each["notes"])}) for each in fields["records"]]
        return cls(records, fields["skipped"], fields["errors"], Counter(fields["passed"]))

    @classmethod
    def of(cls, chunk: Chunk) -> Report:
        """Return what listing has already found out."""
        return cls([], chunk.skipped, list(chunk.errors), Counter(chunk.passed))
