"""What is to be done, in words that travel: an order, its chunks of photos, and what became of each.

No photo travels. A chunk holds addresses; the worker that takes it fetches, works and puts. What becomes of
a photo is the order's own: each verb has a class of orders (`restoring`, `testsets`, `datasets`, `scoring`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dirformer.ground.places import Place


@dataclass(frozen=True)
class Order(ABC):
    """What holds for all photos of a run."""

    done: ClassVar[str] = "done"
    """What photos are that are finished, in lines for people."""
    doing: ClassVar[str] = "working"

    sources: tuple[Place, ...]
    """Where the photos are: photos, folders, and lists (of restoring: their name begins with `@`)."""
    out: Place
    """Folder of the results and of the records."""
    overwrite: bool = False
    skip: bool = True
    """Whether photos that an earlier run has finished are skipped."""
    workers: int = 2
    """Threads of a worker that fetch and decode, and as many that encode and put."""
    one_file: bool = False
    """Whether `out` is the name of the one result, not a folder."""

    @abstractmethod
    def digest(self) -> str:
        """Return the digest of all that changes results, beside the photo itself."""

    @abstractmethod
    def listing(self) -> Lists:
        """Return what finds the photos. Several processes may each have one."""

    @abstractmethod
    def maker(self) -> Maker:
        """Return what makes results, opened: a worker has one for all its chunks."""

    @property
    def overlapping(self) -> int:
        """Threads of a worker's pipeline; 0 overlaps nothing."""
        return self.workers

    @property
    def recorded(self) -> bool:
        """Whether records are kept."""
        return not self.one_file


@dataclass(frozen=True)
class Shard:
    """A part of what is to be listed: it can be listed beside others."""

    kind: str
    """`tree`, `folder` (without those below it), `photos`, `list` or `set`."""
    folder: str = ""
    """Below the source, and below the folder of results."""
    sources: tuple[str, ...] = field(default=(), repr=False)
    """Addresses: one, or several photos."""

    @property
    def source(self) -> Place:
        """The folder or list."""
        return Place(self.sources[0])


class Lists(ABC):
    """What an order's sources hold."""

    @abstractmethod
    def shards(self) -> Iterator[Shard]:
        """Yield parts that can be listed side by side."""

    @abstractmethod
    def chunks(self, shard: Shard) -> Iterator[Chunk]:
        """Yield the work of a part, and with it what needs no work."""

    @abstractmethod
    def count(self) -> int:
        """Return how many photos there are."""


@dataclass(frozen=True)
class Item:
    """One photo of a chunk, or what else becomes one record."""

    url: str = field(repr=False)
    place: str
    """Folder of its result, below the folder of all results."""
    output: str
    """Name of its result."""
    size: int
    """Bytes of the file."""
    version: str
    more: tuple[str, ...] = field(default=(), repr=False)
    """Addresses of files that belong to it: GT, mask, the next frames."""
    what: str = ""
    """What else the maker must know, as JSON."""
    there: bool = False
    """Whether an older result lies at its place."""

    @property
    def name(self) -> str:
        """Name of its record: that of its result, below the folder of all results."""
        return f"{self.place}/{self.output}".lstrip("/")


@dataclass(frozen=True)
class Staged:
    """An item at work, with its files on this machine."""

    item: Item
    files: tuple[Path, ...]
    """Where the photo and what belongs to it are fetched to."""
    out: Path
    """Folder that mirrors the folder of all results; all that is written into it is put in place."""

    @property
    def photo(self) -> Path:
        """The photo."""
        return self.files[0]

    @property
    def output(self) -> Path:
        """The result."""
        return self.out / self.item.place / self.item.output

    def fetch(self) -> None:
        """Fetch the files. Raises PhotoError if one cannot be had."""
        for url, file in zip((self.item.url, *self.item.more), self.files, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            Place(url).fetch(file)


@dataclass(frozen=True)
class Made:
    """What a maker says of a result that it has written."""

    model: str = ""
    model_digest: str = ""
    input: str = ""
    """Digest of what it was made from."""
    notes: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    """What the end of the run needs of it: scores, parameters."""


class Maker(ABC):
    """Item → result, in three stages that overlap, as of `inference.pipeline`."""

    @abstractmethod
    def read(self, staged: Staged) -> Any:
        """Fetch and decode, in a thread; the work gets what this returns."""

    @abstractmethod
    def work(self, staged: Staged, ready: Any) -> Any:
        """Do the work; writing gets what this returns."""

    @abstractmethod
    def write(self, staged: Staged, worked: Any, turn: Callable[[], None]) -> Made:
        """Write below `staged.out`, in a thread."""


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
        items = tuple(Item(**item | {"more": tuple(item["more"])}) for item in fields.pop("items"))
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
    files: dict[str, int] = field(default_factory=dict)
    """Bytes of each file below the folder of all results, where the result is not the one of its name."""
    values: dict[str, Any] = field(default_factory=dict)
    """Scores, or the parameters of a degradation."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of the result."""
        return self.files or ({self.output: self.size} if self.size else {})


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
