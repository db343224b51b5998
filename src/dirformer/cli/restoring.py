"""`restore`: photos in, restored photos out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.options import Device, Inputs, Out, Overwrite, Precision, Seed
from dirformer.cli.terminal import complain, progress_bar, say
from dirformer.ground.errors import DirformerError
from dirformer.ground.formats import MAX_PIXELS
from dirformer.inference.jobs import FileOptions, notes_on, parse_extend, plan_jobs


def restore(
    inputs: Inputs,
    out: Out,
    task: Annotated[str | None, typer.Option(help="sr, realsr, deblurring or inpainting.")] = None,
    model: Annotated[str | None, typer.Option(help="A shipped model's name or a weight file.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask (white = hole), or a folder of masks.")] = None,
    scale: Annotated[
        int | None, typer.Option(help="Wanted enlargement: chooses or checks the model.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    max_memory: Annotated[
        str | None, typer.Option(help="Memory beside the network, such as 2GiB; the result is the same.")
    ] = None,
    storage: Annotated[str, typer.Option(help="Feature maps in 32bit or, at a loss, 16bit.")] = "32bit",
    context: Annotated[
        str,
        typer.Option(
            help="What attention sums over: image, window, window-prior (also the IPR); auto: as files ask."
        ),
    ] = "auto",
    window: Annotated[
        int | None, typer.Option(help="Side of a window in pixels; default: the training patch.", min=1)
    ] = None,
    self_ensemble: Annotated[
        bool,
        typer.Option("--self-ensemble", help="Mean over eight turns of the photo; eight times the work."),
    ] = False,
    prove_it: Annotated[
        bool, typer.Option("--prove", help="Also restore as a whole; report the difference and peak memory.")
    ] = False,
    quality: Annotated[
        int | None,
        typer.Option(help="1 to 100, of JPEG, WebP and AVIF; default: that of the input, else 95."),
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="Of results: same, png, jpeg, webp, tiff or avif.")
    ] = "same",
    pages: Annotated[
        bool, typer.Option("--pages", help="All pages of a TIFF or frames of an animation: NAME_p001 ….")
    ] = False,
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave EXIF, XMP, GPS and resolution out of results.")
    ] = False,
    max_pixels: Annotated[
        int, typer.Option(help="Photos with more pixels are refused before they are decoded.")
    ] = MAX_PIXELS,
    dilate: Annotated[int, typer.Option(help="Pixels by which holes grow.")] = 0,
    feather: Annotated[int, typer.Option(help="Pixels at the edge of a hole to blend over.")] = 0,
    extend: Annotated[
        str | None, typer.Option(help="Paint beyond the edges: LEFT,TOP,RIGHT,BOTTOM in pixels.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Restore photos: enlarge, deblur, clean or fill them."""
    # Names are checked before torch is imported.
    files = FileOptions(
        quality=quality,
        format=file_format.lower(),
        pages=pages,
        strip_metadata=strip_metadata,
        max_pixels=max_pixels,
        dilate=dilate,
        feather=feather,
        extend=parse_extend(extend),
    )
    jobs, errors = plan_jobs(inputs, out, mask=mask, overwrite=overwrite, options=files)
    for note in notes_on(inputs):
        say(note)
    if not jobs:
        _end(errors)
    from dirformer.inference.files import by_model, require_fit, restore_files
    from dirformer.inference.options import RestoreOptions
    from dirformer.inference.restorer import Restorer

    options = RestoreOptions(device, precision, max_memory, storage, context, window, self_ensemble)
    for name, group in by_model(jobs, model, task=task, scale=scale, files=files).items():
        restorer = Restorer(name, options)
        require_fit(restorer, task=task, scale=scale)
        say(f"{name}: {restorer.description}")
        with progress_bar(len(group), "restoring") as show:
            for record in restore_files(
                restorer, group, seed=seed, files=files, prove=prove_it, progress=show
            ):
                if record.error is not None:
                    errors.append(record.error)
                    continue
                say(f"{record.job.photo} → {record.job.output} ({record.seconds:.1f} s)")
                for note in record.notes:
                    say(f"  {note}")
                if max_memory is not None:
                    say(f"  {restorer.engine.plan}")
                if record.proof is not None:
                    say(f"  {record.proof}")
    _end(errors)


def _end(errors: list[DirformerError]) -> None:
    for error in errors:
        complain(str(error))
    if errors:
        raise typer.Exit(2)
