"""The plan of a training: what it will cost, before it runs.

Counted: parameters, Mult-Adds, photos, epochs, disk. Measured on this machine, on one device: time and
peak memory of steps with batches of 1 and 2 and, where it fits and is quick enough, with the recipe's own.
Other batches follow as a straight line through two of them (memory: the two largest), other patches in
proportion to their pixels.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dirformer.evaluation.count import count_cpen, count_dirformer, count_parts, total
from dirformer.ground.errors import ConfigError
from dirformer.ground.journal import Report
from dirformer.ground.memory import MIB, available_memory, resident_memory, total_memory
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS1, DiffIRS2
from dirformer.networks.discriminators import PatchDiscriminator, UNetDiscriminator
from dirformer.training.config import TrainConfig
from dirformer.training.devices import open_fabric, precision_on
from dirformer.training.samples import Samples
from dirformer.training.stages import missing_weights
from dirformer.training.trial import Trial, try_out
from dirformer.weights.checkpoints import save

SCHEMA = 2
STEPS = 3
"""Steps that are timed, behind two that are not."""
PATIENCE = 60.0
"""Seconds that measuring the recipe's own batch may take; else its time follows from batches 1 and 2."""
ROOM = 0.9
"""Share of the free memory that a batch may fill: allocators need some air."""
BACKWARD = 2
"""Mult-Adds of the gradient over those of the forward pass: one product for inputs, one for weights."""


@dataclass(frozen=True)
class Line:
    """What a batch costs: `first` of one sample, `further` of each other."""

    first: float
    further: float

    def __call__(self, batch: int) -> float:
        return self.first + (batch - 1) * self.further


def plan(config: TrainConfig, report: Report = print) -> dict[str, Any]:
    """Return the plan of a training: what a recipe will cost, as JSON values; `plan_text` prints it.

    Nothing is written. A stage-1 network that is not there yet is replaced by a random one, losses
    whose weight file is not given are left out; `notes` says so.

    Raises:
        ConfigError, DataError: as `training.loop.train` for the same recipe.
    """
    samples, notes = Samples(config), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        trial = _alone(config, Path(folder), notes)
        report("measuring batches of 1 and 2 …")
        fabric = open_fabric(trial)
        first, second = (try_out(_batch(trial, n), fabric, STEPS) for n in (1, 2))
        seconds = Line(first.seconds, max(second.seconds - first.seconds, 0.0))
        memory = _memory(first, 1, second, 2)
        own, free = config.data.batch, _free_mib(fabric.device)
        measured: Trial | None = {1: first, 2: second}.get(own)
        if measured is None and memory(own) < ROOM * free and (STEPS + 2) * seconds(own) < PATIENCE:
            report(f"measuring a batch of {own} …")
            measured = try_out(_batch(trial, own), fabric, STEPS)
            memory = _memory(second, 2, measured, own)
    world = config.stated_devices
    phases = _phases(config, world, seconds, measured, memory)
    sizes = _parameters(config)
    photos, seen = len(samples.dataset), sum(s["steps"] * s["batch_in_all"] for s in phases)
    forward, backward = _forward(config.network_config, config.stage, config.data.patch), BACKWARD
    if config.checkpoint_activations:
        backward += 1
    return {
        "schema": SCHEMA,
        "name": config.name,
        "device": str(fabric.device),
        "devices": world,
        "threads": torch.get_num_threads(),
        "precision": precision_on(fabric.device, config.precision),
        "parameters": sizes,
        "mult_adds": {
            "of_a_sample": forward,
            "of_a_step": (1 + backward) * forward * config.data.batch * config.accumulate * world,
        },
        "photos": photos,
        "steps": config.steps,
        "epochs": seen / photos,
        "phases": phases,
        "hours": sum(s["hours"] for s in phases),
        "measured": {
            "batch_1": {"seconds": first.seconds, "memory_mib": first.memory_mib},
            "batch_2": {"seconds": second.seconds, "memory_mib": second.memory_mib},
            "own": None
            if measured is None
            else {"seconds": measured.seconds, "memory_mib": measured.memory_mib, "wait": measured.data_wait},
        },
        "free_mib": free,
        "largest_batch": _largest(memory, ROOM * free),
        "disk_mib": _disk(config, sizes) / MIB,
        "notes": notes,
    }


