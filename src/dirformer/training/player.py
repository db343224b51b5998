"""One network in training: generator and discriminator are both a `Player`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dirformer.training.devices import Methods, Wrapped
from dirformer.training.optimisers import optimiser_of
from dirformer.training.sections import Optimiser


class Player:
    """A module, its wrapper for devices and precision, its optimiser, its clip and its learning rate."""

    def __init__(
        self, module: nn.Module, config: Optimiser, fabric: Any, schedule: Callable[[int], float]
    ) -> None:
        """Set a module up for training.

        Args:
            module: the network; Fabric moves it to its device.
            config: the optimiser and the clip of this network.
            fabric: a launched Fabric.
            schedule: the learning rate as a function of the step (from 0).
        """
        self.module, self.limit, self.fabric, self.schedule = module, config.clip, fabric, schedule
        self.scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        fused = fabric.device.type == "cuda" and not self.scaled
        optimiser = optimiser_of(module, config, fused=fused)
        self.wrapper, self.optimiser = fabric.setup(Methods(module), optimiser)
        self.call = Wrapped(module, self.wrapper)
        """The network as the losses call it: through the wrapper."""

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def set_lr(self, step: int, factor: float) -> None:
        """Set the learning rate to `factor` × the schedule's at `step`."""
        for group in self.optimiser.param_groups:
            group["lr"] = factor * self.schedule(step)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimiser.zero_grad()

    def unsynchronised(self) -> contextlib.AbstractContextManager[Any]:
        """Within this, gradients are not averaged over devices: not yet, or not wanted."""
        return self.fabric.no_backward_sync(self.wrapper)

    def step(self) -> Tensor | None:
        """Clip the gradient, then change the weights.

        Returns:
            The norm of the gradient before it was clipped; None where it is not clipped, or where float16 is
            used: its scaler leaves out a step without a finite gradient by itself.
        """
        norm = None
        if self.limit is not None:
            norm = self.fabric.clip_gradients(
                self.wrapper, self.optimiser, max_norm=self.limit, error_if_nonfinite=False
            )
        self.optimiser.step()
        return None if self.scaled else norm

    def start_afresh(self) -> None:
        """Forget what the optimiser has gathered, as when a phase with other losses begins."""
        self.optimiser.optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and the optimiser's state."""
        return {"weights": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.module.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
