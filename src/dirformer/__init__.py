"""dirformer: image restoration with DiffIR.

The names below are the public ones; the rest is reachable by its room and documented there. Importing the
package loads no network and opens no device: heavy names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dirformer.degradations.degrade import degrade
    from dirformer.evaluation.run import evaluate
    from dirformer.experiments.train import train
    from dirformer.ground.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DirformerError,
        ExportError,
        MissingExtraError,
        OutputError,
        PhotoError,
        TrainingError,
    )
    from dirformer.inference.files import restore, restore_folder
    from dirformer.inference.options import RestoreOptions
    from dirformer.inference.restorer import Restorer
    from dirformer.interop.export import export
    from dirformer.networks.config import ModelConfig
    from dirformer.networks.diffir import DiffIRS1, DiffIRS2
    from dirformer.networks.presets import preset
    from dirformer.training.config import TrainConfig
    from dirformer.weights.load import load
    from dirformer.weights.sharing import from_pretrained, push_to_hub, save_pretrained

__version__ = "0.1.0"

_ERRORS = (
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DirformerError",
    "ExportError",
    "MissingExtraError",
    "OutputError",
    "PhotoError",
    "TrainingError",
)
_HOMES = {
    "DiffIRS1": "dirformer.networks.diffir",
    "DiffIRS2": "dirformer.networks.diffir",
    "ModelConfig": "dirformer.networks.config",
    "RestoreOptions": "dirformer.inference.options",
    "Restorer": "dirformer.inference.restorer",
    "TrainConfig": "dirformer.training.config",
    "degrade": "dirformer.degradations.degrade",
    "evaluate": "dirformer.evaluation.run",
    "export": "dirformer.interop.export",
    "from_pretrained": "dirformer.weights.sharing",
    "load": "dirformer.weights.load",
    "preset": "dirformer.networks.presets",
    "push_to_hub": "dirformer.weights.sharing",
    "restore": "dirformer.inference.files",
    "restore_folder": "dirformer.inference.files",
    "save_pretrained": "dirformer.weights.sharing",
    "train": "dirformer.experiments.train",
} | dict.fromkeys(_ERRORS, "dirformer.ground.errors")

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DiffIRS1",
    "DiffIRS2",
    "DirformerError",
    "ExportError",
    "MissingExtraError",
    "ModelConfig",
    "OutputError",
    "PhotoError",
    "RestoreOptions",
    "Restorer",
    "TrainConfig",
    "TrainingError",
    "__version__",
    "degrade",
    "evaluate",
    "export",
    "from_pretrained",
    "load",
    "preset",
    "push_to_hub",
    "restore",
    "restore_folder",
    "save_pretrained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dirformer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
