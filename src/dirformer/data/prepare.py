"""Downloaded data sets → folders (or shards) that training and evaluation read.

    OUT/PART/gt/NAME.png  OUT/PART/lq/NAME.png      pairs; gt alone where nothing is paired
    OUT/PART/x4/gt/…      OUT/PART/x4/lq/…          benchmarks, for each scale
    OUT/PART/shard-000000.tar  index.npy            with shards
    OUT/PART/manifest.jsonl

Photos are decoded once, so a damaged one is named here and not in the middle of a training run. Each photo
is a job of its own, done by one of several processes; a job's files are written under temporary names, and
the manifest notes it when all are there. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import io
import multiprocessing
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dirformer.data.manifest import Manifest
from dirformer.data.sets import Cut, DataSet, Part, find_set
from dirformer.data.trees import Member, list_tree, read_lines
from dirformer.degradations.resize import resize_bicubic
from dirformer.ground.errors import ConfigError, DataError, PhotoError
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import decode_rgb


@dataclass(frozen=True, slots=True)
class Item:
    """A photo of a part, or a pair."""

    name: str
    gt: Member
    lq: Member | None = None


@dataclass(frozen=True)
class Prepared:
    """What became of one photo or shard."""

    part: str
    name: str
    files: int = 0
    kept: bool = False
    """It was there from an earlier run."""
    error: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done for one part."""

    part: Part
    items: list[Item]
    problems: list[str]


def plan(name: str, source: Path, *, cut: Cut | None = None, multiscale: bool = False) -> list[Plan]:
    """Look at a downloaded data set and say what is to be done, and what is wrong with it.

    Args:
        name: of the data set; see `sets.DATA_SETS`.
        source: the archive, a folder of archives, or the unpacked folder.
        cut: sub-images of another size than the set's own, for its training parts.
        multiscale: cut reduced copies of the training photos as well.

    Raises:
        ConfigError: for an unknown name.
        DataError: if nothing of the set is found, or an archive is damaged.
    """
    chosen = find_set(name)
    tree = list_tree(source)
    plans = []
    for part in chosen.parts:
        cuts = part.cut is not None and not part.lq
        changed = replace(part, cut=(cut or part.cut) if part.cut else None, multiscale=multiscale and cuts)
        found = _plan(changed, tree)
        if found.items or not part.optional:
            plans.append(found)
    if not any(p.items for p in plans):
        raise DataError(f"{source} holds nothing of {chosen.title}; expected {_expected(chosen)}")
    return plans


def _plan(part: Part, tree: list[Member]) -> Plan:
    label = part.name or "photos"
    if part.pairs is not None:
        items, problems = _listed_pairs(part.pairs, tree)
    else:
        items, problems = _matched(part, tree)
    if part.names is not None:
        items, more = _limited(items, part.names, tree)
        problems += more
    if part.shuffled is not None:
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
        items = [items[place] for place in order[slice(*part.shuffled)]]
    if part.numbers is not None:
        there = {int(re.sub(r"\D", "", item.name[-8:]) or 0) for item in items}
        missing = [n for n in part.numbers if n not in there]
        if items and missing:
            problems.append(f"missing: {_some([str(n) for n in missing])}")
    if part.count is not None and len(items) != part.count:
        problems.append(f"{len(items)} found, the official set has {part.count}")
    return Plan(part, items, [f"{label}: {problem}" for problem in problems])


def _matched(part: Part, tree: list[Member]) -> tuple[list[Item], list[str]]:
    """Find the photos of a part, and pair them by name."""
    for number, pattern in enumerate(part.gt):
        clean = _find(pattern, tree)
        if not clean:
            continue
        if not part.lq:
            return [Item(name, member) for name, member in clean.items()], []
        degraded = _find(part.lq[number], tree)
        items = [Item(name, clean[name], degraded[name]) for name in clean if name in degraded]
        problems = []
        for what, names in (
            ("degraded photos without GT", degraded.keys() - clean.keys()),
            ("GT without a degraded photo", set() if part.spare else clean.keys() - degraded.keys()),
        ):
            if names:
                problems.append(f"{len(names)} {what}: {_some(sorted(names))}")
        return items, problems
    return [], []


