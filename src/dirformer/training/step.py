"""One training step on one batch: forward, backward, accumulation, clip, and the check that all is finite.

This file does not know when a step is made, and where its batch comes from.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dirformer.ground.errors import TrainingError
from dirformer.training.compiled import compile_network
from dirformer.training.config import TrainConfig
from dirformer.training.devices import gathered
from dirformer.training.ema import Ema
from dirformer.training.graphs import Recorder, require_graphs
from dirformer.training.phases import even_phases
from dirformer.training.player import Player
from dirformer.training.samples import Batch
from dirformer.training.schedules import lr_of_run, scheduled_lr
from dirformer.training.stages import STAGES


class DivergedError(TrainingError):
    """Training diverged: a loss, a gradient or a weight is not finite, or the score collapsed."""


class Step:
    """The networks of a run, and what one step does to them."""

    def __init__(self, config: TrainConfig, fabric: Any) -> None:
        """Build the networks of a recipe on Fabric's device; seed Fabric before, for a random start."""
        self.config, self.fabric = config, fabric
        self.stage = STAGES[config.stage](config)
        network = self.stage.network.train()
        if config.even_phases:
            even_phases(network.dirformer)
        self.ema = Ema(network, config.ema)
        compile_network(network, config.compile)
        self.generator = Player(network, config.optimiser, fabric, partial(lr_of_run, config=config))
        self.discriminator: Player | None = None
        if self.stage.discriminator is not None:
            schedule = partial(scheduled_lr, steps=config.steps, optimiser=config.discriminator)
            self.discriminator = Player(self.stage.discriminator, config.discriminator, fabric, schedule)
        fabric.to_device(self.ema.network)
        fabric.to_device(self.stage.frozen)
        self.restored: list[tuple[Batch, Tensor]] = []
        """Parts of the batch at hand, and what the network restored of them."""
        self.recorder: Recorder | None = None
        if config.graphs:
            require_graphs(config, fabric)
            self.recorder = Recorder(self._all_gradients, [player.module for player in self.players])

    @property
    def players(self) -> list[Player]:
        """The generator, and the discriminator if there is one."""
        return [self.generator, *([] if self.discriminator is None else [self.discriminator])]

    def __call__(self, batch: Batch, factor: float = 1.0) -> dict[str, float]:
        """Make the step of a batch that `Samples.prepare` gave.

        Args:
            batch: its `step` counts from 0.
            factor: of the learning rate; below 1 after a rollback.

        Returns:
            The losses by name, means over the batch and over all devices.

        Raises:
            DivergedError: if a loss or a gradient is not finite. The weights are spoilt then.
        """
        config, step = self.config, batch.step
        self.generator.set_lr(step, factor)
        if step == config.warmup.steps > 0:
            self.generator.start_afresh()  # as released: the joint phase begins with a fresh Adam
        batch = self.stage.draw(batch)
        if self.recorder is None:
            losses = self._gradients(batch)
        else:
            losses = self.recorder(batch, step < config.warmup.steps)
        norms = [self.generator.step()]
        if config.even_phases:
            even_phases(self.stage.network.dirformer)
        if self.discriminator is not None and "adversarial" in losses:  # not in a warm-up
            if self.recorder is None:
                losses |= self._discriminator_gradients(self.discriminator)
            self.discriminator.set_lr(step, factor)
            norms.append(self.discriminator.step())
        self.ema.update(self.generator.module, step + 1)
        return _finite(losses, [norm for norm in norms if norm is not None], step + 1)

    @torch.no_grad()
    def require_sound(self, batch: Batch) -> None:
        """Check on a part of the last batch that what the weights restore is finite, for all devices.

        A step's losses are those of the weights before it, and huge weights may be finite themselves.

        Raises:
            DivergedError: if a loss is not finite.
        """
        part, step = _split(self.stage.draw(batch), self.config.accumulate)[0], batch.step + 1
        networks: list[Any] = [self.ema.network.eval()]
        if not self.config.compile:  # which would be compiled anew
            networks.append(self.generator.module)
        losses = [value for network in networks for value in self.stage.losses(part, network).values.values()]
        if not all(gathered(self.fabric, bool(torch.stack(losses).isfinite().all()))):
            raise DivergedError(f"what the network restores is not finite at step {step}")

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the generator's gradients; return its losses."""
        parts = _split(batch, self.config.accumulate)
        self.generator.zero_grad()
        losses: dict[str, Tensor] = {}
        self.restored = []
        discriminator = None if self.discriminator is None else self.discriminator.call
        for number, part in enumerate(parts, start=1):
            with ExitStack() as stack:
                if number < len(parts):
                    stack.enter_context(self.generator.unsynchronised())
                if self.discriminator is not None:
                    stack.enter_context(self.discriminator.unsynchronised())
                result = self.stage.losses(part, self.generator.call, discriminator)
                losses = _summed(losses, self._backward(result.values))
            if result.restored is not None:
                self.restored.append((part, result.restored))
        return losses

    def _discriminator_gradients(self, discriminator: Player) -> dict[str, Tensor]:
        """Compute the discriminator's gradients from the photos that this step restored; return its loss."""
        discriminator.zero_grad()
        losses: dict[str, Tensor] = {}
        for number, (part, restored) in enumerate(self.restored, start=1):
            with ExitStack() as stack:
                if number < len(self.restored):
                    stack.enter_context(discriminator.unsynchronised())
                values = self.stage.photo.of_discriminator(part, restored, discriminator.call)
                losses = _summed(losses, self._backward(values))
        return losses

    def _all_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Compute both, for a recording: no gradient depends on the other network's step."""
        losses = self._gradients(batch)
        if self.discriminator is None or "adversarial" not in losses:
            return losses
        return losses | self._discriminator_gradients(self.discriminator)

    def _backward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the gradient of the losses' share in a step; return their share of the values.

        The values are means over all devices, so that all devices see a loss that is not finite on one.
        """
        share = self.config.accumulate
        together = torch.stack([value.float() for value in losses.values()])
        means = together.detach().clone()
        if self.fabric.world_size > 1:
            means = self.fabric.all_reduce(means)
        self.fabric.backward(together.sum() / share)
        return dict(zip(losses, means / share, strict=True))


def require_finite(network: nn.Module, step: int) -> None:
    """Raise DivergedError if a weight is not finite after `step` steps."""
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        raise DivergedError(f"weights are not finite at step {step}")


def _finite(losses: dict[str, Tensor], norms: list[Tensor], step: int) -> dict[str, float]:
    """Return the losses as numbers. Only this waits for the device, once in a step."""
    numbers = torch.stack([*losses.values(), *norms]).tolist()
    values = dict(zip(losses, numbers, strict=False))
    if not all(math.isfinite(value) for value in values.values()):
        parts = ", ".join(f"{name} {value}" for name, value in values.items())
        raise DivergedError(f"loss is not finite at step {step} ({parts})")
    if not all(math.isfinite(norm) for norm in numbers[len(losses) :]):
        raise DivergedError(f"gradient is not finite at step {step}")
    return values


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
