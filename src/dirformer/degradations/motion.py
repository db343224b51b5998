"""Motion blur: the camera shakes, or something in the picture moves, while the shutter is open.

Light adds up before the camera's response curve, so frames are averaged in linear light. The curve is a
gamma of 2.2, as the GoPro set assumes (Nah et al., CVPR 2017, section 3). Part of that set was averaged as
stored, without a curve (its blurred photos are as bright as the sharp ones): `plain` draws such photos, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.base import Degradation, seed, uniform
from dirformer.degradations.noise import Noise, add_noise
from dirformer.ground.errors import DataError

GAMMA = 2.2
_TOGETHER = 2**16
"""Pixels that are warped at a time; more would leave the cache."""


@dataclass(frozen=True)
class Path:
    """A way travelled during the exposure, around its mean: there the sharp photo lies."""

    length: float
    """Arc length of the translation in pixels."""
    turn: float
    """Largest angle from the mean in radians."""
    centre: tuple[float, float]
    """Pivot of the rotation (row, column) in units of the photo's size; may lie outside."""
    seed: int

    def steps(self) -> Float[Tensor, "n 3"]:
        """Return (rows, columns, angle) at evenly spaced times, at least one for every pixel of way."""
        count = max(9, math.ceil(self.length) + 1)
        path = smooth_path(count, torch.Generator().manual_seed(self.seed))
        way = path[:, :2].diff(dim=0).norm(dim=1).sum()
        scale = torch.tensor([self.length / way, self.length / way, self.turn / path[:, 2].abs().max()])
        return path * scale


def smooth_path(count: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Draw a random path in three coordinates of mean 0, of no particular scale.

    Velocity keeps some of itself from step to step (a hand has inertia), is pushed at random, and now and
    then jolted into another direction.
    """
    keep = math.exp(-4 / count)
    push = torch.randn(count, 3, generator=generator)
    jolt = (torch.rand(count, generator=generator) < 1 / count)[:, None]
    velocity, path = torch.randn(3, generator=generator), [torch.zeros(3)]
    for step in range(count - 1):
        velocity = torch.where(
            jolt[step], push[step] * 1.5, keep * velocity + math.sqrt(1 - keep**2) * push[step]
        )
        path.append(path[-1] + velocity)
    stacked = torch.stack(path)
    return stacked - stacked.mean(0)


@dataclass(frozen=True)
class Blob:
    """A patch of the photo that moves by itself: an ellipse with a soft, uneven edge."""

    centre: tuple[float, float]
    """Row and column in units of the photo's size."""
    radii: tuple[float, float]
    """In the same units."""
    path: Path
    seed: int
    """Of the unevenness."""

    def mask(self, height: int, width: int) -> Float[Tensor, "1 h w"]:
        """Return 1 inside, 0 outside, with an edge a few pixels wide."""
        rows = (torch.arange(height) + 0.5) / height - self.centre[0]
        columns = (torch.arange(width) + 0.5) / width - self.centre[1]
        distance = torch.hypot(rows[:, None] / self.radii[0], columns / self.radii[1])
        coarse = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(self.seed))
        uneven = F.interpolate(coarse, (height, width), mode="bicubic")[0, 0]
        softness = 3 / (min(self.radii) * min(height, width))
        return torch.sigmoid((1 + 0.2 * uneven - distance) / softness)[None]


@dataclass(frozen=True)
class Exposure:
    """What happened in front of one photo while the shutter was open."""

    camera: Path
    blob: Blob | None
    noise: Noise | None = None
    """Of the sensor, behind the exposure."""
    plain: bool = False
    """Frames are averaged as stored, not in linear light."""


