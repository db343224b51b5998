"""All degradations by name, one row each. Nothing here imports torch."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError

if TYPE_CHECKING:
    from dirformer.degradations.base import Degradation


@dataclass(frozen=True)
class Kind:
    """How a degradation is made, and the scales it knows."""

    make: str | Callable[..., Any]
    """The class or function, or its name `module:name` below `dirformer.degradations`; takes the scale."""
    scales: tuple[int, ...]
    """The first one is taken unless another is asked."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `make`."""


DEGRADATIONS: dict[str, Kind] = {
    "bicubic": Kind("simple:Bicubic", (2, 3, 4, 8)),
    "realsr": Kind("second_order:SecondOrder", (4, 2, 1)),
    "realsr-released": Kind("second_order:SecondOrder", (4, 2, 1), {"draws": "batch", "released_jpeg": True}),
    "realsr-graded": Kind("graded:graded", (4, 2, 1)),
    "motion": Kind("motion:Motion", (1,)),
    "motion-noisy": Kind("motion:Motion", (1,), {"sigma": (0.0, 2.5)}),
    "motion-mixed": Kind("motion:Motion", (1,), {"sigma": (0.0, 2.5), "plain": 0.3}),
    "motion-short": Kind(
        "motion:Motion", (1,), {"length": (2.0, 10.0), "turn": (0.0, 0.004), "sigma": (0.0, 2.5)}
    ),
    "noise": Kind("simple:GaussianNoise", (1,)),
    "jpeg": Kind("simple:Jpeg", (1,)),
}


def find_kind(name: str, scale: int | None = None) -> tuple[Kind, int]:
    """Return the kind of that name, and the scale: the one asked for or its first.

    Raises:
        ConfigError: for a name or a scale that it does not know; says which there are.
    """
    if checks.text("kind", name) not in DEGRADATIONS:
        near = difflib.get_close_matches(name, DEGRADATIONS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no degradation {name!r}; the nearest is {near!r}, of {', '.join(DEGRADATIONS)}")
    kind = DEGRADATIONS[name]
    scale = None if scale is None else checks.whole("scale", scale)
    if scale is not None and scale not in kind.scales:
        known = " or ".join(map(str, kind.scales))
        raise ConfigError(f"degradation {name} has no scale {scale}; expected {known}")
    return kind, kind.scales[0] if scale is None else scale


def degradation(name: str, scale: int | None = None) -> Degradation:
    """Return the degradation of that name at that scale (None: its first).

    Raises:
        ConfigError: as `find_kind`.
    """
    kind, at = find_kind(name, scale)
    make = kind.make
    if isinstance(make, str):
        module, _, attribute = make.partition(":")
        make = getattr(importlib.import_module(f"dirformer.degradations.{module}"), attribute)
    made: Degradation = make(at, **kind.options)
    return made
