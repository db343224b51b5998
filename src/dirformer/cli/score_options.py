"""Options of `evaluate`, `report`, `compare` and `reproduce`, each with its sentence of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.staged import report, source, target, weights

Clean = Annotated[
    str, typer.Option(help="Folder of clean photos of the same names, also at an address.", metavar="PATH")
]
Degraded = Annotated[
    str | None, typer.Option(help="Folder of degraded photos; mild makes them.", metavar="PATH")
]
Masks = Annotated[
    str | None, typer.Option(help="Folder of masks (white = hole), for inpainting.", metavar="PATH")
]
Metric = Annotated[list[str] | None, typer.Option(help="A further score, such as gmsd or niqe.")]
Variants = Annotated[bool, typer.Option("--all-variants", help="Every published PSNR and SSIM side by side.")]
Seeds = Annotated[int, typer.Option(help="Draws of the diffusion's start; the spread is reported.")]
Save = Annotated[str | None, typer.Option(help="Keep the restored photos in this folder.", metavar="PATH")]
ResultFile = Annotated[
    str | None,
    typer.Option("--json", help="Write the result for machines to this file.", metavar="PATH"),
]
Tables = Annotated[
    list[Path] | None,
    typer.Option(
        help="Also write the result as .csv (per photo) or .md (table).", parser=report, metavar="PATH"
    ),
]
Results = Annotated[
    list[Path], typer.Argument(help="Files of `evaluate --json`.", parser=source, metavar="RESULTS...")
]
Page = Annotated[Path, typer.Option("-o", "--out", help="The page to write.", parser=target, metavar="PATH")]
Shown = Annotated[int, typer.Option(help="How many photos to show per result, worst first.")]
Figure = Annotated[
    Path,
    typer.Option("-o", "--out", help="Figure to write: .png or .pdf.", parser=target, metavar="PATH"),
]
Compared = Annotated[
    list[str] | None,
    typer.Argument(help="Models, as in evaluate.", parser=weights, metavar="[MODEL]..."),
]
OneLq = Annotated[Path | None, typer.Option(help="One degraded photo.", parser=source, metavar="PATH")]
OneGt = Annotated[
    Path | None,
    typer.Option(help="Its clean photo, where there is one.", parser=source, metavar="PATH"),
]
OneMask = Annotated[
    Path | None, typer.Option(help="Its mask, for inpainting.", parser=source, metavar="PATH")
]
Region = Annotated[str | None, typer.Option(help="X,Y,WIDTH,HEIGHT in GT pixels; default: the hardest.")]
Under = Annotated[str, typer.Option(help="Whose scores stand under each crop.")]
Plot = Annotated[
    str | None, typer.Option(help="Instead of crops: `cost` (quality against Mult-Adds) or `timesteps`.")
]
Plotted = Annotated[
    list[Path] | None,
    typer.Option(help="Files of `evaluate --json`, for plots.", parser=source, metavar="PATH"),
]
Quoted = Annotated[
    str | None, typer.Option(help="Also plot the paper's points of TABLE:CASE, such as table3:GoPro.")
]
Order = Annotated[
    str | None,
    typer.Option(help="A figure of the paper, fig3 to fig5 or fig7 to fig11: its order and scores."),
]
Axis = Annotated[str | None, typer.Option(help="Score on the axis of a plot.")]
PaperTable = Annotated[str, typer.Argument(help="table1 … table6, fig1, fig6 or claims.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the data sets in their official layout.", parser=source, metavar="PATH"
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Weights to use: NAME_OR_FILE, CASE=FILE, or in table4 ROW=FILE (S1, V1 …).",
        parser=weights,
        metavar="TEXT",
    ),
]
PublishedWeights = Annotated[
    Path | None,
    typer.Option(help="Folder of published weights for LPIPS, DISTS and FID.", parser=source, metavar="PATH"),
]
Cells = Annotated[
    Path | None,
    typer.Option(
        help="JSON with further cells to quote: {case: {method: {metric: figure}}}.",
        parser=source,
        metavar="PATH",
    ),
]
Drawing = Annotated[
    Path | None,
    typer.Option(help="Draw fig1 or fig6 into this file: .png or .pdf.", parser=target, metavar="PATH"),
]
