"""The second-order degradation of real-world super-resolution (Real-ESRGAN, Wang et al. 2021, figure 2).

Blur, resize, noise and JPEG, twice; then a sinc filter that rings as sharpening does. What is random is
drawn first, as a `Draws` per photo that can be written into a manifest; applying it is plain arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.base import Degradation, choice, integer, seed, uniform
from dirformer.degradations.blur import Kernel, KernelRange, draw_final_sinc, draw_kernel, filter2d
from dirformer.degradations.jpeg import jpeg
from dirformer.degradations.noise import Noise, add_noise

Mode = Literal["area", "bilinear", "bicubic"]
MODES: tuple[Mode, Mode, Mode] = ("area", "bilinear", "bicubic")


RELEASED = KernelRange()


@dataclass(frozen=True)
class PassRange:
    """The distribution of one pass; defaults are the released first pass."""

    blur: float = 1.0
    """Probability of blurring at all."""
    kernel: KernelRange = RELEASED
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Weights of enlarging, shrinking and keeping."""
    factors: tuple[float, float] = (0.15, 1.5)
    """Smallest and largest resize factor; in the second pass relative to the size of the LQ."""
    gaussian: float = 0.5
    """Probability of Gaussian noise; otherwise it is Poisson's."""
    sigma: tuple[float, float] = (1.0, 30.0)
    """Of Gaussian noise, in grey levels of 255."""
    poisson: tuple[float, float] = (0.05, 3.0)
    grey: float = 0.4
    """Probability that a photo's noise is the same in all channels."""
    quality: tuple[float, float] = (30.0, 95.0)
    """Of JPEG."""


FIRST = PassRange()
SECOND = PassRange(
    blur=0.8,
    kernel=KernelRange(sigma=(0.2, 1.5)),
    resize=(0.3, 0.4, 0.3),
    factors=(0.3, 1.2),
    sigma=(1.0, 25.0),
    poisson=(0.05, 2.5),
)


@dataclass(frozen=True)
class PassRoute:
    """What photos must have in common to go through a pass as one batch."""

    blurs: bool
    factor: float
    mode: Mode
    noise: Literal["gaussian", "poisson"]


@dataclass(frozen=True)
class Route:
    """What photos must have in common to go through the degradation as one batch."""

    first: PassRoute
    second: PassRoute
    final_mode: Mode
    jpeg_last: bool
    """Resize, sinc, JPEG; otherwise JPEG, resize, sinc."""


@dataclass(frozen=True)
class PassValues:
    """What is each photo's own in a pass."""

    kernel: Kernel
    """Not used on a route that does not blur."""
    noise: Noise
    quality: float


@dataclass(frozen=True)
class Draws:
    """One photo's way through the degradation."""

    route: Route
    first: PassValues
    second: PassValues
    sinc: Kernel


