"""The photos of an evaluation: pairs and masks found by name, and one of them behind a method."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dirformer.data.folders import find_photos, pair_photos
from dirformer.evaluation.methods import Method
from dirformer.ground.errors import DataError, PhotoError
from dirformer.ground.mask import read_mask_for
from dirformer.ground.mask_names import is_mask_name, masks_by_name, split_masks
from dirformer.ground.memory import PeakMemory
from dirformer.ground.photo import read_rgb
from dirformer.ground.places import Named, Place
from dirformer.metrics.scorer import as_float


@dataclass(frozen=True)
class Sample:
    """One photo to restore, with its partner."""

    name: str
    lq: Path
    gt: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Restored:
    """A sample behind a model: all photos as float32 in [0, 1]."""

    lq: Float[Tensor, "3 h w"]
    restored: Float[Tensor, "3 H W"]
    gt: Float[Tensor, "3 H W"]
    seconds: float
    peak_mib: float


def restore_sample(method: Method, sample: Sample, seed: int) -> Restored:
    """Read a sample, restore it, keep what is outside the hole; the GT is cut to the result's size.

    Raises:
        DataError: if sizes do not match each other or the model.
    """
    lq, gt = as_float(read_rgb(sample.lq)), as_float(read_rgb(sample.gt))
    size = (lq.shape[1], lq.shape[2])
    try:
        mask = None if sample.mask is None else read_mask_for(sample.lq, sample.mask, size)
    except PhotoError as error:
        raise DataError(str(error)) from None
    scale = _ratio(sample, lq, gt)
    _require_fit(method, sample, scale, lq, gt, mask)
    gt = gt[:, : lq.shape[1] * scale, : lq.shape[2] * scale]
    # LQ and GT are often one file here: what is in the hole is nobody's to see.
    seen = lq if mask is None else lq * (1 - mask)
    with PeakMemory(method.device) as memory:
        start = time.perf_counter()
        if method.oracle is not None:
            restored = method.oracle(seen, mask, gt)
        else:
            restored = restore_alone(method, sample.name, seen, mask, scale, seed)
        seconds = time.perf_counter() - start
    if restored.shape != gt.shape:
        raise DataError(
            f"{method.name} gives {_size(restored)} for {sample.name}; "
            f"expected the size of its GT, {_size(gt)}"
        )
    if mask is not None:
        restored = mask * restored + (1 - mask) * lq
    return Restored(lq, restored, gt, seconds, memory.mib)


def restore_alone(
    method: Method, name: str, lq: Float[Tensor, "3 h w"], mask: Tensor | None, scale: int, seed: int
) -> Float[Tensor, "3 H W"]:
    """Restore a photo without its GT, or read its finished result.

    Raises:
        DataError: if there is no result of that name, or the method needs the GT.
    """
    if method.oracle is not None:
        raise DataError(f"{method.name} is a stage-1 network, which needs the clean photo; give --gt")
    if method.finished is not None:
        return as_float(read_rgb(method.finished.of(name)))
    return method.restore(lq, mask, scale, seed)


def find_samples(lq: Path, gt: Path, masks: Path | None) -> list[Sample]:
    """Pair photos by name, and masks with them where there are any.

    Raises:
        DataError: naming the first photo without a partner or mask.
    """
    return [Sample(*sample) for sample in pair_samples(lq, gt, masks)]


def pair_samples(lq: Named, gt: Named, masks: Named | None) -> list[tuple[str, Named, Named, Named | None]]:
    """Return name, LQ, GT and mask of each sample of folders here or at addresses; see `find_samples`."""
    if masks is None:
        return [(b.stem, a, b, None) for a, b in pair_photos(lq, gt)]
    clean = {p.stem: p for p in split_masks(find_photos(gt))[0]}
    photos, beside = split_masks(find_photos(lq))
    if _are_one(masks, lq):
        # A mask whose photo is missing is still no photo.
        photos, found = [p for p in photos if not is_mask_name(p)], masks_by_name(beside)
    else:
        found = masks_by_name(find_photos(masks))
    samples: list[tuple[str, Named, Named, Named | None]] = []
    for path in photos:
        if path.stem not in clean:
            raise DataError(f"{path.stem} is in {lq} but not in {gt}; pairs need the same name")
        if path.stem not in found:
            raise DataError(
                f"{path} has no mask in {masks}; expected {path.stem}.png or {path.stem}_mask000.png"
            )
        samples.append((path.stem, path, clean[path.stem], found[path.stem]))
    if not samples:
        raise DataError(f"{lq} has only masks; expected photos beside them")
    return samples


def _are_one(place: Path | Place, other: Path | Place) -> bool:
    if isinstance(place, Path) and isinstance(other, Path):
        return place.resolve() == other.resolve()
    return place == other


def _ratio(sample: Sample, lq: Tensor, gt: Tensor) -> int:
    """Return GT size over LQ size; the GT may have up to scale − 1 pixels more, which the tables cut off."""
    (height, width), (gt_height, gt_width) = lq.shape[1:], gt.shape[1:]
    scale = gt_height // height
    if scale < 1 or gt_height // scale != height or gt_width // scale != width:
        raise DataError(
            f"{sample.lq} is {_size(lq)} and {sample.gt} {_size(gt)}; "
            "expected a GT that is 1, 2, 3, 4 … times as large in both directions"
        )
    return scale


def _require_fit(
    method: Method, sample: Sample, scale: int, lq: Tensor, gt: Tensor, mask: Tensor | None
) -> None:
    if method.scale not in (None, scale):
        raise DataError(
            f"{method.name} enlarges ×{method.scale}, but {sample.gt} ({_size(gt)}) is ×{scale} of "
            f"{sample.lq} ({_size(lq)}); give the ×{method.scale} pairs or another model"
        )
    if method.fills not in (None, mask is not None):
        raise DataError(
            f"{method.name} {'fills holes' if method.fills else 'fills no holes'}; "
            "the inpainting protocol and methods that fill holes belong together"
        )


def _size(photo: Tensor) -> str:
    return f"{photo.shape[-1]}×{photo.shape[-2]}"