@dataclass(frozen=True)
class Motion(Degradation):
    """Camera shake with rotation; in some photos an object moves on its own path as well."""

    scale: int = 1
    margin: int = 32
    length: tuple[float, float] = (2.0, 32.0)
    """Way of the camera in pixels."""
    turn: tuple[float, float] = (0.0, 0.01)
    """Largest rotation in radians."""
    objects: float = 0.3
    """Probability of an object of its own motion."""
    gamma: float = GAMMA
    sigma: tuple[float, float] | None = None
    """Range of the sensor noise, in grey levels of 255; None adds none."""
    plain: float = 0.0
    """Probability of frames averaged as stored."""

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> list[Exposure]:
        """Draw each photo's motion."""
        del size
        exposures = [self._motion(generator) for generator in generators]
        if self.plain:
            exposures = [
                replace(e, plain=uniform(g) < self.plain) for e, g in zip(exposures, generators, strict=True)
            ]
        if self.sigma is None:
            return exposures
        noises = [Noise("gaussian", uniform(g, *self.sigma), grey=False, seed=seed(g)) for g in generators]
        return [replace(e, noise=noise) for e, noise in zip(exposures, noises, strict=True)]

    def _motion(self, generator: torch.Generator) -> Exposure:
        camera = self._path(generator)
        if uniform(generator) >= self.objects:
            return Exposure(camera, None)
        blob = Blob(
            centre=(uniform(generator, 0.2, 0.8), uniform(generator, 0.2, 0.8)),
            radii=(uniform(generator, 0.1, 0.4), uniform(generator, 0.1, 0.4)),
            path=self._path(generator),
            seed=seed(generator),
        )
        return Exposure(camera, blob)

    def _path(self, generator: torch.Generator) -> Path:
        return Path(
            length=uniform(generator, *self.length),
            turn=uniform(generator, *self.turn),
            centre=(uniform(generator, -0.5, 1.5), uniform(generator, -0.5, 1.5)),
            seed=seed(generator),
        )

    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Exposure]) -> Float[Tensor, "b 3 h w"]:
        """Expose each photo; the result lies on the 8-bit grid of [0, 1]."""
        return self._apply(gt, draws, cut=0)

    def apply_inside(
        self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Exposure]
    ) -> Float[Tensor, "b 3 h w"]:
        """Expose what lies within the margin: a quarter of a training crop's pixels."""
        return self._apply(gt, draws, cut=self.margin)

    def _apply(self, gt: Tensor, draws: Sequence[Exposure], cut: int) -> Tensor:
        photos = []
        for photo, exposure in zip(gt, draws, strict=True):
            blurred = expose(photo, exposure, 1.0 if exposure.plain else self.gamma, cut)
            if exposure.noise is not None:
                blurred = add_noise(blurred[None], [exposure.noise])[0]
            photos.append(blurred)
        return (torch.stack(photos) * 255).round() / 255