@dataclass(frozen=True)
class SecondOrder(Degradation):
    """Second-order degradation; settings are the same in V1 and V2 and at all scales as released.

    With `draws="batch"` the resize factors and modes, the kind of noise, whether the second pass blurs and
    the final order are drawn once for a batch, from its first generator: as released, where a pool of
    earlier pairs (`pairs.PairPool`) then mixes the batches. With `draws="sample"` every photo has its own,
    whatever the batch.
    """

    scale: int
    draws: Literal["sample", "batch"] = "sample"
    first: PassRange = FIRST
    second: PassRange = SECOND
    final_sinc: float = 0.8
    """Probability that the last filter is a sinc kernel."""
    released_jpeg: bool = False
    """JPEG as in the published recipes instead of libjpeg's arithmetic."""

    margin: int = field(init=False)
    """With patches of 256 GT pixels, GT crops are 400, as released."""
    eight_bit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "margin", 72 // self.scale)

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> list[Draws]:
        """Draw each photo's parameters from its generator."""
        del size
        if self.draws == "sample":
            routes = [self._route(generator) for generator in generators]
        else:
            routes = [self._route(generators[0])] * len(generators)
        return [self._values(route, g) for route, g in zip(routes, generators, strict=True)]

    def apply(self, gt: Float[Tensor, "b 3 H W"], draws: Sequence[Draws]) -> Float[Tensor, "b 3 h w"]:
        """Degrade; the result lies on the 8-bit grid of [0, 1].

        On a GPU photos of one route go together. On the CPU they go one by one, which is twice as fast:
        one photo fits into the cache, a batch does not.
        """
        groups: dict[Route | int, list[int]] = {}
        for number, photo in enumerate(draws):
            groups.setdefault(number if gt.device.type == "cpu" else photo.route, []).append(number)
        if len(groups) == 1:
            return self._together(gt, draws)
        lq = gt.new_empty(len(draws), 3, gt.shape[-2] // self.scale, gt.shape[-1] // self.scale)
        for numbers in groups.values():
            lq[numbers] = self._together(gt[numbers], [draws[n] for n in numbers])
        return lq

    def _route(self, generator: torch.Generator) -> Route:
        return Route(
            first=_pass_route(self.first, generator),
            second=_pass_route(self.second, generator),
            final_mode=MODES[integer(generator, 3)],
            jpeg_last=uniform(generator) < 0.5,
        )

    def _values(self, route: Route, generator: torch.Generator) -> Draws:
        return Draws(
            route,
            first=_pass_values(self.first, route.first, generator),
            second=_pass_values(self.second, route.second, generator),
            sinc=draw_final_sinc(self.final_sinc, generator),
        )

    def _together(self, gt: Tensor, photos: Sequence[Draws]) -> Tensor:
        route = photos[0].route
        target = gt.shape[-2] // self.scale, gt.shape[-1] // self.scale
        first, second = [p.first for p in photos], [p.second for p in photos]
        x = _blur_resize_noise(gt, gt.shape[-2:], route.first, first)
        x = self._jpeg(x, first)
        x = _blur_resize_noise(x, target, route.second, second)
        if not route.jpeg_last:
            x = self._jpeg(x, second)
        x = filter2d(_resize(x, target, route.final_mode), _stack([p.sinc for p in photos]))
        if route.jpeg_last:
            x = self._jpeg(x, second)
        return x.clamp(0, 1).mul_(255).round_().div_(255)

    def _jpeg(self, x: Tensor, passes: Sequence[PassValues]) -> Tensor:
        quality = torch.tensor([p.quality for p in passes], dtype=torch.float32)
        return jpeg(x.clamp(0, 1) if self.released_jpeg else x, quality, released=self.released_jpeg)


def _pass_route(limits: PassRange, generator: torch.Generator) -> PassRoute:
    direction = choice(limits.resize, generator)
    low, high = limits.factors
    return PassRoute(
        blurs=uniform(generator) < limits.blur,
        factor=(uniform(generator, 1.0, high), uniform(generator, low, 1.0), 1.0)[direction],
        mode=MODES[integer(generator, 3)],
        noise="gaussian" if uniform(generator) < limits.gaussian else "poisson",
    )


def _pass_values(limits: PassRange, route: PassRoute, generator: torch.Generator) -> PassValues:
    strengths = limits.sigma if route.noise == "gaussian" else limits.poisson
    return PassValues(
        kernel=draw_kernel(limits.kernel, generator),
        noise=Noise(
            kind=route.noise,
            strength=uniform(generator, *strengths),
            grey=uniform(generator) < limits.grey,
            seed=seed(generator),
        ),
        quality=uniform(generator, *limits.quality),
    )


def _blur_resize_noise(
    x: Tensor, size: Sequence[int], route: PassRoute, passes: Sequence[PassValues]
) -> Tensor:
    """Run one pass up to its JPEG; the result is `factor` times `size`."""
    if route.blurs:
        x = filter2d(x, _stack([p.kernel for p in passes]))
    height, width = (max(1, int(side * route.factor)) for side in size)
    return add_noise(_resize(x, (height, width), route.mode), [p.noise for p in passes])


def _resize(x: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """Resize as released: without antialiasing, except that `area` averages."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode=mode, align_corners=None if mode == "area" else False)


def _stack(kernels: Sequence[Kernel]) -> Tensor:
    """Return kernels padded to the largest of them."""
    side = max(kernel.size for kernel in kernels)
    return torch.stack([kernel.pixels(side) for kernel in kernels]).float()
