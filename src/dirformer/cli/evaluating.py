"""`evaluate`, `cost`, `report`, `compare`, `reproduce`: scores, and what is drawn from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import dirformer.cli.photo_options as of
from dirformer.cli.fleet import Fleet, SetTold, begin
from dirformer.cli.options import Device, Json, Methods, MetricWeights, Overwrite, Precision, Protocol, Seed
from dirformer.cli.staged import report as to
from dirformer.cli.staged import source, staged, target, weights
from dirformer.cli.terminal import named, progress, say, write_json
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.places import Place

Results = typer.Argument(help="Files of `evaluate --json`.", parser=source, metavar="RESULTS...")


def evaluate(
    methods: Methods,
    gt: Annotated[str, typer.Option(help="Folder of clean photos of the same names.", metavar="PATH")],
    protocol: Protocol,
    lq: Annotated[
        str | None, typer.Option(help="Folder of degraded photos; mild makes them.", metavar="PATH")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Folder of masks (white = hole), for inpainting.", metavar="PATH")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A further score, such as gmsd or niqe.")] = None,
    metric_weights: MetricWeights = None,
    all_variants: Annotated[
        bool, typer.Option("--all-variants", help="Every published PSNR and SSIM side by side.")
    ] = False,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(help="Draws of the diffusion's start; the spread is reported.")] = 1,
    save: Annotated[
        str | None, typer.Option(help="Keep the restored photos in this folder.", metavar="PATH")
    ] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    as_json: Annotated[
        str | None,
        typer.Option("--json", help="Write the result for machines to this file.", metavar="PATH"),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also write the result as .csv (per photo) or .md (table).", parser=to, metavar="PATH"
        ),
    ] = None,
    engine: of.Engine = None,
    address: of.Address = None,
    processes: of.Processes = None,
) -> None:
    """Score models on pairs of photos, by a named protocol; the same call goes on where it stopped."""
    from dirformer.evaluation.request import check_request, check_result_path

    for path in (*([] if as_json is None else [Path(as_json)]), *(table or [])):
        check_result_path(path)
    rules = check_request(methods, lq, gt, protocol, masks=masks, metrics=metric or (), seeds=seeds)
    options: dict[str, Any] = {
        "metrics": tuple(metric or ()),
        "metric_weights": metric_weights,
        "all_variants": all_variants,
        "seed": seed,
        "seeds": seeds,
        "device": device,
        "precision": precision,
    }
    fleet = Fleet(engine, address, processes)
    places = {"lq": lq, "gt": gt, "masks": masks, "save": save}
    if rules.makes_lq and fleet.given:
        raise ConfigError(f"the {rules.name} protocol makes its photos on this machine; leave --engine out")
    if fleet.asked(*places.values(), *methods, metric_weights) and not rules.makes_lq:
        _by_fleet(methods, places, protocol, options, as_json=as_json, table=table or [], fleet=fleet)
        return
    here = {
        "methods": [weights(name) for name in methods],
        **{name: None if value is None else source(value) for name, value in places.items()},
        "save": None if save is None else target(save),
        "metric_weights": None if metric_weights is None else source(metric_weights),
        "as_json": None if as_json is None else to(as_json),
    }
    with staged(here) as files:
        options["metric_weights"] = files.pop("metric_weights")
        _here(protocol=protocol, options=options, table=table or [], **files)


def _here(
    methods: list[str],
    protocol: str,
    options: dict[str, Any],
    *,
    as_json: Path | None,
    table: list[Path],
    **places: Any,
) -> None:
    """Evaluate on this machine."""
    from dirformer.evaluation.run import Evaluation

    journal = None if as_json is None else as_json.with_name(f".{as_json.name}.rows.jsonl")
    lq, gt = places.pop("lq"), places.pop("gt")
    run = Evaluation(methods, lq, gt, protocol, **places, **options, journal=journal)
    _write(run.summarise(progress(run.records(), len(run), "evaluating")), [as_json, *table])
    if journal is not None:
        journal.unlink(missing_ok=True)


def _write(result: dict[str, Any], files: Iterable[Path | None]) -> None:
    from dirformer.evaluation.results import write_result
    from dirformer.evaluation.tables import as_text

    result = named(result)
    say(as_text(result))
    for path in files:
        if path is not None:
            write_result(path, result)


def _by_fleet(
    methods: list[str],
    places: dict[str, str | None],
    protocol: str,
    options: dict[str, Any],
    *,
    as_json: str | None,
    table: list[Path],
    fleet: Fleet,
) -> None:
    """Evaluate by a fleet. Records lie with the saved photos, or beside the result until it is written."""
    from dirformer.fleet.scoring import EvaluateOrder

    save, masks = places["save"], places["masks"]
    rows = None if as_json is None else Place.of(as_json)
    rows = None if rows is None else rows.parent.below(f".{rows.name}.rows")
    out = Place.of(save) if save is not None else rows
    order = EvaluateOrder(
        (Place.of(str(places["lq"])), Place.of(str(places["gt"]))),
        out or Place.of("."),
        models=tuple(methods),
        protocol=protocol,
        masks=None if masks is None else Place.of(masks),
        save=save is not None,
        keeps=out is not None,
        names=dict(places),
        **options,
    )
    with staged({"json": None if as_json is None else to(as_json)}) as here:
        begin(order, fleet)
        told = SetTold()
        told.follow(order, fleet)
        if told.failed:
            raise DataError(
                f"{told.failed} of {told.told} photos have no score; mend or take them out, and run again"
            )
        _write(order.end(told.records), [here["json"], *table])
    if rows is not None and save is None:
        rows.remove()


def cost(
    model: Annotated[
        str,
        typer.Argument(
            help="A preset or shipped model, a weight file of either stage, rrdbnet-x4 or restormer.",
            parser=weights,
            metavar="MODEL",
        ),
    ],
    size: Annotated[str, typer.Option(help="Size of the LQ photo: 256, or WIDTHxHEIGHT.")] = "256",
    stage: Annotated[int | None, typer.Option(help="Of a preset: 1, or 2 as by default.")] = None,
    measure: Annotated[bool, typer.Option(help="Also run it once: seconds and peak memory.")] = True,
    device: Device = "auto",
    as_json: Json = None,
) -> None:
    """Count parameters and Mult-Adds of a network part by part, and measure it."""
    from dirformer.evaluation.request import check_model, parse_size

    check_model(model)
    sides = parse_size(size)

    from dirformer.evaluation.cost import cost as run
    from dirformer.evaluation.cost import cost_table

    result = run(model, sides, stage=stage, measure=measure, device=device)
    say(cost_table(result))
    write_json(as_json, result)


def report(
    results: Annotated[list[Path], Results],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The page to write.", parser=target, metavar="PATH")
    ],
    photos: Annotated[int, typer.Option(help="How many photos to show per result, worst first.")] = 12,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained page: tables, sliders, error maps, settings."""
    from dirformer.evaluation.request import check_there

    check_there("result", *results)

    from dirformer.evaluation.report import write_report

    say(write_report(results, out, photos=photos, overwrite=overwrite))


