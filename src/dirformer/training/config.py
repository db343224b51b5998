"""Recipes: what a training run is, as YAML over the defaults below.

Unknown keys and wrong types are refused in one line that names the nearest valid key. A recipe is found
by name among the shipped ones (`dirformer/recipes`) or by path; `key=value` overrides any field.
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dirformer.errors import ConfigError
from dirformer.networks.config import ModelConfig, preset


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Data(_Section):
    """Where samples come from."""

    train: Path | None = None
    """Folder or list file of clean photos, or folder of shards."""
    val: Path | None = None
    """Folder or list file of clean photos to validate on; None leaves validation out."""
    without: Path | None = None
    """List file of photos in `train` that must not be trained on; `val` is left out in any case."""
    degradation: str = "bicubic"
    """How LQ photos are made from clean ones."""
    patch: int = Field(48, ge=8)
    """Side of an LQ patch in pixels; a multiple of the network's size multiple."""
    batch: int = Field(8, ge=1)
    """Samples per device and step."""
    val_crop: int = Field(256, ge=32)
    """Validation sees the middle of each photo, at most this many GT pixels per side."""
    workers: int = Field(0, ge=0)
    """Processes that decode and crop; 0 works in the main process, fine as long as photos fit in memory."""


class Optimiser(_Section):
    """Adam and its learning rate over the steps."""

    rate: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["constant", "multistep", "cosine", "cycles"] = "cosine"
    milestones: tuple[int, ...] = ()
    """Steps at which `multistep` multiplies the rate by `gamma`."""
    cycles: tuple[tuple[int, float], ...] = ()
    """For `cycles`: cosines one after the other, each (steps, final rate), each from `rate`."""
    gamma: float = 0.5
    final_rate: float = Field(1e-6, ge=0)
    """Where `cosine` ends."""
    warmup: int = Field(0, ge=0)
    """Steps over which the rate rises linearly from 0."""
    clip: float | None = None
    """Largest norm of the gradient; None does not clip."""


class Loss(_Section):
    """Weights of the losses."""

    image: float = 1.0
    """L1 between restored photo and GT."""
    prior: float = 1.0
    """Stage 2: distance of the estimated IPR to stage 1's."""
    prior_kind: Literal["l1", "l2", "kl"] = "l1"
    """Eq. 13, 14 or 15."""
    perceptual: float = Field(0.0, ge=0)
    """VGG-19 maps before ReLU; needs `vgg19`."""
    vgg19: Path | None = None
    """The published ImageNet weight file of VGG-19."""
    adversarial: float = Field(0.0, ge=0)
    """Weight of a U-Net discriminator's verdict; above 0 a discriminator is trained beside."""


class Warmup(_Section):
    """Stage 2 begins with CPEN and denoiser alone, on the IPR's loss; then Adam starts afresh for all."""

    steps: int = Field(0, ge=0)
    rate: float = Field(2e-4, gt=0)
    gamma: float = 0.1
    every: int = Field(60_000, ge=1)
    """Steps after which the rate is multiplied by `gamma`, again and again."""


class Recovery(_Section):
    """What happens when a run diverges: back to the last good state, with a smaller rate."""

    tries: int = Field(3, ge=0)
    """How often before the run gives up; 0 gives up at once."""
    factor: float = Field(0.5, gt=0, lt=1)
    """The rate is multiplied by this each time."""
    collapse: float = Field(3.0, gt=0)
    """A validation score this far (dB) below the best so far counts as a collapse."""


