"""When things happen in a run: data, step, average, log, validation, checkpoint, resume.

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

On several devices each takes its part of the global batch. All decide alike, from numbers averaged or
handed out by the first, which alone writes files; the pool of earlier pairs is each device's own, and
lies beside the state in `samples-STEP-RANK.pt`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from dirformer.data.datasets import stream
from dirformer.ground.errors import CheckpointError, ConfigError, OutputError, TrainingError
from dirformer.ground.journal import Pace, Waiting
from dirformer.ground.memory import PeakMemory, peak_mib
from dirformer.ground.paths import atomic_path
from dirformer.networks.diffir import DiffIR
from dirformer.training.config import TrainConfig
from dirformer.training.devices import Methods, Wrapped, open_fabric
from dirformer.training.graphs import Recorder, require_graphs
from dirformer.training.logs import Log
from dirformer.training.optimisers import optimiser_of
from dirformer.training.samples import Batch, Samples
from dirformer.training.schedules import learning_rate, rate_of_run
from dirformer.training.stages import STAGES
from dirformer.weights.checkpoints import read_header, save

Validate = Callable[[DiffIR, int], dict[str, float]]
"""Scores a network at a step; the first score decides (higher is better)."""
Report = Callable[[str], None]

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
    "graphs",
}
"""Fields that may differ when a run goes on; any other would make it another run."""
TRIAL_STEPS = 10


def train(
    config: TrainConfig,
    validate: Validate | None = None,
    report: Report = print,
    minutes: float | None = None,
) -> Path:
    """Run a recipe, or go on with it where it stopped; return the file of its last weights.

    Args:
        config: the recipe.
        validate: scores the averaged network every `val_every` steps and at the end; the first score
            decides which weights are best (higher is better).
        report: takes a line for people now and then.
        minutes: fit the schedule to this time instead of the recipe's steps (see `steps_in`).

    Raises:
        ConfigError: if the recipe cannot be run (no data, another recipe in the same folder …).
        DataError, CheckpointError: for its data and weight files.
        TrainingError: if the run diverges more often than the recipe allows; the last good state stays.
        OutputError: if a file cannot be written, as on a full disk; the last one stays.
    """
    fabric = open_fabric(config)
    report = report if fabric.is_global_zero else _say_nothing
    if minutes is not None:
        config = steps_in(config, minutes, report, fabric)
    run = _Run(config, fabric, report)
    run.resume()
    try:
        run.loop(validate)
    finally:
        run.log.close()
    path = config.folder / "last.safetensors"
    report(f"weights: {path}")
    return path


def finished(config: TrainConfig) -> bool:
    """Return whether the run of this recipe has made all its steps."""
    try:
        provenance = read_header(config.folder / "last.safetensors")["provenance"]
    except CheckpointError:
        return False
    return provenance["step"] == config.steps and _changed(config, provenance["recipe"]) is None


class _DivergedError(Exception):
    """A loss, a weight or a score says that the run has left its way."""


class _Run:
    """The moving parts of one run."""

    def __init__(self, config: TrainConfig, fabric: Any, report: Report) -> None:
        self.config, self.fabric, self.report = config, fabric, report
        self.samples = Samples(config)
        fabric.seed_everything(config.seed, verbose=False)
        self.stage = STAGES[config.stage](config)
        self.network: DiffIR = self.stage.model.train()
        self.average = copy.deepcopy(self.network).requires_grad_(requires_grad=False)
        if config.compile:
            self.network.dirformer.compile()
        optimiser = optimiser_of(self.network, config.optimiser)
        self.model, self.optimiser = fabric.setup(Methods(self.network), optimiser)
        self.stage.model = Wrapped(self.network, self.model)
        self.adversary: nn.Module | None = self.stage.adversary
        self.judge: Any = None
        self.adversary_optimiser: Any = None
        if self.adversary is not None:
            optimiser = optimiser_of(self.adversary, config.adversary)
            self.judge, self.adversary_optimiser = fabric.setup(Methods(self.adversary), optimiser)
            self.stage.adversary = Wrapped(self.adversary, self.judge)
        fabric.to_device(self.average)
        fabric.to_device(self.stage.frozen)
        self.step, self.best, self.rollbacks = 0, float("-inf"), 0
        self.good = 0
        self.judged: list[tuple[Batch, Tensor]] = []
        self.recorder: Recorder | None = None
        if config.graphs:
            require_graphs(config, fabric)
            networks = [n for n in (self.network, self.adversary) if n is not None]
            self.recorder = Recorder(self.all_gradients, networks)
        self.log = Log(config, active=fabric.is_global_zero)

    def loop(self, validate: Validate | None) -> None:
        """Train to the last step, from the last good state again where the run diverges."""
        while self.step < self.config.steps:
            try:
                self.advance(validate)
            except _DivergedError as error:
                self.roll_back(str(error))

    def advance(self, validate: Validate | None) -> None:
        config = self.config
        pace, batches = Pace(self.step, config.steps), Waiting(self.batches())
        window: list[dict[str, float]] = []
        for batch in batches:
            window.append(self.train_step(batch))
            last = self.step == config.steps
            if last or self.step % config.log_every == 0:
                self.tell(window, pace, batches.share(), len(batch["index"]))
                window.clear()
            validated = validate is not None and (last or self.step % config.val_every == 0)
            if validate is not None and validated:
                self.validate(validate)
            if last or validated or self.step % config.save_every == 0:
                self.save(good=validated or validate is None)
            if self.step == config.warmup.steps:
                window.clear()  # the joint phase has other losses

    def tell(self, window: list[dict[str, float]], pace: Pace, waiting: float, samples: int) -> None:
        """Write a log record and a line for people."""
        losses = {name: sum(w[name] for w in window) / len(window) for name in window[-1]}
        seconds, rate = pace.seconds_per_step(self.step), self.optimiser.param_groups[0]["lr"]
        memory = peak_mib(self.fabric.device)
        speed = samples * self.fabric.world_size / seconds
        self.log.write(
            "train",
            self.step,
            rate=rate,
            seconds_per_step=seconds,
            images_per_second=speed,
            data_wait=waiting,
            memory_mib=memory,
            **losses,
        )
        parts = "  ".join(f"{name} {value:.5f}" for name, value in losses.items())
        self.report(
            f"step {self.step}/{self.config.steps}  {parts}  rate {rate:.2e}  {speed:.1f} images/s  "
            f"eta {pace.eta(self.step)}  data wait {waiting:.0%}  {memory / 1024:.2f} GiB"
        )

    def batches(self) -> Iterable[dict[str, Any]]:
        """Return this device's batches from the current step on."""
        samples = self.samples
        return stream(
            samples.dataset,
            start=self.step,
            steps=self.config.steps,
            batch=lambda step: samples.batch(step) * self.config.accumulate,
            side=samples.side,
            workers=self.config.data.workers,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    def train_step(self, raw: dict[str, Any]) -> dict[str, float]:
        """One step of the optimiser, and of the adversary's where there is one."""
        config = self.config
        factor = config.recovery.factor**self.rollbacks
        _set_rate(self.optimiser, factor * rate_of_run(self.step, config))
        if self.step == config.warmup.steps > 0:
            # As released: the joint phase begins with a fresh Adam.
            self.optimiser.optimizer.state.clear()
        batch = self.stage.draw(self.samples.prepare(raw, self.step, self.fabric.device))
        if self.recorder is None:
            losses = self.gradients(batch)
        else:
            losses = self.recorder(batch, self.step < config.warmup.steps)
        norms = [self.clip(self.model, self.optimiser)]
        self.optimiser.step()
        if "adversarial" in losses:  # not in a warm-up
            if self.recorder is None:
                losses |= self.adversary_gradients()
            rate = learning_rate(self.step, config.steps, config.adversary)
            _set_rate(self.adversary_optimiser, factor * rate)
            norms.append(self.clip(self.judge, self.adversary_optimiser))
            self.adversary_optimiser.step()
        self.step += 1
        _average_into(self.average, self.network, config.ema, self.step)
        return self.finite(losses, norms)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the network's gradients; return the losses, means over the batch and over all devices."""
        parts = _split(batch, self.config.accumulate)
        self.optimiser.zero_grad()
        losses: dict[str, Tensor] = {}
        self.judged = []
        for number, part in enumerate(parts, start=1):
            with self.unsynchronised(self.model if number < len(parts) else None, self.judge):
                losses = _summed(losses, self.backward(self.stage.losses(part)))
            if self.stage.restored is not None:
                self.judged.append((part, self.stage.restored))
        return losses

    def adversary_gradients(self) -> dict[str, Tensor]:
        """Compute the adversary's, from what the network restored in this step, before its own change."""
        self.adversary_optimiser.zero_grad()
        losses: dict[str, Tensor] = {}
        for number, (part, restored) in enumerate(self.judged, start=1):
            with self.unsynchronised(self.judge if number < len(self.judged) else None):
                losses = _summed(losses, self.backward(self.stage.adversary_losses(part, restored)))
        return losses

    def all_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Compute both: neither depends on the other's change."""
        losses = self.gradients(batch)
        return losses | self.adversary_gradients() if "adversarial" in losses else losses

    def unsynchronised(self, *networks: Any) -> ExitStack:
        """Within this, gradients of these networks are not averaged over devices: not yet, or not wanted."""
        stack = ExitStack()
        for network in networks:
            if network is not None:
                stack.enter_context(self.fabric.no_backward_sync(network))
        return stack

    def backward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the gradient of the losses' share in a step; return their share of the values.

        The values are means over all devices, so that all see a loss that is not finite on one.
        """
        share = self.config.accumulate
        together = torch.stack([value.float() for value in losses.values()])
        means = together.detach().clone()
        if self.fabric.world_size > 1:
            means = self.fabric.all_reduce(means)
        self.fabric.backward(together.sum() / share)
        return dict(zip(losses, means / share, strict=True))

    def clip(self, model: Any, optimiser: Any) -> Tensor | None:
        """Bound the norm of a network's gradient, where the recipe says so; return what it was."""
        limit = self.config.optimiser.clip
        if limit is None:
            return None
        norm = self.fabric.clip_gradients(model, optimiser, max_norm=limit, error_if_nonfinite=False)
        # In float16 the scaler skips a step without a finite gradient by itself.
        return None if self.config.precision == "16-mixed" else norm

    def finite(self, losses: dict[str, Tensor], norms: list[Tensor | None]) -> dict[str, float]:
        """Return the losses of the step that was made; this alone waits for the device, once."""
        met = [norm for norm in norms if norm is not None]
        numbers = torch.stack([*losses.values(), *met]).tolist()
        values = dict(zip(losses, numbers, strict=False))
        if not all(math.isfinite(value) for value in values.values()):
            parts = ", ".join(f"{name} {value}" for name, value in values.items())
            raise _DivergedError(f"loss is not finite at step {self.step} ({parts})")
        if not all(math.isfinite(norm) for norm in numbers[len(losses) :]):
            raise _DivergedError(f"gradient is not finite at step {self.step}")
        return values

    def validate(self, validate: Validate) -> None:
        """Score the average, keep the best; a score far below the best is a collapse."""
        first = self.fabric.is_global_zero
        scores = validate(self.average.eval(), self.step) if first else {}
        if self.fabric.world_size > 1:
            scores = self.fabric.broadcast(scores)
        name, score = next(iter(scores.items()))
        self.log.write("val", self.step, **scores)
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
        if not all(bool(p.isfinite().all()) for p in self.network.parameters()):
            raise _DivergedError(f"weights are not finite at step {self.step}")
        pool = self.samples.state_dict()
        if pool and not self.fabric.is_global_zero:
            _write(self.config.folder / self.pool_name(self.step), pool)
        self.fabric.barrier()  # a state whose pools are not all there must not be
        if self.fabric.is_global_zero:
            self.write_state(pool, good=good)
        self.fabric.barrier()

    def write_state(self, pool: dict[str, Any], *, good: bool) -> None:
        folder = self.config.folder
        state = {
            "recipe": self.config.to_dict(),
            "step": self.step,
            "best": self.best,
            "rollbacks": self.rollbacks,
            "world": self.fabric.world_size,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "samples": pool,
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
            state["adversary_optimiser"] = self.adversary_optimiser.state_dict()
        for name in ("state.pt", "good.pt") if good else ("state.pt",):
            _write(folder / name, state)
        self.write_weights("last", {})
        if self.config.keep:
            self.write_weights(f"step-{self.step:08}", {})
            for old in sorted(folder.glob("step-*.safetensors"))[: -self.config.keep]:
                old.unlink()
        self.good = self.step if good else self.good
        for old in folder.glob("samples-*.pt"):
            if int(old.name.split("-")[1]) not in (self.step, self.good):
                old.unlink()

    def write_weights(self, name: str, scores: dict[str, float]) -> None:
        if not self.fabric.is_global_zero:
            return
        path = self.config.folder / f"{name}.safetensors"
        provenance = {"recipe": self.config.to_dict(), "step": self.step, "scores": scores}
        try:
            save(path, self.average, provenance)
        except SafetensorError as error:  # a full disk
            raise OutputError(f"{path} cannot be written: {error}") from None

    def pool_name(self, step: int) -> str:
        return f"samples-{step}-{self.fabric.global_rank}.pt"

    def resume(self) -> None:
        """Take up the state in the run's folder, if there is one."""
        folder = self.config.folder
        if (folder / "state.pt").is_file():
            self.take(folder / "state.pt")
            self.log.write("resume", self.step)
            self.report(f"going on from step {self.step} in {folder}")
        elif self.fabric.is_global_zero:
            recipe = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
            with atomic_path(folder / "recipe.yaml") as part:
                part.write_text(recipe, encoding="utf-8")
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            for part in folder.glob(".*.part"):  # of a save that was killed
                part.unlink()

    def take(self, path: Path) -> None:
        """Set everything to what a state file holds."""
        # Our own file, but still opened without executing anything in it.
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        field = _changed(self.config, state["recipe"])
        if field is not None:
            ours, theirs = self.config.to_dict()[field], state["recipe"].get(field)
            raise ConfigError(
                f"{path.parent} holds a run with {field} = {theirs!r}, not {ours!r}; "
                "choose another name= or remove the folder"
            )
        if state.get("world", 1) != self.fabric.world_size:
            raise ConfigError(
                f"{path.parent} holds a run on {state.get('world', 1)} devices, not on "
                f"{self.fabric.world_size}; "
                "go on with as many, or choose another name="
            )
        self.step, self.best, self.rollbacks = state["step"], state["best"], state["rollbacks"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
        pool = state["samples"]
        if pool and not self.fabric.is_global_zero:
            pool = torch.load(
                path.parent / self.pool_name(self.step), map_location=self.fabric.device, weights_only=True
            )
        self.samples.load_state_dict(pool)
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
            self.adversary_optimiser.load_state_dict(state["adversary_optimiser"])

    def roll_back(self, reason: str) -> None:
        """Go back to the last good state with a smaller rate, or give up after the stated number of tries."""
        recovery, folder = self.config.recovery, self.config.folder
        tries = self.rollbacks + 1
        self.log.write("diverged", self.step, reason=reason, tries=tries)
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


@dataclass(frozen=True)
class Trial:
    """What a few steps showed."""

    seconds: float
    """Of a step."""
    data_wait: float
    """Share of the time in which the device waited for data."""
    memory_mib: float
    """Peak: of tensors on CUDA, else of the process's resident memory."""


def try_out(config: TrainConfig, fabric: Any, steps: int = TRIAL_STEPS) -> Trial:
    """Time a few steps of a recipe, which leave nothing behind; two more before them pay for allocations."""
    with tempfile.TemporaryDirectory() as folder:
        trial = config.model_copy(update={"out": Path(folder), "steps": steps + 2, "log": ()})
        with PeakMemory(fabric.device) as memory:
            run = _Run(trial, fabric, _say_nothing)
            batches = Waiting(run.batches())
            for step, batch in enumerate(batches):
                if step == 2:
                    pace = Pace(2, steps + 2)
                    batches.reset()
                run.train_step(batch)
            seconds, waiting = pace.seconds_per_step(steps + 2), batches.share()
    return Trial(seconds, waiting, memory.mib)


def steps_in(config: TrainConfig, minutes: float, report: Report, fabric: Any) -> TrainConfig:
    """Return the recipe with as many steps as this machine makes in `minutes`.

    A run that has begun keeps its number; otherwise a few steps are timed and thrown away.
    """
    state = config.folder / "state.pt"
    if state.is_file():
        steps = torch.load(state, map_location="cpu", weights_only=True)["recipe"]["steps"]
        return config.model_copy(update={"steps": steps})
    seconds = try_out(config, fabric).seconds
    steps = max(1, round(minutes * 60 / seconds))
    if fabric.world_size > 1:
        steps = fabric.broadcast(steps)
    report(f"{seconds:.2f} s a step: {steps} steps in {minutes:g} minutes")
    return config.model_copy(update={"steps": steps})


def _changed(config: TrainConfig, recipe: dict[str, Any]) -> str | None:
    """Return the first field that makes a recipe another run than the one in a file."""
    with contextlib.suppress(ValidationError):  # adds fields that an older version did not have
        recipe = TrainConfig.model_validate(recipe).to_dict()
    ours = config.to_dict()
    differing = (f for f in sorted(set(ours) - CHANGEABLE) if ours[f] != recipe.get(f))
    return next(differing, None)


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        with atomic_path(path) as part, part.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's word for a full disk
        raise OutputError(f"{path} cannot be written: {str(error).splitlines()[0]}") from None


def _say_nothing(line: str) -> None:
    del line


def _set_rate(optimiser: Any, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into equal parts."""
    share = len(batch.generators) // parts
    places = [slice(i * share, (i + 1) * share) for i in range(parts)]
    tensors = batch.tensors()
    return [
        replace(
            batch,
            generators=batch.generators[place],
            **{name: tensor[place] for name, tensor in tensors.items()},
        )
        for place in places
    ]


def _summed(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one[name] + value for name, value in other.items()} if one else other


@torch.no_grad()
def _average_into(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    # Shorter memory in the first steps, so that short runs do not carry their random start along.
    decay = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
