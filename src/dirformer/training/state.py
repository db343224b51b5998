"""What a run leaves on disk, and how it goes on from there: save, resume, roll back.

A run is its folder:

    recipe.yaml         the recipe, every field
    journal.jsonl       one record per log line, validation and event
    state.pt            everything needed to go on: weights, EMA, optimisers, step
    good.pt             the last state with finite losses and no score collapse; a rollback starts from it
    last.safetensors    the EMA weights of the last save
    best.safetensors    the EMA weights of the best validation so far

On several devices only the first writes these files. The pool of earlier pairs is each device's own; the
other devices write theirs to `samples-STEP-RANK.pt`. All devices take the same file when a run goes on: one
that a single device cannot read is left by all of them. For a run at an address each process writes into a
folder of its own, and puts its files there at each save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError

from dirformer.ground.errors import CheckpointError, ConfigError, OutputError, TrainingError
from dirformer.ground.journal import Report
from dirformer.ground.mirror import Mirror
from dirformer.ground.paths import atomic_path
from dirformer.training.config import TrainConfig
from dirformer.training.devices import gathered, together
from dirformer.training.division import Batches, Stored, batches
from dirformer.training.samples import Samples
from dirformer.training.step import Step, require_finite
from dirformer.weights.checkpoints import read_header, save

CHANGEABLE = {
    "data",
    "log",
    "log_every",
    "val_every",
    "save_every",
    "keep",
    "recovery",
    "out",
    "device",
    "devices",
    "nodes",
    "compile",
    "context",
    "graphs",
}
"""Fields that may differ when a run goes on; any other would make it another run."""
UNSEEN = {"val_lq", "val_masks", "val_crop", "cache", "workers", "degrade_in"}
"""Fields of `data` that no sample depends on. `val` is none of them: its photos are left out of training."""
PARTS = {"recipe", "step", "best", "rollbacks", "generator", "ema", "samples"}
"""Entries that every state file has."""


class State:
    """The counters of a run, and the files from which it goes on."""

    def __init__(
        self,
        config: TrainConfig,
        fabric: Any,
        networks: Step,
        samples: Samples,
        shares: Batches,
        mirror: Mirror,
    ) -> None:
        """Take the recipe as it was given, what is to be kept, the `batches` of the run, and its folder."""
        self.config, self.fabric, self.networks, self.samples = config, fabric, networks, samples
        self.folder, self.mirror, self.shares = mirror.folder, mirror, shares
        self.step = 0
        """Steps made so far."""
        self.best = float("-inf")
        """Best score of a validation so far."""
        self.rollbacks = 0
        """How often training diverged so far."""
        self.good = 0
        """Step of good.pt."""
        self.changed: dict[str, Any] = {}
        """Fields that differ from those of the run that goes on: [before, now]."""

    def save(self, *, good: bool) -> None:
        """Save the state and the EMA weights, each atomically.

        Args:
            good: losses are finite and the score has not collapsed; a rollback may start from this state.

        Raises:
            DivergedError: if a weight is not finite; nothing is written then.
            OutputError: if a file cannot be written; the file before it stays.
        """
        require_finite(self.networks.generator.module, self.step)
        pool = self.samples.state_dict()
        # state.pt must not be there before all the pools that belong to it.
        self.good = self.step if good else self.good
        together(self.fabric, lambda: self._write_pool(pool))
        together(self.fabric, lambda: self._write_files(pool, good=good))
        if pool:
            together(self.fabric, self._forget_pools)

    def keep(self) -> None:
        """Put to the address of the run what is new in its folder, if it has one. Raises OutputError."""
        if self.fabric.is_global_zero:
            self.mirror.put(last="state.pt")

    def _write_pool(self, pool: dict[str, Any]) -> None:
        if pool and not self.fabric.is_global_zero:
            _write(self.folder / self._pool_name(self.fabric.global_rank), pool)
            self.mirror.put()

    def _forget_pools(self) -> None:
        """Remove the pools of states that are no longer there; devices may see the same folder."""
        for old in self.folder.glob("samples-*.pt"):
            if int(old.name.split("-")[1]) not in (self.step, self.good):
                old.unlink(missing_ok=True)
        self.mirror.put()

    def _write_files(self, pool: dict[str, Any], *, good: bool) -> None:
        if not self.fabric.is_global_zero:
            return
        networks = self.networks
        state = {
            "recipe": self.config.to_dict(),
            "step": self.step,
            "good": self.good,
            "best": self.best,
            "rollbacks": self.rollbacks,
            "world": self.fabric.world_size,
            "batches": self.shares,
            "generator": networks.generator.state_dict(),
            "ema": networks.ema.network.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "samples": pool,
        }
        if networks.discriminator is not None:
            state["discriminator"] = networks.discriminator.state_dict()
        for name in ("state.pt", "good.pt") if good else ("state.pt",):
            _write(self.folder / name, state)
        self.write_weights("last", {})
        if self.config.keep:
            self.write_weights(f"step-{self.step:08}", {})
            for old in sorted(self.folder.glob("step-*.safetensors"))[: -self.config.keep]:
                old.unlink()
        self.keep()

    def write_weights(self, name: str, scores: dict[str, float]) -> None:
        """Write the EMA weights to NAME.safetensors, with recipe, step and scores in its header."""
        if not self.fabric.is_global_zero:
            return
        path = self.folder / f"{name}.safetensors"
        provenance = {"recipe": self.config.to_dict(), "step": self.step, "scores": scores}
        try:
            save(path, self.networks.ema.network, provenance, self.config.inference)
        except SafetensorError as error:  # a full disk
            raise OutputError(f"{path} cannot be written: {error}") from None

    def resume(self, report: Report) -> bool:
        """Go on from the files in the run's folder; return whether there were any.

        A state.pt that cannot be read is reported, and good.pt is taken instead, by all devices.

        Raises:
            ConfigError: if the folder holds another run.
            CheckpointError: if neither file can be read.
        """
        there = (self.folder / "state.pt").is_file()
        if there:
            stored = self._take_newest(report)
            report(f"going on from step {self.step} in {self.folder}")
            self._compare(stored, report)
        if self.fabric.is_global_zero and (not there or stored != self.config):
            recipe = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
            with atomic_path(self.folder / "recipe.yaml") as part:
                part.write_text(recipe, encoding="utf-8")
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            for part in self.folder.glob(".*.part"):  # of a save that was killed
                part.unlink()
        return there

    def _compare(self, stored: TrainConfig, report: Report) -> None:
        """Say what differs from the recipe of the run that goes on."""
        self.changed = differences(self.config, stored)
        lines = [f"{field} = {ours!r} (was {theirs!r})" for field, (theirs, ours) in self.changed.items()]
        if lines:
            report(f"changed from here on: {', '.join(lines)}")
        if stored.steps != self.config.steps:
            report(
                f"steps raised from {stored.steps} to {self.config.steps}; "
                "the schedule follows the new number"
            )

    def roll_back(self, reason: str) -> str:
        """Go back to the last good state with a smaller learning rate; return a line that says so.

        Raises:
            TrainingError: if the recipe allows no further try, or there is no good state.
        """
        recovery, tries, good = self.config.recovery, self.rollbacks + 1, self.folder / "good.pt"
        if tries > recovery.tries or not self._all_have(good):
            kept = (self.folder / "state.pt").is_file()
            before = f"the checkpoint in {self.folder} is from before" if kept else "nothing was saved before"
            raise TrainingError(
                f"training diverged: {reason}; {before}: use an lr below {self.config.optimiser.lr} or "
                "optimiser.clip=1, and another name="
            )
        self._take(good)
        self.rollbacks = tries
        return (
            f"training diverged: {reason}: back to step {self.step}, lr × {recovery.factor**tries:g} "
            f"(try {tries} of {recovery.tries})"
        )

    def _take_newest(self, report: Report) -> TrainConfig:
        """Take state.pt, or good.pt if state.pt is damaged; return the recipe in it."""
        try:
            return self._take(self.folder / "state.pt")
        except CheckpointError as error:
            if not self._all_have(self.folder / "good.pt"):
                raise
            report(f"{error}; taking good.pt instead")
        return self._take(self.folder / "good.pt")

    def _all_have(self, path: Path) -> bool:
        return all(gathered(self.fabric, path.is_file()))

    def _take(self, path: Path) -> TrainConfig:
        """Set everything to what a state file holds; return the recipe in it."""
        stored = together(self.fabric, lambda: self._take_alone(path))
        read = sorted(set(gathered(self.fabric, self.step)))
        if len(read) > 1:
            raise CheckpointError(
                f"{path} is of step {read[0]} for one device and of step {read[1]} for another; expected the "
                "same files for all"
            )
        return stored

    def _take_alone(self, path: Path) -> TrainConfig:
        state = read_state(path, self.fabric.device)
        stored = _recipe_of(state, path)
        require_same_run(self.config, stored, state["step"])
        self.step, self.best, self.rollbacks = state["step"], state["best"], state["rollbacks"]
        self.good = state.get("good", 0)
        try:
            self.networks.generator.load_state_dict(state["generator"])
            self.networks.ema.network.load_state_dict(state["ema"])
            if self.networks.discriminator is not None:
                self.networks.discriminator.load_state_dict(state["discriminator"])
            self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
            self.samples.load_state_dict(self._pool(path.parent, state))
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from None
        return stored

    def _pool(self, folder: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Return this device's pool of earlier pairs; those of another number of devices are dealt out."""
        rank, world, theirs = self.fabric.global_rank, self.fabric.world_size, state.get("world", 1)
        first: dict[str, Any] = state["samples"]
        if not first or (world == theirs and rank == 0):
            return first

        def of(other: int) -> dict[str, Any]:
            return first if other == 0 else _load(folder / self._pool_name(other), self.fabric.device)

        if world == theirs:
            return of(rank)
        pools = [of(other) for other in range(theirs)]
        whole = {name: torch.cat([pool[name] for pool in pools]) for name in first}
        return {name: pairs.tensor_split(world)[rank] for name, pairs in whole.items()}

    def _pool_name(self, rank: int) -> str:
        return f"samples-{self.step}-{rank}.pt"


