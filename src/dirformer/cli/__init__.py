"""The command line: a literal table of verbs, each one library function and a sentence.

Heavy imports happen inside the verbs, so that `--help` answers at once. Errors of the package are one
line and exit code 2; an interruption is 130.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dirformer import __version__
from dirformer.ground.errors import DirformerError

T = TypeVar("T")

Inputs = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", metavar="IN...")]
Out = Annotated[Path, typer.Option("-o", "--out", help="File or folder for the results.")]
Seed = Annotated[int, typer.Option(help="Another seed is another draw of the diffusion's start.")]
DrawSeed = Annotated[int, typer.Option("--seed", help="Another seed is another set.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Fields to change, such as data.train=DIR steps=2000.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result for machines to this file.")]


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
    from dirformer.inference.proof import prove
    from dirformer.inference.restorer import Restorer

    jobs, errors = plan_jobs(inputs, out, mask=mask, overwrite=overwrite)
    for name, group in by_model(jobs, model, task=task, scale=scale).items():
        restorer = Restorer(
            name,
            device=device,
            precision=precision,
            max_memory=max_memory,
            storage=storage,
            context=context,
            window=window,
            self_ensemble=self_ensemble,
        )
        require_fit(restorer, task=task, scale=scale)
        say(f"{name}: {restorer.description}")
        with progress_bar(len(group), "restoring") as show:
            for record in restore_files(restorer, group, seed=seed, on_progress=show):
                if record.error is not None:
                    errors.append(record.error)
                    continue
                say(f"{record.job.photo} → {record.job.output} ({record.seconds:.1f} s)")
                if max_memory is not None:
                    say(f"  {restorer.engine.plan}")
                if prove_it:
                    say(f"  {prove(restorer, record.job, seed=seed)}")
    for error in errors:
        complain(str(error))
    if errors:
        raise typer.Exit(2)


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
    from dirformer.experiments.validation import train as run

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


def convert(
    source: Annotated[Path, typer.Argument(help="An authors' .pth or .ckpt, or one of our .safetensors.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Result: .safetensors is ours, .pth and .ckpt are theirs.")
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
                "provenance": header["provenance"],
            }
        )
        size = f"{entry.path.stat().st_size / 1e6:.1f} MB"
        say(f"{entry.name:24} {entry.task} ×{entry.scale}  {size}  {entry.summary}")
    write_json(as_json, {"schema": 1, "models": rows})


def evaluate(
    methods: Annotated[
        list[str],
        typer.Argument(
            help="Models: names or weight files (+ behind: mean of eight turns), bicubic, lanczos, input, "
            "telea, smooth, spandrel:FILE.",
            metavar="MODEL...",
        ),
    ],
    lq: Annotated[Path, typer.Option(help="Folder of degraded photos.")],
    gt: Annotated[Path, typer.Option(help="Folder of clean photos of the same names.")],
    protocol: Annotated[
        str, typer.Option(help="Which scores, how taken: sr, realsr, deblurring, realblur, inpainting.")
    ],
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks (white = hole), for inpainting.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A further score, such as gmsd or niqe.")] = None,
    metric_weights: Annotated[
        Path | None, typer.Option(help="Folder of published weights for LPIPS, DISTS, FID and NIQE.")
    ] = None,
    all_variants: Annotated[
        bool, typer.Option("--all-variants", help="Every published PSNR and SSIM side by side.")
    ] = False,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(help="Draws of the diffusion's start; the spread is reported.")] = 1,
    save: Annotated[Path | None, typer.Option(help="Keep the restored photos in this folder.")] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    as_json: Json = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="Also write the result as .csv (per photo) or .md (table).")
    ] = None,
) -> None:
    """Score models on pairs of photos, by a named protocol; the same call goes on where it stopped."""
    from dirformer.evaluation.run import Evaluation, check_result_path, write_result
    from dirformer.evaluation.tables import as_text

    for path in (*([as_json] if as_json else []), *(table or [])):
        check_result_path(path)
    journal = None if as_json is None else as_json.with_name(f".{as_json.name}.rows.jsonl")
    run = Evaluation(
        methods,
        lq,
        gt,
        protocol,
        masks=masks,
        metrics=tuple(metric or ()),
        metric_weights=metric_weights,
        all_variants=all_variants,
        seed=seed,
        seeds=seeds,
        save=save,
        device=device,
        precision=precision,
        journal=journal,
    )
    result = run.summarise(progress(run.records(), len(run), "evaluating"))
    say(as_text(result))
    for path in (*([as_json] if as_json else []), *(table or [])):
        write_result(path, result)
    if journal is not None:
        journal.unlink(missing_ok=True)


def cost(
    model: Annotated[str, typer.Argument(help="A preset's or shipped model's name, or a weight file.")],
    size: Annotated[str, typer.Option(help="Size of the LQ photo: 256, or WIDTHxHEIGHT.")] = "256",
    measure: Annotated[bool, typer.Option(help="Also run it once: seconds and peak memory.")] = True,
    device: Device = "auto",
    as_json: Json = None,
) -> None:
    """Count parameters and Mult-Adds of a network part by part, and measure it."""
    from dirformer.evaluation.cost import cost as run
    from dirformer.evaluation.cost import cost_table, parse_size

    result = run(model, parse_size(size), measure=measure, device=device)
    say(cost_table(result))
    write_json(as_json, result)


def report(
    results: Annotated[list[Path], typer.Argument(help="Files of `evaluate --json`.", metavar="RESULTS...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")],
    photos: Annotated[int, typer.Option(help="How many photos to show per result, worst first.")] = 12,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained page: tables, sliders, error maps, settings."""
    from dirformer.evaluation.report import write_report

    say(write_report(results, out, photos=photos, overwrite=overwrite))


