"""The adversaries: a U-Net judging every pixel (super-resolution), a patch network (inpainting)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2
"""Negative slope of every LeakyReLU here."""


class UNetDiscriminator(nn.Module):
    """U-Net with spectral norm: photo → one logit per pixel (Real-ESRGAN's, used for both kinds of SR).

    Sides must be multiples of 8.
    """

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        widths = (dim, 2 * dim, 4 * dim, 8 * dim)
        self.embed = nn.Conv2d(3, dim, 3, padding=1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1, bias=False))
            for i in range(3)
        )
        self.up = nn.ModuleList(
            spectral_norm(nn.Conv2d(widths[i + 1], widths[i], 3, padding=1, bias=False))
            for i in reversed(range(3))
        )
        self.last = nn.ModuleList(
            spectral_norm(nn.Conv2d(dim, dim, 3, padding=1, bias=False)) for _ in range(2)
        )
        self.logit = nn.Conv2d(dim, 1, 3, padding=1)

    def forward(self, photo: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        x = F.leaky_relu(self.embed(photo), SLOPE)
        skips = [x]
        for down in self.down:
            x = F.leaky_relu(down(x), SLOPE)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = F.leaky_relu(up(x), SLOPE) + skips.pop()
        for conv in self.last:
            x = F.leaky_relu(conv(x), SLOPE)
        return self.logit(x)


class PatchDiscriminator(nn.Module):
    """pix2pixHD's n-layer network: photo → logits of overlapping patches (LaMa's, used for inpainting).

    4×4 convolutions, the first `layers` of stride 2; batch norm on all but the first and last.
    """

    def __init__(self, dim: int = 64, layers: int = 4) -> None:
        super().__init__()
        widths = [3, *(min(dim * 2**i, 512) for i in range(layers))]
        strides = [2] * layers
        widths.append(widths[-1])
        strides.append(1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 4, stride=strides[i], padding=2),
                nn.BatchNorm2d(widths[i + 1]) if i else nn.Identity(),
                nn.LeakyReLU(SLOPE),
            )
            for i in range(layers + 1)
        )
        self.logit = nn.Conv2d(widths[-1], 1, 4, padding=2)

    def features(self, photo: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return what leaves each layer, the logits last."""
        outputs = [photo]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return [*outputs[1:], self.logit(outputs[-1])]

    def forward(self, photo: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 y x"]:
        return self.features(photo)[-1]
