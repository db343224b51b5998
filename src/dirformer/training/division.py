"""How the devices of a run share the batch of a step, also when their number changes.

A step consists of `data.batch` × `accumulate` samples of each device. A run keeps that sum: where it goes on
with another number of devices, each of them takes more or fewer samples, in more or fewer passes, so that
every step sees the samples that it would have seen, in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dirformer.ground.errors import ConfigError
from dirformer.training.config import TrainConfig

Batches = list[tuple[int, int]]
"""First step of each phase, and the samples of a step over all devices."""
_Sums = Sequence[tuple[int, int | Fraction]]


@dataclass(frozen=True)
class Stored:
    """What a state file says of its run."""

    recipe: TrainConfig
    """As it was given, not as the devices shared it."""
    step: int
    """Steps made."""
    world: int
    """Devices that have made the last of them."""
    batches: Batches


def batches(config: TrainConfig, world: int) -> Batches:
    """Return the batches of a recipe on `world` devices."""
    return [(start, batch * config.accumulate * world) for start, _, batch in config.data.phases]


def divided(config: TrainConfig, stored: Stored, world: int) -> TrainConfig:
    """Return the recipe with which `world` devices go on with a run, at its own batches.

    A recipe that makes them is taken as it is. Else `data.batch` and `accumulate` are changed: passes never
    become larger than the recipe has them, since a device may have no memory for more.

    Raises:
        ConfigError: if so many devices cannot share a step equally, or the recipe asks for other batches.
    """
    wanted = _begun(stored.batches, stored.step)
    asked = _begun(batches(config, world), stored.step)
    if asked == wanted:
        return config
    shares = Fraction(stored.batches[0][1], config.data.batch * config.accumulate)
    sums = [(start, shares * n) for start, n in batches(config, 1)]
    if config.accumulate != stored.recipe.accumulate or _begun(sums, stored.step) != wanted:
        raise ConfigError(
            f"{config.folder} holds a run of {_listed(wanted)} samples a step; data.batch, accumulate and "
            f"data.progressive make {_listed(asked)} on {_counted(world)}: leave them as they were, or "
            "choose another name="
        )
    if any((n / world).denominator > 1 for _, n in sums):
        most = int(sums[0][1])
        able = [str(k) for k in range(1, most + 1) if all((n / k).denominator == 1 for _, n in sums)]
        raise ConfigError(
            f"{config.folder} holds a run of {_listed(wanted)} samples a step, which {_counted(world)} "
            f"cannot share equally; expected devices in all: {', '.join(able) or stored.world}"
        )
    own = [int(n / world) for _, n in sums]
    fewest, most = shares * config.accumulate / world, math.gcd(*own)
    passes = next(n for n in range(math.ceil(fewest), most + 1) if most % n == 0)
    first, *later = (n // passes for n in own)
    phases = config.data.progressive
    data = {
        "batch": first,
        "progressive": tuple((start, patch, n) for (start, patch, _), n in zip(phases, later, strict=True)),
        "pool": config.data.pool * own[0] // (config.data.batch * config.accumulate),
    }
    return config.model_copy(
        update={"accumulate": passes, "data": config.data.model_copy(update=data)},
    )


def what_changes(config: TrainConfig, stored: Stored, world: int) -> str | None:
    """Return a line on how a run goes on in other parts than it began in; None where it does not.

    Args:
        config: what `divided` gave.
        stored: the run.
        world: number of devices.
    """
    ours, theirs = ((c.data.batch, c.accumulate) for c in (config, stored.recipe))
    if stored.world == world and ours == theirs:
        return None
    before = "" if stored.world == world else f" instead of {stored.world}"
    return (
        f"going on with {_counted(world)}{before}, data.batch={ours[0]} accumulate={ours[1]}: the run's "
        f"{_listed(_begun(stored.batches, stored.step))} samples a step; {'; '.join(_differences(config))}"
    )


def _differences(config: TrainConfig) -> list[str]:
    """Return what depends on the parts in which a batch is computed."""
    data, loss = config.data, config.loss
    found = ["sums are rounded in another order"]
    if data.degradation == "realsr-released":
        found.append("the released degradation draws once for each device's part")
    if data.pool:
        found.append("earlier pairs are dealt out anew")
    if loss.adversarial and loss.discriminator == "patch":
        found.append("the discriminator's batch norm sees other parts")
    elif loss.adversarial:
        found.append("the discriminator's spectral norms advance with each pass")
        if loss.adversarial_kind == "relativistic":
            found.append("the relativistic loss compares within other parts")
    return found


def _begun(phases: _Sums, step: int) -> list[tuple[int, int | Fraction]]:
    """Return the phases that began before a step."""
    return [(start, samples) for start, samples in phases if start < max(step, 1)]


def _listed(phases: _Sums) -> str:
    return ", ".join(str(samples) for _, samples in phases)


def _counted(world: int) -> str:
    return "1 device" if world == 1 else f"{world} devices"