def finished(config: TrainConfig) -> bool:
    """Return whether the run of this recipe has made all its steps; one on other data is refused.

    Raises:
        ConfigError: if the run in the folder has seen other samples than the recipe asks for.
    """
    try:
        provenance = read_header(config.folder / "last.safetensors").provenance
        stored = TrainConfig.model_validate(provenance["recipe"])
    except (CheckpointError, ValidationError, KeyError, TypeError):  # of an older version, or no run's file
        return False
    for field, (theirs, ours) in differences(config, stored).items():
        section, _, name = field.partition(".")
        if section == "data" and name not in UNSEEN:
            raise ConfigError(
                f"{config.folder} holds a run with {field} = {theirs!r}, not {ours!r}; choose another out=, "
                "or remove the folder to train anew"
            )
    return provenance.get("step") == config.steps and _changed(config, stored) is None


def differences(config: TrainConfig, stored: TrainConfig) -> dict[str, list[Any]]:
    """Return the fields of a recipe that differ from a stored one's, [before, now], by their dotted names.

    `steps` is left out, and so is `out`, where the run is found.
    """
    found = {}
    ours, theirs = (_flat(recipe.model_dump(mode="json")) for recipe in (config, stored))
    for field in ours.keys() | theirs.keys():
        if field not in ("steps", "out") and ours.get(field) != theirs.get(field):
            found[field] = [theirs.get(field), ours.get(field)]
    return dict(sorted(found.items()))


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, dict) and name != "model":
            flat |= {f"{name}.{field}": item for field, item in value.items()}
        else:
            flat[name] = value
    return flat