def compare(
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Figure to write: .png or .pdf.", parser=target, metavar="PATH"),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Argument(help="Models, as in evaluate.", parser=weights, metavar="[MODEL]..."),
    ] = None,
    lq: Annotated[
        Path | None, typer.Option(help="One degraded photo.", parser=source, metavar="PATH")
    ] = None,
    gt: Annotated[
        Path | None,
        typer.Option(help="Its clean photo, where there is one.", parser=source, metavar="PATH"),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Its mask, for inpainting.", parser=source, metavar="PATH")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="X,Y,WIDTH,HEIGHT in GT pixels; default: the hardest.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Whose scores stand under each crop.")] = "sr",
    plot: Annotated[
        str | None, typer.Option(help="Instead of crops: `cost` (quality against Mult-Adds) or `timesteps`.")
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Files of `evaluate --json`, for plots.", parser=source, metavar="PATH"),
    ] = None,
    quoted: Annotated[
        str | None, typer.Option(help="Also plot the paper's points of TABLE:CASE, such as table3:GoPro.")
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(help="A figure of the paper, fig3 to fig5 or fig7 to fig11: its order and scores."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Score on the axis of a plot.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw a visual comparison of methods, or quality against cost or T."""
    from dirformer.evaluation.request import check_there
    from dirformer.metrics.protocols import find_protocol

    find_protocol(protocol)
    check_there("photo", lq, gt, mask)
    check_there("result", *(results or []))

    if plot is None and quoted is not None:
        raise ConfigError("--quoted goes with --plot; --figure prints the paper's rows beside photos")
    if plot is None and (lq is None or not methods):
        raise ConfigError("compare needs models and --lq FILE, and --gt FILE where there is one (or --plot)")

    from dirformer.evaluation.compare import compare_photos, find_figure, in_order, parse_region
    from dirformer.evaluation.paper import paper_table, quoted_table
    from dirformer.evaluation.plots import plot_results

    if plot is not None:
        say(plot_results(plot, results or [], out, metric=metric, quoted=quoted, overwrite=overwrite))
        return
    assert lq is not None and methods is not None
    if figure is not None:
        wanted = find_figure(figure)
        protocol = paper_table(wanted.table).cases[0].protocol
        methods = in_order(figure, methods)
        if wanted.has_gt and gt is None:
            raise ConfigError(f"{figure} ({wanted.title}) shows the clean photo; give --gt FILE")
    box = None if region is None else parse_region(region)
    options: dict[str, Any] = {"mask": mask, "region": box, "protocol": protocol, "seed": seed}
    say(compare_photos(methods, lq, gt, out, device=device, overwrite=overwrite, **options))
    if figure is not None:
        for line in quoted_table(paper_table(wanted.table)):
            say(line)


def reproduce(
    target: Annotated[str, typer.Argument(help="table1 … table6, fig1, fig6 or claims.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that holds the data sets in their official layout.", parser=source, metavar="PATH"
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Weights to use: NAME_OR_FILE, CASE=FILE, or in table4 ROW=FILE (S1, V1 …).",
            parser=weights,
            metavar="TEXT",
        ),
    ] = None,
    metric_weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of published weights for LPIPS, DISTS and FID.", parser=source, metavar="PATH"
        ),
    ] = None,
    paper: Annotated[
        Path | None,
        typer.Option(
            help="JSON with further cells to quote: {case: {method: {metric: figure}}}.",
            parser=source,
            metavar="PATH",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw fig1 or fig6 into this file: .png or .pdf.", parser=target, metavar="PATH"),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = None,
) -> None:
    """Fill a table or figure of the paper and print it beside the paper's figures."""
    from dirformer.evaluation.paper import paper_table
    from dirformer.evaluation.request import check_there

    if target == "claims":
        from dirformer.evaluation.claims import check_claims, claims_text

        found = check_claims()
        say(claims_text(found))
        write_json(as_json, found)
        return
    paper_table(target)
    check_there("--data", data)

    from dirformer.evaluation.reproduce import Reproduction

    run = Reproduction(
        target, data, models or [], metric_weights=metric_weights, paper=paper, seed=seed, device=device
    )
    for line in run.introduction():
        say(line)
    result = run.summarise(progress(run.steps(), len(run), "reproducing"))
    say(run.text(result))
    write_json(as_json, result)
    if plot is not None:
        say(run.draw(result, plot, overwrite=overwrite))
    if not run.runs:
        raise ConfigError(f"{target} has nothing to measure; what it needs is listed above")