def plan_text(result: dict[str, Any]) -> str:
    """Return the plan of a training as text."""
    sizes, counts, measured = result["parameters"], result["mult_adds"], result["measured"]
    beside = "".join(f", {name} {count:,}" for name, count in sizes.items() if name != "trained" and count)
    each = "" if result["devices"] == 1 else " each"
    largest, own = result["largest_batch"], measured["own"]
    phases = [
        f"  from {phase['from']:>9,}  patch {phase['patch']:>3}  batch {phase['batch']}{each}, "
        f"{phase['batch_in_all']} in all  {phase['seconds']:.2f} s a step ({phase['how']})  "
        f"{phase['memory_mib'] / 1024:.1f} GiB  {phase['hours']:.1f} h"
        for phase in result["phases"]
    ]
    one, two = measured["batch_1"], measured["batch_2"]
    room = f"{result['free_mib'] / 1024:.1f} GiB free"
    fits = (
        f"a batch of {largest} fits into the {room}"
        if largest
        else f"no batch fits into the {room}: checkpoint_activations=true, or a smaller data.patch"
    )
    waiting = f", data wait {own['wait']:.0%}" if own else ""
    head = f"{result['name']} on {result['devices']} × {result['device']}, {result['precision']}"
    facts = {
        "parameters": f"{sizes['trained']:,} trained{beside}",
        "Mult-Adds": f"{counts['of_a_sample'] / 1e9:.2f} G a sample forwards, about "
        f"{counts['of_a_step'] / 1e9:,.0f} G a step with the gradient",
        "data": f"{result['photos']:,} photos an epoch, {result['steps']:,} steps, "
        f"{result['epochs']:,.1f} epochs",
        "schedule": "\n".join(["", *phases]),
        "memory": f"batch 1: {one['memory_mib'] / 1024:.2f} GiB, 2: {two['memory_mib'] / 1024:.2f} GiB; "
        f"{fits} (extrapolated, a tenth left free)",
        "disk": f"{result['disk_mib']:,.0f} MiB of checkpoints",
        "time": f"{_duration(result['hours'])}, without validation{waiting}",
    }
    lines = [head, *(f"{name:12} {text}".rstrip() for name, text in facts.items())]
    return "\n".join([*lines, *(f"note         {note}" for note in result["notes"])])


def _memory(one: Trial, batch: int, other: Trial, larger: int) -> Line:
    """Return the line through the peaks of two batches."""
    further = max((other.memory_mib - one.memory_mib) / (larger - batch), 0.0)
    return Line(one.memory_mib - (batch - 1) * further, further)


def _alone(config: TrainConfig, folder: Path, notes: list[str]) -> TrainConfig:
    """Return the recipe for one device, at its first patch, without what is not at hand yet."""
    loss = config.loss
    for name, field in missing_weights(loss).items():
        loss = loss.model_copy(update={name: 0.0})
        notes.append(f"without loss.{name}: loss.{field} is not given")
    changes: dict[str, Any] = {"devices": 1, "nodes": 1, "accumulate": 1, "loss": loss}
    if config.stage == 2 and config.stage1 is None:
        save(folder / "stage1.safetensors", DiffIRS1(config.network_config))
        changes["stage1"] = folder / "stage1.safetensors"
        notes.append("measured under a random stage 1: stage1 is not given")
    if config.warmup.steps:
        changes["warmup"] = config.warmup.model_copy(update={"steps": 0})
        notes.append("steps of the warm-up are quicker than the joint ones that were measured")
    if (config.devices, config.nodes) != (1, 1):
        notes.append("measured on one device: what devices spend on one another is not counted")
    return config.model_copy(update=changes)