def compare(
    out: Annotated[Path, typer.Option("-o", "--out", help="Figure to write: .png or .pdf.")],
    methods: Annotated[
        list[str] | None, typer.Argument(help="Models, as in evaluate.", metavar="[MODEL]...")
    ] = None,
    lq: Annotated[Path | None, typer.Option(help="One degraded photo.")] = None,
    gt: Annotated[Path | None, typer.Option(help="Its clean photo.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Its mask, for inpainting.")] = None,
    region: Annotated[
        str | None, typer.Option(help="X,Y,WIDTH,HEIGHT in GT pixels; default: the hardest.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Whose scores stand under each crop.")] = "sr",
    plot: Annotated[
        str | None, typer.Option(help="Instead of crops: `cost` (quality against Mult-Adds) or `timesteps`.")
    ] = None,
    results: Annotated[list[Path] | None, typer.Option(help="Files of `evaluate --json`, for plots.")] = None,
    metric: Annotated[str | None, typer.Option(help="Score on the axis of a plot.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw a visual comparison of methods, or quality against cost or T."""
    from dirformer.evaluation.compare import compare_photos, parse_region, plot_results
    from dirformer.ground.errors import ConfigError

    if plot is not None:
        say(plot_results(plot, results or [], out, metric=metric, overwrite=overwrite))
        return
    if lq is None or gt is None or not methods:
        raise ConfigError("compare needs models, --lq FILE and --gt FILE (or --plot with --results)")
    box = None if region is None else parse_region(region)
    options: dict[str, Any] = {"mask": mask, "region": box, "protocol": protocol, "seed": seed}
    say(compare_photos(methods, lq, gt, out, device=device, overwrite=overwrite, **options))


def reproduce(
    target: Annotated[str, typer.Argument(help="table1 … table6, fig1 or fig6.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the data sets in their official layout.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Weights to use: NAME_OR_FILE, or CASE=FILE.")
    ] = None,
    metric_weights: Annotated[
        Path | None, typer.Option(help="Folder of published weights for LPIPS, DISTS and FID.")
    ] = None,
    paper: Annotated[
        Path | None,
        typer.Option(help="JSON with further cells to quote: {case: {method: {metric: figure}}}."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = None,
) -> None:
    """Fill a table or figure of the paper and print it beside the paper's figures."""
    from dirformer.evaluation.reproduce import Reproduction

    run = Reproduction(
        target, data, models or [], metric_weights=metric_weights, paper=paper, seed=seed, device=device
    )
    for line in run.introduction():
        say(line)
    result = run.summarise(progress(run.steps(), len(run), "reproducing"))
    say(run.text(result))
    write_json(as_json, result)


def degrade(
    source: Annotated[Path, typer.Argument(help="Folder or list of clean photos.", metavar="IN")],
    out: Out,
    kind: Annotated[str, typer.Option(help="bicubic, realsr, motion, noise, jpeg … or frames.")],
    scale: Annotated[int | None, typer.Option(help="GT size over LQ size.")] = None,
    frames: Annotated[int, typer.Option(help="Frames averaged into one photo (kind frames), odd.")] = 7,
    seed: DrawSeed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make a reproducible test set: degraded photos, their clean partners and a manifest."""
    from dirformer.data.folders import find_photos
    from dirformer.data.testsets import average_clips, degrade_photos

    if kind == "frames":
        records = average_clips(source, out, frames=frames, overwrite=overwrite)
        total = len(find_photos(source)) // frames
    else:
        records = degrade_photos(source, out, kind, scale=scale, seed=seed, overwrite=overwrite)
        total = len(find_photos(source))
    _drain(progress(records, total, "degrading"), out)


def masks(
    out: Out,
    kind: Annotated[str, typer.Option(help="thin, medium, thick, training or scratches.")],
    size: Annotated[int, typer.Option(help="Side of the photos: 256 or 512.")] = 512,
    count: Annotated[int, typer.Option("-n", "--count", help="How many masks.")] = 100,
    photos: Annotated[
        Path | None, typer.Option(help="Photos to cut to squares and mask, instead of bare masks.")
    ] = None,
    seed: DrawSeed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a fixed set of inpainting masks, white where the hole is."""
    from dirformer.data.folders import find_photos
    from dirformer.data.testsets import make_masks, mask_photos

    if photos is None:
        records, total = make_masks(out, kind, size, count, seed=seed, overwrite=overwrite), count
    else:
        records = mask_photos(photos, out, kind, size, seed=seed, overwrite=overwrite)
        total = len(find_photos(photos))
    _drain(progress(records, total, "masking"), out)


def prepare(
    name: Annotated[str, typer.Argument(help="div2k, gopro, places365 …", metavar="SET")],
    source: Annotated[Path, typer.Argument(help="The downloaded archive or folder.", metavar="IN")],
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
    from dirformer.data import prepare as room
    from dirformer.data.sets import Cut
    from dirformer.ground.errors import DataError

    plans = room.plan(name, source, cut=None if cut is None else Cut.parse(cut), multiscale=multiscale)
    problems = [problem for planned in plans for problem in planned.problems]
    write_json(as_json, {"schema": 1, "set": name, "parts": room.summary(plans)})
    for problem in problems:
        complain(problem)
    if problems and not partial:
        raise DataError(f"{source} is not the complete set; download what is missing, or add --partial")
    per = per_shard if shards else None
    records = room.prepare(plans, out, workers=workers, shard=per, overwrite=overwrite)
    _drain(progress(records, room.count(plans, per), "preparing"), out)


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


VERBS: dict[str, Callable[..., None]] = {
    "restore": restore,
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "cost": cost,
    "report": report,
    "compare": compare,
    "reproduce": reproduce,
    "convert": convert,
    "models": models,
    "degrade": degrade,
    "masks": masks,
    "prepare": prepare,
}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn the package's errors and Ctrl-C into a line and an exit code."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
        except DirformerError as error:
            complain(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None

    return run


for _name, _verb in VERBS.items():
    app.command(_name)(_guarded(_verb))


def _print_version(value: bool) -> bool:
    if value:
        say(f"dirformer {__version__}")
        raise typer.Exit
    return value


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Image restoration with DiffIR."""


def say(line: str) -> None:
    """Print a line for people."""
    print(line, flush=True)  # noqa: T201


def complain(line: str) -> None:
    """Print an error: one line on standard error."""
    print(f"dirformer: {' '.join(line.split())}", file=sys.stderr, flush=True)  # noqa: T201


def write_json(path: Path | None, value: dict[str, Any]) -> None:
    """Write a result for machines, if a file was asked for."""
    from dirformer.ground.paths import atomic_path

    if path is not None:
        with atomic_path(path) as part:
            part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def progress(records: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass records through, with a bar and an ETA where somebody is looking."""
    with progress_bar(total, label) as show:
        for done, record in enumerate(records, start=1):
            yield record
            show(float(done))


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[float], None]]:
    """Show a bar and an ETA where somebody is looking; yield the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    count = TextColumn("{task.completed:.0f}/{task.total:.0f}")
    columns = (TextColumn(label), BarColumn(), TaskProgressColumn(), count, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130:
            # Threads may still be at work, and an interpreter that ends around them can abort.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise
