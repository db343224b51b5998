"""Blur kernels, filtering with one kernel per photo, and sharpening.

A kernel is described by `Kernel`, a handful of numbers that can be written into a manifest; `draw_kernel`
draws one in the distribution of the second-order degradation (Real-ESRGAN, Wang et al. 2021, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.base import choice, integer, uniform
from dirformer.ground.errors import ConfigError

Family = Literal["gaussian", "generalised", "plateau", "sinc", "pulse"]


@dataclass(frozen=True)
class Kernel:
    """A blur kernel, centred, of sum 1."""

    family: Family
    size: int = 21
    """Side in pixels, odd."""
    sigma_x: float = 0.0
    """Width in pixels along the first axis, before rotation."""
    sigma_y: float = 0.0
    theta: float = 0.0
    """Rotation in radians."""
    beta: float = 1.0
    """Shape of the generalised and plateau families."""
    cutoff: float = 0.0
    """Of a sinc kernel, in radians per pixel."""

    def __post_init__(self) -> None:
        if self.size % 2 == 0 or self.size < 1:
            raise ConfigError(f"kernel size is {self.size}; expected an odd number of pixels")

    def pixels(self, size: int | None = None) -> Float[Tensor, "k k"]:
        """Return the kernel in float64, zero-padded to `size`."""
        kernel = _pixels(self)
        if size is None or size == self.size:
            return kernel
        return F.pad(kernel, [(size - self.size) // 2] * 4)


def _pixels(kernel: Kernel) -> Tensor:
    axis = torch.arange(kernel.size, dtype=torch.float64) - kernel.size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kernel.family == "pulse":
        values = ((x == 0) & (y == 0)).double()
    elif kernel.family == "sinc":
        # The inverse Fourier transform of a disc of radius `cutoff`; its limit stands at r = 0.
        r = torch.hypot(x, y)
        values = kernel.cutoff * _bessel_j1(kernel.cutoff * r) / (2 * math.pi * r)
        values[kernel.size // 2, kernel.size // 2] = kernel.cutoff**2 / (4 * math.pi)
    else:
        cos, sin = math.cos(kernel.theta), math.sin(kernel.theta)
        u, v = cos * x + sin * y, cos * y - sin * x
        q = (u / kernel.sigma_x) ** 2 + (v / kernel.sigma_y) ** 2
        q = q**kernel.beta
        values = 1 / (q + 1) if kernel.family == "plateau" else (-0.5 * q).exp()
    return values / values.sum()


def _bessel_j1(x: Tensor) -> Tensor:
    """Bessel's integral of order 1 by the trapezoidal rule, exact to rounding for x below 80.

    PyTorch's own function is only good to 1e-8.
    """
    angle = torch.arange(128, dtype=x.dtype) * (2 * math.pi / 128)
    return torch.cos(angle - x[..., None] * angle.sin()).mean(-1)


@dataclass(frozen=True)
class KernelRange:
    """The distribution of one pass's kernel; defaults are the released first pass."""

    sizes: tuple[int, int] = (7, 21)
    """Smallest and largest side; odd sizes between them are equally likely."""
    sinc: float = 0.1
    """Probability of a sinc kernel."""
    families: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Isotropic and rotated Gaussian, generalised Gaussian, plateau."""
    sigma: tuple[float, float] = (0.2, 3.0)
    beta_generalised: tuple[float, float] = (0.5, 4.0)
    beta_plateau: tuple[float, float] = (1.0, 2.0)


FAMILIES: tuple[Family, Family, Family] = ("gaussian", "generalised", "plateau")


def draw_kernel(limits: KernelRange, generator: torch.Generator) -> Kernel:
    """Draw a kernel of one pass."""
    size = _odd(limits.sizes, generator)
    if uniform(generator) < limits.sinc:
        return draw_sinc(size, generator)
    number = choice(limits.families, generator)
    family, rotated = FAMILIES[number // 2], number % 2 == 1
    sigma_x = sigma_y = uniform(generator, *limits.sigma)
    theta = 0.0
    if rotated:
        sigma_y, theta = uniform(generator, *limits.sigma), uniform(generator, -math.pi, math.pi)
    beta = 1.0
    if family != "gaussian":
        low, high = limits.beta_generalised if family == "generalised" else limits.beta_plateau
        # Half of the draws are below 1 (peaked), half above (flat): not uniform over the range.
        beta = uniform(generator, low, 1.0) if uniform(generator) < 0.5 else uniform(generator, 1.0, high)
    return Kernel(family, size, sigma_x, sigma_y, theta, beta)


def draw_sinc(size: int, generator: torch.Generator) -> Kernel:
    """Draw a sinc kernel of a pass: small ones cut off higher, or they would only blur."""
    lowest = math.pi / 3 if size < 13 else math.pi / 5
    return Kernel("sinc", size, cutoff=uniform(generator, lowest, math.pi))


def draw_final_sinc(probability: float, generator: torch.Generator) -> Kernel:
    """Draw the last filter of the second-order degradation: a sinc kernel, or none (a pulse)."""
    if uniform(generator) >= probability:
        return Kernel("pulse")
    return Kernel("sinc", _odd((7, 21), generator), cutoff=uniform(generator, math.pi / 3, math.pi))


def _odd(sizes: tuple[int, int], generator: torch.Generator) -> int:
    low, high = sizes
    return low + 2 * integer(generator, (high - low) // 2 + 1)


def filter2d(x: Float[Tensor, "b c h w"], kernels: Float[Tensor, "n k k"]) -> Float[Tensor, "b c h w"]:
    """Correlate each photo with its kernel (n = b), or all with one (n = 1).

    Borders are mirrored without repeating the edge; a photo smaller than half the kernel is mirrored
    more than once. Computed by FFT where that is cheaper than summing over the kernel.
    """
    batch, channels, height, width = x.shape
    half = kernels.shape[-1] // 2
    kernels = kernels.to(x)
    if kernels.shape[-1] > 5:
        size = [_fast_length(n + 2 * half) for n in (height, width)]
        # Mirrored up to the length of the transform: what lies beyond the border is not looked at.
        x = mirror(x, half, size[0] - height - half, size[1] - width - half)
        spectra = torch.fft.rfft2(kernels, s=size).conj().expand(batch, -1, -1)
        if x.device.type != "cpu" or height * width < 300 * 300:
            spectrum = torch.fft.rfft2(x).mul_(spectra[:, None])
            return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]
        # Plane by plane: two or three large ones no longer fit into a core's cache, at half the speed.
        out = x.new_empty(batch, channels, height, width)
        for photo, planes in enumerate(x):
            for channel, plane in enumerate(planes):
                spectrum = torch.fft.rfft2(plane).mul_(spectra[photo])
                out[photo, channel] = torch.fft.irfft2(spectrum, s=size)[:height, :width]
        return out
    x = mirror(x, half, half, half)
    weight = kernels.expand(batch, -1, -1)[:, None, None].expand(-1, channels, -1, -1, -1).flatten(0, 1)
    out = F.conv2d(x.reshape(1, batch * channels, *x.shape[-2:]), weight, groups=batch * channels)
    return out.reshape(batch, channels, height, width)


def mirror(x: Float[Tensor, "b c h w"], before: int, below: int, behind: int) -> Float[Tensor, "b c H W"]:
    """Pad by mirroring without repeating the edge, as often as a small photo needs.

    Args:
        x: photos.
        before: pixels added above and to the left.
        below: pixels added below.
        behind: pixels added to the right.
    """
    height, width = x.shape[-2:]
    if max(before, below) < height and max(before, behind) < width:
        return F.pad(x, (before, behind, before, below), mode="reflect")
    for axis, length, after in ((-2, height, below), (-1, width, behind)):
        period = max(2 * length - 2, 1)
        index = torch.arange(-before, length + after, device=x.device) % period
        x = x.index_select(axis, torch.where(index < length, index, period - index))
    return x


@lru_cache(maxsize=1024)
def _fast_length(n: int) -> int:
    """Smallest length ≥ n whose only prime factors are 2, 3 and 5: what an FFT likes."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def sharpen(
    x: Float[Tensor, "b c h w"], *, weight: float = 0.5, threshold: float = 10.0, size: int = 51
) -> Float[Tensor, "b c h w"]:
    """USM sharpening as the real-world recipes apply it to their targets.

    Args:
        x: photos in [0, 1].
        weight: how much of the difference from the blurred photo is added.
        threshold: differences up to this many grey levels of 255 are left alone; the mask of the others
            is blurred, so that sharpening fades in.
        size: side of the Gaussian, odd; its sigma follows OpenCV's rule for that size (8.0 for 51).
    """
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    gaussian = Kernel("gaussian", size, sigma, sigma).pixels()[None]
    detail = x - filter2d(x, gaussian)
    mask = filter2d((detail.abs() * 255 > threshold).to(x), gaussian)
    return torch.lerp(x, (x + weight * detail).clamp(0, 1), mask)
