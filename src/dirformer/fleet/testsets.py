"""`degrade` as an order: a test set, the same bytes as without an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dirformer.data.folders import find_photos
from dirformer.data.manifest import take_up, write_manifest
from dirformer.data.testsets import Averaged, Degraded, SetKind
from dirformer.fleet.order import Item, Made, Maker, Record, Staged
from dirformer.fleet.sets import SetOrder
from dirformer.ground.places import entries
from dirformer.inference.done import digest_of, digest_options


@dataclass(frozen=True)
class DegradeOrder(SetOrder):
    """What holds for all photos of a test set. The source is one folder, or a list."""

    done = "degraded"
    doing = "degrading"

    kind: str = ""
    """Of the degradation; "" averages `frames` successive ones."""
    scale: int | None = None
    seed: int = 0
    frames: int = 0

    @cached_property
    def how(self) -> SetKind:
        """What becomes of a photo. Raises ConfigError for an unknown kind or scale."""
        return Degraded(self.kind, self.scale, self.seed) if self.kind else Averaged(self.frames)

    def digest(self) -> str:
        return digest_options(self.how.header)

    def found(self) -> list[Item]:
        photos = find_photos(self.sources[0])
        known = dict(zip(photos, entries(photos), strict=True))
        items = []
        for name, group in self.how.grouped(photos).items():
            first, *rest = group
            found = [known[photo] for photo in group]
            version = found[0].version
            if rest:
                version = digest_of(*(one.version.encode() for one in found))
            size = sum(one.size for one in found)
            items.append(Item(first.url, "", name, size, version, tuple(photo.url for photo in rest)))
        return items

    def maker(self) -> Maker:
        return _Degrader(self.how)

    def begin(self) -> None:
        super().begin()
        assert self.items  # found before anything is written
        if self.overwrite or take_up(self.out, self.how.header) is None:
            write_manifest(self.out, self.how.header, ())

    def kept(self, folder: str) -> Mapping[str, Record]:
        lines = take_up(self.out.below(folder), self.how.header) or {}
        return {name: self._kept(name, line) for name, line in lines.items()}

    def _kept(self, name: str, line: dict[str, Any]) -> Record:
        values = {key: value for key, value in line.items() if key != "name"}
        return Record(name, "", "", files=dict.fromkeys(self.how.files(name), 0), values=values)

    def end(self, told: Mapping[str, Record]) -> None:
        """Write the test set's manifest."""
        lines = [{"name": item.output, **record.values} for item, record in self.ended(told)]
        write_manifest(self.out, self.how.header, lines)


class _Degrader(Maker):
    def __init__(self, how: SetKind) -> None:
        self._how = how

    def read(self, staged: Staged) -> None:
        staged.fetch()

    def work(self, staged: Staged, ready: None) -> dict[str, Any]:
        del ready
        return self._how.make(staged.item.output, staged.files, staged.out)

    def write(self, staged: Staged, worked: dict[str, Any], turn: Callable[[], None]) -> Made:
        del staged
        turn()
        return Made(values=worked)
