"""`train` and `plan`: recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from dirformer.cli.options import Json, Overrides
from dirformer.cli.terminal import say, write_json


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
    from dirformer.ground.errors import ConfigError
    from dirformer.training.config import load_recipe

    if sweep is not None:
        from dirformer.experiments.sweeps import Sweep, as_markdown

        if minutes is not None:
            raise ConfigError("--minutes does not go with --sweep; give the rows the same steps=NUMBER")
        rows = Sweep(sweep, [*([recipe] if recipe else []), *(overrides or [])])
        say(as_markdown(rows.run(say)))
        say(f"table: {rows.folder / 'table.md'}, .csv, .json")
        return
    if recipe is None:
        raise ConfigError(
            "train needs a recipe, such as sr-x4-compact-stage1 or a .yaml file, or --sweep NAME"
        )
    if plan_only:
        plan(recipe, overrides)
        return
    from dirformer.experiments.train import train as run

    run(load_recipe(recipe, overrides), say, minutes)


def plan(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a .yaml file.")],
    overrides: Overrides = None,
    as_json: Json = None,
) -> None:
    """Say what a training will cost: parameters, time, memory, disk; a few steps are measured."""
    from dirformer.experiments.estimate import plan as run
    from dirformer.experiments.estimate import plan_text
    from dirformer.training.config import load_recipe

    result = run(load_recipe(recipe, overrides), say)
    say(plan_text(result))
    write_json(as_json, result)
