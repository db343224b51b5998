"""Folders, photos and lists at any place → chunks of work, one folder at a time.

What is held is one folder: its names, the names of its results and their records. Which photos are finished
is told from three listings and no photo: the photo's version as its store says it, the record, and whether
the result is there in the size that was recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from dirformer.fleet.manifest import read_records
from dirformer.fleet.order import Chunk, Item, Lists, Order, Record, Shard
from dirformer.ground.errors import ConfigError, DirformerError
from dirformer.ground.formats import kind_of_name
from dirformer.ground.mask_names import split_masks
from dirformer.ground.paths import remove_leftovers
from dirformer.ground.places import Entry, Place, is_url
from dirformer.inference.jobs import FileOptions, output_name

PHOTOS = 16
"""Photos of a chunk, at most."""
ROOM = 64 * 2**20
"""Bytes of the files of a chunk, unless one is larger."""


class Results:
    """What lies where results go; each folder is listed once."""

    def __init__(self, out: Place) -> None:
        self._out = out
        self._folders: dict[str, dict[str, int]] = {}

    def size(self, name: str) -> int | None:
        """Return the bytes of a result by its name below `out`; None if it is not there."""
        folder, _, last = name.rpartition("/")
        if folder not in self._folders:
            files = self._out.below(folder).listed()[1]
            self._folders[folder] = {one.name: one.size for one in files}
        return self._folders[folder].get(last)

    def finished(self, records: Iterable[Record], version: str, options: str) -> Record | None:
        """Return the record of a result that is there whole, made from this version with these options."""
        for one in records:
            fits = not one.error and (one.version, one.options) == (version, options)
            if fits and all(self.size(name) == size for name, size in one.sizes.items()):
                return one
        return None


class Listing(Lists):
    """What an order's sources hold."""

    def __init__(self, order: Order, files: FileOptions, masks: Place | None) -> None:
        self._order, self._files, self._masks = order, files, masks
        self._digest = order.digest()

    def shards(self) -> Iterator[Shard]:
        """Yield parts that can be listed side by side: the folders directly below the source.

        Raises:
            ConfigError: if several folders or lists are given.
            DataError: if a source cannot be listed.
        """
        sources = self._order.sources
        first, urls = sources[0], tuple(source.url for source in sources)
        if not any(source.name.startswith("@") or source.is_folder() for source in sources):
            yield Shard("photos", "", urls)
        elif len(sources) > 1:
            raise ConfigError(
                f"{len(sources)} names are given with folders or lists among them; a fleet takes one "
                "folder, one list, or photos"
            )
        elif first.name.startswith("@"):
            yield Shard("list", "", (first.url.removesuffix(first.name) + first.name[1:],))
        else:
            yield Shard("folder", "", urls)
            for name in first.listed()[0]:
                yield Shard("tree", name, urls)

    def chunks(self, shard: Shard) -> Iterator[Chunk]:
        """Yield the work of a part, and with it what needs no work."""
        try:
            if shard.kind == "photos":
                photos = [Place(url) for url in shard.sources]
                yield from self._planned("", [(photo, self._entry_of(photo)) for photo in photos], {})
            elif shard.kind == "list":
                yield from self._listed(shard.source)
            else:
                yield from self._walked(shard)
        except DirformerError as error:
            yield Chunk(shard.folder, errors=(str(error),))

    def count(self) -> int:
        """Return how many photos there are; reads all listings, or all lists, once."""
        total = 0
        for shard in self.shards():
            if shard.kind == "photos":
                total += len(shard.sources)
            elif shard.kind == "list":
                total += sum(1 for line in shard.source.lines() if line and not line.startswith("#"))
            else:
                total += sum(len(_photos(files)[0]) for _, files in self._walk(shard))
        return total

    def _entry_of(self, photo: Place) -> Entry:
        found = photo.entry()
        # What is not there, reading it will say.
        return found or Entry(photo.name, 0, "")

    def _walked(self, shard: Shard) -> Iterator[Chunk]:
        for folder, files in self._walk(shard):
            photos, passed = _photos(files)
            top = shard.source.below(folder)
            found = [(top.below(one.name), one) for one in photos]
            if found or passed:
                yield from self._planned(folder, found, passed)

    def _walk(self, shard: Shard) -> Iterator[tuple[str, list[Entry]]]:
        """Yield each folder, as named below the source, with its files; not those of results and masks."""
        closed = {place.url.rstrip("/") for place in (self._order.out, self._masks) if place is not None}
        waiting = [shard.folder]
        while waiting:
            folder = waiting.pop()
            place = shard.source.below(folder)
            if place.url.rstrip("/") in closed - {shard.source.url.rstrip("/")}:
                continue
            inner, files = place.listed()
            yield folder, files
            if shard.kind == "tree":
                waiting += [f"{folder}/{name}".lstrip("/") for name in reversed(inner)]

    def _listed(self, source: Place) -> Iterator[Chunk]:
        """Yield the photos of a list in its order; results keep the relative folders that the list names."""
        above = Place(source.url.rpartition("/")[0])
        found: list[tuple[Place, Entry]] = []
        folder = ""
        for line in source.lines():
            if not line or line.startswith("#"):
                continue
            inside = not is_url(line) and not line.startswith("/") and ".." not in PurePosixPath(line).parts
            here = PurePosixPath(line).parent.as_posix().removeprefix(".") if inside else ""
            if found and (here != folder or len(found) >= 64 * PHOTOS):
                yield from self._planned(folder, found, {})
                found = []
            folder = here
            photo = above.below(line) if not is_url(line) and not line.startswith("/") else Place.of(line)
            found.append((photo, self._entry_of(photo)))
        if found:
            yield from self._planned(folder, found, {})

    def _planned(
        self, folder: str, found: Iterable[tuple[Place, Entry]], passed: dict[str, int]
    ) -> Iterator[Chunk]:
        """Yield what is to be done in one folder, in chunks; the first says what is not."""
        order, taken = self._order, dict[str, str]()
        todo, skipped, errors = list[Item](), 0, list[str]()
        if (here := order.out.below(folder).local) is not None:
            remove_leftovers(here)  # of workers that were killed
        known = {} if order.one_file else read_records(order.out, folder)
        results = Results(order.out)
        for photo, entry in found:
            name = order.out.name if order.one_file else output_name(Path(entry.name), None, self._files)
            if name in taken:
                both = f"{photo} and {taken[name]} would both be written"
                errors.append(f"{both} to {self._output(folder, name)}; rename one")
                continue
            taken[name] = str(photo)
            place = self._output(folder, name)
            whole = f"{folder}/{name}".lstrip("/")
            there = self._is_there(whole, results)
            records = known.get(whole, [])
            if place.url == photo.url:
                errors.append(f"{photo} would be replaced by its result; give another place: -o PLACE")
            elif there and not records and not order.overwrite:
                errors.append(f"{place} exists already; add --overwrite to replace it")
            elif order.skip and results.finished(records, entry.version, self._digest) is not None:
                skipped += 1
            else:
                todo.append(Item(photo.url, folder, name, entry.size, entry.version, there=there))
        yield from cut(Chunk(folder, (), skipped, tuple(errors), passed), todo)

    def _output(self, folder: str, name: str) -> Place:
        out = self._order.out
        return out if self._order.one_file else out.below(folder).below(name)

    def _is_there(self, name: str, results: Results) -> bool:
        if self._order.one_file:
            return self._order.out.entry() is not None
        return results.size(name) is not None


