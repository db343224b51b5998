"""What a step is given: crops of the data room, degraded, masked or paired, as one `Batch`.

All that is random follows from the seed and a sample's number, whatever the device or the batch; only the
pool of earlier pairs remembers anything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dirformer.data.datasets import CleanCrops, Crops, MaskedCrops, MixedCrops, PairedCrops
from dirformer.data.degraded import DegradedCrops
from dirformer.data.folders import Pair, find_photos, pair_photos, read_pairs, require_pairs, require_size
from dirformer.data.shards import INDEX, Shards
from dirformer.degradations.base import Degradation, Generators
from dirformer.degradations.blur import sharpen
from dirformer.degradations.mask_settings import mask_settings
from dirformer.degradations.pairs import PairMaker, PairPool
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError, DataError
from dirformer.networks.holes import inpainting_input
from dirformer.training.config import Data, TrainConfig


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
    """The GT as photographed, where `gt` is sharpened: what an adversary takes for real."""
    noise: Float[Tensor, "b n p"] | None = None
    """What stage 2 adds to the IPR (`Stage2.draw`)."""
    index: Int[Tensor, "b"] | None = None
    """Each photo's step of the chain, where they are learned one at a time."""

    def tensors(self) -> dict[str, Any]:
        """Return the tensors that there are by name; photos lie along the first axis of each."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def real(self) -> Float[Tensor, "b 3 H W"]:
        """Photos that an adversary takes for real."""
        return self.gt if self.plain is None else self.plain


class Samples:
    """The samples of a recipe: numbered crops, and what is done to a batch of them on the device.

    Raises:
        ConfigError, DataError: naming what is missing or does not fit together.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.data, self.seed, self.network = config.data, config.seed, config.network
        self.scale = self.network.scale
        self.degrade: Degradation | None = None
        self.maker: PairMaker | None = None
        if config.data.train is None:
            raise ConfigError("data.train is not set; give a folder of clean photos: data.train=DIR")
        for patch in (patch for _, patch, _ in config.data.stages):
            if patch % config.network.multiple:
                raise ConfigError(
                    f"data.patch is {patch}; this network needs a multiple of {config.network.multiple}"
                )
        self.dataset = self._in_workers(self._dataset(config))
        self.pool: PairPool | None = None
        if config.data.pool:
            self.pool = PairPool(config.data.pool, config.data.batch * config.accumulate)

    def patch(self, step: int) -> int:
        """Return the side of the LQ patches of a step."""
        return self.data.stage_at(step)[1]

    def batch(self, step: int) -> int:
        """Return the samples per device of a step, before accumulation."""
        return self.data.stage_at(step)[2]

    def side(self, step: int) -> int:
        """Return the side of the GT crops of a step: the patch, and what its degradation needs around it."""
        if self.maker is not None:
            assert self.data.crop is not None
            return self.data.crop
        margin = 0 if self.degrade is None else self.degrade.margin
        return (self.patch(step) + 2 * margin) * self.scale

    def prepare(self, raw: dict[str, Tensor], step: int, device: torch.device) -> Batch:
        """Move crops to the device, degrade them there, and hand a generator to each."""
        indices = raw["index"].tolist()
        draws, noise = (
            [seeded_generator(self.seed, purpose, index) for index in indices]
            for purpose in ("degrade", "noise")
        )
        gt, mask = raw["gt"].to(device).float() / 255, None
        if "mask" in raw:
            mask = raw["mask"].to(device).float()
            lq = inpainting_input(self.network, gt, mask)
        elif self.degrade is None or self.data.degrade_in == "workers":
            lq = _unit(raw["lq"].to(device))
        elif "given" in raw:
            lq, gt = self._mixed(raw, gt, draws)
        elif self.maker is not None:
            lq, gt = self.maker(gt, draws)
        else:
            lq, gt = degrade_crops(self.degrade, sharpen(gt) if self.data.usm else gt, draws, gt)
        if self.pool is not None:
            lq, gt = self.pool.swap(lq, gt, seeded_generator(self.seed, "pool", indices[0]))
        return Batch(
            lq,
            sharpen(gt) if self.data.usm else gt,
            noise,
            step,
            mask=mask,
            plain=gt if self.data.usm else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what cannot be computed again from seed and step: the pool's pairs."""
        return {} if self.pool is None else self.pool.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if self.pool is not None:
            self.pool.load_state_dict(state)

    def _mixed(
        self, raw: dict[str, Tensor], gt: Tensor, draws: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Degrade the clean samples of a batch; those given as pairs have a margin of nothing around them."""
        assert self.degrade is not None
        given, clean = raw["lq"].to(gt).div_(255), (raw["given"] == 0).nonzero()[:, 0].tolist()
        margin = self.degrade.margin
        lq = _inside(given, margin)
        if clean:
            lq[clean] = self.degrade.inside(gt[clean], [draws[n] for n in clean])
        return lq, _inside(gt, margin * self.scale)

    def _in_workers(self, crops: Crops | MixedCrops) -> Crops | MixedCrops | DegradedCrops:
        """Wrap the data set where the recipe has its workers degrade."""
        if self.data.degrade_in == "device":
            return crops
        if self.degrade is None or self.maker is not None:
            raise ConfigError(
                "data.degrade_in=workers goes with a degradation of single crops, not with data.crop; "
                "pairs and masks need none: leave it at device"
            )
        assert isinstance(crops, CleanCrops | MixedCrops)
        return DegradedCrops(crops, self.degrade, self.seed, sharpen_input=self.data.usm)

    def _dataset(self, config: TrainConfig) -> Crops | MixedCrops:
        data, task = config.data, config.network.task
        if data.usm and (task == "inpainting" or data.lq is not None):
            raise ConfigError("data.usm sharpens before degrading; it has no effect on pairs and masks")
        if task == "inpainting":
            side = self.side(0)
            if data.lq is not None:
                pairs = pair_photos(data.lq, _require_train(data))
                require_pairs(pairs, 1, self._largest())
                return MaskedCrops(pairs, side, config.seed, (), _cache(data), data.augment)
            settings = [mask_settings(name, 256) for name in data.masks]
            photos = self._photos(data, self._largest())
            return MaskedCrops(photos, side, config.seed, settings, _cache(data), data.augment)
        if data.lq is not None:
            return self._paired(pair_photos(data.lq, _require_train(data)), config)
        self.degrade = degradation(data.degradation, self.scale)
        if data.crop is not None:
            self.maker = PairMaker(
                self.degrade,
                data.patch,
                sharpen_input=data.usm,
                draws="batch" if data.degradation == "realsr-released" else "sample",
            )
        clean = self._clean(data, config.seed)
        if data.pairs is None:
            return clean
        if self.maker is not None or data.usm:
            raise ConfigError("data.pairs goes with neither data.crop nor data.usm")
        paired = self._paired(read_pairs(data.pairs), config)
        return MixedCrops(clean, paired, data.pairs_share, self.degrade.margin, config.seed)

    def _clean(self, data: Data, seed: int) -> CleanCrops:
        train = _require_train(data)
        if (train / INDEX).is_file():
            if data.without is not None:
                raise ConfigError(
                    "data.without has no effect on shards; leave photos out when they are prepared"
                )
            return CleanCrops(Shards(train), self.side(0), seed, _cache(data), data.augment)
        photos = self._photos(data, self._largest())
        return CleanCrops(photos, self.side(0), seed, _cache(data), data.augment)

    def _photos(self, data: Data, side: int) -> list[Any]:
        photos = find_photos(_require_train(data), without=data.without)
        if data.val is not None:
            held_out = {path.name for path in find_photos(data.val)}
            photos = [path for path in photos if path.name not in held_out]
            if not photos:
                raise DataError(f"{data.train} has only the photos of data.val; give others to train on")
        require_size(photos, side)
        return photos

    def _paired(self, pairs: list[Pair], config: TrainConfig) -> PairedCrops:
        patches = [patch for _, patch, _ in config.data.stages]
        require_pairs(pairs, self.scale, max(patches) * self.scale)
        side = patches[0] * self.scale
        return PairedCrops(pairs, self.scale, side, config.seed, _cache(config.data), config.data.augment)

    def _largest(self) -> int:
        return max(self.side(first) for first, _, _ in self.data.stages)


def _require_train(data: Data) -> Any:
    assert data.train is not None
    return data.train


def _cache(data: Data) -> int:
    return int(data.cache * 2**30)


def _unit(photos: Tensor) -> Tensor:
    """Return photos in [0, 1], which may still be 8-bit."""
    return photos if photos.is_floating_point() else photos.float() / 255


def degrade_crops(
    degrade: Degradation, clean: Tensor, generator: Generators, gt: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Degrade crops `b 3 H W` and cut the margin off both: LQ as if the entire photo had been degraded.

    `gt` are the photos to return beside, the clean ones themselves if not given.
    """
    target = clean if gt is None else gt
    return degrade.inside(clean, generator), _inside(target, degrade.margin * degrade.scale)


def _inside(photos: Tensor, margin: int) -> Tensor:
    return F.pad(photos, [-margin] * 4)
