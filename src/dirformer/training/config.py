"""Recipes: what a training run is, as YAML over the defaults below.

Unknown keys and wrong types are refused in one line that names the nearest valid key. A recipe is found
by name among the shipped ones (`dirformer/recipes`) or by path; `key=value` overrides any field.
"""

from __future__ import annotations

import difflib
import math
import re
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from dirformer.ground import places
from dirformer.ground.errors import ConfigError
from dirformer.ground.mirror import room_of
from dirformer.ground.yaml_text import QUOTE, Place, cut, find_yaml, parse_yaml, short
from dirformer.networks.config import ModelConfig
from dirformer.networks.presets import preset
from dirformer.training.sections import (
    MOST,
    Address,
    Data,
    Loss,
    Optimiser,
    Recovery,
    Section,
    Warmup,
    without_secrets,
)
from dirformer.weights.checkpoints import Inference

MOST_STEPS = 10**9
"""Steps of a recipe at most."""


class TrainConfig(Section):
    """One run. A run is its folder: the same recipe again goes on where the run stopped."""

    name: str
    """Names the run; results go to `out`/`name`."""
    stage: Literal[1, 2]
    model: str | dict[str, Any]
    """A preset's name, or {preset: NAME, field: value …}."""
    stage1: Address | Path | None = None
    """Stage-1 weights, a file, an address or a shipped name (stage 2 needs them): teacher, start of the
    DIRformer."""
    init: Address | Path | None = None
    """Weights of the same stage and network, likewise, to start from."""
    transfer: Address | Path | None = None
    """Weights of another task or stage: whatever tensors have the same name and shape are taken over."""
    start: Literal["identity", "default"] = "identity"
    """Random start: with neutral guidance (`start_at_identity`), or PyTorch's defaults as released."""
    data: Data = Data()
    optimiser: Optimiser = Optimiser()
    warmup: Warmup = Warmup()
    training: Literal["joint", "separate"] = "joint"
    """Stage 2: all T steps and the DIRformer together, or (ablation V2) the denoiser at a random t with the
    DIRformer frozen as stage 1 left it."""
    discriminator: Optimiser = Optimiser(lr=1e-4)
    """The discriminator's optimiser; used where `loss.adversarial` is above 0."""
    recovery: Recovery = Recovery()
    accumulate: int = Field(1, ge=1, le=MOST)
    """Backward passes per step: the batch of a step is `data.batch` × this."""
    checkpoint_activations: bool = False
    """Keep only what enters each block and compute its inside again: less memory, more time."""
    keep: int = Field(0, ge=0)
    """How many numbered copies of the EMA weights to keep beside best and last."""
    loss: Loss = Loss()
    steps: int = Field(1_000_000, ge=1, le=MOST_STEPS)
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the exponential moving average (EMA) of the weights. The EMA is validated and kept; 0 keeps
    the weights themselves."""
    even_phases: bool = False
    """Keep the means of a pixel shuffle's phases equal (`training.phases`): no grid in flat areas."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "32-true"
    """`auto`: bf16-mixed where the device computes in it, else 32-true."""
    seed: int = Field(0, ge=0, lt=2**32)
    context: Literal["image", "window", "window-prior"] = "image"
    """What attention is to be taken over when the network restores photos; see `RestoreOptions.context`."""
    log: tuple[Literal["tensorboard", "wandb"], ...] | None = None
    """Curves beside journal.jsonl; None writes TensorBoard's where it is installed."""
    log_every: int = Field(50, ge=1)
    val_every: int = Field(5000, ge=1)
    save_every: int = Field(1000, ge=1)
    out: Address | Path = Path("runs")
    """Folder of runs, or its address; each run is a folder in it."""
    device: str = "auto"
    compile: bool | Literal["blocks"] = False
    """torch.compile the DIRformer: true does so as a whole (minutes at the start), `blocks` one block of each
    size. On a CPU the kernels of ours are faster than what it makes, and they are left out under it."""
    graphs: bool = False
    """Record the kernels of a step once for each shape of a batch and launch them together: on a fast GPU
    small networks otherwise wait for Python most of the time. One CUDA device."""
    devices: int | Literal["auto"] = 1
    """Devices of each node that share a step, each with `data.batch` samples; auto takes all there are."""
    nodes: int | Literal["auto"] = 1
    """Machines that share a step and see the same files; auto takes what torchrun or SLURM has started."""

    @field_validator("devices", "nodes")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if value != "auto" and int(value) < 1:
            raise ValueError("expected auto or a number of at least 1")
        return value

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,100}", value) or value.strip(". ") == "":
            raise ValueError("expected the name of a folder, of up to 100 characters, without / and \\")
        return value

    @model_validator(mode="after")
    def _of_the_stage(self) -> TrainConfig:
        set_ones = {
            "warmup.steps": self.warmup.steps > 0,
            "training=separate": self.training == "separate",
            "stage1": self.stage1 is not None,
        }
        for field, there in set_ones.items():
            if self.stage == 1 and there:
                raise ValueError(f"{field} is of stage 2 and has no effect in stage 1; leave it out")
        return self

    @field_validator("out", "stage1", "init", "transfer", mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        return without_secrets(value)

    @field_validator("out")
    @classmethod
    def _writable(cls, value: str | Path) -> str | Path:
        try:
            places.Place.of(value).require_writable()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("model")
    @classmethod
    def _buildable(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            model_config(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def stated_devices(self) -> int:
        """Devices × nodes as far as the recipe says them; `auto` counts as one."""
        return math.prod(1 if number == "auto" else number for number in (self.devices, self.nodes))

    @property
    def network_config(self) -> ModelConfig:
        """Config of the network to train."""
        return model_config(self.model)

    @property
    def inference(self) -> Inference:
        """What the weight file says of its best use: the recipe's context and its last patches."""
        return Inference(self.context, self.data.phases[-1][1])

    @property
    def folder(self) -> Path:
        """Folder of the run, `out`/`name`; for one at an address, where this process makes its files."""
        out = room_of(self.out) if isinstance(self.out, str) else self.out
        return out / self.name

    @property
    def place(self) -> places.Place | None:
        """Where the files of a run at an address are kept; None for a run in a folder."""
        return places.Place(self.out).below(self.name) if isinstance(self.out, str) else None

    def changed(self, **fields: Any) -> TrainConfig:
        """Return the recipe with other fields, checked like those of a file. Raises ConfigError."""
        try:
            return TrainConfig.model_validate(self.model_dump() | fields)
        except ValidationError as error:
            raise ConfigError(f"recipe {cut(self.name)}: {_first(error)}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, recipe: str | Path, overrides: list[str] | None = None) -> TrainConfig:
        """Read a recipe by name or file, and apply overrides such as `data.batch=16`; see `load_recipe`."""
        return load_recipe(str(recipe), overrides)


def model_config(value: str | dict[str, Any]) -> ModelConfig:
    """Return the preset of a name, or of {preset: NAME} with other fields changed."""
    if isinstance(value, str):
        return preset(value)
    fields = dict(value)
    if "preset" in fields:
        name = fields.pop("preset")
        if not isinstance(name, str):
            raise ConfigError(f"model.preset is {short(name)}; expected the name of a preset")
        fields = preset(name).to_dict() | fields
    if not all(isinstance(key, str) for key in fields):
        raise ConfigError(f"model has the fields {short(list(fields))}; expected names")
    return ModelConfig.from_dict(fields)


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(p.name.removesuffix(".yaml") for p in _recipes().iterdir() if p.name.endswith(".yaml"))


def load_recipe(recipe: str, overrides: list[str] | None = None) -> TrainConfig:
    """Read a recipe by name or path and apply overrides such as `data.batch=16`.

    Where text or a path is expected, `2024`, `2024-01-31` and `@photos` are text.

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
        raise ConfigError(f"recipe {cut(recipe)}: {_first(error)}") from None


def is_text(place: Place) -> bool:
    """Return whether a field of a recipe, given by its keys, is text or a path."""
    section: Any = TrainConfig
    for part in place:
        fields = getattr(section, "model_fields", {})
        if part not in fields:
            return False
        section = fields[part].annotation
    return set(get_args(section) or (section,)) <= {str, Path, Address, NoneType}


def override_value(key: str, text: str) -> Any:
    """Return the value of an override `key=text`: YAML, or the text itself where a field is text."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    if text in ("", "null", "~"):
        return None
    if is_text(tuple(key.split("."))) and not quoted:
        return text
    return parse_yaml(text, f"override {cut(key)}")


def _recipes() -> Any:
    return resources.files("dirformer") / "recipes"


def _read(recipe: str) -> dict[str, Any]:
    source = f"recipe {cut(recipe)}"
    values = parse_yaml(find_yaml(recipe, _recipes(), "recipe", recipe_names()), source, is_text)
    if not isinstance(values, dict):
        raise ConfigError(f"{source} has no fields; expected some such as name, stage, model")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {short(override)} is not key=value, for example data.batch=16")
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if isinstance(child, str) and parent == "model":  # model.dim=32 on top of a preset's name
            child = values[parent] = {"preset": child}
        if not isinstance(child, dict):
            raise ConfigError(f"override {short(override)}: {cut(parent)} has no fields of its own")
        values = child
    values[last] = override_value(key, text)


_SECTIONS = [
    name
    for name, field in TrainConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
]


def _nearest(place: list[str]) -> str:
    """Return the dotted name of the field that is most like an unknown one, of its own section first."""
    sections = ["", *_SECTIONS]
    sections.sort(key=lambda section: section != ".".join(place[:-1]))
    found, best = "", -1.0
    for section in sections:
        fields: Any = TrainConfig.model_fields
        fields = fields[section].annotation.model_fields if section else fields
        for name in fields:
            likeness = difflib.SequenceMatcher(None, place[-1], name).ratio()
            if likeness > best:
                found, best = f"{section}.{name}" if section else name, likeness
    return found


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown field {cut('.'.join(place))}; the nearest valid one is {_nearest(place)}"
    if problem["type"] == "value_error" and (not place or place in [[name] for name in _SECTIONS]):
        # of several fields, which it names
        return ": ".join([*place, cut(problem["msg"].removeprefix("Value error, "), 3 * QUOTE)])
    branches = ("function-", "dict[", "str", "int", "literal[")  # of a field that takes several types
    name = cut(".".join(part for part in place if not part.startswith(branches)))
    received = "" if problem["type"] == "missing" else f" is {short(problem['input'])}"
    return f"{name}{received}: {cut(problem['msg'].removeprefix('Value error, '), 3 * QUOTE)}"
