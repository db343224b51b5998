"""Options that several verbs share, each with its sentence of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.staged import report, target

Inputs = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", metavar="IN...")]
Out = Annotated[
    Path,
    typer.Option("-o", "--out", help="Folder or address for the results.", parser=target, metavar="PATH"),
]
OutPlace = Annotated[
    str, typer.Option("-o", "--out", help="Folder or address for the results.", metavar="PATH")
]
Seed = Annotated[int, typer.Option(help="Another seed is another draw of the diffusion's start.")]
DrawSeed = Annotated[int, typer.Option("--seed", help="Another seed is another set.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    str,
    typer.Option(help="float32, tf32, bfloat16, float16, or auto: bfloat16 where the device has it."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Fields to change, such as data.train=DIR steps=2000.")
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the result for machines to this file.", parser=report, metavar="PATH"),
]
Methods = Annotated[
    list[str],
    typer.Argument(
        help="Models: names or weight files (+ behind: mean of eight turns), bicubic, lanczos, input, telea, "
        "smooth, exemplar, spandrel:FILE, results:NAME=DIR.",
        metavar="MODEL...",
    ),
]
Protocol = Annotated[
    str, typer.Option(help="Which scores, how taken: sr, realsr, deblurring, realblur, inpainting, mild.")
]
MetricWeights = Annotated[
    str | None,
    typer.Option(
        help="Folder or address of published weights for LPIPS, DISTS, FID and NIQE.", metavar="PATH"
    ),
]
