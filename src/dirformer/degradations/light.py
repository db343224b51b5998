"""Light damages of photos: what cameras, editors and web sites do, each alone and at every strength.

A damage is a frozen dataclass of plain numbers, so a manifest can name it; calling it with a photo
`3 h w` in [0, 1] applies it. `drawn` makes one from a severity in [0, 1]: 0 is next to nothing, 1 the
strongest that is still a single damage. All of it runs on the CPU: JPEG, WebP and most resamplers are
Pillow's own on 8-bit values, the same programs that users' photos come from.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.base import choice, integer, seed, uniform
from dirformer.degradations.blur import Kernel, filter2d, mirror
from dirformer.degradations.jpeg import TO_RGB

Photo = Float[Tensor, "3 h w"]
Chroma = Literal["4:2:0", "4:4:4"]
Resampler = Literal[
    "bicubic", "lanczos", "hamming", "bilinear", "box", "bicubic-plain", "bilinear-plain", "gaussian"
]
"""Pillow's filters, which average when they shrink; "plain" ones look at the nearest pixels only (without
antialiasing); "gaussian" blurs and then picks pixels."""

PILLOW: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
REDUCERS: dict[Resampler, float] = {
    "bicubic": 0.35,
    "lanczos": 0.15,
    "box": 0.10,
    "bilinear": 0.10,
    "hamming": 0.05,
    "bicubic-plain": 0.10,
    "bilinear-plain": 0.05,
    "gaussian": 0.10,
}
"""How small photos are made from clean ones, with weights."""
ROUND_TRIPS: dict[Resampler, float] = {"bicubic": 0.4, "bilinear": 0.3, "lanczos": 0.2, "bicubic-plain": 0.1}
"""How a photo is resized there and back, with weights."""
REACH = 16
"""Pixels over which a block, a kernel or a resampler carries the photo's border inwards, at most."""


class Damage(ABC):
    """One light damage with all its numbers."""

    kind: str
    margin: ClassVar[int] = REACH
    """Pixels along each side that depend on the photo's border."""

    @classmethod
    @abstractmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> Damage:
        """Draw one of a severity in [0, 1]."""

    @abstractmethod
    def __call__(self, photo: Photo) -> Photo:
        """Return the damaged photo in [0, 1]."""


@dataclass(frozen=True)
class Jpeg(Damage):
    """JPEG compression by libjpeg."""

    quality: int
    """10 … 98."""
    chroma: Chroma
    offset: tuple[int, int]
    """Rows and columns (0 … 15) that the grid of blocks begins above and to the left of the photo."""
    kind: Literal["jpeg"] = "jpeg"

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> Jpeg:
        """Quality falls evenly with severity; web sites prefer 4:2:0."""
        chroma: Chroma = "4:2:0" if uniform(generator) < 0.65 else "4:4:4"
        return cls(_quality(severity), chroma, _offset(generator))

    def __call__(self, photo: Photo) -> Photo:
        """Compress and decompress."""
        subsampling = 2 if self.chroma == "4:2:0" else 0
        return _through_file(photo, self.offset, "JPEG", quality=self.quality, subsampling=subsampling)


@dataclass(frozen=True)
class Webp(Damage):
    """Lossy WebP compression (always 4:2:0)."""

    quality: int
    """10 … 98."""
    offset: tuple[int, int]
    """As in `Jpeg`."""
    kind: Literal["webp"] = "webp"

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> Webp:
        """Quality falls evenly with severity."""
        return cls(_quality(severity), _offset(generator))

    def __call__(self, photo: Photo) -> Photo:
        """Compress and decompress."""
        # Method 2 of 0 … 6: half the time of the default 4 at the same artefacts.
        return _through_file(photo, self.offset, "WEBP", quality=self.quality, method=2)


