"""`degrade`, `masks`, `prepare`: test sets and training data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import dirformer.cli.photo_options as of
from dirformer.cli.fleet import Fleet, SetTold, begin
from dirformer.cli.options import DrawSeed, Json, Out, OutPlace, Overwrite
from dirformer.cli.staged import source as at
from dirformer.cli.terminal import complain, progress, say, write_json
from dirformer.ground.places import Place, is_url, shown

if TYPE_CHECKING:
    from dirformer.data.plans import Plan
    from dirformer.fleet.datasets import PrepareOrder
    from dirformer.fleet.testsets import DegradeOrder

FRAMES = "frames"
"""The kind that averages frames of clips; no degradation of single photos."""


def degrade(
    source: Annotated[
        str, typer.Argument(help="Folder or list of clean photos, also at an address.", metavar="IN")
    ],
    out: OutPlace,
    kind: Annotated[str, typer.Option(help="bicubic, realsr, motion, noise, jpeg … or frames.")],
    scale: Annotated[int | None, typer.Option(help="GT size over LQ size.")] = None,
    frames: Annotated[int, typer.Option(help="Frames averaged into one photo (kind frames), odd.")] = 7,
    seed: DrawSeed = 0,
    overwrite: Overwrite = False,
    engine: of.Engine = None,
    address: of.Address = None,
    processes: of.Processes = None,
) -> None:
    """Make a reproducible test set: degraded photos, their clean partners and a manifest."""
    from dirformer.degradations.table import find_kind

    if kind != FRAMES:
        find_kind(kind, scale)
    _require_there(source)
    fleet = Fleet(engine, address, processes)
    if fleet.asked(source, out):
        from dirformer.fleet.testsets import DegradeOrder

        places = (Place.of(source),), Place.of(out)
        how: dict[str, Any] = {
            "kind": "" if kind == FRAMES else kind,
            "scale": scale,
            "seed": seed,
            "frames": frames,
        }
        _follow(DegradeOrder(*places, overwrite=overwrite, skip=not overwrite, **how), out, fleet)
        return

    from dirformer.data.folders import find_photos
    from dirformer.data.testsets import average_clips, degrade_photos

    photos, folder = Path(source), Path(out)
    if kind == FRAMES:
        records = average_clips(photos, folder, frames=frames, overwrite=overwrite)
        total = len(find_photos(photos)) // frames
    else:
        records = degrade_photos(photos, folder, kind, scale=scale, seed=seed, overwrite=overwrite)
        total = len(find_photos(photos))
    _drain(progress(records, total, "degrading"), folder)


def masks(
    out: Out,
    kind: Annotated[str, typer.Option(help="narrow (thin), medium, wide (thick), training or scratches.")],
    size: Annotated[int, typer.Option(help="Side of the photos: 256 or 512.")] = 512,
    count: Annotated[int, typer.Option("-n", "--count", help="How many masks.")] = 100,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Photos to cut to squares and mask, instead of bare masks.", parser=at, metavar="PATH"
        ),
    ] = None,
    pick: Annotated[
        int | None, typer.Option(help="With --photos: this many of them, always the same ones.")
    ] = None,
    seed: DrawSeed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a fixed set of inpainting masks, white where the hole is."""
    from dirformer.degradations.mask_settings import mask_settings
    from dirformer.ground.errors import ConfigError

    mask_settings(kind, size)
    if photos is not None:
        _require_there(str(photos))
    elif pick is not None:
        raise ConfigError("--pick chooses among photos; give --photos DIR, or --count for bare masks")

    from dirformer.data.folders import find_photos
    from dirformer.data.testsets import make_masks, mask_photos

    if photos is None:
        records, total = make_masks(out, kind, size, count, seed=seed, overwrite=overwrite), count
    else:
        records = mask_photos(photos, out, kind, size, pick=pick, seed=seed, overwrite=overwrite)
        total = pick or len(find_photos(photos))
    _drain(progress(records, total, "masking"), out)