class TrainConfig(_Section):
    """One run. A run is its folder: starting it again goes on where it stopped."""

    name: str
    """Names the run; results go to `out`/`name`."""
    stage: Literal[1, 2]
    model: str | dict[str, Any]
    """A preset's name, or {preset: NAME, field: value …}."""
    stage1: Path | None = None
    """Stage-1 weights, a file or a shipped name (stage 2 needs them): teacher, start of the DIRformer."""
    init: Path | None = None
    """Weights of the same stage, a file or a shipped name, to start from instead of random ones."""
    start: Literal["identity", "default"] = "identity"
    """Random start: with neutral guidance (`start_at_identity`), or PyTorch's defaults as released."""
    data: Data = Data()
    optimiser: Optimiser = Optimiser()
    warmup: Warmup = Warmup()
    training: Literal["joint", "separate"] = "joint"
    """Stage 2: all T steps and the DIRformer together, or (ablation V2) the denoiser at a random t with the
    DIRformer frozen as stage 1 left it."""
    adversary: Optimiser = Optimiser(rate=1e-4)
    """Of the discriminator, where there is one."""
    recovery: Recovery = Recovery()
    accumulate: int = Field(1, ge=1)
    """Backward passes per step: the batch of a step is `data.batch` × this."""
    checkpoint_activations: bool = False
    """Keep only what enters each block and compute its inside again: less memory, more time."""
    keep: int = Field(0, ge=0)
    """How many numbered copies of the averaged weights to keep beside best and last."""
    loss: Loss = Loss()
    steps: int = Field(1_000_000, ge=1)
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the weight average, which is what is validated and kept; 0 keeps the weights themselves."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: int = 0
    log_every: int = Field(50, ge=1)
    val_every: int = Field(5000, ge=1)
    save_every: int = Field(1000, ge=1)
    out: Path = Path("runs")
    device: str = "auto"
    compile: bool = False
    """torch.compile the DIRformer: minutes at the start. On a CPU the kernels of ours are faster than what
    it makes, and they are left out under it."""

    @field_validator("model")
    @classmethod
    def _buildable(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            model_config(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def network(self) -> ModelConfig:
        """The network to train."""
        return model_config(self.model)

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.out / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return self.model_dump(mode="json")


def model_config(value: str | dict[str, Any]) -> ModelConfig:
    """Return the preset of a name, or of {preset: NAME} with other fields changed."""
    if isinstance(value, str):
        return preset(value)
    fields = dict(value)
    if "preset" in fields:
        fields = preset(fields.pop("preset")).to_dict() | fields
    return ModelConfig.from_dict(fields)


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(p.name.removesuffix(".yaml") for p in _recipes().iterdir() if p.name.endswith(".yaml"))


def load_recipe(recipe: str, overrides: list[str] | None = None) -> TrainConfig:
    """Read a recipe by name or path and apply overrides such as `data.batch=16`.

    Raises:
        ConfigError: one line for the first thing that is wrong: no such recipe, no YAML, an unknown key
            (with the nearest valid one), a wrong type or value.
    """
    values = _read(recipe)
    for override in overrides or []:
        _apply(values, override)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"recipe {recipe}: {_first(error)}") from None


def _recipes() -> Any:
    return resources.files("dirformer") / "recipes"


def _read(recipe: str) -> dict[str, Any]:
    shipped = _recipes() / f"{recipe}.yaml"
    path = Path(recipe)
    if shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise ConfigError(f"no recipe {recipe!r}; give a .yaml file or one of: {', '.join(recipe_names())}")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {recipe} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {recipe} is empty; expected fields such as name, stage, model")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not key=value, for example data.batch=16")
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if isinstance(child, str) and parent == "model":  # model.dim=32 on top of a preset's name
            child = values[parent] = {"preset": child}
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent} has no fields of its own")
        values = child
    values[last] = yaml.safe_load(text) if text else None


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "dict[", "str"))]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        section: Any = TrainConfig
        for part in place[:-1]:
            section = section.model_fields[part].annotation
        near = difflib.get_close_matches(place[-1], section.model_fields, n=1, cutoff=0.0)
        return f"unknown field {name}; the nearest valid one is {near[0]}"
    received = "" if problem["type"] == "missing" else f" is {problem['input']!r}"
    return f"{name}{received}: {problem['msg'].removeprefix('Value error, ')}"
