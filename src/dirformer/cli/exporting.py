"""`export`: networks for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.options import Json, Overwrite
from dirformer.cli.staged import target, weights
from dirformer.cli.terminal import progress_bar, say, say_aside, write_json


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A name that `dirformer models` lists, or a weight file.", parser=weights, metavar="MODEL"
        ),
    ],
    to: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File to write: .onnx, or .xml with a .bin beside it.",
            parser=target,
            metavar="PATH",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the stored weights: float32 or float16.")] = "float32",
    seed: Annotated[
        int | None, typer.Option(help="Fix the noise; without it, noise is an input of the file.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = None,
) -> None:
    """Write a network for ONNX Runtime or OpenVINO, and prove that it restores as ours does."""
    from dirformer.interop.formats import ExportOptions, default_out

    options = ExportOptions(out or default_out(model, to), to, precision, seed, overwrite)

    from dirformer.interop.export import STEPS, write

    with progress_bar(STEPS, "exporting") as show:
        done = write(model, options, show)
    size = sum(path.stat().st_size for path in done.paths) / 1e6
    names = " and ".join(str(path) for path in done.paths)
    say(f"{names}: {size:.1f} MB; differs from ours by {done.largest:.1g} at most ({done.psnr:.0f} dB)")
    if done.context != "image":
        say_aside(
            f"{model} restores large photos in windows; the file sees a photo whole, like `--context image`"
        )
    if done.fill == "exemplar":
        say_aside(f"{model} fills holes from exemplars; the file fills them smoothly, like `--fill smooth`")
    write_json(
        as_json,
        {
            "schema": 1,
            "files": [str(path) for path in done.paths],
            "largest": done.largest,
            "psnr": done.psnr if done.psnr < float("inf") else None,
        },
    )
