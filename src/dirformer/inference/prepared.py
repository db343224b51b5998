"""A photo made ready for a network, and the network's result made ready to be written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.encode import check_output
from dirformer.ground.errors import PhotoError
from dirformer.ground.formats import count_pages
from dirformer.ground.mask import read_mask_for, require_hole, soften
from dirformer.ground.paths import require_place
from dirformer.ground.photo import Photo, fill_transparent, read_photo
from dirformer.inference.consistent import resized
from dirformer.inference.jobs import FileOptions, Job
from dirformer.inference.restorer import enlarge
from dirformer.inference.sizes import target_size


@dataclass(frozen=True)
class Prepared:
    """A photo before its restoration."""

    photo: Photo
    """As it was read, on a larger canvas if it is to be extended."""
    seen: Float[Tensor, "3 h w"]
    """What the network gets: colours that transparency hides are filled from visible ones."""
    hole: Float[Tensor, "1 h w"] | None
    """1 where the network paints."""
    weights: Float[Tensor, "1 h w"] | None
    """How much of the network's paint is shown; 0 outside of the hole."""
    notes: tuple[str, ...]
    target: tuple[int, int] | None = None
    """Width and height of the result in pixels, where they are not the network's."""

    def finished(self, restored: Float[Tensor, "3 H W"], scale: int) -> Photo:
        """Return the photo to write: grey stays grey, and what is outside of the hole is the input's.

        Another size than the network's is made last, so that only what is shown is resized.
        """
        if self.photo.grey:
            restored = restored.mean(0, keepdim=True).expand(3, -1, -1)
        if self.weights is not None:
            old = self.photo.pixels
            mixed = self.weights * restored + (1 - self.weights) * old
            restored = torch.where(self.weights > 0, mixed, old)
        alpha = None if self.photo.alpha is None else enlarge(self.photo.alpha, scale)
        if self.target is not None:
            restored = resized(restored, *self.target)
            alpha = None if alpha is None else resized(alpha, *self.target)
        return replace(self.photo, pixels=restored, alpha=alpha)


def prepare(job: Job, scale: int, options: FileOptions, max_bytes: int | None = None) -> Prepared:
    """Read a photo and its mask, and decide all that can be decided before the work.

    Args:
        job: the photo, its mask and where the result goes.
        scale: of the network.
        options: how to read and write.
        max_bytes: photos whose decoding needs more memory are refused from their header.

    Raises:
        PhotoError: if the photo or its mask cannot be read, or the mask cannot be meant.
        OutputError: if the format of the result cannot hold it.
    """
    require_place(job.output)
    photo = read_photo(job.photo, job.page, max_pixels=options.max_pixels, max_bytes=max_bytes)
    notes = list(photo.notes)
    if not options.pages and (pages := count_pages(job.photo)) > 1:
        notes.append(f"it has {pages} pages; only the first is restored, --pages restores all")
    hole = None if job.mask is None else read_mask_for(job.photo, job.mask, photo.size)
    if any(options.extend):
        photo, hole = _extended(photo, hole, options, str(job.photo))
    height, width = photo.size
    target = _target(photo, scale, options, str(job.photo))
    final = target or (width * scale, height * scale)
    notes += check_output(job.output, *final, depth=photo.depth, alpha=photo.alpha is not None)
    if target is not None:
        notes.append(
            f"×{scale} of the network is brought to {final[0]}×{final[1]} pixels by a Lanczos filter"
        )
    weights = None
    if hole is not None:
        hole, weights = soften(hole, options.dilate, options.feather)
        require_hole(hole, f"{job.mask or '--extend'}, grown,")
    seen = photo.pixels if photo.alpha is None else fill_transparent(photo.pixels, photo.alpha)
    return Prepared(photo, seen, hole, weights, tuple(notes), target)


def _target(photo: Photo, scale: int, options: FileOptions, name: str) -> tuple[int, int] | None:
    """Return the size that was asked for; None where it is what the network makes of itself."""
    height, width = photo.size
    factor = options.factor(width, height)
    if factor is None:
        return None
    if factor > 1 and scale == 1:
        raise PhotoError(
            f"{name} would be enlarged ×{factor:.3g}, but the network keeps the size; "
            "leave --model and --task out"
        )
    target = target_size(factor, width, height)
    return None if target == (width * scale, height * scale) else target


def _extended(
    photo: Photo, hole: Tensor | None, options: FileOptions, name: str
) -> tuple[Photo, Float[Tensor, "1 h w"]]:
    """Put a photo on a larger canvas; the new area is hole."""
    left, top, right, bottom = options.extend
    height, width = photo.size
    size = (width + left + right) * (height + top + bottom)
    if size > options.max_pixels:
        raise PhotoError(
            f"{name} extended has {size:,} pixels, more than {options.max_pixels:,}; extend less"
        )
    around = (left, right, top, bottom)
    old = torch.zeros(1, height, width) if hole is None else hole
    pixels = F.pad(photo.pixels[None], around, mode="replicate")[0]
    alpha = None if photo.alpha is None else F.pad(photo.alpha, around, value=1.0)
    return replace(photo, pixels=pixels, alpha=alpha), F.pad(old, around, value=1.0)
