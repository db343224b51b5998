"""`restore`: photos in, restored photos out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dirformer.cli.photo_options as of
from dirformer.cli.batch import Request, run
from dirformer.cli.film import are_films, run_films
from dirformer.cli.fleet import Fleet, Places, at_name, run_fleet
from dirformer.cli.options import Device, Overwrite, Precision, Seed
from dirformer.cli.staged import staged, weights
from dirformer.ground.errors import ConfigError
from dirformer.ground.formats import MAX_PIXELS


def restore(
    out: of.Result,
    inputs: of.Photos = None,
    list_files: of.ListFile = None,
    task: of.TaskName = None,
    model: of.Model = None,
    sharp: of.Sharp = False,
    mask: of.Mask = None,
    scale: of.Scale = None,
    size: of.Size = None,
    strength: of.Strength = 1.0,
    consistent: of.Consistent = False,
    fill: of.Fill = None,
    samples: of.Samples = 1,
    prior: of.PriorFile = None,
    save_prior: of.SavePrior = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    max_memory: of.Memory = None,
    storage: of.Storage = "32bit",
    context: of.Context = "auto",
    window: of.Window = None,
    self_ensemble: of.Ensemble = False,
    prove_it: of.Prove = False,
    quality: of.Quality = None,
    file_format: of.Format = "same",
    pages: of.Pages = False,
    strip_metadata: of.Strip = False,
    max_pixels: of.MaxPixels = MAX_PIXELS,
    dilate: of.Dilate = 0,
    feather: of.Feather = 0,
    extend: of.Extend = None,
    workers: of.Workers = 2,
    skip_existing: of.Skip = None,
    overwrite: Overwrite = False,
    in_place: of.InPlace = False,
    frames: of.Frames = False,
    shot_prior: of.ShotPrior = False,
    steady: of.Steady = False,
    engine: of.Engine = None,
    address: of.Address = None,
    processes: of.Processes = None,
) -> None:
    """Restore photos and films: enlarge, deblur, clean or fill them."""
    given = locals()
    fleet = Fleet(*(given.pop(name) for name in ("engine", "address", "processes")))
    _restore(given, fleet)


def _restore(given: dict[str, Any], fleet: Fleet) -> None:
    """Restore photos or films, here or by a fleet; `given` are the arguments that all of them have."""
    out, inputs, list_files, mask = (given[name] for name in ("out", "inputs", "list_files", "mask"))
    request = Request(
        **given
        | {
            "out": Path(out),
            "inputs": None if inputs is None else [Path(name) for name in inputs],
            "list_files": None if list_files is None else [Path(name) for name in list_files],
            "mask": None if mask is None else Path(mask),
        }
    )
    names = [*(inputs or []), *(at_name(name) for name in list_files or [])]
    fleet_wanted = fleet.asked(*(name.removeprefix("@") for name in names), out, mask)
    if are_films(names):
        if fleet.given:
            raise ConfigError("--engine is for photos; leave it out for films")
        with staged(_weights(request)) as here:
            run_films(replace(request, **here), names, out)
    elif request.sequence and not request.frames:
        raise ConfigError("--shot-prior and --steady are for films; for a folder of frames add --frames")
    elif request.sequence and fleet_wanted:
        raise ConfigError(
            "--shot-prior and --steady take frames one after the other, from folders of this machine; leave "
            "--engine and addresses out"
        )
    elif fleet_wanted:
        run_fleet(request, Places(names, out, mask), fleet)
    else:
        with staged(_weights(request)) as here:
            run(replace(request, **here))


def _weights(request: Request) -> dict[str, Any]:
    """Return what of a request may lie at an address where photos are on this machine."""
    return {"model": None if request.model is None else weights(request.model)}
