"""What a step is given: crops of the data room, degraded, masked or paired, as one `Batch`.

A recipe has one mode: `Clean`, `Cropped`, `Paired`, `Mixed`, `Masked` or `InWorkers`. It says where
crops come from and how a batch of them is prepared on the device.

All that is random follows from the seed and a sample's number, whatever the device or the batch. Only the
pool of earlier pairs has a memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dirformer.data.datasets import CleanCrops, MaskedCrops, MixedCrops, PairedCrops, stream
from dirformer.data.degraded import DegradedCrops
from dirformer.data.folders import Pair, find_photos, pair_photos, read_pairs, require_pairs, require_size
from dirformer.data.shards import INDEX, Shards
from dirformer.degradations.base import Degradation, Generators, integer
from dirformer.degradations.blur import sharpen
from dirformer.degradations.mask_settings import mask_settings
from dirformer.degradations.pairs import PairMaker, PairPool
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError, DataError
from dirformer.holes.shown import inpainting_input
from dirformer.tasks import TASKS
from dirformer.training.config import TrainConfig
from dirformer.training.sections import Data

Dataset = CleanCrops | PairedCrops | MaskedCrops | MixedCrops | DegradedCrops
"""Numbered crops of every kind."""


@dataclass(frozen=True)
class Batch:
    """What a step is given."""

    lq: Float[Tensor, "b c h w"]
    """What the network sees: RGB; in inpainting RGB without what is in the holes, and the mask."""
    gt: Float[Tensor, "b 3 H W"]
    """What the restored photos are compared with."""
    generators: list[torch.Generator]
    """One for each sample."""
    step: int
    mask: Float[Tensor, "b 1 H W"] | None = None
    """1 in holes, in inpainting."""
    plain: Float[Tensor, "b 3 H W"] | None = None
    """The GT as photographed, where `gt` is sharpened: what a discriminator takes for real."""
    noise: Float[Tensor, "b n p"] | None = None
    """What stage 2 adds to the IPR (`Stage2.draw`)."""
    index: Int[Tensor, "b"] | None = None
    """Each photo's step of the chain, with `training: separate`."""

    def tensors(self) -> dict[str, Any]:
        """Return the tensors that there are by name; photos lie along the first axis of each."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def real(self) -> Float[Tensor, "b 3 H W"]:
        """Photos that a discriminator takes for real."""
        return self.gt if self.plain is None else self.plain


@dataclass(frozen=True)
class Prepared:
    """A batch on the device."""

    lq: Float[Tensor, "b c h w"]
    gt: Float[Tensor, "b 3 H W"]
    mask: Float[Tensor, "b 1 H W"] | None = None


@runtime_checkable
class Mode(Protocol):
    """Where the samples of a recipe come from, and how a batch of them becomes LQ and GT."""

    @property
    def dataset(self) -> Dataset:
        """Numbered crops."""
        ...

    def side(self, step: int) -> int:
        """Return the side of the GT crops of a step, in pixels."""
        ...

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Return what a batch of `dataset` becomes.

        Args:
            raw: the batch, on the CPU.
            gt: its GT crops `b 3 H W` in [0, 1], on the device.
            draws: a generator for the degradation of each.
        """
        ...


class Clean:
    """Clean photos, degraded on the device; crops have a margin, which is cut off behind the degradation."""

    def __init__(self, config: TrainConfig) -> None:
        self.data, self.scale = config.data, config.network_config.scale
        self.degrade = degradation(self.data.degradation, self.scale)
        self.dataset: CleanCrops | MixedCrops = _clean_crops(config, self.side)

    def side(self, step: int) -> int:
        """Return the patch and its margin, in GT pixels."""
        return (self.data.phase_at(step)[1] + 2 * self.degrade.margin) * self.scale

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Degrade all crops; with `data.usm`, sharpened ones."""
        del raw
        return Prepared(*degrade_crops(self.degrade, sharpen(gt) if self.data.usm else gt, draws, gt))


class Cropped:
    """Clean crops of `data.crop` pixels, degraded as a whole; then a patch is cut at random."""

    def __init__(self, config: TrainConfig) -> None:
        data = config.data
        assert data.crop is not None
        self.crop = data.crop
        self.maker = PairMaker(
            degradation(data.degradation, config.network_config.scale),
            data.patch,
            sharpen_input=data.usm,
            draws="batch" if data.degradation == "realsr-released" else "sample",
        )
        if data.pairs is not None:
            raise ConfigError(PAIRS_ALONE)
        self.dataset = _clean_crops(config, self.side)

    def side(self, step: int) -> int:
        """Return `data.crop`."""
        del step
        return self.crop

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Degrade all crops, then cut the patches."""
        del raw
        return Prepared(*self.maker(gt, draws))


