"""`restore`: photos in, restored photos out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dirformer.cli.options import Device, Inputs, Out, Overwrite, Precision, Seed
from dirformer.cli.terminal import complain, progress_bar, say


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
    overwrite: Overwrite = False,
) -> None:
    """Restore photos: enlarge, deblur, clean or fill them."""
    from dirformer.inference.files import by_model, plan_jobs, require_fit, restore_files
    from dirformer.inference.options import RestoreOptions
    from dirformer.inference.restorer import Restorer

    options = RestoreOptions(device, precision, max_memory, storage, context, window, self_ensemble)
    jobs, errors = plan_jobs(inputs, out, mask=mask, overwrite=overwrite)
    for name, group in by_model(jobs, model, task=task, scale=scale).items():
        restorer = Restorer(name, options)
        require_fit(restorer, task=task, scale=scale)
        say(f"{name}: {restorer.description}")
        with progress_bar(len(group), "restoring") as show:
            for record in restore_files(restorer, group, seed=seed, prove=prove_it, progress=show):
                if record.error is not None:
                    errors.append(record.error)
                    continue
                say(f"{record.job.photo} → {record.job.output} ({record.seconds:.1f} s)")
                if max_memory is not None:
                    say(f"  {restorer.engine.plan}")
                if record.proof is not None:
                    say(f"  {record.proof}")
    for error in errors:
        complain(str(error))
    if errors:
        raise typer.Exit(2)