def _photos(files: list[Entry]) -> tuple[list[Entry], dict[str, int]]:
    """Return the photos of a folder, without masks beside them, and what else is there by suffix."""
    passed: Counter[str] = Counter()
    found: dict[Path, Entry] = {}
    for one in files:
        if kind_of_name(Path(one.name)) == "photo":
            found[Path(one.name)] = one
        else:
            passed[Path(one.name).suffix.lower() or "without suffix"] += 1
    photos, _ = split_masks(list(found))
    return [found[path] for path in photos], dict(passed)


def cut(first: Chunk, todo: list[Item]) -> Iterator[Chunk]:
    """Yield what is to be done in one folder, in chunks; the first of them says what `first` does."""
    for items in _cut(todo):
        yield replace(first, items=items)
        first = Chunk(first.folder)
    if first.skipped or first.errors or first.passed:
        yield first


def _cut(items: list[Item]) -> Iterator[tuple[Item, ...]]:
    """Yield chunks bounded in number and bytes."""
    chunk: list[Item] = []
    for item in items:
        if chunk and (len(chunk) >= PHOTOS or sum(one.size for one in chunk) + item.size > ROOM):
            yield tuple(chunk)
            chunk = []
        chunk.append(item)
    if chunk:
        yield tuple(chunk)