@dataclass(frozen=True)
class GaussianNoise(Damage):
    """White Gaussian noise."""

    sigma: float
    """0 … 50 grey levels of 255."""
    grey: bool
    """The same noise in all channels."""
    seed: int
    kind: Literal["gaussian noise"] = "gaussian noise"
    margin: ClassVar[int] = 0

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> GaussianNoise:
        """Sigma grows faster than severity: weak noise, where little can be lost, is drawn more often."""
        return cls(50 * severity**1.5, grey=uniform(generator) < 0.25, seed=seed(generator))

    def __call__(self, photo: Photo) -> Photo:
        """Add the noise."""
        normal = _normal(self.seed, 1 if self.grey else 3, *photo.shape[1:])
        return (photo + normal.mul_(self.sigma / 255)).clamp_(0, 1)


@dataclass(frozen=True)
class SensorNoise(Damage):
    """A sensor's noise: its variance is `read`² + `shot`² × brightness."""

    shot: float
    """Sigma that white adds, 0 … 45 grey levels."""
    read: float
    """Sigma in black, 0 … 20 grey levels."""
    seed: int
    kind: Literal["sensor noise"] = "sensor noise"
    margin: ClassVar[int] = 0

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> SensorNoise:
        """Both parts grow with severity; how much of it is read noise is drawn."""
        strength = severity**1.5
        return cls(45 * strength, 20 * strength * uniform(generator), seed(generator))

    def __call__(self, photo: Photo) -> Photo:
        """Add the noise."""
        sigma = (photo * (self.shot / 255) ** 2).add_((self.read / 255) ** 2).sqrt_()
        return sigma.mul_(_normal(self.seed, *photo.shape)).add_(photo).clamp_(0, 1)


@dataclass(frozen=True)
class ChromaNoise(Damage):
    """Soft blotches of colour and a little white noise in luma, as a camera's own denoiser leaves them."""

    sigma: float
    """Of Cb and Cr, 0 … 20 grey levels."""
    luma: float
    """Of the luma noise, 0 … 10 grey levels."""
    softness: float
    """Sigma of the blotches in pixels, 0.5 … 3."""
    seed: int
    kind: Literal["chroma noise"] = "chroma noise"
    margin: ClassVar[int] = 0

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> ChromaNoise:
        """Sigmas grow with severity, softness is drawn."""
        sigma = 20 * severity**1.3
        return cls(sigma, 0.5 * sigma * uniform(generator), uniform(generator, 0.5, 3.0), seed(generator))

    def __call__(self, photo: Photo) -> Photo:
        """Add the noise."""
        taps = _gaussian(self.softness)
        reach, (height, width) = len(taps) - 1, photo.shape[1:]
        blotches = _normal(self.seed, 2, height + reach, width + reach)
        # Taps of norm 1 keep the variance at 1.
        blotches = _separable(blotches, taps / taps.norm()).mul_(self.sigma / 255)
        luma = _normal(self.seed + 1, 1, height, width).mul_(self.luma / 255)
        noise = torch.tensor(TO_RGB) @ torch.cat([luma, blotches]).flatten(1)
        return noise.view_as(photo).add_(photo).clamp_(0, 1)


@dataclass(frozen=True)
class Blur(Damage):
    """A slight Gaussian blur, round or not."""

    sigma_x: float
    """0.2 … 1.6 pixels."""
    sigma_y: float
    theta: float
    """Rotation in radians."""
    kind: Literal["blur"] = "blur"

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> Blur:
        """Six of ten blurs are round."""
        sigma = 0.2 + 1.4 * severity
        if uniform(generator) < 0.6:
            return cls(sigma, sigma, 0.0)
        return cls(sigma, sigma * uniform(generator, 0.4, 1.0), uniform(generator, 0.0, math.pi))

    def __call__(self, photo: Photo) -> Photo:
        """Blur; borders are mirrored."""
        if self.sigma_x == self.sigma_y:
            return soften(photo, self.sigma_x)
        size = 2 * math.ceil(3 * self.sigma_x) + 1
        kernel = Kernel("gaussian", size, self.sigma_x, self.sigma_y, self.theta).pixels()
        return filter2d(photo[None], kernel[None].float())[0].clamp_(0, 1)


