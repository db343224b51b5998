"""Options of `restore`, each with its sentence of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.staged import source, target

Photos = Annotated[
    list[str] | None,
    typer.Argument(
        help="Photos, folders (with all below them), @LIST (a file of names), - for standard input, or a "
        "film; also at addresses such as s3://BUCKET/FOLDER.",
        metavar="IN...",
    ),
]
Result = Annotated[
    str,
    typer.Option(
        "-o",
        "--out",
        help="File, folder or address for the results, or - for standard output.",
        metavar="PATH",
    ),
]
ListFile = Annotated[
    list[str] | None, typer.Option("--list", help="File with the name of a photo a line.", metavar="PATH")
]
TaskName = Annotated[
    str | None, typer.Option("--task", help="sr, realsr, deblurring, inpainting, denoise or jpeg.")
]
Model = Annotated[
    str | None, typer.Option(help="A shipped model's name, a weight file, or owner/name on the hub.")
]
Sharp = Annotated[bool, typer.Option("--sharp", help="The model NAME-sharp instead of NAME.")]
Mask = Annotated[str | None, typer.Option(help="Mask (white = hole), or a folder of masks.", metavar="PATH")]
Scale = Annotated[
    float | None,
    typer.Option(
        help="Factor of the result, above 0 and at most 16: the nearest model, then a Lanczos filter."
    ),
]
Size = Annotated[
    str | None, typer.Option(help="Size of the result, to fit inside: 1920x, x1080 or 1920x1080 pixels.")
]
Strength = Annotated[
    float, typer.Option(help="0 to 1: 0 is the input, 1 the result, between them a blend of both.")
]
Consistent = Annotated[
    bool, typer.Option("--consistent", help="Correct enlarged photos until shrinking gives the input back.")
]
Fill = Annotated[
    str | None,
    typer.Option(
        help="How holes are filled before they are mended: exemplar (from elsewhere in the photo), smooth."
    ),
]
Samples = Annotated[
    int, typer.Option(help="Mean over so many draws of the prior; also writes NAME_spread.png.")
]
PriorFile = Annotated[
    Path | None,
    typer.Option("--prior", help="Restore under the prior of this file.", parser=source, metavar="PATH"),
]
SavePrior = Annotated[
    Path | None,
    typer.Option(help="Keep the photo's prior in this .safetensors file.", parser=target, metavar="PATH"),
]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory beside the network, such as 2GiB; the result is the same."),
]
Storage = Annotated[str, typer.Option(help="Feature maps in 32bit or, at a loss, 16bit.")]
Context = Annotated[
    str,
    typer.Option(
        help="What attention sums over: image, window, window-prior (also the IPR); auto: as files ask."
    ),
]
Window = Annotated[
    int | None, typer.Option(help="Side of a window in pixels; default: the training patch.", min=1)
]
Ensemble = Annotated[
    bool, typer.Option("--self-ensemble", help="Mean over eight turns of the photo; eight times the work.")
]
Prove = Annotated[
    bool, typer.Option("--prove", help="Also restore as a whole; report the difference and peak memory.")
]
Quality = Annotated[
    int | None, typer.Option(help="1 to 100, of JPEG, WebP and AVIF; default: that of the input, else 95.")
]
Format = Annotated[str, typer.Option("--format", help="Of results: same, png, jpeg, webp, tiff or avif.")]
Pages = Annotated[
    bool, typer.Option("--pages", help="All pages of a TIFF or frames of an animation: NAME_p001 ….")
]
Strip = Annotated[
    bool, typer.Option("--strip-metadata", help="Leave EXIF, XMP, GPS and resolution out of results.")
]
MaxPixels = Annotated[int, typer.Option(help="Photos with more pixels are refused before they are decoded.")]
Dilate = Annotated[int, typer.Option(help="Pixels by which holes grow.")]
Feather = Annotated[int, typer.Option(help="Pixels at the edge of a hole to blend over.")]
Extend = Annotated[str | None, typer.Option(help="Paint beyond the edges: LEFT,TOP,RIGHT,BOTTOM in pixels.")]
Workers = Annotated[
    int, typer.Option(help="Threads that decode, and as many that encode; results do not depend on it.")
]
Skip = Annotated[
    bool | None,
    typer.Option(
        "--skip-existing/--no-skip-existing",
        help="Skip what an earlier run has finished; default for folders and lists.",
        show_default=False,
    ),
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Let results replace the photos themselves.")]
Frames = Annotated[
    bool,
    typer.Option(
        "--frames",
        help="The photos are frames of films, a folder each, in the order of their names: one Z_T for all.",
    ),
]
ShotPrior = Annotated[
    bool,
    typer.Option(
        "--shot-prior", help="Films, and --frames: restore all frames of a shot under the IPR of its first."
    ),
]
Steady = Annotated[
    bool,
    typer.Option(
        "--steady", help="Films, and --frames: average still parts over time, against noise and flicker."
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(help="Who does a folder: local (processes of this machine) or ray (a cluster)."),
]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; default: one is started here.")]
Processes = Annotated[
    int | None,
    typer.Option(help="Workers of --engine; default: local 1, ray one for each GPU or CPU.", min=1),
]