def _find(pattern: str, tree: list[Member]) -> dict[str, Member]:
    compiled = re.compile(pattern)
    found: dict[str, Member] = {}
    for member in tree:
        match = compiled.search(member.name)
        if match is None or "__MACOSX" in member.name:
            continue
        name = "_".join(match.groupdict().values()).replace("/", "_")
        if name in found:
            raise DataError(
                f"{member.name} and {found[name].name} are the same photo; keep one copy of the set"
            )
        found[name] = member
    return found


def _listed_pairs(pattern: str, tree: list[Member]) -> tuple[list[Item], list[str]]:
    lists = [member for member in tree if re.search(pattern, member.name)]
    if not lists:
        return [], [f"no list file like {pattern.rsplit(')', 1)[-1].replace(chr(92), '').rstrip('$')}"]
    # Lists name paths from the set's root, wherever that lies in the tree.
    ends: dict[str, Member] = {}
    for member in tree:
        parts = member.name.split("/")
        for start in range(len(parts)):
            ends.setdefault("/".join(parts[start:]), member)
    items, missing = [], []
    for line in read_lines(lists[0]):
        gt, lq = line.split()[:2]
        if gt in ends and lq in ends:
            scene, photo = gt.split("/")[-3], Path(gt).stem.removeprefix("gt_")
            items.append(Item(f"{scene}_{photo}", ends[gt], ends[lq]))
        else:
            missing.append(gt if gt not in ends else lq)
    return items, [f"{len(missing)} listed photos missing: {_some(missing)}"] if missing else []


def _limited(items: list[Item], pattern: str, tree: list[Member]) -> tuple[list[Item], list[str]]:
    lists = [member for member in tree if re.search(pattern, member.name)]
    if not lists:
        return [], [f"no list file {pattern.rsplit(')', 1)[-1].replace(chr(92), '').rstrip('$')}"]
    by_number = {int(item.name): item for item in items}
    # The lists count from 0, the pictures of the archive, numbered with leading zeros, from 1.
    offset = 0 if 0 in by_number else 1
    wanted = [int(re.sub(r"\D", "", Path(line).stem)) + offset for line in read_lines(lists[0])]
    missing = [str(number) for number in wanted if number not in by_number]
    found = [by_number[number] for number in wanted if number in by_number]
    return found, [f"{len(missing)} listed photos missing: {_some(missing)}"] if missing else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _expected(chosen: DataSet) -> str:
    part = chosen.parts[0]
    pattern = part.gt[0] if part.gt else (part.pairs or "")
    return "paths like " + re.sub(r"\(\?:\^\|/\)|\(\?P<\w+>|[\\$^)]|\(\?:", "", pattern)


def prepare(
    plans: list[Plan],
    out: Path,
    *,
    workers: int = 1,
    shard: int | None = None,
    overwrite: bool = False,
) -> Iterator[Prepared]:
    """Do what was planned, and yield one record per photo or shard; damaged photos do not stop the others.

    Args:
        plans: from `plan`.
        out: folder of the results, one folder per part.
        workers: processes; 1 works in this one.
        shard: photos per shard; None writes single files. Pairs and benchmarks cannot be sharded.
        overwrite: make everything anew.

    Raises:
        ConfigError: if pairs should go into shards.
        OutputError: if `out` holds the set with other settings.
    """
    jobs: list[_Job] = []
    manifests: dict[str, Manifest] = {}
    for planned in plans:
        part, folder = planned.part, out / planned.part.name
        settings = {
            "part": part.name,
            "cut": asdict(part.cut) if part.cut else None,
            "multiscale": part.multiscale,
            "shard": shard,
        }
        manifests[part.name] = Manifest(folder, settings, overwrite=overwrite)
        if shard is None:
            jobs += [_Job(part, folder, item.name, [item]) for item in planned.items]
        else:
            jobs += _shard_jobs(part, folder, planned.items, shard)
    return _run(jobs, manifests, workers)


