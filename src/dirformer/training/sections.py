"""The sections of a recipe: data, optimisers, losses, warm-up and recovery, with their bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from dirformer.ground import places
from dirformer.networks.config import Fill

MOST = 2**16
"""Bound of what no machine has more of: pixels of a side, samples of a batch."""


class Section(BaseModel):
    """Part of a recipe: no unknown fields, no NaN, never changed in place."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def without_secrets(value: Any) -> Any:
    """Return a value as it is; ValueError if it is an address with a password or a query."""
    if isinstance(value, str) and places.shown(value) != value:
        raise ValueError("an address with a password or a query; a recipe is kept: give them to fsspec")
    return value


Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]+://")]
"""Any place that fsspec knows."""


class Data(Section):
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
    masks: tuple[str, ...] = Field(("training",), min_length=1)
    """Inpainting: settings by which holes are drawn, each as often."""
    fills: tuple[Fill, ...] | None = Field(None, min_length=1)
    """Inpainting: fillings that the network is shown, each as often; None: the one that its `fill` says."""
    val_masks: tuple[str, ...] = Field(("thick", "thin"), min_length=1)
    """Inpainting: each validation photo is filled once with each."""
    patch: int = Field(48, ge=8, le=MOST)
    """Side of an LQ patch in pixels; a multiple of the network's size multiple."""
    batch: int = Field(8, ge=1, le=MOST)
    """Samples per device and step."""
    progressive: tuple[tuple[int, int, int], ...] = ()
    """Later patches and batches: (first step, patch, batch), in order, with the bounds of those above."""
    crop: int | None = Field(None, ge=16, le=MOST)
    """Side of the GT crops that are degraded, the patch then cut at random; None: patch and margin."""
    pool: int = Field(0, ge=0, le=MOST)
    """Earlier pairs that are kept and mixed with new ones, as in the released real-world recipes."""
    usm: bool = False
    """Sharpened photos are degraded and are the target (V2 of the real-world recipes)."""
    augment: Literal["turns", "flips", "none"] = "turns"
    """Eight turns and flips, flips left to right, or neither."""
    val_crop: int = Field(256, ge=32, le=MOST)
    """Validation sees the middle of each photo, at most this many GT pixels per side."""
    cache: float = Field(2.0, ge=0, le=MOST)
    """GiB of decoded photos that are kept in memory (by each worker)."""
    workers: int = Field(0, ge=0, le=1024)
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
        return without_secrets(value)

    @field_validator("progressive")
    @classmethod
    def _in_order(cls, value: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        starts = [0, *(start for start, _, _ in value)]
        if starts != sorted(set(starts)):
            raise ValueError("expected first steps above 0, each larger than the one before")
        if any(not (8 <= patch <= MOST and 1 <= batch <= MOST) for _, patch, batch in value):
            raise ValueError(f"expected patches of 8 to {MOST} pixels and batches of 1 to {MOST}")
        return value

    @model_validator(mode="after")
    def _of_one_kind(self) -> Data:
        """A fault of a later phase is said at once, not when that phase begins."""
        patches, batches = ({phase[place] for phase in self.phases} for place in (1, 2))
        if self.crop is not None and len(patches) > 1:
            raise ValueError("progressive changes the patch, which does not go with crop")
        if self.pool and (len(patches) > 1 or len(batches) > 1):
            raise ValueError("pool holds pairs of one patch and batch; progressive changes them")
        if self.val_lq is not None and self.val is None:
            raise ValueError("val_lq has no effect without val, the folder of its clean photos")
        return self


class Optimiser(Section):
    """Adam or Muon, and its learning rate over the steps."""

    kind: Literal["adam", "muon"] = "adam"
    """For `muon` see `dirformer.training.optimisers`; `betas` are then those of the Adam inside it."""
    lr: float = Field(2e-4, gt=0)
    """Learning rate at the start of the schedule."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    schedule: Literal["constant", "multistep", "cosine", "cycles"] = "cosine"
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Steps at which `multistep` multiplies `lr` by `gamma`."""
    cycles: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0)]], ...] = ()
    """For `cycles`: cosines one after the other, each (steps, final lr), each from `lr`."""
    gamma: float = Field(0.5, gt=0)
    final_lr: float = Field(1e-6, ge=0)
    """Learning rate at the end of `cosine`."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of this network's gradient; None does not clip."""
    batch_rule: Literal["none", "sqrt", "linear"] = "none"
    """`linear`: the learning rate is multiplied by a phase's batch over the first batch; `sqrt`: by the root
    of that; `none`: by 1. Phases are those of `data.progressive`."""

    @model_validator(mode="after")
    def _has_cycles(self) -> Optimiser:
        if self.schedule == "cycles" and not self.cycles:
            raise ValueError("schedule=cycles needs cycles, such as cycles=[[300000, 1e-6]]")
        return self


class Loss(Section):
    """Weights of the losses."""

    image: float = Field(1.0, ge=0)
    """Distance between restored photo and GT."""
    image_kind: Literal["l1", "psnr"] = "l1"
    """`l1` as in the paper; `psnr`: −PSNR in dB of each sample, whose slope is some hundred times as large
    (`image: 0.01`)."""
    psnr_floor: float = Field(1e-10, gt=0)
    """`psnr`: added to each sample's mean squared error. With untouched samples among damaged ones, 1e-4 or
    more keeps them from outweighing all others."""
    known: float = Field(10.0, ge=0)
    """Inpainting: factor of `image` outside holes."""
    hole: float = Field(0.0, ge=0)
    """Inpainting: factor of `image` in holes; 0 as released, where a discriminator teaches the holes."""
    prior: float = Field(1.0, ge=0)
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
    discriminator_dim: int = Field(64, ge=4, le=4096)
    """Channels of the discriminator's first layer."""
    feature_matching: float = Field(0.0, ge=0)
    """Distance of the patch discriminator's maps of restored photo and GT."""


class Warmup(Section):
    """Stage 2 begins with CPEN and denoiser alone, on the IPR's loss. Then the optimiser is reset."""

    steps: int = Field(0, ge=0)
    lr: float = Field(2e-4, gt=0)
    """Learning rate at the start."""
    gamma: float = Field(0.1, gt=0, le=1)
    every: int = Field(60_000, ge=1)
    """After each `every` steps the learning rate is multiplied by `gamma`."""


class Recovery(Section):
    """What happens when training diverges: back to the last good state, with a smaller learning rate."""

    tries: int = Field(3, ge=0)
    """How often before the run gives up; 0 gives up at once."""
    factor: float = Field(0.5, gt=0, lt=1)
    """The learning rate is multiplied by this each time."""
    collapse: float = Field(3.0, gt=0)
    """A validation score this far (dB) below the best so far counts as a collapse."""