def prepare(
    name: Annotated[str, typer.Argument(help="div2k, gopro, places365 …", metavar="SET")],
    source: Annotated[
        str, typer.Argument(help="The downloaded archive or folder, also at an address.", metavar="IN")
    ],
    out: OutPlace,
    workers: Annotated[
        int, typer.Option(help="Processes that decode and cut; of an engine: --processes.")
    ] = 2,
    shards: Annotated[bool, typer.Option("--shards", help="Write tar shards instead of files.")] = False,
    per_shard: Annotated[int, typer.Option(help="Photos per shard.")] = 1000,
    cut: Annotated[str | None, typer.Option(help="Sub-images of training parts, as SIDE/STEP.")] = None,
    multiscale: Annotated[
        bool, typer.Option("--multiscale", help="Cut reduced copies too, as real-world training does.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on although the set is not complete.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = None,
    engine: of.Engine = None,
    address: of.Address = None,
    processes: of.Processes = None,
) -> None:
    """Check a downloaded data set and cut it for training; the same command again goes on."""
    from dirformer.data.sets import Cut, find_set

    find_set(name)
    _require_there(source)

    from dirformer.data import prepare as room
    from dirformer.data.plans import plan

    sizes = None if cut is None else Cut.parse(cut)
    fleet, per = Fleet(engine, address, processes), per_shard if shards else None
    if fleet.asked(source, out):
        from dirformer.fleet.datasets import PrepareOrder

        places = (Place.of(source),), Place.of(out)
        how: dict[str, Any] = {"name": name, "cut": sizes, "multiscale": multiscale, "shard": per}
        order = PrepareOrder(*places, overwrite=overwrite, skip=not overwrite, **how)
        _require_whole(name, shown(source), order.plans, as_json, partial=partial)
        _follow(order, out, fleet)
        return
    plans = plan(name, Path(source), cut=sizes, multiscale=multiscale)
    _require_whole(name, source, plans, as_json, partial=partial)
    records = room.prepare(plans, Path(out), workers=workers, shard=per, overwrite=overwrite)
    _drain(progress(records, room.count(plans, per), "preparing"), Path(out))


def _require_whole(name: str, source: str, plans: list[Plan], as_json: Path | None, *, partial: bool) -> None:
    from dirformer.data.plans import summary
    from dirformer.ground.errors import DataError

    problems = [problem for planned in plans for problem in planned.problems]
    write_json(as_json, {"schema": 1, "set": name, "parts": summary(plans)})
    for problem in problems:
        complain(problem)
    if problems and not partial:
        raise DataError(f"{source} is not the complete set; download what is missing, or add --partial")


def _follow(order: DegradeOrder | PrepareOrder, out: str, fleet: Fleet) -> None:
    """Have a set made by a fleet, and its manifest written; fail if anything was left out."""
    begin(order, fleet)
    told = SetTold()
    try:
        told.follow(order, fleet)
        order.end(told.records)
    finally:
        say(f"{shown(out)}: {told.done} made, {told.skipped} kept, {told.failed} left out")
    if told.failed:
        raise typer.Exit(2)


def _require_there(place: str) -> None:
    from dirformer.ground.errors import DataError

    if not is_url(place) and not Path(place).exists():
        raise DataError(f"{place} is not there; give a folder, a list or an archive that exists")


def _drain(records: Iterable[Any], out: Path) -> None:
    """Take all records of a folder that is made; say what was made, and fail if anything was left out."""
    made = kept = 0
    errors = []
    for record in records:
        made, kept = made + 1, kept + record.kept
        if record.error is not None:
            errors.append(f"{record.name}: {record.error}")
            complain(errors[-1])
    say(f"{out}: {made - kept - len(errors)} made, {kept} kept, {len(errors)} left out")
    if errors:
        raise typer.Exit(2)
