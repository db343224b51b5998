"""`train` and `plan`: recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dirformer.cli.photo_options as of
from dirformer.cli.options import Device, Json, Overrides, Precision
from dirformer.cli.planning import are_photos, plan_photos
from dirformer.cli.staged import source, text, weights
from dirformer.cli.terminal import say, say_table, write_json
from dirformer.ground.errors import ConfigError
from dirformer.ground.formats import MAX_PIXELS
from dirformer.ground.places import is_url, shown
from dirformer.inference.jobs import FileOptions, parse_extend
from dirformer.inference.options import RestoreOptions
from dirformer.inference.sizes import parse_box


def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe's name or a .yaml file.")] = None,
    overrides: Overrides = None,
    minutes: Annotated[float | None, typer.Option(help="Fit the schedule to this time.", min=0.1)] = None,
    sweep: Annotated[
        str | None, typer.Option(help="Instead of a recipe: train and compare the rows of this list.")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what the training will cost, as `plan` does, and stop.")
    ] = False,
) -> None:
    """Train a network by a recipe; the same command again goes on where it stopped."""
    from dirformer.training.config import load_recipe

    if sweep is not None:
        from dirformer.experiments.sweeps import Sweep, as_markdown

        if minutes is not None:
            raise ConfigError("--minutes does not go with --sweep; give the rows the same steps=NUMBER")
        rows = Sweep(sweep, [*([recipe] if recipe else []), *(overrides or [])])
        say_table(as_markdown(rows.run(say)))
        say(f"table: {rows.folder / 'table.md'}, .csv, .json")
        return
    if recipe is None:
        raise ConfigError(
            "train needs a recipe, such as sr-x4-compact-stage1 or a .yaml file, or --sweep NAME"
        )
    if plan_only:
        _plan_training(recipe, overrides, None)
        return
    from dirformer.experiments.train import train as run

    run(load_recipe(recipe, overrides), say, minutes)


def plan(
    subject: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders or @LIST; or a recipe, with fields to change behind it.",
            parser=text,
            metavar="WHAT...",
        ),
    ],
    as_json: Json = None,
    task: of.TaskName = None,
    model: Annotated[
        str | None,
        typer.Option(help="A shipped model's name or a weight file.", parser=weights, metavar="TEXT"),
    ] = None,
    sharp: of.Sharp = False,
    mask: Annotated[
        Path | None,
        typer.Option(help="Mask (white = hole), or a folder of masks.", parser=source, metavar="PATH"),
    ] = None,
    scale: of.Scale = None,
    size: of.Size = None,
    fill: of.Fill = None,
    consistent: of.Consistent = False,
    context: of.Context = "auto",
    window: of.Window = None,
    pages: of.Pages = False,
    extend: of.Extend = None,
    max_pixels: of.MaxPixels = MAX_PIXELS,
    device: Device = "auto",
    precision: Precision = "float32",
    max_memory: of.Memory = None,
    storage: of.Storage = "32bit",
    samples: of.Samples = 1,
    self_ensemble: of.Ensemble = False,
) -> None:
    """Say what a restoration or a training will take: time, memory, size; a small piece is measured."""
    if is_url(subject[0].removeprefix("@")):
        raise ConfigError(
            f"{shown(subject[0][1:])} is a list at an address; expected photos, a folder, or a list here"
        )
    if not are_photos(subject[0]):
        _plan_training(subject[0], subject[1:], as_json)
        return
    plan_photos(
        [Path(name) for name in subject],
        RestoreOptions(
            device=device,
            precision=precision,
            max_memory=max_memory,
            storage=storage,
            samples=samples,
            self_ensemble=self_ensemble,
            fill=fill,
            consistent=consistent,
            context=context,
            window=window,
        ),
        FileOptions(
            scale=scale,
            box=parse_box(size),
            pages=pages,
            extend=parse_extend(extend),
            max_pixels=max_pixels,
        ),
        choice=(task, model, sharp, mask),
        as_json=as_json,
    )


def _plan_training(recipe: str, overrides: list[str] | None, as_json: Path | None) -> None:
    from dirformer.experiments.estimate import plan as run
    from dirformer.experiments.estimate import plan_text
    from dirformer.training.config import load_recipe

    result = run(load_recipe(recipe, overrides), say)
    say_table(plan_text(result))
    write_json(as_json, result)
