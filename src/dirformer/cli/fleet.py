"""Verbs from or to an address, or by an engine: the same options, lines and exit codes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import typer

from dirformer.cli.batch import Request, closing_line, terminable
from dirformer.cli.terminal import complain, open_bar, say
from dirformer.fleet.cluster import Cluster
from dirformer.fleet.order import Order, Record, Report
from dirformer.fleet.restoring import RestoreOrder
from dirformer.fleet.run import ENGINES, check, counting, run
from dirformer.fleet.sets import SetOrder
from dirformer.ground.errors import ConfigError
from dirformer.ground.formats import SUFFIXES
from dirformer.ground.places import Place, address_in, is_url
from dirformer.inference.jobs import PIPE, is_one_file


@dataclass(frozen=True)
class Places:
    """Names as they were given: a path would make `s3:/` of `s3://`."""

    names: list[str]
    out: str
    mask: str | None


def at_name(name: str) -> str:
    """Return a list file as it is named among photos: `@LIST`, `s3://BUCKET/@LIST`."""
    above, slash, last = name.rpartition("/")
    return f"{above}{slash}@{last}"


@dataclass(frozen=True)
class Fleet:
    """Who does the work, as it was asked for."""

    engine: str | None = None
    address: str | None = None
    processes: int | None = None

    def asked(self, *names: str | None) -> bool:
        """Return whether a fleet is wanted: an option says so, or a name is an address."""
        return self.given or any(address_in(name)[1] for name in names if name is not None)

    @property
    def given(self) -> bool:
        """Whether an option says so."""
        return any((self.engine, self.address, self.processes))

    @property
    def name(self) -> str:
        """The engine."""
        return self.engine or (ENGINES[0] if self.address is None else "ray")

    @property
    def cluster(self) -> Cluster:
        """Where the workers are."""
        return Cluster(self.address, self.processes)


def run_fleet(request: Request, places: Places, fleet: Fleet) -> None:
    """Restore what was asked for by a fleet.

    Raises:
        DirformerError: if nothing can be done.
        typer.Exit: with 2 if a photo failed.
        KeyboardInterrupt: by Ctrl-C or SIGTERM, behind the closing line.
    """
    request.check()
    told = _Restored()
    told.follow(_order(request, places), fleet)
    if told.failed or not told.told:
        raise typer.Exit(2)


def _order(request: Request, places: Places) -> RestoreOrder:
    for name, value in (
        ("--prior", request.prior),
        ("--save-prior", request.save_prior),
        ("--prove", request.prove_it),
        ("--in-place", request.in_place),
        ("-", PIPE in (request.out, *(request.inputs or []))),
    ):
        if value:
            raise ConfigError(
                f"{name} is for photos of this machine; leave it out, or --engine and addresses"
            )
    files = request.file_options()
    sources = tuple(_source(name) for name in places.names)
    out = Place.of(places.out)
    out.require_writable()
    many = len(sources) > 1 or any(one.name.startswith("@") or one.is_folder() for one in sources)
    one_file = is_one_file(Path(out.name), files, several=many, folder=out.is_folder())
    return RestoreOrder(
        sources,
        out,
        mask=None if places.mask is None else Place.of(places.mask),
        model=request.model,
        task=request.task,
        sharp=request.sharp,
        seed=request.seed,
        options=request.restore_options(),
        files=files,
        overwrite=request.overwrite,
        skip=(many if request.skip_existing is None else request.skip_existing),
        workers=request.workers,
        one_file=one_file,
    )


def _source(name: str) -> Place:
    """Return a source; `@s3://BUCKET/LIST` and `@folder/LIST` are lists, too."""
    if name.startswith("@") and (is_url(name[1:]) or not Path(name).exists()):
        return Place.of(at_name(name[1:]))
    return Place.of(name)


def begin(order: SetOrder, fleet: Fleet) -> None:
    """Do what comes before all work on a set. Raises DirformerError before anything is written."""
    check(order, fleet.name, fleet.cluster)
    order.begin()


@dataclass
class Told:
    """What has become of the photos so far: numbers only, for there may be any number of photos."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    passed: Counter[str] = field(default_factory=Counter)

    def follow(self, order: Order, fleet: Fleet) -> None:
        """Do an order; say what becomes of each photo, and at the end of all, also when interrupted."""
        with terminable():
            reports = run(order, fleet.name, fleet.cluster)
            try:
                with open_bar(None, order.doing) as show, counting(order, show.expect):
                    for report in reports:
                        self._tell(report, order)
                        show(float(self.told))
                self.ended(order)
            finally:
                self.close(order)

    @property
    def told(self) -> int:
        """Photos that were spoken of."""
        return self.done + self.skipped + self.failed

    def _tell(self, report: Report, order: Order) -> None:
        self.skipped += report.skipped
        self.passed.update(report.passed)
        for line in report.errors:
            self._fail(line)
        for record in report.records:
            if record.error:
                self._fail(self.named(record))
            else:
                self.done += 1
            self.take(record, order)

    def named(self, record: Record) -> str:
        """Return the line of a photo that failed."""
        return record.error

    def take(self, record: Record, order: Order) -> None:
        """Hear what became of a photo."""

    def ended(self, order: Order) -> None:
        """Hear that the work is done."""

    def close(self, order: Order) -> None:
        """Say what became of all, also of a run that was interrupted."""

    def _fail(self, line: str) -> None:
        self.failed += 1
        complain(line)


class _Restored(Told):
    """What `restore` says."""

    def take(self, record: Record, order: Order) -> None:
        if record.error:
            return
        output = order.out if order.one_file else order.out.below(record.output)
        say(f"{record.photo} → {output} ({record.seconds:.1f} s)")
        for note in record.notes:
            say(f"  {note}")

    def ended(self, order: Order) -> None:
        if not self.told:
            named = ", ".join(map(str, order.sources))
            complain(f"no photos in {named}; expected {', '.join(SUFFIXES)} files")

    def close(self, order: Order) -> None:
        del order
        say(closing_line(self.done, self.skipped, self.failed, self.passed))


@dataclass
class SetTold(Told):
    """What the verbs say that make a set: its records are kept until its end."""

    records: dict[str, Record] = field(default_factory=dict)

    def take(self, record: Record, order: Order) -> None:
        del order
        self.records[record.output] = record

    def named(self, record: Record) -> str:
        return f"{record.output.rpartition('/')[2]}: {record.error}"
