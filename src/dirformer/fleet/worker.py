"""One worker: the weights loaded once, a chunk of photos at a time, fetched, restored and put in place."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dirformer.fleet.manifest import write_part
from dirformer.fleet.order import Chunk, Item, Order, Record, Report
from dirformer.ground.errors import DirformerError, PhotoError
from dirformer.ground.mask_names import masks_by_name
from dirformer.ground.places import Place, is_url
from dirformer.inference.choice import Keys, by_model
from dirformer.inference.done import digest_file
from dirformer.inference.files import (
    PIXEL_BYTES,
    FileRun,
    Ready,
    Worked,
    named_error,
    read_job,
    work_on,
    write_result,
)
from dirformer.inference.jobs import Job
from dirformer.inference.pipeline import Outcome, Pipeline
from dirformer.inference.restorer import Restorer, open_restorer

_PIXELS_A_BYTE = 4
"""Of a JPEG, about: how many pixels a file has is known only when it is here."""


@dataclass(frozen=True)
class _Staged:
    """A photo of a chunk, with its files on this machine."""

    item: Item
    photo: Path
    output: Path


@dataclass(frozen=True)
class _Ready:
    restorer: Restorer
    job: Job
    read: Ready
    input: str
    """Digest of the photo and its mask."""


@dataclass(frozen=True)
class _Worked:
    ready: _Ready
    worked: Worked


@dataclass(frozen=True)
class _Written:
    model: str
    input: str
    notes: tuple[str, ...]


class Worker:
    """Restores chunks of an order; networks stay loaded between them."""

    def __init__(self, order: Order) -> None:
        self._order, self._options = order, order.digest()
        self._model = order.model
        if order.model is not None and is_url(order.model):
            folder = tempfile.mkdtemp(prefix="dirformer-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            self._model = str(Path(folder) / Place(order.model).name)
            Place(order.model).fetch(Path(self._model))
        self._restorers: dict[str, tuple[Restorer, Keys]] = {}
        self._masks: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def work(self, chunk: Chunk) -> Report:
        """Restore a chunk and return what became of it; a bad photo never stops the others."""
        report = Report.of(chunk)
        if chunk.items:
            try:
                report.records = self._restored(chunk)
            except DirformerError as error:
                # The manifest cannot be written: no result of this chunk is put in place.
                report.errors += [f"{Place(item.url)}: {error}" for item in chunk.items]
        return report

    def _restored(self, chunk: Chunk) -> list[Record]:
        with tempfile.TemporaryDirectory(prefix="dirformer-") as name:
            room = Path(name)
            line = Pipeline(
                self._read,
                self._work,
                self._write,
                workers=0 if self._order.options.limit is not None else self._order.workers,
                weight=_weight,
            )
            staged = [_staged(room, number, item) for number, item in enumerate(chunk.items)]
            done = [(outcome.job, self._record(outcome, room)) for outcome in line.run(staged)]
            if not self._order.one_file:
                records = [record for _, record in done]
                write_part(self._order.out, chunk, self._options, records, room)
            with ThreadPoolExecutor(max(1, self._order.workers)) as pool:
                return list(pool.map(lambda one: self._put(*one), done))

    def _read(self, staged: _Staged) -> _Ready:
        order = self._order
        staged.photo.parent.mkdir(parents=True)
        Place(staged.item.url).fetch(staged.photo)
        mask = self._mask(staged)
        job = Job(staged.photo, staged.output, mask)
        groups = by_model([job], self._model, task=order.task, files=order.files, sharp=order.sharp)
        restorer, keys = self._opened(next(iter(groups)))
        run = self._run(keys)
        read = read_job(restorer, run, job)
        assert read.key is not None
        return _Ready(restorer, job, read, read.key.input)

    def _opened(self, name: str) -> tuple[Restorer, Keys]:
        order = self._order
        with self._lock:
            if name not in self._restorers:
                restorer = open_restorer(name, order.options, task=order.task, scale=order.files.scale)
                self._restorers[name] = restorer, Keys(name, {})
            return self._restorers[name]

    def _run(self, keys: Keys | None = None) -> FileRun:
        return FileRun(seed=self._order.seed, files=self._order.files, keys=keys)

    def _mask(self, staged: _Staged) -> Path | None:
        """Fetch the photo's mask: one for all, or by name in a folder, whose tree may be the photos'."""
        place = self._order.mask
        if place is None:
            return None
        found = place
        if place.is_folder():
            stem = Path(Place(staged.item.url).name).stem
            folders = dict.fromkeys((staged.item.place, ""))
            names = {folder: self._named(place.below(folder)).get(stem) for folder in folders}
            folder = next((folder for folder in folders if names[folder] is not None), None)
            if folder is None:
                raise PhotoError(
                    f"{staged.photo} has no mask of the same name in {place}; expected {stem}.png or "
                    f"{stem}_mask001.png"
                )
            found = place.below(folder).below(str(names[folder]))
        mask = staged.photo.parent / f"mask{Path(found.name).suffix}"
        found.fetch(mask)
        return mask

    def _named(self, folder: Place) -> dict[str, str]:
        with self._lock:
            if folder.url not in self._masks:
                paths = [Path(one.name) for one in folder.listed()[1]]
                self._masks[folder.url] = {stem: path.name for stem, path in masks_by_name(paths).items()}
            return self._masks[folder.url]

    def _work(self, staged: _Staged, ready: _Ready, number: int) -> _Worked:
        del staged, number
        return _Worked(ready, work_on(ready.restorer, ready.job, self._run(), ready.read, None))

    def _write(self, staged: _Staged, worked: _Worked, turn: Callable[[], None]) -> _Written:
        del staged
        ready = worked.ready
        _, notes = write_result(self._run(), ready.job, worked.worked, turn)
        return _Written(ready.restorer.name, ready.input, notes)

    def _record(self, outcome: Outcome[_Staged, _Written], room: Path) -> Record:
        staged = outcome.job
        item = staged.item
        photo = str(Place(item.url))
        output = f"{item.place}/{item.output}".lstrip("/")
        record = Record(output, photo, item.version, options=self._options, seconds=outcome.seconds)
        if outcome.result is None:
            assert outcome.error is not None
            error = str(named_error(Job(staged.photo, staged.output), outcome.error))
            return replace(record, error=self._public(error, staged, room))
        written = outcome.result
        return replace(
            record,
            input=written.input,
            model=written.model if self._model == self._order.model else str(Place(str(self._order.model))),
            model_digest=self._restorers[written.model][1].model,
            result=digest_file(staged.output),
            size=staged.output.stat().st_size,
            notes=written.notes,
        )

    def _public(self, line: str, staged: _Staged, room: Path) -> str:
        """Return a line with addresses in place of files of this machine."""
        item = staged.item
        out = (
            self._order.out if self._order.one_file else self._order.out.below(item.place).below(item.output)
        )
        for path, place in ((staged.photo, Place(item.url)), (staged.output, out)):
            line = line.replace(str(path), str(place))
        return line.replace(f"{room}/", "")

    def _put(self, staged: _Staged, record: Record) -> Record:
        if record.error:
            return record
        item, out = staged.item, self._order.out
        place = out if self._order.one_file else out.below(item.place).below(item.output)
        try:
            place.put(staged.output)
        except DirformerError as error:
            return replace(record, error=str(error))
        return record


def _staged(room: Path, number: int, item: Item) -> _Staged:
    place = Place(item.url)
    folder = room / str(number)
    return _Staged(item, folder / "in" / (place.name or "photo"), folder / "out" / item.output)


def _weight(staged: _Staged) -> int:
    return 2 * PIXEL_BYTES * _PIXELS_A_BYTE * staged.item.size
