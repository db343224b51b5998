"""`convert` and `models`: weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.options import Json, Overwrite
from dirformer.cli.staged import source as at
from dirformer.cli.staged import target
from dirformer.cli.terminal import say, write_json


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="An authors' .pth or .ckpt, or one of our .safetensors.", parser=at, metavar="SOURCE"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Result: .safetensors is ours, .pth and .ckpt are theirs.",
            parser=target,
            metavar="PATH",
        ),
    ],
    task: Annotated[str | None, typer.Option(help="realsr, where weights cannot tell it from sr.")] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Take the stage-1 network inside an inpainting stage-2 file.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert the authors' weight files to ours, or ours to theirs."""
    from dirformer.weights.authors import convert as run

    say(run(source, out, task=task, teacher=teacher, overwrite=overwrite))


def models(as_json: Json = None) -> None:
    """List the models that come with the package, and the recipes to train more."""
    from dirformer.weights.catalog import CATALOG
    from dirformer.weights.checkpoints import read_header

    rows = []
    for entry in CATALOG.values():
        header = read_header(entry.path)
        rows.append(
            {
                "name": entry.name,
                "task": entry.task,
                "scale": entry.scale,
                "licence": entry.licence,
                "bytes": entry.path.stat().st_size,
                "summary": entry.summary,
                "provenance": header.provenance,
            }
        )
        size = f"{entry.path.stat().st_size / 1e6:.1f} MB"
        say(f"{entry.name:24} {entry.task} ×{entry.scale}  {size}  {entry.summary}")
    write_json(as_json, {"schema": 1, "models": rows})
