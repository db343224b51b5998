"""Bands of a photo on a GPU, by Triton: the interface of `protocol.py`. `launches.py` knows the kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.kernels.launches import Part, add_part, make_part, sums_of
from dirformer.kernels.protocol import Blend, BlockWeights, Conv, Modulation, require_known
from dirformer.kernels.stock import StockKernels

STRIP = 2**18
"""Pixels of a band whose sums are taken together."""


class TritonKernels:
    """The kernels on a GPU, for bands of hundreds of rows. Windows and convolutions are stock torch's."""

    name = "Triton"

    def __init__(
        self,
        precision: torch.dtype = torch.float32,
        device: torch.device | None = None,
        *,
        tf32: bool = False,
    ) -> None:
        self.precision, self.device, self.tf32 = precision, device or torch.device("cpu"), tf32
        self._stock = StockKernels(precision, self.device)

    def bands(self, threads: int, blocks: int) -> int:  # noqa: ARG002
        """Return into how many bands a map is cut: one; launches are few and large."""
        return 1

    def strip(self, width: int) -> int:
        """Return the rows worked on at a time, of a map that wide."""
        return max(2, STRIP // width // 2 * 2)

    def pack_block(self, block: BlockWeights) -> Packed:
        """Return the weights as the tiles read them. ConfigError for another kind of block."""
        require_known(block.kind)
        return Packed(block, self.precision, tf32=self.tf32)

    def pack_mixings(self, mixings: Float[Tensor, "windows c c"]) -> Tensor:
        """Reorder the matrices of a row of windows, which are to be blended."""
        return self._stock.pack_mixings(mixings)

    def pack_conv(self, conv: Conv, shuffle: int = 0, slope: float = 1.0) -> tuple[Conv, int, float]:
        """Return the convolution with what follows it; see `Kernels.pack_conv`."""
        return self._stock.pack_conv(conv, shuffle, slope)

    def pack_mixing(self, mixing: Float[Tensor, "c c"]) -> Tensor:
        """Return the matrix that takes values to the attention's output, in the products' precision."""
        return mixing.to(self.precision).contiguous()

    def statistics(
        self,
        block: Packed,
        norm: Modulation,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        rows: int,
        bounds: list[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum q·kᵀ, q² and k² over each `rows` rows of the band `x`; see `Kernels.statistics`."""
        if norm.columns is not None or bounds is not None:
            return self._stock.statistics(block.stock, norm, x, above, below, rows, bounds)
        found = []
        for lo in range(0, len(x), rows):
            hi = min(len(x), lo + rows)
            first = x[lo - 1 : lo] if lo else above
            last = x[hi : hi + 1] if hi < len(x) else below
            here, first, last = self._here(x[lo:hi], first, last)
            found.append(sums_of(block.qk, here, *_row(norm), block.stock.heads, first, last))
        gram, squares = (torch.cat(sums)[:, None] for sums in zip(*found, strict=True))
        return gram, squares[..., 0, :], squares[..., 1, :]

    def attend(
        self,
        block: Packed,
        norm: Modulation,
        mixing: Tensor,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        blend: Blend | None = None,
    ) -> None:
        """Add the attention to the band `x`, in place."""
        if norm.columns is not None or blend is not None:
            self._stock.attend(block.stock, norm, mixing, x, above, below, blend)
        else:
            self._project(block.v, norm, mixing, block.stock.attention_bias, x, above, below)

    def feed(
        self, block: Packed, norm: Modulation, x: Tensor, above: Tensor | None, below: Tensor | None
    ) -> None:
        """Add the feed-forward to the band `x`, in place."""
        if norm.columns is not None:
            self._stock.feed(block.stock, norm, x, above, below)
        else:
            self._project(block.feed, norm, block.matrix, block.stock.project.bias, x, above, below)

    def convolve(
        self, conv: tuple[Conv, int, float], x: Tensor, above: Tensor | None, below: Tensor | None
    ) -> Tensor:
        """Convolve the band `x`; see `Kernels.convolve`."""
        return self._stock.convolve(conv, x, above, below)

    def _project(
        self,
        part: Part,
        norm: Modulation,
        matrix: Tensor,
        bias: Tensor | None,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
    ) -> None:
        here, above, below = self._here(x, above, below)
        add_part(part, here, here, *_row(norm), matrix, bias, above, below)
        if here.device != x.device:
            x.copy_(here[0])

    def _here(self, *rows: Tensor | None) -> tuple[Any, ...]:
        """Return rows as one photo on the device: maps that do not fit there wait on the host."""
        return tuple(None if t is None else t.to(self.device)[None] for t in rows)


def _row(norm: Modulation) -> tuple[Tensor, Tensor]:
    return norm.scale[None].contiguous(), norm.shift[None].contiguous()


class Packed:
    """A block's weights as the tiles read them; `stock` as they are, for windows."""

    def __init__(self, block: BlockWeights, precision: torch.dtype, *, tf32: bool) -> None:
        make = functools.partial(make_part, precision=precision, centred=block.centred, tf32=tf32)
        width = block.qkv.weight.shape[1]
        qk, v = slice(0, 2 * width), slice(2 * width, None)
        self.stock = block
        self.qk = make(_of(block.qkv, qk), _of(block.qkv_depthwise, qk), gated=False)
        self.v = make(_of(block.qkv, v), _of(block.qkv_depthwise, v), gated=False)
        self.feed = make(block.expand, block.depthwise, gated=True)
        self.matrix = block.project.weight.flatten(1).to(precision).contiguous()


def _of(conv: Conv, channels: slice) -> Conv:
    return Conv(conv.weight[channels], None if conv.bias is None else conv.bias[channels])
