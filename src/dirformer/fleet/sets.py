"""Orders whose photos are known at once: those of a test set, a data set, a table of scores."""

from __future__ import annotations

import itertools
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dirformer.fleet.listing import Results, cut
from dirformer.fleet.manifest import read_records
from dirformer.fleet.order import Chunk, Item, Lists, Order, Record, Shard
from dirformer.ground.paths import remove_leftovers


@dataclass(frozen=True)
class SetOrder(Order):
    """What holds for all photos of a set."""

    @cached_property
    def items(self) -> list[Item]:
        """All that is to be made, folder by folder. Raises DirformerError if the set is not whole."""
        return self.found()

    def __getstate__(self) -> dict[str, Any]:
        # The list does not travel.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @abstractmethod
    def found(self) -> list[Item]:
        """Find what is to be made."""

    def kept(self, folder: str) -> Mapping[str, Record]:
        """Return, by name, what a run without an engine has made in a folder of results."""
        del folder
        return {}

    def begin(self) -> None:
        """Do what comes before all work. Raises OutputError if the place holds another set."""
        self.out.require_writable()

    def listing(self) -> SetListing:
        return SetListing(self)

    def ended(self, told: Mapping[str, Record]) -> list[tuple[Item, Record]]:
        """Return what is finished behind a run, in order; `told` is what this run has reported."""
        listing, found = SetListing(self), list[tuple[Item, Record]]()
        for folder, items in listing.folders():
            look = None
            for item in items:
                record = told.get(item.name)
                if record is None:
                    look = look or listing.look(folder)
                    record = look.finished(item)
                if record is not None and not record.error:
                    found.append((item, record))
        return found


class _Look:
    """What is known of one folder of results."""

    def __init__(self, order: SetOrder, options: str, folder: str) -> None:
        self._options, self._results = options, Results(order.out)
        self._records = read_records(order.out, folder) if order.recorded else {}
        self._kept = order.kept(folder)

    def finished(self, item: Item) -> Record | None:
        """Return the record of an item that is finished; without any, what a plain run says of it."""
        records = self._records.get(item.name)
        if records is not None:
            return self._results.finished(records, item.version, self._options)
        record = self._kept.get(item.output)
        if record is None or any(self._results.size(name) is None for name in record.files):
            return None
        return record

    def is_there(self, item: Item) -> bool:
        """Return whether an older result lies at the item's place."""
        records = self._records.get(item.name, [])
        return any(self._results.size(name) is not None for one in records for name in one.sizes)


class SetListing(Lists):
    """What a set holds: listed at once, for sets are held in memory anyway."""

    def __init__(self, order: SetOrder) -> None:
        self._order, self._options = order, order.digest()

    def shards(self) -> Iterator[Shard]:
        yield Shard("set")

    def count(self) -> int:
        return len(self._order.items)

    def folders(self) -> Iterator[tuple[str, list[Item]]]:
        """Yield each folder of results with its items."""
        for folder, items in itertools.groupby(self._order.items, key=lambda item: item.place):
            yield folder, list(items)

    def look(self, folder: str) -> _Look:
        """Return what is known of a folder."""
        return _Look(self._order, self._options, folder)

    def chunks(self, shard: Shard) -> Iterator[Chunk]:
        del shard
        for folder, items in self.folders():
            look, todo, skipped = self.look(folder), list[Item](), 0
            for item in items:
                if self._order.skip and look.finished(item) is not None:
                    skipped += 1
                else:
                    todo.append(replace(item, there=look.is_there(item)))
            if todo and (here := self._order.out.local) is not None:
                for below, _, _ in os.walk(here):
                    remove_leftovers(Path(below))  # of workers that were killed
            yield from cut(Chunk(folder, (), skipped), todo)
