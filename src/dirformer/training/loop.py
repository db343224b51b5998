"""When things happen in a run: data, step, average, journal, validation, checkpoint, resume.

The loop knows no stage by name. A run is its folder:

    recipe.yaml         the recipe, every field
    journal.jsonl       one record per log line, validation and event
    state.pt            everything needed to go on: weights, average, optimisers, step
    good.pt             the last state that nothing spoke against: where a run that diverges comes back to
    last.safetensors    the averaged weights of the last save
    best.safetensors    those of the best validation so far

Every draw of a run comes from generators named by seed and sample number, and the rate is a function of
the step; so the state holds no generator and no data position, and a run that was killed goes on
bit for bit as if it had not been (same device, same thread count).
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.checkpoints import save
from dirformer.data.datasets import CleanCrops, stream
from dirformer.data.folders import find_photos, require_size
from dirformer.data.shards import INDEX, Shards
from dirformer.degradations.base import Degradation, Generators
from dirformer.degradations.pipeline import degradation
from dirformer.device import choose_device, seeded_generator
from dirformer.errors import ConfigError, MissingExtraError, TrainingError
from dirformer.files import atomic_path
from dirformer.journal import Journal, Pace
from dirformer.networks.diffir import DiffIR
from dirformer.training.config import Optimiser, TrainConfig
from dirformer.training.schedules import learning_rate, rate_of_run
from dirformer.training.stages import STAGES, Batch

Validate = Callable[[DiffIR], dict[str, float]]
Report = Callable[[str], None]

CHANGEABLE = {"data", "log_every", "val_every", "save_every", "keep", "recovery", "out", "device", "compile"}
"""Fields that may differ when a run goes on; any other would make it another run."""
TRIAL_STEPS = 10


def train(config: TrainConfig, validate: Validate | None = None, report: Report = print) -> Path:
    """Run a recipe, or go on with it where it stopped; return the file of its last weights.

    Args:
        config: the recipe.
        validate: scores the averaged network every `val_every` steps and at the end; the first score
            decides which weights are best (higher is better).
        report: takes a line for people now and then.

    Raises:
        ConfigError: if the recipe cannot be run (no data, another recipe in the same folder …).
        DataError, CheckpointError: for its data and weight files.
        TrainingError: if the run diverges more often than the recipe allows; the last good state stays.
    """
    fabric = _fabric(config)
    run = _Run(config, fabric, report)
    run.resume()
    run.loop(validate)
    return config.folder / "last.safetensors"


class _DivergedError(Exception):
    """A loss, a weight or a score says that the run has left its way."""


class _Run:
    """The moving parts of one run."""

    def __init__(self, config: TrainConfig, fabric: Any, report: Report) -> None:
        self.config, self.fabric, self.report = config, fabric, report
        self.degrade, self.dataset = training_data(config)
        fabric.seed_everything(config.seed, verbose=False)
        self.stage = STAGES[config.stage](config)
        self.network: DiffIR = self.stage.model.train()
        self.average = copy.deepcopy(self.network).requires_grad_(requires_grad=False)
        if config.compile:
            self.network.dirformer.compile()
        self.adversary: nn.Module | None = self.stage.adversary
        self.stage.model, self.optimiser = fabric.setup(self.network, _adam(self.network, config.optimiser))
        for method in self.stage.forward_methods:
            self.stage.model.mark_forward_method(method)
        self.adversary_optimiser: Any = None
        if self.adversary is not None:
            adam = _adam(self.adversary, config.adversary)
            self.stage.adversary, self.adversary_optimiser = fabric.setup(self.adversary, adam)
        fabric.to_device(self.average)
        fabric.to_device(self.stage.frozen)
        self.step, self.best, self.rollbacks = 0, float("-inf"), 0
        self.journal = Journal(config.folder / "journal.jsonl")

    def loop(self, validate: Validate | None) -> None:
        """Train to the last step, from the last good state again where the run diverges."""
        while self.step < self.config.steps:
            try:
                self.advance(validate)
            except _DivergedError as error:
                self.roll_back(str(error))

    def advance(self, validate: Validate | None) -> None:
        config, journal = self.config, self.journal
        pace = Pace(self.step, config.steps)
        window: list[dict[str, float]] = []
        for batch in self.batches():
            window.append(self.train_step(batch))
            last = self.step == config.steps
            if last or self.step % config.log_every == 0:
                losses = {name: sum(w[name] for w in window) / len(window) for name in window[-1]}
                window.clear()
                speed = pace.seconds_per_step(self.step)
                rate = self.optimiser.param_groups[0]["lr"]
                journal.write("train", step=self.step, rate=rate, seconds_per_step=speed, **losses)
                parts = "  ".join(f"{name} {value:.5f}" for name, value in losses.items())
                self.report(
                    f"step {self.step}/{config.steps}  {parts}  rate {rate:.2e}  "
                    f"{len(batch['index']) * self.fabric.world_size / speed:.1f} images/s  "
                    f"eta {pace.eta(self.step)}"
                )
            validated = validate is not None and (last or self.step % config.val_every == 0)
            if validate is not None and validated:
                self.validate(validate)
            if last or validated or self.step % config.save_every == 0:
                self.save(good=validated or validate is None)
            if self.step == config.warmup.steps:
                window.clear()  # the joint phase has other losses

    def batches(self) -> Iterable[dict[str, Any]]:
        """Return this device's batches from the current step on."""
        return stream(
            self.dataset,
            start=self.step,
            steps=self.config.steps,
            batch=self.config.data.batch * self.config.accumulate,
            workers=self.config.data.workers,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    def train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of the optimiser, and of the adversary's where there is one."""
        config = self.config
        factor = config.recovery.factor**self.rollbacks
        _set_rate(self.optimiser, factor * rate_of_run(self.step, config))
        if self.step == config.warmup.steps > 0:
            # As released: the joint phase begins with a fresh Adam.
            self.optimiser.optimizer.state.clear()
        parts = [self.prepare(part) for part in _split(batch, config.accumulate)]
        self.optimiser.zero_grad()
        values: dict[str, float] = {}
        for part in parts:
            values = _summed(values, self.backward(self.stage.losses(part)))
        self.clip(self.stage.model, self.optimiser)
        self.optimiser.step()
        if self.adversary is not None:
            rate = learning_rate(self.step, config.steps, config.adversary)
            _set_rate(self.adversary_optimiser, factor * rate)
            self.adversary_optimiser.zero_grad()
            values |= self.backward(self.stage.adversary_losses(parts[-1]), share=1)
            self.clip(self.stage.adversary, self.adversary_optimiser)
            self.adversary_optimiser.step()
        self.step += 1
        _average_into(self.average, self.network, config.ema, self.step)
        return values

    def prepare(self, batch: dict[str, Any]) -> Batch:
        """Move to the device, degrade there, and hand a generator to each sample."""
        indices = batch["index"].tolist()
        gt = self.fabric.to_device(batch["gt"]).float() / 255
        draws, noise = (
            [seeded_generator(self.config.seed, purpose, index) for index in indices]
            for purpose in ("degrade", "noise")
        )
        lq, gt = degrade_crops(self.degrade, gt, draws)
        return Batch(lq, gt, noise, self.step)

    def backward(self, losses: dict[str, Tensor], share: int | None = None) -> dict[str, float]:
        """Add the gradient of the losses' share in a step; return their share of the values."""
        share = self.config.accumulate if share is None else share
        values = {name: float(value.detach()) / share for name, value in losses.items()}
        if not all(math.isfinite(value) for value in values.values()):
            parts = ", ".join(f"{name} {value}" for name, value in values.items())
            raise _DivergedError(f"loss is not finite at step {self.step + 1} ({parts})")
        self.fabric.backward(torch.stack(list(losses.values())).sum() / share)
        return values

    def clip(self, model: Any, optimiser: Any) -> None:
        if self.config.optimiser.clip is not None:
            self.fabric.clip_gradients(model, optimiser, max_norm=self.config.optimiser.clip)

    def validate(self, validate: Validate) -> None:
        """Score the average, keep the best; a score far below the best is a collapse."""
        if not self.fabric.is_global_zero:
            return
        scores = validate(self.average.eval())
        name, score = next(iter(scores.items()))
        self.journal.write("val", step=self.step, **scores)
        better = score > self.best
        self.report(f"step {self.step}  validation  {name} {score:.3f}" + ("  (best)" if better else ""))
        if not score > self.best - self.config.recovery.collapse:
            raise _DivergedError(
                f"{name} fell to {score:.2f} at step {self.step}; the best was {self.best:.2f}"
            )
        if better:
            self.best = score
            self.write_weights("best", scores)

    def save(self, *, good: bool) -> None:
        """Save the state and the averaged weights, each atomically.

        `good` says that nothing speaks against this state: a run that diverges comes back to it.
        """
        if not self.fabric.is_global_zero:
            return
        if not all(bool(p.isfinite().all()) for p in self.network.parameters()):
            raise _DivergedError(f"weights are not finite at step {self.step}")
        state = {
            "recipe": self.config.to_dict(),
            "step": self.step,
            "best": self.best,
            "rollbacks": self.rollbacks,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
            state["adversary_optimiser"] = self.adversary_optimiser.state_dict()
        for name in ("state.pt", "good.pt") if good else ("state.pt",):
            with atomic_path(self.config.folder / name) as part:
                torch.save(state, part)
        self.write_weights("last", {})
        if self.config.keep:
            self.write_weights(f"step-{self.step:08}", {})
            for old in sorted(self.config.folder.glob("step-*.safetensors"))[: -self.config.keep]:
                old.unlink()

    def write_weights(self, name: str, scores: dict[str, float]) -> None:
        provenance = {"recipe": self.config.to_dict(), "step": self.step, "scores": scores}
        save(self.config.folder / f"{name}.safetensors", self.average, provenance)

    def resume(self) -> None:
        """Take up the state in the run's folder, if there is one."""
        folder = self.config.folder
        if not (folder / "state.pt").is_file():
            recipe = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
            with atomic_path(folder / "recipe.yaml") as part:
                part.write_text(recipe, encoding="utf-8")
            return
        self.take(folder / "state.pt")
        self.journal.write("resume", step=self.step)
        self.report(f"going on from step {self.step} in {folder}")

    def take(self, path: Path) -> None:
        """Set everything to what a state file holds."""
        # Our own file, but still opened without executing anything in it.
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        ours, theirs = self.config.to_dict(), state["recipe"]
        for field in sorted(set(ours) - CHANGEABLE):
            if ours[field] != theirs.get(field):
                raise ConfigError(
                    f"{path.parent} holds a run with {field} = {theirs.get(field)!r}, not {ours[field]!r}; "
                    "choose another name= or remove the folder"
                )
        self.step, self.best, self.rollbacks = state["step"], state["best"], state["rollbacks"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
            self.adversary_optimiser.load_state_dict(state["adversary_optimiser"])

    def roll_back(self, reason: str) -> None:
        """Go back to the last good state with a smaller rate, or give up after the stated number of tries."""
        recovery, folder = self.config.recovery, self.config.folder
        tries, step = self.rollbacks + 1, self.step
        self.journal.write("diverged", step=step, reason=reason, tries=tries)
        if tries > recovery.tries or not (folder / "good.pt").is_file():
            raise TrainingError(
                f"{reason}; the checkpoint in {folder} is from before: use a rate below "
                f"{self.config.optimiser.rate} or optimiser.clip=1, and another name="
            )
        self.take(folder / "good.pt")
        self.rollbacks = tries
        self.report(
            f"{reason}: back to step {self.step}, rate × {recovery.factor**tries:g} "
            f"(try {tries} of {recovery.tries})"
        )


def steps_in(config: TrainConfig, minutes: float, report: Report = print) -> TrainConfig:
    """Return the recipe with as many steps as this machine makes in `minutes`.

    A run that has begun keeps its number; otherwise a few steps are timed and thrown away.
    """
    state = config.folder / "state.pt"
    if state.is_file():
        steps = torch.load(state, map_location="cpu", weights_only=True)["recipe"]["steps"]
        return config.model_copy(update={"steps": steps})
    with tempfile.TemporaryDirectory() as folder:
        trial = config.model_copy(update={"out": Path(folder), "steps": TRIAL_STEPS + 2})
        run = _Run(trial, _fabric(trial), report)
        for step, batch in enumerate(run.batches()):
            if step == 2:  # behind the first steps, which pay for allocations
                pace = Pace(2, TRIAL_STEPS + 2)
            run.train_step(batch)
        seconds = pace.seconds_per_step(TRIAL_STEPS + 2)
    steps = max(1, round(minutes * 60 / seconds))
    report(f"{seconds:.2f} s a step: {steps} steps in {minutes:g} minutes")
    return config.model_copy(update={"steps": steps})


def training_data(config: TrainConfig) -> tuple[Degradation, CleanCrops]:
    """Return the degradation and the crops of a recipe; ConfigError and DataError name what is missing."""
    data, network = config.data, config.network
    if data.train is None:
        raise ConfigError("data.train is not set; give a folder of clean photos: data.train=DIR")
    if data.patch % network.multiple:
        raise ConfigError(f"data.patch is {data.patch}; this network needs a multiple of {network.multiple}")
    degrade = degradation(data.degradation, network.scale)
    if data.without is not None and data.val is not None:
        raise ConfigError("data.without and data.val are both set; photos of data.val are left out anyway")
    side = (data.patch + 2 * degrade.margin) * network.scale
    if (data.train / INDEX).is_file():
        if data.without is not None:
            raise ConfigError("data.without has no effect on shards; leave photos out when they are prepared")
        return degrade, CleanCrops(Shards(data.train), side, config.seed)
    photos = find_photos(data.train, without=data.without or data.val)
    require_size(photos, side)
    return degrade, CleanCrops(photos, side, config.seed)


def degrade_crops(degrade: Degradation, gt: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
    """Degrade crops `b 3 H W` and cut the margin off both: LQ as if the entire photo had been degraded."""
    lq, margin = degrade(gt, generator), degrade.margin
    return F.pad(lq, [-margin] * 4), F.pad(gt, [-margin * degrade.scale] * 4)


def _adam(network: nn.Module, optimiser: Optimiser) -> torch.optim.Adam:
    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=optimiser.rate, betas=optimiser.betas)


def _set_rate(optimiser: Any, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _split(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    chunks = {key: value.chunk(parts) for key, value in batch.items()}
    return [{key: values[i] for key, values in chunks.items()} for i in range(parts)]


def _summed(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + value for name, value in other.items()}


def _fabric(config: TrainConfig) -> Any:
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError:
        raise MissingExtraError("lightning-fabric", "train") from None
    device = choose_device(config.device)
    fabric = Fabric(accelerator=device.type, devices=1, precision=config.precision)
    fabric.launch()
    return fabric


@torch.no_grad()
def _average_into(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    # Shorter memory in the first steps, so that short runs do not carry their random start along.
    decay = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
