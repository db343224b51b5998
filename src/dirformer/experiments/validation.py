"""Validation while a network trains: the fixed photos of a recipe, scored as the field scores them.

Devices share the photos: each decodes and scores its own, and all get the scores of all, in the order of the
photos. A photo's degradation, mask and noise follow from its number, so the scores are those of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dirformer.data.folders import find_photos, pair_photos, require_pairs, require_size
from dirformer.degradations.base import Degradation
from dirformer.degradations.mask_settings import mask_settings
from dirformer.degradations.masks import draw_mask
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import read_rgb
from dirformer.holes.shown import inpainting_input, mended
from dirformer.metrics.perceptual import frechet_distance
from dirformer.metrics.psnr_ssim import psnr, rgb_to_y
from dirformer.metrics.scorer import as_float
from dirformer.networks.diffir import DiffIR, DiffIRS1
from dirformer.tasks import TASKS
from dirformer.training.config import TrainConfig
from dirformer.training.devices import Alone, gathered, together

T = TypeVar("T")

BEST = 100.0
"""dB that a restored photo counts at most. An equal one would make every mean infinite."""
BORDER = 4
"""Pixels of the GT left out along each side, as in the SR tables."""
PREVIEWS = 4
"""Cases that are drawn at each validation."""
VALIDATION = "validation needs", "take it out of data.val"
"""What needs the size of a photo, and the remedy, in messages."""


def require_validation(config: TrainConfig) -> None:
    """Check the validation photos of a recipe before anything is trained; only headers are read.

    Raises:
        ConfigError: if `data.val_lq` is given in inpainting.
        DataError: if photos are missing, too small, or pairs do not have the recipe's scale.
    """
    data, model = config.data, config.network_config
    assert data.val is not None
    side = model.multiple * model.scale
    side *= 1 + 2 * BORDER // side  # pixels must be left inside the border
    if TASKS[model.task].has_mask:
        if data.val_lq is not None:
            raise ConfigError(
                "data.val_lq has no effect in inpainting: data.val_masks draws holes; set data.val_lq=null"
            )
    elif data.val_lq is not None:
        require_pairs(pair_photos(data.val_lq, data.val), model.scale, side, VALIDATION)
        return
    require_size(find_photos(data.val), side, VALIDATION)


@dataclass(frozen=True)
class Case:
    """One validation photo: LQ (in inpainting with black holes), GT, and the mask of the holes."""

    name: str
    lq: Float[Tensor, "1 c h w"]
    gt: Float[Tensor, "1 3 H W"]
    mask: Float[Tensor, "1 1 H W"] | None = None
    kind: str = ""
    """Of the mask."""
    number: int = 0
    """Among the cases of all devices."""


class Validation:
    """A score over the middle of each validation photo, degraded once, the same for runs of any seed.

    Super-resolution and real-world photos are scored by PSNR on Y without 4 border pixels, deblurred ones by
    PSNR on RGB, filled ones by PSNR in their holes.
    """

    def __init__(self, config: TrainConfig, fabric: Any = None) -> None:
        """Decode and degrade the photos; with a launched Fabric, this device's part of them."""
        assert config.data.val is not None
        require_validation(config)
        model = config.network_config
        # Not the run's seed: runs of any seed are validated on the same degraded photos.
        self.task, self.seed, self.data = model.task, 0, config.data
        self.fabric = Alone() if fabric is None else fabric
        self.scale, self.step = model.scale, model.multiple * model.scale
        self.score = TASKS[self.task].score
        degrade = None
        if not TASKS[self.task].has_mask and config.data.val_lq is None:
            degrade = degradation(config.data.degradation, self.scale)
        self.cases = list(self._cases(config.data.val, degrade))
        """Those of this device."""

    def _cases(self, val: Path, degrade: Degradation | None) -> Iterator[Case]:
        limit, step, scale = self.data.val_crop, self.step, self.scale
        if self.data.val_lq is not None:
            for number, (lq_path, gt_path) in enumerate(pair_photos(self.data.val_lq, val)):
                if not self._own(number):
                    continue
                gt, lq = (as_float(read_rgb(path))[None] for path in (gt_path, lq_path))
                place = _middle(lq, limit // scale, step // scale)
                gt = _cut(gt, tuple(scale * n for n in place))
                yield Case(gt_path.name, _cut(lq, place), gt, number=number)
            return
        kinds = ("",) if degrade is not None else self.data.val_masks
        for number, path in enumerate(find_photos(val)):
            own = [n for n in range(number * len(kinds), (number + 1) * len(kinds)) if self._own(n)]
            if not own:
                continue
            gt = as_float(read_rgb(path))[None]
            gt = _cut(gt, _middle(gt, limit, step))
            if degrade is not None:
                lq = degrade(gt, seeded_generator(self.seed, "validation", number))
                yield Case(path.name, lq, gt, number=number)
                continue
            for case in own:
                kind = kinds[case % len(kinds)]
                generator = seeded_generator(self.seed, "validation mask", kind, number)
                mask = draw_mask(mask_settings(kind, 256), generator, (gt.shape[2], gt.shape[3]))[None]
                yield Case(path.name, gt * (1 - mask), gt, mask, kind, case)

    def _own(self, number: int) -> bool:
        """Return whether a case is this device's; neighbours go to different ones."""
        return number % self.fabric.world_size == self.fabric.global_rank

    def _every(self, values: list[T]) -> list[T]:
        """Return the values of all devices' cases in order; `values` are those of this device's cases."""
        own = [(case.number, value) for case, value in zip(self.cases, values, strict=True)]
        found = dict(pair for part in gathered(self.fabric, own) for pair in part)
        return [found[number] for number in sorted(found)]

    @torch.inference_mode()
    def __call__(self, network: DiffIR, preview: Path | None = None) -> dict[str, float]:
        """Return the mean score in dB under its name; in inpainting also that of each kind of mask.

        With `preview`, the first few cases are also drawn there: LQ, result and GT side by side.
        """
        own: list[tuple[str, float, tuple[Tensor, Tensor, Tensor] | None]] = []
        for number, case in enumerate(self.cases):
            restored = self.restore(network, number)
            drawn = preview is not None and case.number < PREVIEWS
            row = (case.lq[0], restored, case.gt[0]) if drawn else None
            own.append((case.kind, self.score_of(restored, number), row))
        every = self._every(own)
        if preview is not None:
            together(self.fabric, lambda: self._draw(preview, [row for *_, row in every if row is not None]))
        means = {self.score: fmean(score for _, score, _ in every)}
        for kind in self.data.val_masks if TASKS[self.task].has_mask else ():
            means[f"{self.score}_{kind}"] = fmean(score for name, score, _ in every if name == kind)
        return means

    def _draw(self, preview: Path, rows: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        if self.fabric.is_global_zero:
            write_grid(preview, rows)

    @torch.inference_mode()
    def scores(self, network: DiffIR) -> list[float]:
        """Return the score of each case of all devices."""
        own = range(len(self.cases))
        return self._every([self.score_of(self.restore(network, number), number) for number in own])

    @torch.inference_mode()
    def fid(self, network: DiffIR, features: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return FID between results and GT, in inpainting for each kind of mask with the rest of the photo
        kept.

        Empty with fewer than two photos of a kind: FID compares sets.
        """
        own: list[tuple[str, Tensor, Tensor]] = []
        for number, case in enumerate(self.cases):
            restored, gt = self.restore(network, number), case.gt[0]
            if case.mask is not None:
                restored = case.mask[0] * restored + (1 - case.mask[0]) * gt
            name = f"fid_{case.kind}" if case.kind else "fid"
            own.append((name, features(restored).cpu(), features(gt).cpu()))
        sets: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, ours, theirs in self._every(own):
            sets.setdefault(name, []).append((ours, theirs))
        return {
            name: frechet_distance(*(torch.stack(side) for side in zip(*pairs, strict=True)))
            for name, pairs in sets.items()
            if len(pairs) > 1
        }

    @torch.inference_mode()
    def restore(self, network: DiffIR, number: int) -> Float[Tensor, "3 H W"]:
        """Restore one of this device's cases; stage 1 sees its GT."""
        case, fill = self.cases[number], network.config.fill
        if case.mask is None:
            return self._restored(network, case.lq, number)
        # As this network wants to see holes, which need not be what the recipe's own wants.
        lq = inpainting_input(fill, case.lq, case.mask)
        return mended(fill, lq[0], self._restored(network, lq, number), case.lq[0])

    def _restored(self, network: DiffIR, lq: Tensor, number: int) -> Float[Tensor, "3 H W"]:
        device, case = next(network.parameters()).device, self.cases[number]
        if isinstance(network, DiffIRS1):
            return network(lq.to(device), case.gt.to(device))[0].cpu().clamp(0, 1)
        generator = seeded_generator(self.seed, "validation noise", case.number)
        noise = torch.randn(network.noise_shape, generator=generator)[:, None]
        return network(lq.to(device), noise.to(device))[0].cpu().clamp(0, 1)

    def score_of(self, restored: Float[Tensor, "3 H W"], number: int) -> float:
        """Score what was made of one of this device's cases, in dB up to `BEST`; NaN if it has NaN."""
        return min(self._psnr(restored, number), BEST)  # in this order min keeps NaN

    def _psnr(self, restored: Float[Tensor, "3 H W"], number: int) -> float:
        case = self.cases[number]
        restored, gt = (restored * 255).round() / 255, case.gt[0]
        if case.mask is not None:
            hole = case.mask[0].expand_as(gt) > 0
            return psnr(restored[hole].view(1, 1, -1), gt[hole].view(1, 1, -1))
        if self.score == "psnr":
            return psnr(restored, gt)
        return psnr(rgb_to_y(restored), rgb_to_y(gt), BORDER)


Place = tuple[int, ...]
"""Top, left, height and width, in pixels."""


def _middle(photo: Tensor, limit: int, step: int) -> Place:
    """Return the middle of a photo: at most `limit` pixels per side, a multiple of `step`."""
    height, width = (min(n, limit) // step * step for n in photo.shape[-2:])
    return (photo.shape[-2] - height) // 2, (photo.shape[-1] - width) // 2, height, width


def _cut(photo: Tensor, place: Place) -> Tensor:
    top, left, height, width = place
    return photo[..., top : top + height, left : left + width]


def write_grid(path: Path, rows: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Draw photos `3 h w` in rows and columns as a JPEG file, small ones enlarged."""
    side = max(photo.shape[-1] for row in rows for photo in row)
    lines = []
    for row in rows:
        height, width = (max(photo.shape[i] for photo in row) for i in (1, 2))
        large = [F.interpolate(photo[None], (height, width), mode="nearest")[0] for photo in row]
        lines.append(torch.cat([F.pad(photo, (0, side - width)) for photo in large], dim=2))
    pixels = torch.cat(lines, dim=1).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    with atomic_path(path) as part:
        Image.fromarray(pixels.numpy()).save(part, format="JPEG", quality=90)