def expose(
    photo: Float[Tensor, "3 H W"], exposure: Exposure, gamma: float = GAMMA, cut: int = 0
) -> Float[Tensor, "3 h w"]:
    """Average the frames that the exposure sees, in linear light; `cut` pixels at each side are left out."""
    light = photo.clamp(0, 1) ** gamma
    camera, shake = exposure.camera, exposure.camera.steps()
    background, border = _bordered(light, camera)
    together = max(1, _TOGETHER // light[0].numel())
    if exposure.blob is None:
        frames = (
            _warp(background, part, camera.centre, border, cut) for part in torch.split(shake, together)
        )
        return _mean(frames).clamp(0, 1) ** (1 / gamma)
    blob = exposure.blob
    mask = blob.mask(*photo.shape[1:]).to(photo)
    cut_out, blob_border = _bordered(torch.cat([light, mask]), blob.path)
    # Both paths take the same time: the coarser one is looked at in between its steps.
    own = blob.path.steps()
    count = max(len(shake), len(own))
    parts = zip(*(torch.split(_resampled(path, count), together) for path in (shake, own)), strict=True)
    frames = (
        _over(
            _warp(cut_out, own, blob.path.centre, blob_border, cut),
            _warp(background, shake, camera.centre, border, cut),
        )
        for shake, own in parts
    )
    return _mean(frames).clamp(0, 1) ** (1 / gamma)


def average_frames(frames: Iterable[Float[Tensor, "3 h w"]], gamma: float = GAMMA) -> Float[Tensor, "3 h w"]:
    """Return the photo that a long exposure would have taken of successive sharp frames in [0, 1].

    Raises:
        DataError: if there are no frames or their sizes differ.
    """
    total, count = torch.zeros(()), 0
    for frame in frames:
        if count and frame.shape != total.shape:
            raise DataError(f"frame {count + 1} is {tuple(frame.shape)}, the first one {tuple(total.shape)}")
        total, count = total + frame.clamp(0, 1) ** gamma, count + 1
    if not count:
        raise DataError("no frames to average; expected at least one")
    return (total / count) ** (1 / gamma)


def _warp(
    x: Float[Tensor, "c h w"],
    steps: Float[Tensor, "n 3"],
    centre: tuple[float, float],
    border: int,
    cut: int = 0,
) -> Float[Tensor, "n c H W"]:
    """Shift and turn a photo by steps of a path.

    `x` is the photo with `border` mirrored pixels around it: it is cheaper to mirror once than at
    each step. Returned without the border and, at each side, `cut` pixels of the photo.
    """
    height, width = (side - 2 * border for side in x.shape[1:])
    down, right, angle = (v.to(x)[:, None, None] for v in steps.unbind(1))
    cos, sin = angle.cos(), angle.sin()
    pivot_y, pivot_x = (2 * c - 1 for c in centre)
    # The grid runs from −1 to 1 on both axes, so a turn mixes them by the ratio of the sides.
    ratio = height / width
    columns, rows = (torch.arange(cut, s - cut, dtype=x.dtype, device=x.device) for s in (width, height))
    across = (columns * 2 + 1) / width - 1 - pivot_x
    along = ((rows * 2 + 1) / height - 1 - pivot_y)[:, None]
    grid = torch.stack(
        [
            (cos * across - sin * ratio * along + pivot_x + 2 * right / width) * (width / x.shape[2]),
            (sin / ratio * across + cos * along + pivot_y + 2 * down / height) * (height / x.shape[1]),
        ],
        dim=3,
    )
    photos = x.expand(len(steps), *x.shape)
    return F.grid_sample(photos, grid, mode="bicubic", padding_mode="zeros", align_corners=False)


def _bordered(x: Tensor, *paths: Path) -> tuple[Tensor, int]:
    """Return a photo with mirrored pixels around it, as many as the paths reach beyond it, and how many."""
    height, width = x.shape[1:]
    reach = 0.0
    for path in paths:
        corners = torch.tensor([[y, z] for y in (0.0, 1.0) for z in (0.0, 1.0)]) - torch.tensor(path.centre)
        radius = float((corners * torch.tensor([height, width])).norm(dim=1).max())
        steps = path.steps().abs()
        reach = max(reach, float((steps[:, :2].amax(1) + radius * steps[:, 2]).max()))
    border = min(math.ceil(reach) + 2, height - 1, width - 1)  # two more for the cubic's outer taps
    return F.pad(x[None], [border] * 4, mode="reflect")[0], border


def _over(cut_out: Tensor, background: Tensor) -> Tensor:
    colour, mask = cut_out[:, :3], cut_out[:, 3:].clamp(0, 1)
    return torch.lerp(background, colour, mask)


def _resampled(path: Tensor, count: int) -> Tensor:
    return F.interpolate(path.T[None], count, mode="linear", align_corners=True)[0].T


def _mean(parts: Iterable[Float[Tensor, "n c h w"]]) -> Float[Tensor, "c h w"]:
    total, count = torch.zeros(()), 0
    for frames in parts:
        total, count = total.to(frames) + frames.sum(0), count + len(frames)
    return total / count
