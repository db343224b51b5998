"""A weight file of either kind, ours or the authors' → a network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dirformer.ground import checks
from dirformer.ground.errors import CheckpointError
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2
from dirformer.networks.prior import CPEN
from dirformer.tasks import find_task
from dirformer.weights import checkpoints
from dirformer.weights.authors import from_authors
from dirformer.weights.catalog import find_weights
from dirformer.weights.checkpoints import Header, Inference, Weights
from dirformer.weights.unpickle import read_foreign

PICKLES = (".pth", ".ckpt", ".pt")


def open_weights(path: Path) -> Weights:
    """Read a weight file, once.

    Raises:
        CheckpointError: if it is missing, foreign, damaged, incomplete or not finite.
    """
    if path.suffix not in PICKLES:
        return checkpoints.read(path)
    model = from_authors(read_foreign(path), str(path))
    inference = Inference(patch=find_task(model.config.task).patch)
    return Weights(path, Header(model.stage, model.config, inference), model)


def load(model: str | Path) -> DiffIR:
    """Load a network, on the CPU, in float32, ready for inference.

    Args:
        model: a shipped model's name, a weight file, ours or the authors', or what else `find_weights` takes,
            such as `owner/name` on the Hugging Face Hub.

    Raises:
        CheckpointError: as `open_weights`; also if the name is unknown.
    """
    named = isinstance(model, str) or checks.path("model", model).is_dir()
    return open_weights(find_weights(model) if named else Path(model)).model


def load_stage1(path: Path) -> DiffIRS1:
    """Load a stage-1 network; CheckpointError says what the file is if it is not one."""
    model = load(path)
    if not isinstance(model, DiffIRS1):
        raise CheckpointError(f"{path} is a stage-2 network; expected stage 1 (one whose CPEN sees the GT)")
    return model


def load_teacher(path: Path) -> tuple[ModelConfig, CPEN, dict[str, Tensor]]:
    """Load what stage 2 learns from; see `checkpoints.read_teacher`. An authors' stage-1 file will do."""
    if path.suffix not in PICKLES:
        return checkpoints.read_teacher(path)
    model = load_stage1(path)
    return model.config, model.cpen, dict(model.dirformer.state_dict())


def load_stage2(path: Path) -> DiffIRS2:
    """Load a stage-2 network; CheckpointError says what the file is if it is not one."""
    return require_stage2(open_weights(path))


def require_stage2(weights: Weights) -> DiffIRS2:
    """Return the stage-2 network of a file; CheckpointError says what the file is if it has none."""
    if not isinstance(weights.model, DiffIRS2):
        raise CheckpointError(
            f"{weights.path} is a stage-1 network, which needs the clean photo; "
            "expected stage 2: train one from it with stage1=FILE"
        )
    return weights.model