class Paired:
    """Pairs that exist already: LQ photos in `data.lq`, named like their GT."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.data.lq is not None
        self.data, self.scale = config.data, config.network_config.scale
        pairs = pair_photos(config.data.lq, _train_folder(config.data))
        self.dataset = _paired_crops(pairs, config)

    def side(self, step: int) -> int:
        """Return the patch, in GT pixels."""
        return self.data.phase_at(step)[1] * self.scale

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Take LQ and GT as they are."""
        del draws
        return Prepared(raw["lq"].to(gt.device).float() / 255, gt)


class Mixed(Clean):
    """Clean photos and, among them, the pairs of `data.pairs`."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        data = config.data
        if data.usm:
            raise ConfigError(PAIRS_ALONE)
        assert data.pairs is not None and isinstance(self.dataset, CleanCrops)
        paired = _paired_crops(read_pairs(data.pairs), config)
        self.dataset = MixedCrops(self.dataset, paired, data.pairs_share, self.degrade.margin, config.seed)

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Degrade the clean samples of a batch; the margin around both kinds is cut off."""
        given, clean = raw["lq"].to(gt).div_(255), (raw["given"] == 0).nonzero()[:, 0].tolist()
        margin = self.degrade.margin
        lq = _inside(given, margin)
        if clean:
            lq[clean] = self.degrade.inside(gt[clean], [draws[n] for n in clean])
        return Prepared(lq, _inside(gt, margin * self.scale))


class Masked:
    """Inpainting: photos with holes, drawn by `data.masks` or given in `data.lq`."""

    def __init__(self, config: TrainConfig) -> None:
        data, self.network_config = config.data, config.network_config
        self.data, seed, cache, augment = data, config.seed, int(data.cache * 2**30), data.augment
        if data.lq is not None:
            pairs = pair_photos(data.lq, _train_folder(data))
            require_pairs(pairs, 1, _largest(data, self.side))
            self.dataset = MaskedCrops(pairs, self.side(0), seed, (), cache, augment)
        else:
            settings = [mask_settings(name, 256) for name in data.masks]
            photos = _photos(data, _largest(data, self.side))
            self.dataset = MaskedCrops(photos, self.side(0), seed, settings, cache, augment)

    def side(self, step: int) -> int:
        """Return the patch, in GT pixels."""
        return self.data.phase_at(step)[1] * self.network_config.scale

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Take the holes out of the photos."""
        mask, fills = raw["mask"].to(gt.device).float(), self.data.fills
        if fills is None:
            return Prepared(inpainting_input(self.network_config.fill, gt, mask), gt, mask)
        drawn = torch.tensor([integer(draw, len(fills)) for draw in draws])
        lq = gt.new_empty(len(gt), 4, *gt.shape[2:])
        for number, fill in enumerate(fills):
            if len(some := (drawn == number).nonzero()[:, 0].to(gt.device)):
                lq[some] = inpainting_input(fill, gt[some], mask[some])
        return Prepared(lq, gt, mask)


class InWorkers:
    """The samples of `Clean` or `Mixed`, degraded where they are decoded (`data.degrade_in=workers`)."""

    def __init__(self, config: TrainConfig, mode: Clean) -> None:
        self.side = mode.side
        assert isinstance(mode.dataset, CleanCrops | MixedCrops)
        self.dataset = DegradedCrops(mode.dataset, mode.degrade, config.seed, sharpen_input=config.data.usm)

    def prepare(self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]) -> Prepared:
        """Take LQ and GT as they are."""
        del draws
        lq = raw["lq"].to(gt.device)
        return Prepared(lq if lq.is_floating_point() else lq.float() / 255, gt)


PAIRS_ALONE = "data.pairs goes with neither data.crop nor data.usm"


def mode_of(config: TrainConfig) -> Mode:
    """Return the mode of a recipe.

    Raises:
        ConfigError, DataError: naming what is missing or does not fit together.
    """
    data, inpainting = config.data, TASKS[config.network_config.task].has_mask
    if not isinstance(data.train, str):
        _train_folder(data)
    if data.usm and (inpainting or data.lq is not None):
        raise ConfigError("data.usm sharpens before degrading; it has no effect on pairs and masks")
    if data.pool and inpainting:
        raise ConfigError("data.pool mixes degraded photos; it does not go with the masks of inpainting")
    given = inpainting or data.lq is not None
    for field, there, suits in (
        ("data.pairs", data.pairs is not None, not given),
        ("data.crop", data.crop is not None, not given),
        ("data.fills", data.fills is not None, inpainting),
        ("data.without", data.without is not None, data.lq is None),
    ):
        if there and not suits:
            what = "data.lq" if data.lq is not None else f"the task {config.network_config.task}"
            raise ConfigError(f"{field} has no effect with {what}; leave it out")
    if data.degrade_in == "workers" and (inpainting or data.lq is not None or data.crop is not None):
        raise ConfigError(
            "data.degrade_in=workers goes with a degradation of single crops, not with data.crop; "
            "pairs and masks need none: leave it at device"
        )
    if inpainting:
        return Masked(config)
    if data.lq is not None:
        return Paired(config)
    if data.crop is not None:
        return Cropped(config)
    mode = Clean(config) if data.pairs is None else Mixed(config)
    return InWorkers(config, mode) if data.degrade_in == "workers" else mode


class Samples:
    """The samples of a recipe: a mode, a pool of earlier pairs if the recipe has one, and the batches.

    Raises:
        ConfigError, DataError: naming what is missing or does not fit together.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.data, self.seed = config, config.data, config.seed
        multiple = config.network_config.multiple
        for _, patch, _ in self.data.phases:
            if patch % multiple:
                raise ConfigError(f"data.patch is {patch}; this network needs a multiple of {multiple}")
        self.mode = mode_of(config)
        self.pool: PairPool | None = None
        if self.data.pool:
            self.pool = PairPool(self.data.pool, self.data.batch * config.accumulate)

    @property
    def dataset(self) -> Dataset:
        """Numbered crops."""
        return self.mode.dataset

    def stream(self, start: int, rank: int, world: int) -> DataLoader[dict[str, Any]]:
        """Return the batches of a device (`rank` of `world`) from step `start` to the recipe's last."""
        return stream(
            self.dataset,
            start=start,
            steps=self.config.steps,
            batch=lambda step: self.data.phase_at(step)[2] * self.config.accumulate,
            side=self.mode.side,
            workers=self.data.workers,
            rank=rank,
            world=world,
        )

    def prepare(self, raw: dict[str, Tensor], step: int, device: torch.device) -> Batch:
        """Move crops to the device, make LQ and GT of them there, and hand a generator to each."""
        indices = raw["index"].tolist()
        draws, noise = (
            [seeded_generator(self.seed, purpose, index) for index in indices]
            for purpose in ("degrade", "noise")
        )
        ready = self.mode.prepare(raw, raw["gt"].to(device).float() / 255, draws)
        lq, gt = ready.lq, ready.gt
        if self.pool is not None:
            lq, gt = self.pool.swap(lq, gt, seeded_generator(self.seed, "pool", indices[0]))
        if self.data.usm:
            return Batch(lq, sharpen(gt), noise, step, mask=ready.mask, plain=gt)
        return Batch(lq, gt, noise, step, mask=ready.mask)

    def state_dict(self) -> dict[str, Any]:
        """Return what cannot be computed again from seed and step: the pool's pairs."""
        return {} if self.pool is None else self.pool.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave; pairs of another patch are left out, as the recipe has changed."""
        if self.pool is not None:
            fits = bool(state) and state["lq"].shape[-1] == self.data.patch
            self.pool.load_state_dict(state if fits else {})


def degrade_crops(
    degrade: Degradation, clean: Tensor, generator: Generators, gt: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Degrade crops `b 3 H W` and cut the margin off both: LQ as if the entire photo had been degraded.

    `gt` are the photos to return as GT; None returns the clean ones.
    """
    target = clean if gt is None else gt
    return degrade.inside(clean, generator), _inside(target, degrade.margin * degrade.scale)


