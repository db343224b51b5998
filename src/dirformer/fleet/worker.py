"""One worker: networks loaded once, a chunk of photos at a time, fetched, worked on and put in place."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from dirformer.fleet.manifest import write_part
from dirformer.fleet.order import Chunk, Item, Made, Order, Record, Report, Staged
from dirformer.ground.errors import DirformerError
from dirformer.ground.places import Place
from dirformer.inference.done import digest_file, digest_files
from dirformer.inference.files import PIXEL_BYTES, named_error
from dirformer.inference.jobs import Job
from dirformer.inference.pipeline import Outcome, Pipeline

_PIXELS_A_BYTE = 4
"""Of a JPEG, about: how many pixels a file has is known only when it is here."""


class Worker:
    """Does chunks of an order; networks stay loaded between them."""

    def __init__(self, order: Order) -> None:
        self._order, self._options = order, order.digest()
        self._maker = order.maker()

    def work(self, chunk: Chunk) -> Report:
        """Do a chunk and return what became of it; a bad photo never stops the others."""
        report = Report.of(chunk)
        if chunk.items:
            try:
                report.records = self._done(chunk)
            except DirformerError as error:
                # The manifest cannot be written: no new result of this chunk is put in place.
                report.errors += [f"{Place(item.url)}: {error}" for item in chunk.items]
        return report

    def _done(self, chunk: Chunk) -> list[Record]:
        with tempfile.TemporaryDirectory(prefix="dirformer-") as name:
            room, maker = Path(name), self._maker
            line = Pipeline[Staged, object, object, Made](
                maker.read,
                lambda staged, ready, _: maker.work(staged, ready),
                maker.write,
                workers=self._order.overlapping,
                weight=_weight,
            )
            staged = [_staged(room, number, item) for number, item in enumerate(chunk.items)]
            done = [(outcome.job, self._record(outcome, room)) for outcome in line.run(staged)]
            # Over an older result the new one goes first, or the old one would pass for what the record says.
            # Elsewhere the record goes first, so that no result is without one.
            done = self._put(done, there=True)
            if self._order.recorded:
                write_part(self._order.out, chunk, self._options, [record for _, record in done])
            return [record for _, record in self._put(done, there=False)]

    def _record(self, outcome: Outcome[Staged, Made], room: Path) -> Record:
        staged = outcome.job
        item = staged.item
        photo = str(Place(item.url))
        record = Record(item.name, photo, item.version, options=self._options, seconds=outcome.seconds)
        if outcome.result is None:
            assert outcome.error is not None
            job = Job(staged.photo, staged.output)
            error = str(named_error(job, outcome.error, self._order.done))
            return replace(record, error=self._public(error, staged, room))
        made = outcome.result
        files = _written(staged)
        sizes = {file.relative_to(staged.out).as_posix(): file.stat().st_size for file in files}
        return replace(
            record,
            input=made.input or digest_files(*staged.files),
            model=made.model,
            model_digest=made.model_digest,
            result=_digest(files),
            size=sum(sizes.values()),
            files={} if list(sizes) == [item.name] else sizes,
            notes=made.notes,
            values=made.values,
        )

    def _public(self, line: str, staged: Staged, room: Path) -> str:
        """Return a line with addresses in place of files of this machine."""
        item = staged.item
        for url, file in zip((item.url, *item.more), staged.files, strict=False):
            line = line.replace(str(file), str(Place(url)))
        line = line.replace(str(staged.output), str(self._place(item.name)))
        return line.replace(str(staged.out), str(self._order.out)).replace(f"{room}/", "")

    def _place(self, name: str) -> Place:
        return self._order.out if self._order.one_file else self._order.out.below(name)

    def _put(self, done: list[tuple[Staged, Record]], *, there: bool) -> list[tuple[Staged, Record]]:
        """Put the results that have, or have not, an older one at their place; return what became of all."""

        def one(staged: Staged, record: Record) -> tuple[Staged, Record]:
            if record.error or staged.item.there != there:
                return staged, record
            try:
                for file in _written(staged):
                    self._place(file.relative_to(staged.out).as_posix()).put(file)
            except DirformerError as error:
                record = replace(record, error=str(error))
            return staged, record

        with ThreadPoolExecutor(max(1, self._order.workers)) as pool:
            return list(pool.map(lambda pair: one(*pair), done))


def _staged(room: Path, number: int, item: Item) -> Staged:
    folder = room / str(number)
    urls = (item.url, *item.more)
    files = tuple(folder / f"in{n}" / (Place(url).name or "photo") for n, url in enumerate(urls))
    return Staged(item, files, folder / "out")


def _written(staged: Staged) -> list[Path]:
    return sorted(path for path in staged.out.rglob("*") if path.is_file())


def _digest(files: list[Path]) -> str:
    if len(files) == 1:
        return digest_file(files[0])
    return digest_files(*files) if files else ""


def _weight(staged: Staged) -> int:
    return 2 * PIXEL_BYTES * _PIXELS_A_BYTE * staged.item.size