def count(plans: list[Plan], shard: int | None = None) -> int:
    """Return how many records `prepare` will yield."""
    return sum(-(-len(p.items) // shard) if shard else len(p.items) for p in plans)


def _shard_jobs(part: Part, folder: Path, items: list[Item], shard: int) -> list[_Job]:
    if part.scales or any(item.lq is not None for item in items):
        raise ConfigError(f"part {part.name or 'photos'} has pairs; shards hold single photos")
    # Shuffled once, so that every shard is a fair sample of the set.
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    chunks = [order[first : first + shard] for first in range(0, len(items), shard)]
    return [
        _Job(part, folder, f"shard-{number:06}", [items[i] for i in chunk], sharded=True)
        for number, chunk in enumerate(chunks)
    ]


@dataclass(frozen=True)
class _Job:
    """A photo, or a shard of photos."""

    part: Part
    folder: Path
    name: str
    items: list[Item]
    sharded: bool = False


@dataclass(frozen=True)
class _Result:
    """Files that a job has written, relative to the part's folder, or what was wrong."""

    files: list[str]
    error: str | None = None


def _run(jobs: list[_Job], manifests: dict[str, Manifest], workers: int) -> Iterator[Prepared]:
    todo = []
    for job in jobs:
        manifest = manifests[job.part.name]
        record = manifest.done.get(job.name)
        files = record["files"] if record else []
        if record and manifest.has(job.name, [job.folder / file for file in files]):
            yield Prepared(job.part.name, job.name, len(files), kept=True)
        else:
            todo.append(job)
    for job, result in _results(todo, workers):
        if result.error is None:
            manifests[job.part.name].write(job.name, files=result.files)
        yield Prepared(job.part.name, job.name, len(result.files), error=result.error)
    for name, manifest in manifests.items():
        if any(job.sharded and job.part.name == name for job in jobs):
            from dirformer.data.shards import write_index

            write_index(manifest.out)


def _results(jobs: list[_Job], workers: int) -> Iterator[tuple[_Job, _Result]]:
    if workers <= 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _do(job)
        return
    # A few jobs ahead of the processes, so that millions need not be held.
    waiting: dict[Future[_Result], _Job] = {}
    rest = iter(jobs)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                for job in rest:
                    waiting[pool.submit(_do, job)] = job
                    if len(waiting) >= 4 * workers:
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: _Job) -> _Result:
    torch.set_num_threads(1)
    try:
        if job.sharded:
            from dirformer.data.shards import write_shard

            return _Result(write_shard(job.folder / f"{job.name}.tar", _members(job)))
        item = job.items[0]
        if _as_it_came(job.part, item):
            _decode(item.gt, job.part)
            file = f"gt/{item.name}{Path(item.gt.name).suffix.lower()}"
            with atomic_path(job.folder / file) as part:
                part.write_bytes(item.gt.read())
            return _Result([file])
        return _Result([_write(job.folder, file, image) for file, image in _images(job.part, item)])
    except DataError as error:
        return _Result([], str(error))


def _as_it_came(part: Part, item: Item) -> bool:
    return item.lq is None and part.cut is None and not part.scales


def _members(job: _Job) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a shard: as they came where nothing is cut, sub-images as PNG."""
    for item in job.items:
        if _as_it_came(job.part, item):
            _decode(item.gt, job.part)
            yield f"{item.name}{Path(item.gt.name).suffix.lower()}", item.gt.read()
        else:
            for file, image in _images(job.part, item):
                data = io.BytesIO()
                image.save(data, "PNG")
                yield Path(file).name, data.getvalue()


def _images(part: Part, item: Item) -> Iterator[tuple[str, Image.Image]]:
    """Yield what one photo or pair becomes, with names relative to the part's folder."""
    gt = _decode(item.gt, part)
    lq = None if item.lq is None else _decode(item.lq, part)
    if lq is not None and (gt.width % lq.width or gt.width * lq.height != gt.height * lq.width):
        raise DataError(
            f"{item.lq.name if item.lq else ''} is {lq.width}×{lq.height} and {item.gt.name} "
            f"{gt.width}×{gt.height}; expected a whole multiple"
        )
    for scale in part.scales:
        width, height = (side - side % scale for side in gt.size)
        cropped = gt.crop((0, 0, width, height))
        yield f"x{scale}/gt/{item.name}.png", cropped
        yield f"x{scale}/lq/{item.name}.png", _reduced(cropped, scale)
    if part.scales:
        return
    if part.multiscale:
        for number, copy in enumerate(_copies(gt)):
            for suffix, box in _boxes(copy.size, part.cut):
                yield f"gt/{item.name}_T{number}{suffix}.png", copy.crop(box)
        return
    scale = 1 if lq is None else gt.width // lq.width
    for suffix, (left, top, right, bottom) in _boxes(gt.size, part.cut):
        yield f"gt/{item.name}{suffix}.png", gt.crop((left, top, right, bottom))
        if lq is not None:
            box = (left // scale, top // scale, right // scale, bottom // scale)
            yield f"lq/{item.name}{suffix}.png", lq.crop(box)


def _copies(photo: Image.Image) -> Iterator[Image.Image]:
    """Yield the photo and its reduced copies, made by Lanczos."""
    yield photo
    for factor in (0.75, 0.5, 1 / 3, 400 / min(photo.size)):
        size = int(photo.width * factor + 1e-6), int(photo.height * factor + 1e-6)
        yield photo.resize(size, Image.Resampling.LANCZOS)


def _boxes(size: tuple[int, int], cut: Cut | None) -> Iterable[tuple[str, tuple[int, int, int, int]]]:
    """Return the names and places of sub-images; a photo smaller than them is kept whole."""
    width, height = size
    if cut is None or min(size) < cut.side:
        return [("", (0, 0, width, height))]
    places = [(top, left) for top in _starts(height, cut) for left in _starts(width, cut)]
    return [
        (f"_s{number:03}", (left, top, left + cut.side, top + cut.side))
        for number, (top, left) in enumerate(places, start=1)
    ]


def _starts(length: int, cut: Cut) -> list[int]:
    starts = list(range(0, length - cut.side + 1, cut.step))
    if starts[-1] + cut.side < length:
        starts.append(length - cut.side)
    return starts


def _reduced(image: Image.Image, scale: int) -> Image.Image:
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    reduced = (resize_bicubic(x, 1 / scale, levels=255) * 255).round().byte()
    return Image.fromarray(reduced.permute(1, 2, 0).numpy())


def _decode(member: Member, part: Part) -> Image.Image:
    """Return a photo upright as RGB; DataError names it if it is damaged or of the wrong size."""
    try:
        pixels = decode_rgb(member.read(), f"{member.name} in {member.container}")
    except PhotoError as error:
        raise DataError(str(error)) from None
    photo = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if part.size is not None and photo.size != part.size:
        (width, height), (right, high) = photo.size, part.size
        raise DataError(f"{member.name} is {width}×{height}; photos of this set are {right}×{high}")
    return photo


def _write(folder: Path, file: str, image: Image.Image) -> str:
    with atomic_path(folder / file) as part:
        image.save(part, format="PNG")
    return file


def summary(plans: list[Plan]) -> dict[str, Any]:
    """Return what was found, for machines."""
    return {
        planned.part.name or "photos": {"found": len(planned.items), "problems": planned.problems}
        for planned in plans
    }