def _inside(photos: Tensor, margin: int) -> Tensor:
    return F.pad(photos, [-margin] * 4)


def _train_folder(data: Data) -> Path:
    if data.train is None:
        raise ConfigError("data.train is not set; give a folder of clean photos: data.train=DIR")
    if isinstance(data.train, str):
        raise ConfigError(
            f"data.train is {data.train}; at an address there can only be shards, for clean photos"
        )
    return data.train


def _clean_crops(config: TrainConfig, side: Callable[[int], int]) -> CleanCrops:
    data = config.data
    train, more = data.train, (config.seed, int(data.cache * 2**30), data.augment)
    if not isinstance(train, str) and not (_train_folder(data) / INDEX).is_file():
        return CleanCrops(_photos(data, _largest(data, side)), side(0), *more)
    if data.without is not None:
        raise ConfigError("data.without has no effect on shards; leave photos out when they are prepared")
    assert train is not None
    return CleanCrops(Shards(train), side(0), *more)


def _paired_crops(pairs: list[Pair], config: TrainConfig) -> PairedCrops:
    data, scale = config.data, config.network_config.scale
    require_pairs(pairs, scale, max(patch for _, patch, _ in data.phases) * scale)
    cache = int(data.cache * 2**30)
    return PairedCrops(pairs, scale, data.patch * scale, config.seed, cache, data.augment)


def _photos(data: Data, side: int) -> list[Path]:
    """Return the photos to train on, all of at least `side` pixels; those of `data.val` are left out."""
    photos = find_photos(_train_folder(data), without=data.without)
    if data.val is not None:
        held_out = {path.name for path in find_photos(data.val)}
        photos = [path for path in photos if path.name not in held_out]
        if not photos:
            raise DataError(f"{data.train} has only the photos of data.val; give others to train on")
    require_size(photos, side)
    return photos


def _largest(data: Data, side: Callable[[int], int]) -> int:
    """Return the largest side of a crop over all phases."""
    return max(side(first) for first, _, _ in data.phases)
