"""When things happen in a run: data, step, log, validation, save, resume.

Every draw of a run comes from generators that are named by seed and sample number, and the learning rate is
a function of the step. So the state holds no generator and no place in the data. A run that was killed goes
on bit for bit as if it had not been killed (on the same device, with the same number of threads).

On several devices each takes its part of the global batch and of the validation photos. All of them decide
alike: what they decide by is averaged over devices, or handed out by the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dirformer.ground.errors import ConfigError, DirformerError
from dirformer.ground.journal import Pace, Report, Waiting
from dirformer.ground.memory import peak_mib
from dirformer.ground.mirror import Mirror
from dirformer.networks.diffir import DiffIR
from dirformer.training.config import TrainConfig
from dirformer.training.devices import gathered, open_fabric, together
from dirformer.training.division import batches, divided, what_changes
from dirformer.training.interrupts import Interrupts
from dirformer.training.logs import Log
from dirformer.training.samples import Samples
from dirformer.training.state import State, require_same_run, stored_run
from dirformer.training.step import DivergedError, Step
from dirformer.training.trial import steps_in

Validate = Callable[[DiffIR, int], dict[str, float]]
"""Scores a network at a step; the first score decides (higher is better)."""


def train(
    config: TrainConfig,
    validate: Validate | None = None,
    report: Report = print,
    minutes: float | None = None,
    fabric: Any = None,
) -> Path:
    """Run a recipe, or go on with it where it stopped; return the file of its last weights.

    Of a run at an address this file is a copy that lasts as long as the process.

    Args:
        config: the recipe.
        validate: scores the EMA of the network every `val_every` steps and at the end; the first score
            decides which weights are best (higher is better). Every device calls it at the same steps, and
            the first one's scores count.
        report: takes a line for people now and then.
        minutes: fit the schedule to this time instead of the recipe's steps (see `steps_in`).
        fabric: what `open_fabric` gave for this recipe; None opens one.

    Raises:
        ConfigError: if the recipe cannot be run (no data, another recipe in the same folder …).
        DataError, CheckpointError: for its data and weight files.
        TrainingError: if training diverges more often than the recipe allows; the last good state stays.
        OutputError: if a file cannot be written, as on a full disk; the last one stays.
        KeyboardInterrupt: on Ctrl-C, after the step at hand, with the state saved.
    """
    fabric = open_fabric(config) if fabric is None else fabric
    mirror = Mirror(config.folder, config.place)

    def tell(line: str) -> None:
        report(mirror.public(line))

    tell = tell if fabric.is_global_zero else _say_nothing
    try:
        # The other devices need states alone.
        together(fabric, lambda: mirror.fetch("*" if fabric.is_global_zero else "*.pt"))
        if minutes is not None:
            config = steps_in(config, minutes, tell, fabric)
        return _train(Run(config, fabric, tell, mirror), validate)
    except DirformerError as error:
        error.args = (mirror.public(str(error)),)
        raise


def _train(run: Run, validate: Validate | None) -> Path:
    if run.state.resume(run.report):
        changed = run.state.changed
        run.log.write("resume", run.state.step, **({"changed": changed} if changed else {}))
    try:
        with Interrupts(run.fabric) as interrupts:
            run.loop(validate, interrupts)
    finally:
        run.log.close()
        run.state.keep()
    path = run.state.folder / "last.safetensors"
    run.report(f"weights: {path}")
    return path


class Run:
    """The order of things in one run."""

    def __init__(
        self, config: TrainConfig, fabric: Any, report: Report, mirror: Mirror | None = None
    ) -> None:
        """Take a recipe, a launched Fabric, what takes lines for people, and the run's folder."""
        self.config, self.fabric, self.report = config, fabric, report
        shared = self._shared()
        self.samples = together(fabric, lambda: Samples(shared))
        fabric.seed_everything(config.seed, verbose=False)
        self.step = Step(shared, fabric)
        shares = batches(shared, fabric.world_size)
        mirror = Mirror(config.folder, config.place) if mirror is None else mirror
        self.state = State(config, fabric, self.step, self.samples, shares, mirror)
        self.log = Log(config, active=fabric.is_global_zero)

    def _shared(self) -> TrainConfig:
        """Return the recipe as these devices share it: that of a run in the folder keeps its batches."""
        config, fabric = self.config, self.fabric
        stored = together(fabric, lambda: stored_run(config))
        if len({one is None for one in gathered(fabric, stored)}) > 1:
            raise ConfigError(
                f"only some devices see the run in {config.folder}; expected the same files for all"
            )
        if stored is None:
            return config
        require_same_run(config, stored.recipe, stored.step)
        shared = divided(config, stored, fabric.world_size)
        line = what_changes(shared, stored, fabric.world_size)
        if line is not None:
            self.report(line)
        return shared

    def loop(self, validate: Validate | None, interrupts: Interrupts) -> None:
        """Train to the last step; where training diverges, go on from the last good state."""
        while self.state.step < self.config.steps:
            try:
                self._advance(validate, interrupts)
            except DivergedError as error:
                tries = self.state.rollbacks + 1
                self.log.write("diverged", self.state.step, reason=str(error), tries=tries)
                self.report(self.state.roll_back(str(error)))

    def _advance(self, validate: Validate | None, interrupts: Interrupts) -> None:
        config, state = self.config, self.state
        pace, batches = Pace(state.step, config.steps), Waiting(self.batches())
        window: list[dict[str, float]] = []
        for raw in batches:
            window.append(self.train_step(raw))
            last = state.step == config.steps
            if last or state.step % config.log_every == 0:
                self._tell(window, pace, batches.share(), len(raw["index"]))
                window.clear()
            validated = validate is not None and (last or state.step % config.val_every == 0)
            if validate is not None and validated:
                self._validate(validate)
            stopping = interrupts.seen() and not last
            if last or validated or stopping or state.step % config.save_every == 0:
                self.step.require_sound(self.batch)
                state.save(good=validated or validate is None)
            if stopping:
                where = f"step {state.step} is saved in {state.folder}"
                self.report(f"interrupted: {where}; the same command goes on from there")
                raise KeyboardInterrupt
            if state.step == config.warmup.steps:
                window.clear()  # the joint phase has other losses

    def batches(self) -> Any:
        """Return this device's batches from the current step on."""
        return self.samples.stream(self.state.step, self.fabric.global_rank, self.fabric.world_size)

    def train_step(self, raw: dict[str, Any]) -> dict[str, float]:
        """Make one step on a batch of the data set; return its losses."""
        factor = self.config.recovery.factor**self.state.rollbacks
        self.batch = batch = self.samples.prepare(raw, self.state.step, self.fabric.device)
        # Counted before it is made: a step that diverges is named by its number.
        self.state.step += 1
        return self.step(batch, factor)

    def _tell(self, window: list[dict[str, float]], pace: Pace, waiting: float, samples: int) -> None:
        """Write a log record and a line for people."""
        step, lr = self.state.step, self.step.generator.lr
        losses = {name: sum(w[name] for w in window) / len(window) for name in window[-1]}
        seconds, memory = pace.seconds_per_step(step), peak_mib(self.fabric.device)
        speed = samples * self.fabric.world_size / seconds
        self.log.write(
            "train",
            step,
            lr=lr,
            seconds_per_step=seconds,
            images_per_second=speed,
            data_wait=waiting,
            memory_mib=memory,
            **losses,
        )
        parts = "  ".join(f"{name} {value:.5f}" for name, value in losses.items())
        self.report(
            f"step {step}/{self.config.steps}  {parts}  lr {lr:.2e}  {speed:.1f} images/s  "
            f"eta {pace.eta(step)}  data wait {waiting:.0%}  {memory / 1024:.2f} GiB"
        )

    def _validate(self, validate: Validate) -> None:
        """Score the EMA and keep the best; DivergedError if the score is NaN or far below the best."""
        state, network = self.state, self.step.ema.network.eval()
        scores = validate(network, state.step)
        if self.fabric.world_size > 1:
            scores = self.fabric.broadcast(scores)
        name, score = next(iter(scores.items()))
        # JSON has no NaN; the record of the divergence has it.
        self.log.write("val", state.step, **{k: v for k, v in scores.items() if math.isfinite(v)})
        better = score > state.best
        self.report(f"step {state.step}  validation  {name} {score:.3f}" + ("  (best)" if better else ""))
        if math.isnan(score):
            raise DivergedError(f"{name} is nan at step {state.step}: what the network restores has NaN")
        # To an infinite score every other is infinitely far.
        if math.isfinite(state.best) and not score > state.best - self.config.recovery.collapse:
            raise DivergedError(
                f"{name} fell to {score:.2f} at step {state.step}; the best was {state.best:.2f}"
            )
        if better:
            state.best = score
            state.write_weights("best", scores)


def _say_nothing(line: str) -> None:
    del line
