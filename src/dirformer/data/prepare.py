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
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dirformer.data.manifest import Manifest
from dirformer.data.plans import Item, Plan
from dirformer.data.sets import Cut, Part
from dirformer.data.trees import Member
from dirformer.degradations.resize import resize_bicubic
from dirformer.ground.errors import ConfigError, DataError, PhotoError
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import decode_rgb


@dataclass(frozen=True)
class Prepared:
    """What became of one photo or shard."""

    part: str
    name: str
    files: int = 0
    kept: bool = False
    """It was there from an earlier run."""
    error: str | None = None


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
        plans: from `plans.plan`.
        out: folder of the results, one folder per part.
        workers: processes; 1 works in this one.
        shard: photos per shard; None writes single files. Pairs and benchmarks cannot be sharded.
        overwrite: make everything anew.

    Raises:
        ConfigError: if pairs should go into shards.
        OutputError: if `out` holds the set with other settings.
    """
    jobs: list[Job] = []
    manifests: dict[str, Manifest] = {}
    for planned in plans:
        part = planned.part
        manifests[part.name] = Manifest(out / part.name, header(part, shard), overwrite=overwrite)
        jobs += jobs_of(planned, shard)
    return _run(jobs, out, manifests, workers)


def header(part: Part, shard: int | None) -> dict[str, Any]:
    """Return what the manifest of a part says of its settings."""
    return {
        "part": part.name,
        "cut": asdict(part.cut) if part.cut else None,
        "multiscale": part.multiscale,
        "shard": shard,
    }


def jobs_of(planned: Plan, shard: int | None) -> list[Job]:
    """Return the photos of a part, or its shards of `shard` photos each.

    Raises:
        ConfigError: if pairs should go into shards.
    """
    if shard is None:
        return [Job(planned.part, item.name, [item]) for item in planned.items]
    return _shard_jobs(planned.part, planned.items, shard)


def count(plans: list[Plan], shard: int | None = None) -> int:
    """Return how many records `prepare` will yield."""
    return sum(-(-len(p.items) // shard) if shard else len(p.items) for p in plans)


def _shard_jobs(part: Part, items: list[Item], shard: int) -> list[Job]:
    if part.scales or any(item.lq is not None for item in items):
        raise ConfigError(f"part {part.name or 'photos'} has pairs; shards hold single photos")
    # Shuffled once, so that every shard is a fair sample of the set.
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    chunks = [order[first : first + shard] for first in range(0, len(items), shard)]
    return [
        Job(part, f"shard-{number:06}", [items[i] for i in chunk], sharded=True)
        for number, chunk in enumerate(chunks)
    ]


@dataclass(frozen=True)
class Job:
    """A photo, or a shard of photos."""

    part: Part
    name: str
    items: list[Item]
    sharded: bool = False


@dataclass(frozen=True)
class _Result:
    """Files that a job has written, relative to the part's folder, or what was wrong."""

    files: list[str]
    error: str | None = None


def _run(jobs: list[Job], out: Path, manifests: dict[str, Manifest], workers: int) -> Iterator[Prepared]:
    todo = []
    for job in jobs:
        manifest = manifests[job.part.name]
        record = manifest.done.get(job.name)
        files = record["files"] if record else []
        if record and manifest.has(job.name, [manifest.out / file for file in files]):
            yield Prepared(job.part.name, job.name, len(files), kept=True)
        else:
            todo.append(job)
    for job, result in _results(todo, out, workers):
        if result.error is None:
            manifests[job.part.name].write(job.name, files=result.files)
        yield Prepared(job.part.name, job.name, len(result.files), error=result.error)
    for name, manifest in manifests.items():
        if any(job.sharded and job.part.name == name for job in jobs):
            from dirformer.data.shards import write_index

            write_index(manifest.out)


def _results(jobs: list[Job], out: Path, workers: int) -> Iterator[tuple[Job, _Result]]:
    if workers <= 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _do(job, out)
        return
    # A few jobs ahead of the processes, so that millions need not be held.
    waiting: dict[Future[_Result], Job] = {}
    rest = iter(jobs)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                for job in rest:
                    waiting[pool.submit(_do, job, out)] = job
                    if len(waiting) >= 4 * workers:
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: Job, out: Path) -> _Result:
    torch.set_num_threads(1)
    try:
        return _Result(do(job, out))
    except DataError as error:
        return _Result([], str(error))


def do(job: Job, out: Path) -> list[str]:
    """Write the files of a job; return their names, relative to the part's folder.

    Raises:
        DataError: for a photo that is damaged, or of the wrong size.
        OutputError: if they cannot be written.
    """
    folder = out / job.part.name
    if job.sharded:
        from dirformer.data.shards import write_shard

        return write_shard(folder / f"{job.name}.tar", _members(job))
    item = job.items[0]
    if _as_it_came(job.part, item):
        _decode(item.gt, job.part)
        file = f"gt/{item.name}{Path(item.gt.name).suffix.lower()}"
        with atomic_path(folder / file) as part:
            part.write_bytes(item.gt.read())
        return [file]
    return [_write(folder, file, image) for file, image in _images(job.part, item)]


def _as_it_came(part: Part, item: Item) -> bool:
    return item.lq is None and part.cut is None and not part.scales


def _members(job: Job) -> Iterator[tuple[str, bytes]]:
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
