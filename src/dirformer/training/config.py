"""Recipes: what a training run is, as YAML over the defaults below.

Unknown keys and wrong types are refused in one line that names the nearest valid key. A recipe is found
by name among the shipped ones (`dirformer/recipes`) or by path; `key=value` overrides any field.
"""

from __future__ import annotations

import difflib
import math
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from dirformer.ground import places
from dirformer.ground.errors import ConfigError
from dirformer.ground.mirror import room_of
from dirformer.ground.yaml_text import QUOTE, Place, cut, find_yaml, parse_yaml, short
from dirformer.networks.config import Fill, ModelConfig
from dirformer.networks.presets import preset
from dirformer.weights.checkpoints import Inference


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _public(value: Any) -> Any:
    if isinstance(value, str) and places.shown(value) != value:
        raise ValueError("an address with a password or a query; a recipe is kept: give them to fsspec")
    return value


Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]+://")]
"""Any place that fsspec knows."""


class Data(_Section):
    """Where samples come from."""

    train: Address | Path | None = None
    """Folder or list file of clean photos, or folder of shards; shards also at an address."""
    lq: Path | None = None
    """Folder of degraded photos named like those in `train`, taken as they are; in inpainting, of masks."""
    pairs: Path | None = None
    """List file of further pairs (LQ and GT, two names a line), mixed with the degraded clean photos."""
    pairs_share: float = Field(0.25, gt=0, le=1)
    """Share of the samples that are taken from `pairs`."""
    val: Path | None = None
    """Folder or list file of clean photos to validate on; None leaves validation out."""
    val_lq: Path | None = None
    """Folder of degraded photos named like those in `val`; None degrades them, the same way every time."""
    without: Path | None = None
    """List file of photos in `train` that must not be trained on; `val` is left out in any case."""
    degradation: str = "bicubic"
    """How LQ photos are made from clean ones."""
    degrade_in: Literal["device", "workers"] = "device"
    """Where clean photos are degraded: a batch at a time on the device, or one by one in the `workers`, on
    as many CPU cores; samples are the same."""
    masks: tuple[str, ...] = ("training",)
    """Inpainting: settings by which holes are drawn, each as often."""
    fills: tuple[Fill, ...] | None = None
    """Inpainting: fillings that the network is shown, each as often; None: the one that its `fill` says."""
    val_masks: tuple[str, ...] = ("thick", "thin")
    """Inpainting: each validation photo is filled once with each."""
    patch: int = Field(48, ge=8)
    """Side of an LQ patch in pixels; a multiple of the network's size multiple."""
    batch: int = Field(8, ge=1)
    """Samples per device and step."""
    progressive: tuple[tuple[int, int, int], ...] = ()
    """Later patches and batches: (first step, patch, batch), in order."""
    crop: int | None = Field(None, ge=16)
    """Side of the GT crops that are degraded, the patch then cut at random; None: patch and margin."""
    pool: int = Field(0, ge=0)
    """Earlier pairs that are kept and mixed with new ones, as in the released real-world recipes."""
    usm: bool = False
    """Sharpened photos are degraded and are the target (V2 of the real-world recipes)."""
    augment: Literal["turns", "flips", "none"] = "turns"
    """Eight turns and flips, flips left to right, or neither."""
    val_crop: int = Field(256, ge=32)
    """Validation sees the middle of each photo, at most this many GT pixels per side."""
    cache: float = Field(2.0, ge=0)
    """GiB of decoded photos that are kept in memory (by each worker)."""
    workers: int = Field(0, ge=0)
    """Processes that decode and crop (and degrade, see `degrade_in`); 0 works in the main process, fine as
    long as photos fit in memory."""

    @property
    def phases(self) -> list[tuple[int, int, int]]:
        """(first step, patch, batch) of each phase of the progressive schedule; the first is from step 0."""
        return [(0, self.patch, self.batch), *self.progressive]

    def phase_at(self, step: int) -> tuple[int, int, int]:
        """Return the phase that a step belongs to."""
        return [phase for phase in self.phases if step >= phase[0]][-1]

    @field_validator("train", mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        return _public(value)

    @field_validator("progressive")
    @classmethod
    def _in_order(cls, value: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        starts = [0, *(start for start, _, _ in value)]
        if starts != sorted(set(starts)):
            raise ValueError("expected first steps above 0, each larger than the one before")
        return value


class Optimiser(_Section):
    """Adam or Muon, and its learning rate over the steps."""

    kind: Literal["adam", "muon"] = "adam"
    """For `muon` see `dirformer.training.optimisers`; `betas` are then those of the Adam inside it."""
    lr: float = Field(2e-4, gt=0)
    """Learning rate at the start of the schedule."""
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["constant", "multistep", "cosine", "cycles"] = "cosine"
    milestones: tuple[int, ...] = ()
    """Steps at which `multistep` multiplies `lr` by `gamma`."""
    cycles: tuple[tuple[int, float], ...] = ()
    """For `cycles`: cosines one after the other, each (steps, final lr), each from `lr`."""
    gamma: float = 0.5
    final_lr: float = Field(1e-6, ge=0)
    """Learning rate at the end of `cosine`."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of this network's gradient; None does not clip."""
    batch_rule: Literal["none", "sqrt", "linear"] = "none"
    """`linear`: the learning rate is multiplied by a phase's batch over the first batch; `sqrt`: by the root
    of that; `none`: by 1. Phases are those of `data.progressive`."""


class Loss(_Section):
    """Weights of the losses."""

    image: float = 1.0
    """Distance between restored photo and GT."""
    image_kind: Literal["l1", "psnr"] = "l1"
    """`l1` as in the paper; `psnr`: −PSNR in dB of each sample, whose slope is some hundred times as large
    (`image: 0.01`)."""
    psnr_floor: float = Field(1e-10, gt=0)
    """`psnr`: added to each sample's mean squared error. With untouched samples among damaged ones, 1e-4 or
    more keeps them from outweighing all others."""
    known: float = 10.0
    """Inpainting: factor of `image` outside holes."""
    hole: float = 0.0
    """Inpainting: factor of `image` in holes; 0 as released, where a discriminator teaches the holes."""
    prior: float = 1.0
    """Stage 2: distance of the estimated IPR to stage 1's."""
    prior_kind: Literal["l1", "l2", "kl"] = "l1"
    """Eq. 13, 14 or 15."""
    perceptual: float = Field(0.0, ge=0)
    """VGG-19 maps before ReLU; needs `vgg19`."""
    perceptual_layers: Literal["five", "conv5_4"] = "five"
    """Which maps: Real-ESRGAN's five, weighted (released), or ESRGAN's conv5_4 alone."""
    vgg19: Path | None = None
    """The published ImageNet weight file of VGG-19."""
    resnet: float = Field(0.0, ge=0)
    """Maps of a dilated ResNet-50 (LaMa); needs `resnet50`."""
    resnet50: Path | None = None
    """The published weight file of the ADE20K encoder (encoder_epoch_20.pth)."""
    shift_tolerant: float = Field(0.0, ge=0)
    """ST-LPIPS; needs `stlpips`, or the package stlpips-pytorch, which brings the file."""
    stlpips: Path | None = None
    """The published weight file of ST-LPIPS (alex_shift_tolerant.pth)."""
    adversarial: float = Field(0.0, ge=0)
    """Weight of the adversarial loss; above 0 a discriminator is trained too."""
    discriminator: Literal["unet", "patch"] = "unet"
    """`unet`: every pixel, vanilla loss (super-resolution). `patch`: LaMa's, non-saturating with R1."""
    adversarial_kind: Literal["vanilla", "relativistic"] = "vanilla"
    """With `discriminator: unet`: real or not (released), or more real than the other kind on average
    (ESRGAN)."""
    discriminator_dim: int = Field(64, ge=4)
    """Channels of the discriminator's first layer."""
    feature_matching: float = Field(0.0, ge=0)
    """Distance of the patch discriminator's maps of restored photo and GT."""


class Warmup(_Section):
    """Stage 2 begins with CPEN and denoiser alone, on the IPR's loss. Then the optimiser is reset."""

    steps: int = Field(0, ge=0)
    lr: float = Field(2e-4, gt=0)
    """Learning rate at the start."""
    gamma: float = 0.1
    every: int = Field(60_000, ge=1)
    """After each `every` steps the learning rate is multiplied by `gamma`."""


class Recovery(_Section):
    """What happens when training diverges: back to the last good state, with a smaller learning rate."""

    tries: int = Field(3, ge=0)
    """How often before the run gives up; 0 gives up at once."""
    factor: float = Field(0.5, gt=0, lt=1)
    """The learning rate is multiplied by this each time."""
    collapse: float = Field(3.0, gt=0)
    """A validation score this far (dB) below the best so far counts as a collapse."""


class TrainConfig(_Section):
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
    accumulate: int = Field(1, ge=1)
    """Backward passes per step: the batch of a step is `data.batch` × this."""
    checkpoint_activations: bool = False
    """Keep only what enters each block and compute its inside again: less memory, more time."""
    keep: int = Field(0, ge=0)
    """How many numbered copies of the EMA weights to keep beside best and last."""
    loss: Loss = Loss()
    steps: int = Field(1_000_000, ge=1, le=10**9)
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

    @field_validator("out", "stage1", "init", "transfer", mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        return _public(value)

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


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        section: Any = TrainConfig
        for part in place[:-1]:
            section = section.model_fields[part].annotation
        near = difflib.get_close_matches(place[-1], section.model_fields, n=1, cutoff=0.0)
        return f"unknown field {cut('.'.join(place))}; the nearest valid one is {near[0]}"
    branches = ("function-", "dict[", "str", "int", "literal[")  # of a field that takes several types
    name = cut(".".join(part for part in place if not part.startswith(branches)))
    received = "" if problem["type"] == "missing" else f" is {short(problem['input'])}"
    return f"{name}{received}: {cut(problem['msg'].removeprefix('Value error, '), 3 * QUOTE)}"