def _batch(config: TrainConfig, batch: int) -> TrainConfig:
    workers = min(config.data.workers, os.cpu_count() or 1)
    data = {"batch": batch, "progressive": (), "pool": 0, "workers": workers}
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def _phases(
    config: TrainConfig, world: int, seconds: Line, measured: Trial | None, memory: Line
) -> list[dict[str, Any]]:
    """Return what each phase of a progressive schedule costs; without one there is one phase."""
    starts = config.data.phases
    ends = [*(start for start, _, _ in starts[1:]), config.steps]
    phases = []
    for (start, patch, batch), end in zip(starts, ends, strict=True):
        pixels = (patch / config.data.patch) ** 2
        own = measured is not None and start == 0
        time = measured.seconds if measured is not None and own else seconds(batch) * pixels
        grown = memory.first - memory.further + memory.further * pixels * batch
        phases.append(
            {
                "from": start,
                "steps": max(0, min(end, config.steps) - start),
                "patch": patch,
                "batch": batch,
                "batch_in_all": batch * config.accumulate * world,
                "seconds": time * config.accumulate,
                "how": "measured" if own else "extrapolated",
                "memory_mib": measured.memory_mib if measured is not None and own else grown,
                "hours": max(0, min(end, config.steps) - start) * time * config.accumulate / 3600,
            }
        )
    return phases


def _forward(model: ModelConfig, stage: int, patch: int) -> int:
    """Return the Mult-Adds of one sample's forward pass, stage 1's CPEN included, discriminators not."""
    with torch.device("meta"):
        first, second = DiffIRS1(model), DiffIRS2(model)
    # Per LQ pixel, as count_parts does: CPEN works at the size of the unshuffled LQ photo.
    teacher = count_cpen(first.cpen, patch * patch)
    if stage == 1:
        return total([teacher, *count_dirformer(first.dirformer, patch, patch)], 0).mult_adds
    return teacher.mult_adds + total(count_parts(second, patch, patch), model.timesteps).mult_adds


def _parameters(config: TrainConfig) -> dict[str, int]:
    with torch.device("meta"):
        first, second = DiffIRS1(config.network_config), DiffIRS2(config.network_config)
        kind = {"unet": UNetDiscriminator, "patch": PatchDiscriminator}[config.loss.discriminator]
        discriminator = kind(config.loss.discriminator_dim) if config.loss.adversarial else None
    sizes = {
        "trained": _count(first if config.stage == 1 else second),
        "frozen teacher": _count(first.cpen) if config.stage == 2 else 0,
        "discriminator": 0 if discriminator is None else _count(discriminator),
    }
    if config.training == "separate":
        sizes["trained"] -= _count(second.dirformer)
    return sizes


def _disk(config: TrainConfig, sizes: dict[str, int]) -> int:
    """Return bytes: two states (weights, EMA, two moments of Adam), best, last and numbered weights."""
    state = 4 * (4 * sizes["trained"] + 3 * sizes["discriminator"])
    return 2 * state + 4 * sizes["trained"] * (1 + (config.data.val is not None) + config.keep)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _largest(memory: Line, room: float) -> int:
    if memory.further <= 0:
        return 0 if memory.first > room else 1
    return max(0, 1 + int((room - memory.first) / memory.further))


def _free_mib(device: torch.device) -> float:
    """Return the memory that is left for this process: free, or already its own."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB + torch.cuda.memory_reserved(device) / MIB
    free = available_memory()
    if free is not None:
        return (free + (resident_memory() or 0)) / MIB
    all_of_it = total_memory()
    if all_of_it is None:
        raise ConfigError("this system does not tell how much memory it has; choose data.batch by hand")
    return all_of_it / MIB


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
