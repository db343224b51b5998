"""`restore` from or to an address, or by an engine: the same options, lines and exit codes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import typer

from dirformer.cli.batch import Request, closing_line, terminable
from dirformer.cli.pipes import PIPE
from dirformer.cli.terminal import complain, open_bar, say
from dirformer.fleet.cluster import Cluster
from dirformer.fleet.order import Order, Report
from dirformer.fleet.run import ENGINES, counting, run
from dirformer.ground.errors import ConfigError
from dirformer.ground.formats import SUFFIXES
from dirformer.ground.places import Place, is_url
from dirformer.inference.jobs import is_one_file


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


def run_fleet(
    request: Request, places: Places, *, engine: str | None, address: str | None, processes: int | None
) -> None:
    """Restore what was asked for by a fleet.

    Raises:
        DirformerError: if nothing can be done.
        typer.Exit: with 2 if a photo failed.
        KeyboardInterrupt: by Ctrl-C or SIGTERM, behind the closing line.
    """
    request.check()
    order = _order(request, places)
    if engine is None and address is not None:
        engine = "ray"
    with terminable():
        _Told().go(order, engine or ENGINES[0], Cluster(address, processes))


def _order(request: Request, places: Places) -> Order:
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
    many = len(sources) > 1 or any(one.name.startswith("@") or one.is_folder() for one in sources)
    one_file = is_one_file(Path(out.name), files, several=many, folder=out.is_folder())
    return Order(
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


@dataclass
class _Told:
    """What has become of the photos so far: numbers only, for there may be any number of photos."""

    restored: int = 0
    skipped: int = 0
    failed: int = 0
    passed: Counter[str] = field(default_factory=Counter)

    def go(self, order: Order, engine: str, cluster: Cluster) -> None:
        """Restore; say what becomes of each photo, and at the end of all, also when interrupted."""
        reports = run(order, engine, cluster)
        try:
            with open_bar(None, "restoring") as show, counting(order, show.expect):
                for report in reports:
                    self._tell(report, order)
                    show(float(self.restored + self.skipped + self.failed))
            if not (self.restored or self.skipped or self.failed):
                named = ", ".join(map(str, order.sources))
                complain(f"no photos in {named}; expected {', '.join(SUFFIXES)} files")
        finally:
            say(closing_line(self.restored, self.skipped, self.failed, self.passed))
        if self.failed or not (self.restored or self.skipped):
            raise typer.Exit(2)

    def _tell(self, report: Report, order: Order) -> None:
        self.skipped += report.skipped
        self.passed.update(report.passed)
        for line in report.errors:
            self._fail(line)
        for record in report.records:
            if record.error:
                self._fail(record.error)
                continue
            self.restored += 1
            output = order.out if order.one_file else order.out.below(record.output)
            say(f"{record.photo} → {output} ({record.seconds:.1f} s)")
            for note in record.notes:
                say(f"  {note}")

    def _fail(self, line: str) -> None:
        self.failed += 1
        complain(line)
