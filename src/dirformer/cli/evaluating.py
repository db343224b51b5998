"""`evaluate`, `cost`, `report`, `compare`, `reproduce`: scores, and what is drawn from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import dirformer.cli.photo_options as of
import dirformer.cli.score_options as given
from dirformer.cli.fleet import Fleet, SetTold, begin
from dirformer.cli.options import Device, Json, Methods, MetricWeights, Overwrite, Precision, Protocol, Seed
from dirformer.cli.staged import report as to
from dirformer.cli.staged import source, staged, target, weights
from dirformer.cli.terminal import named, progress, say, say_table, write_json
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.places import Place, shown


def evaluate(
    methods: Methods,
    gt: given.Clean,
    protocol: Protocol,
    lq: given.Degraded = None,
    masks: given.Masks = None,
    metric: given.Metric = None,
    metric_weights: MetricWeights = None,
    all_variants: given.Variants = False,
    seed: Seed = 0,
    seeds: given.Seeds = 1,
    save: given.Save = None,
    device: Device = "auto",
    precision: Precision = "float32",
    as_json: given.ResultFile = None,
    table: given.Tables = None,
    engine: of.Engine = None,
    address: of.Address = None,
    processes: of.Processes = None,
) -> None:
    """Score models on pairs of photos, by a named protocol; the same call goes on where it stopped."""
    from dirformer.evaluation.request import check_request, check_result_path

    for path in (*([] if as_json is None else [Path(shown(as_json))]), *(table or [])):
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
    if fleet.asked(*places.values(), *methods, metric_weights, as_json) and not rules.makes_lq:
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
    say_table(as_text(result))
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
    say_table(cost_table(result))
    write_json(as_json, result)


def report(
    results: given.Results,
    out: given.Page,
    photos: given.Shown = 12,
    overwrite: Overwrite = False,
) -> None:
    """Write one self-contained page: tables, sliders, error maps, settings."""
    from dirformer.evaluation.request import check_there

    check_there("result", *results)

    from dirformer.evaluation.report import write_report

    say(write_report(results, out, photos=photos, overwrite=overwrite))


def compare(
    out: given.Figure,
    methods: given.Compared = None,
    lq: given.OneLq = None,
    gt: given.OneGt = None,
    mask: given.OneMask = None,
    region: given.Region = None,
    protocol: given.Under = "sr",
    plot: given.Plot = None,
    results: given.Plotted = None,
    quoted: given.Quoted = None,
    figure: given.Order = None,
    metric: given.Axis = None,
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

    if plot is None:
        _require_drawn({"--quoted": quoted, "--results": results, "--metric": metric})
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


def _require_drawn(options: dict[str, Any]) -> None:
    """Raise ConfigError if an option of drawn results was given where photos are compared."""
    for name, value in options.items():
        if value:
            raise ConfigError(
                f"{name} goes with --plot, which draws results; photos are compared by --lq and --gt, and "
                "--figure prints the paper's rows beside them"
            )


def reproduce(
    target: given.PaperTable,
    data: given.Data = None,
    models: given.Weights = None,
    metric_weights: given.PublishedWeights = None,
    paper: given.Cells = None,
    plot: given.Drawing = None,
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
        say_table(claims_text(found))
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
    say_table(run.text(result))
    write_json(as_json, result)
    if plot is not None:
        say(run.draw(result, plot, overwrite=overwrite))
    if not run.runs:
        raise ConfigError(f"{target} has nothing to measure; what it needs is listed above")
