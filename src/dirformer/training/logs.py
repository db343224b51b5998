"""Where the numbers of a run go: JSONL always, TensorBoard and Weights & Biases beside it."""

from __future__ import annotations

import importlib.util
import numbers
from typing import Any, Protocol

from dirformer.ground.errors import MissingExtraError
from dirformer.ground.journal import Journal
from dirformer.training.config import TrainConfig


class Curves(Protocol):
    """Takes numbers by name at a step."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        ...

    def close(self) -> None:
        """Write out what is held back."""
        ...


class Log:
    """The records of a run. Only one device of many keeps them; the others' logs are not `active`."""

    def __init__(self, config: TrainConfig, *, active: bool = True) -> None:
        self.journal = Journal(config.folder / "journal.jsonl") if active else None
        self.curves = [_CURVES[name](config) for name in _kinds(config)] if active else []

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a record; its numbers are also points of the curves `kind/name`."""
        if self.journal is None:
            return
        self.journal.write(kind, step=step, **values)
        points = {f"{kind}/{k}": float(v) for k, v in values.items() if isinstance(v, numbers.Real)}
        for curves in self.curves:
            curves.write(step, points)

    def close(self) -> None:
        """Write out what is held back."""
        for curves in self.curves:
            curves.close()


def _kinds(config: TrainConfig) -> tuple[str, ...]:
    if config.log is None:
        return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    return config.log


class _TensorBoard:
    """Event files in the run's folder: tensorboard --logdir runs."""

    def __init__(self, config: TrainConfig) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise MissingExtraError("tensorboard", "train") from None
        self.writer: Any = SummaryWriter(str(config.folder / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """A run of the same name on wandb.ai, or offline as WANDB_MODE says. Not tested here."""

    def __init__(self, config: TrainConfig) -> None:
        try:
            import wandb
        except ModuleNotFoundError:
            raise MissingExtraError("wandb", "wandb") from None
        self.run: Any = wandb.init(
            project="dirformer",
            id=config.name,
            name=config.name,
            dir=str(config.folder),
            config=config.to_dict(),
            resume="allow",
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


_CURVES: dict[str, type[_TensorBoard | _WeightsAndBiases]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}
