"""`prepare` as an order: a downloaded data set cut for training, the same bytes as without an engine.

Photos are read where they lie, also inside of archives, by ranges: nothing is fetched as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dirformer.data.manifest import take_up, write_manifest
from dirformer.data.plans import Item as Photo
from dirformer.data.plans import Plan, parts_of, plan
from dirformer.data.prepare import Job, do, header, jobs_of
from dirformer.data.sets import Cut
from dirformer.data.shards import write_index
from dirformer.data.trees import Member
from dirformer.fleet.order import Item, Made, Maker, Record, Staged
from dirformer.fleet.sets import SetOrder
from dirformer.ground.places import Place
from dirformer.inference.done import digest_of, digest_options


@dataclass(frozen=True)
class PrepareOrder(SetOrder):
    """What holds for all photos of a data set. The source is an archive or a folder."""

    done = "prepared"
    doing = "preparing"

    name: str = ""
    """Of the data set."""
    cut: Cut | None = None
    multiscale: bool = False
    shard: int | None = None
    """Photos of a shard; None writes single files."""

    @cached_property
    def plans(self) -> list[Plan]:
        """What there is, and what is missing. Raises DataError if nothing of the set is there."""
        return plan(self.name, self.sources[0], cut=self.cut, multiscale=self.multiscale)

    def digest(self) -> str:
        parts = parts_of(self.name, self.cut, multiscale=self.multiscale)
        return digest_options({"parts": [header(part, self.shard) for part in parts], "set": self.name})

    def found(self) -> list[Item]:
        return [_item(job) for planned in self.plans for job in jobs_of(planned, self.shard)]

    def maker(self) -> Maker:
        return _Preparer(self)

    def _headers(self) -> dict[str, dict[str, Any]]:
        return {planned.part.name: header(planned.part, self.shard) for planned in self.plans}

    def begin(self) -> None:
        super().begin()
        assert self.items  # planned before anything is written
        for name, settings in self._headers().items():
            if self.overwrite or take_up(self.out.below(name), settings) is None:
                write_manifest(self.out.below(name), settings, ())

    def kept(self, folder: str) -> Mapping[str, Record]:
        lines = take_up(self.out.below(folder), self._headers()[folder]) or {}
        found = {}
        for name, line in lines.items():
            files = {f"{folder}/{file}".lstrip("/"): 0 for file in line["files"]}
            found[name] = Record(name, "", "", files=files, values={"files": line["files"]})
        return found

    def end(self, told: Mapping[str, Record]) -> None:
        """Write the manifests of all parts, and the index of shards."""
        ended = self.ended(told)
        for name, settings in self._headers().items():
            lines = [
                {"name": item.output, "files": record.values["files"]}
                for item, record in ended
                if item.place == name
            ]
            write_manifest(self.out.below(name), settings, lines)
            if self.shard is not None:
                write_index(self.out.below(name))


class _Preparer(Maker):
    def __init__(self, order: PrepareOrder) -> None:
        parts = parts_of(order.name, order.cut, multiscale=order.multiscale)
        self._parts = {part.name: part for part in parts}

    def read(self, staged: Staged) -> Job:
        what = json.loads(staged.item.what)
        photos = [Photo(name, _member(gt), _member(lq)) for name, gt, lq in what["photos"]]
        return Job(self._parts[staged.item.place], staged.item.output, photos, sharded=what["sharded"])

    def work(self, staged: Staged, ready: Job) -> list[str]:
        return do(ready, staged.out)

    def write(self, staged: Staged, worked: list[str], turn: Callable[[], None]) -> Made:
        turn()
        return Made(input=digest_of(staged.item.version.encode()), values={"files": worked})


def _item(job: Job) -> Item:
    members = [member for photo in job.items for member in (photo.gt, photo.lq) if member is not None]
    version = digest_of(*(f"{m.name} {m.offset} {m.size} {m.version}".encode() for m in members))
    photos = [[photo.name, _fields(photo.gt), _fields(photo.lq)] for photo in job.items]
    what = json.dumps({"photos": photos, "sharded": job.sharded})
    size = sum(member.size for member in members)
    return Item(_url(members[0]), job.part.name, job.name, size, version, what=what)


def _url(member: Member) -> str:
    return Place.of(member.container).url if not isinstance(member.container, Place) else member.container.url


def _fields(member: Member | None) -> list[Any] | None:
    if member is None:
        return None
    return [member.name, _url(member), member.kind, member.offset, member.size]


def _member(fields: list[Any] | None) -> Any:
    if fields is None:
        return None
    name, url, kind, offset, size = fields
    return Member(name, Place(url), kind, offset, size)
