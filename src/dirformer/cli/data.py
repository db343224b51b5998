"""`degrade`, `masks`, `prepare`: test sets and training data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from dirformer.cli.options import DrawSeed, Json, Out, Overwrite
from dirformer.cli.staged import source as address
from dirformer.cli.terminal import complain, progress, say, write_json

FRAMES = "frames"
"""The kind that averages frames of clips; no degradation of single photos."""


def degrade(
    source: Annotated[
        Path, typer.Argument(help="Folder or list of clean photos.", metavar="IN", parser=address)
    ],
    out: Out,
    kind: Annotated[str, typer.Option(help="bicubic, realsr, motion, noise, jpeg … or frames.")],
    scale: Annotated[int | None, typer.Option(help="GT size over LQ size.")] = None,
    frames: Annotated[int, typer.Option(help="Frames averaged into one photo (kind frames), odd.")] = 7,
    seed: DrawSeed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make a reproducible test set: degraded photos, their clean partners and a manifest."""
    from dirformer.degradations.table import find_kind

    if kind != FRAMES:
        find_kind(kind, scale)
    _require_there(source)

    from dirformer.data.folders import find_photos
    from dirformer.data.testsets import average_clips, degrade_photos

    if kind == FRAMES:
        records = average_clips(source, out, frames=frames, overwrite=overwrite)
        total = len(find_photos(source)) // frames
    else:
        records = degrade_photos(source, out, kind, scale=scale, seed=seed, overwrite=overwrite)
        total = len(find_photos(source))
    _drain(progress(records, total, "degrading"), out)


def masks(
    out: Out,
    kind: Annotated[str, typer.Option(help="narrow (thin), medium, wide (thick), training or scratches.")],
    size: Annotated[int, typer.Option(help="Side of the photos: 256 or 512.")] = 512,
    count: Annotated[int, typer.Option("-n", "--count", help="How many masks.")] = 100,
    photos: Annotated[
        Path | None, typer.Option(help="Photos to cut to squares and mask, instead of bare masks.")
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
        _require_there(photos)
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
        Path, typer.Argument(help="The downloaded archive or folder.", metavar="IN", parser=address)
    ],
    out: Out,
    workers: Annotated[int, typer.Option(help="Processes that decode and cut.")] = 2,
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
) -> None:
    """Check a downloaded data set and cut it for training; the same command again goes on."""
    from dirformer.data.sets import Cut, find_set
    from dirformer.ground.errors import DataError

    find_set(name)
    _require_there(source)

    from dirformer.data import prepare as room
    from dirformer.data.plans import plan, summary

    plans = plan(name, source, cut=None if cut is None else Cut.parse(cut), multiscale=multiscale)
    problems = [problem for planned in plans for problem in planned.problems]
    write_json(as_json, {"schema": 1, "set": name, "parts": summary(plans)})
    for problem in problems:
        complain(problem)
    if problems and not partial:
        raise DataError(f"{source} is not the complete set; download what is missing, or add --partial")
    per = per_shard if shards else None
    records = room.prepare(plans, out, workers=workers, shard=per, overwrite=overwrite)
    _drain(progress(records, room.count(plans, per), "preparing"), out)


def _require_there(place: Path) -> None:
    from dirformer.ground.errors import DataError

    if not place.exists():
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