def stored_run(config: TrainConfig) -> Stored | None:
    """Return the run in the recipe's folder; None if there is none.

    Raises:
        CheckpointError, ConfigError: as `State.resume`.
    """
    for name in ("state.pt", "good.pt"):
        path = config.folder / name
        if not path.is_file():
            return None
        try:
            state = read_state(path, torch.device("cpu"), mapped=True)
        except CheckpointError as error:
            reason = str(error)
            continue
        recipe, world = _recipe_of(state, path), state.get("world", 1)
        shares = state.get("batches") or batches(recipe, world)
        return Stored(recipe, state["step"], world, [(int(a), int(b)) for a, b in shares])
    raise CheckpointError(f"{reason}; choose another name=")


def read_state(path: Path, device: torch.device, *, mapped: bool = False) -> dict[str, Any]:
    """Read a state file without executing anything in it; CheckpointError if it is damaged.

    With `mapped`, tensors are read from the file where they are used.
    """
    state = _load(path, device, mapped=mapped)
    if isinstance(state, dict) and "average" in state and "adversary" in state.get("recipe", {}):
        raise ConfigError(
            f"{path.parent} holds a run of an older version of dirformer, which cannot go on here; choose "
            "another name= (init=FILE starts from its weights)"
        )
    missing = sorted(PARTS - set(state)) if isinstance(state, dict) else ["everything"]
    if missing:
        raise CheckpointError(f"{path} is damaged: {', '.join(missing)} missing")
    return state


def _load(path: Path, device: torch.device, *, mapped: bool = False) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except Exception as error:  # noqa: BLE001 - a damaged file can make the reader fail in any way
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from None


def require_same_run(config: TrainConfig, stored: TrainConfig, step: int) -> None:
    """Raise ConfigError if a stored recipe, `step` steps of which are made, makes another run than ours."""
    # How passes divide a batch may change, see `division`.
    field = _changed(config.model_copy(update={"accumulate": stored.accumulate}), stored)
    if field is None and config.steps != stored.steps and not step == stored.steps < config.steps:
        field = "steps"
    if field is not None:
        ours, theirs = (recipe.to_dict()[field] for recipe in (config, stored))
        more = "steps can be raised when a run has made all of them; " if field == "steps" else ""
        raise ConfigError(
            f"{config.folder} holds a run with {field} = {theirs!r}, not {ours!r}; {more}"
            "choose another name= or remove the folder"
        )


def _recipe_of(state: dict[str, Any], path: Path) -> TrainConfig:
    try:
        # Fields that an older version did not have get their defaults.
        return TrainConfig.model_validate(state["recipe"])
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(
            f"{path.parent} holds a run of another version of dirformer (field {place}); choose another name="
        ) from None


def _changed(config: TrainConfig, stored: TrainConfig) -> str | None:
    """Return the first field that makes a recipe another run than the stored one; `steps` is left out."""
    ours, theirs = config.to_dict(), stored.to_dict()
    return next((f for f in sorted(set(ours) - CHANGEABLE - {"steps"}) if ours[f] != theirs[f]), None)


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        with atomic_path(path) as part, part.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's own, behind what the disk said
        said = error.__context__
        why = said.strerror if isinstance(said, OSError) and said.strerror else _first_line(error)
        raise OutputError(f"{path} cannot be written: {why}; make room, or give another out=") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
