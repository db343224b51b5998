"""What can be checked of an evaluation before torch is imported: names, folders, the files of the result."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.places import is_url
from dirformer.metrics.protocols import Protocol, find_protocol
from dirformer.metrics.table import find_metric
from dirformer.networks.presets import PRESETS
from dirformer.weights.catalog import CATALOG

RESULTS = (".json", ".csv", ".md")
"""Forms of a result, by suffix."""


SHAPES = ("rrdbnet-x4", "restormer")
"""Networks that are written as shapes alone (`shapes.SHAPES`)."""


def check_request(
    models: list[str],
    lq: str | Path | None,
    gt: str | Path,
    protocol: str,
    *,
    masks: str | Path | None = None,
    metrics: Iterable[str] = (),
    seeds: int = 1,
) -> Protocol:
    """Return the protocol; see `run.Evaluation` for the arguments.

    Raises:
        ConfigError: for a protocol, a metric or a number that does not exist.
        DataError: for a folder that is not there, and masks that are missing or have no use.
    """
    rules = find_protocol(protocol)
    for name in metrics:
        find_metric(name)
    if not models:
        raise ConfigError("no model is given; name at least one, or bicubic")
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected at least 1")
    if lq is None and not rules.makes_lq:
        raise DataError(f"the {rules.name} protocol needs degraded photos; give --lq DIR")
    if lq is not None and rules.makes_lq:
        raise DataError(f"the {rules.name} protocol makes the degraded photos itself; leave --lq out")
    if masks is not None and not rules.needs_masks:
        raise DataError(f"masks are given, but the {rules.name} protocol has no holes; leave --masks out")
    if masks is None and rules.needs_masks:
        raise DataError("the inpainting protocol needs masks; give --masks DIR (white = hole)")
    for what, place in (("--lq", lq), ("--gt", gt), ("--masks", masks)):
        if place is not None and not is_url(place) and not Path(place).exists():
            raise DataError(f"{what} {place} is not there; give a folder (or a list file) of photos")
    return rules


def check_result_path(path: Path) -> None:
    """Raise ConfigError unless the suffix names a form of result: before hours of work, not behind them."""
    if path.suffix not in RESULTS:
        raise ConfigError(f"{path} has no known suffix; expected one of {', '.join(RESULTS)}")


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of `256` or `WIDTHxHEIGHT`; ConfigError for anything else."""
    numbers = text.lower().replace("×", "x").split("x")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"size is {text!r}; expected a number such as 256, or WIDTHxHEIGHT such as 640x360")
    width, height = int(numbers[0]), int(numbers[-1])
    return height, width


def check_model(model: str) -> None:
    """Raise ConfigError unless it names a preset, a shipped model, a network of shapes or a file."""
    names = [*PRESETS, *CATALOG, *SHAPES]
    if model not in names and not Path(model).is_file():
        near = difflib.get_close_matches(model, names, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"no preset or weight file {model!r}; the nearest name is {near!r}, presets: {', '.join(PRESETS)}"
        )


def check_there(what: str, *places: Path | None) -> None:
    """Raise DataError for the first file or folder that is not there; None is passed over."""
    for place in places:
        if place is not None and not place.exists():
            raise DataError(f"{what} {place} is not there; give a file or folder that exists")
