"""A client that uses every public name. `mypy --strict` checks it as a user's program would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import dirformer
from dirformer import (
    CheckpointError,
    ConfigError,
    DataError,
    DiffIRS1,
    DiffIRS2,
    DirformerError,
    ExportError,
    MissingExtraError,
    ModelConfig,
    OutputError,
    PhotoError,
    RestoreOptions,
    Restorer,
    TrainConfig,
    TrainingError,
    degrade,
    evaluate,
    export,
    from_pretrained,
    load,
    preset,
    push_to_hub,
    restore,
    restore_folder,
    save_pretrained,
    train,
)


def files(folder: Path) -> list[Path]:
    """Files and folders by `str` and `Path`."""
    one: Path = restore("photo.jpg", folder / "out.png", task="realsr", overwrite=True)
    many: list[Path] = restore_folder(str(folder), "restored")
    return [one, *many]


def arrays() -> torch.Tensor:
    """Every form of a photo."""
    restorer = Restorer("sr-x4-compact", RestoreOptions(max_memory="1GiB"))
    photo = np.zeros((8, 8, 3), dtype=np.uint8)
    forms = (photo, torch.zeros(3, 8, 8), Image.fromarray(photo), "photo.jpg", Path("photo.jpg"))
    results: list[torch.Tensor] = [restorer.restore(form) for form in forms]
    prior: torch.Tensor = restorer.prior(photo)
    lq: torch.Tensor = degrade(photo, "realsr-graded", scale=1, seed=1)
    return torch.stack([*results, lq, prior])


def networks() -> tuple[ModelConfig, DiffIRS1 | DiffIRS2, DiffIRS1]:
    """Configs and networks."""
    config: ModelConfig = preset("sr-x4-compact")
    return config, load("sr-x4-compact"), DiffIRS1(config)


def runs() -> float:
    """Recipes and scores."""
    weights: Path = train(TrainConfig.load("sr-x4-compact-stage1", ["steps=1"]))
    result = evaluate([weights, "bicubic"], "LR", Path("HR"), "sr")
    largest: float = export("sr-x4-compact", "sr.onnx", precision="float16", seed=0).largest
    return largest + float(result["models"][0]["mean"]["psnr_y"])


def shared() -> str:
    """Folders and the hub."""
    folder: Path = save_pretrained("sr-x4-compact", "mine", licence="apache-2.0", overwrite=True)
    return push_to_hub(from_pretrained(folder, offline=True), "owner/name", private=True)


def errors(error: DirformerError) -> str:
    """The family, and the version."""
    kinds = (
        CheckpointError,
        ConfigError,
        DataError,
        MissingExtraError,
        OutputError,
        PhotoError,
        TrainingError,
        ExportError,
    )
    return f"{dirformer.__version__}: {isinstance(error, kinds)}"