@dataclass(frozen=True)
class Sharpening(Damage):
    """Unsharp masking, which leaves halos."""

    amount: float
    """0 … 2: how much of the detail is added once more."""
    sigma: float
    """Of the Gaussian that tells detail, 0.4 … 2 pixels."""
    kind: Literal["sharpening"] = "sharpening"

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> Sharpening:
        """The amount grows with severity, the width is drawn."""
        return cls(2 * severity, uniform(generator, 0.4, 2.0))

    def __call__(self, photo: Photo) -> Photo:
        """Sharpen."""
        return torch.lerp(soften(photo, self.sigma), photo, 1 + self.amount).clamp_(0, 1)


@dataclass(frozen=True)
class Resizing(Damage):
    """To another size and back."""

    factor: float
    """Of the size between: 0.4 … 1 shrinks first, 1 … 2 enlarges first."""
    there: Resampler
    back: Resampler
    kind: Literal["resizing"] = "resizing"

    @classmethod
    def drawn(cls, severity: float, generator: torch.Generator) -> Resizing:
        """Seven of ten are shrunk first."""
        shrinks = uniform(generator) < 0.7
        factor = 1 - 0.6 * severity if shrinks else 1 + severity
        return cls(factor, draw_resampler(ROUND_TRIPS, generator), draw_resampler(ROUND_TRIPS, generator))

    def __call__(self, photo: Photo) -> Photo:
        """Resize twice."""
        height, width = photo.shape[1:]
        between = max(1, round(height * self.factor)), max(1, round(width * self.factor))
        return resample(resample(photo, between, self.there), (height, width), self.back)


def draw_resampler(weights: dict[Resampler, float], generator: torch.Generator) -> Resampler:
    """Draw a resampler by weight."""
    return list(weights)[choice(list(weights.values()), generator)]


def resample(
    photo: Photo, size: tuple[int, int], how: Resampler, sigma: float = 0.5
) -> Float[Tensor, "3 H W"]:
    """Resize a photo to `size` (height, width); values stay in [0, 1].

    Args:
        photo: photo; Pillow's filters see it at 8 bits.
        size: height and width to make.
        how: the resampler.
        sigma: of the "gaussian" one, in pixels of the result.
    """
    if how in PILLOW:
        return _from_image(_to_image(photo).resize(size[::-1], PILLOW[how]))
    if how == "gaussian":
        photo, how = soften(photo, sigma * photo.shape[1] / size[0]), "bilinear-plain"
    mode = how.removesuffix("-plain")
    return F.interpolate(photo[None], size, mode=mode, align_corners=False)[0].clamp_(0, 1)


def soften(photo: Photo, sigma: float) -> Photo:
    """Blur with a round Gaussian of `sigma` pixels; borders are mirrored."""
    taps = _gaussian(sigma)
    half = len(taps) // 2
    return _separable(mirror(photo[None], half, half, half)[0], taps).clamp_(0, 1)


def _gaussian(sigma: float) -> Tensor:
    """Return the taps of a Gaussian, of sum 1, out to three sigmas."""
    half = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2)
    return taps / taps.sum()


def _separable(x: Tensor, taps: Tensor) -> Tensor:
    """Correlate planes `c h w` with the same taps along rows and columns, without padding."""
    x = F.conv2d(x[:, None], taps.view(1, 1, 1, -1))
    return F.conv2d(x, taps.view(1, 1, -1, 1))[:, 0]


def _normal(seed_of_field: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of_field))


def _quality(severity: float) -> int:
    return round(98 - 88 * severity)


def _offset(generator: torch.Generator) -> tuple[int, int]:
    """Half of the photos are as they were saved; the others were cropped since."""
    if uniform(generator) < 0.5:
        return 0, 0
    return integer(generator, 16), integer(generator, 16)


def _through_file(photo: Photo, offset: tuple[int, int], kind: str, **settings: Any) -> Photo:
    """Write a photo into a file in memory and read it again."""
    top, left = offset
    photo = F.pad(photo[None], (left, 0, top, 0), mode="replicate")[0] if top or left else photo
    file = io.BytesIO()
    _to_image(photo).save(file, kind, **settings)
    with Image.open(file) as image:
        return _from_image(image.convert("RGB"))[:, top:, left:]


def _to_image(photo: Photo) -> Image.Image:
    levels = (photo * 255).round_().clamp_(0, 255).byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _from_image(image: Image.Image) -> Photo:
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return levels.float().div_(255)
