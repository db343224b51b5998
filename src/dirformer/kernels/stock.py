"""Kernels in stock torch: any device and precision, no compiler. They compute what `native.py` does.

Each function works strip by strip, so that the wide intermediates stay in the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.kernels.protocol import Blend, BlockWeights, Conv, Modulation, require_known
from dirformer.networks.dirformer import NORM_EPS, attention_statistics

STRIP = 8192
"""Pixels per strip: its wide intermediates are a few MB, a share of the last cache."""


class StockKernels:
    """The kernels on `device`, products in `precision`, residual stream, norms and sums in float32."""

    name = "stock torch"

    def __init__(
        self,
        precision: torch.dtype = torch.float32,
        device: torch.device | None = None,
        *,
        tf32: bool = False,
    ) -> None:
        self.precision, self.device = precision, device or torch.device("cpu")
        self.tf32 = tf32

    def bands(self, threads: int, blocks: int) -> int:  # noqa: ARG002
        """Return into how many bands a map of so many row blocks is cut: always as many.

        A library may sum a product of another size in another order; equal cuts give equal bytes.
        """
        return min(blocks, 8)

    def strip(self, width: int) -> int:
        """Return the rows worked on at a time, of a map that wide."""
        return max(1, STRIP // width)

    def pack_block(self, block: BlockWeights) -> BlockWeights:
        """Return the weights: stock torch reads them as they are. ConfigError for another kind of block."""
        require_known(block.kind)
        return block

    def pack_mixing(self, mixing: Float[Tensor, "c c"]) -> Tensor:
        """Transpose the matrix that takes values to the attention's output, in the products' precision."""
        return mixing.T.contiguous().to(self.precision)

    def pack_mixings(self, mixings: Float[Tensor, "windows c c"]) -> Tensor:
        """Transpose the matrices of a row of windows."""
        return mixings.transpose(1, 2).contiguous().to(self.precision)

    def pack_conv(self, conv: Conv, shuffle: int = 0, slope: float = 1.0) -> tuple[Conv, int, float]:
        """Return the convolution with what follows it: a pixel-shuffle (−2: unshuffle), a leaky ReLU."""
        return conv, shuffle, slope

    def statistics(
        self,
        block: BlockWeights,
        norm: Modulation,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        rows: int,
        bounds: list[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum q·kᵀ, q² and k² over each `rows` rows of the band `x`, and each cell of them.

        `bounds` are those of the cells, by default one. Returns `n cells heads d d`, `n cells heads d` twice.
        """
        width = x.shape[2]
        cells = list(itertools.pairwise(bounds or [0, x.shape[1]]))
        sums = []
        for lo in range(0, len(x), rows):
            strip, edges = self._strip(x, above, below, lo, min(len(x), lo + rows))
            modulation = norm.rows(lo, lo + len(strip) - 2)
            convs = block.qkv, block.qkv_depthwise
            qk = self._widen(strip, edges, modulation, *convs, slice(0, 2 * width), centred=block.centred)
            for start, stop in cells:
                columns = qk[:, start:stop].float().flatten(0, 1).T
                q, k = columns.reshape(1, 2, block.heads, -1, columns.shape[1]).unbind(1)
                sums.append(attention_statistics(q, k))
        gram, q2, k2 = (torch.cat(parts) for parts in zip(*sums, strict=True))
        gram, q2, k2 = (t.view(-1, len(cells), *t.shape[1:]) for t in (gram, q2, k2))
        return gram, q2, k2

    def attend(
        self,
        block: BlockWeights,
        norm: Modulation,
        mixing: Tensor,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        blend: Blend | None = None,
    ) -> None:
        """Add the attention to the band `x`, in place."""
        values = slice(2 * x.shape[2], 3 * x.shape[2])
        for lo, part, strip, edges in self._in_place(x, above, below):
            modulation = norm.rows(lo, lo + len(part))
            convs = block.qkv, block.qkv_depthwise
            v = self._widen(strip, edges, modulation, *convs, values, centred=block.centred)
            mixed = v.flatten(0, 1) @ mixing if blend is None else self._mixed(v, mixing, blend, lo)
            self._add(part, strip, mixed, block.attention_bias)

    def _mixed(
        self, v: Float[Tensor, "y x c"], mixing: Float[Tensor, "windows c c"], blend: Blend, lo: int
    ) -> Float[Tensor, "y_x c"]:
        """Mix values by the attentions of the four windows around each pixel, by their shares."""
        down = blend.down[lo : lo + len(v)].to(v)[:, None]
        across = blend.columns.share.to(v)
        out = torch.empty_like(v)
        for j, (start, stop) in enumerate(itertools.pairwise([0, *blend.columns.ends])):
            behind = min(j + 1, blend.columns.windows - 1)
            corners = torch.cat([matrices[i] for matrices in (mixing, blend.below) for i in (j, behind)])
            share = across[start:stop]
            shares = [a * b for a in (1 - down, down) for b in (1 - share, share)]
            shared = torch.cat([v[:, start:stop] * s[..., None] for s in shares], dim=2)
            out[:, start:stop] = (shared.flatten(0, 1) @ corners).view(len(v), stop - start, -1)
        return out.flatten(0, 1)

    def feed(
        self,
        block: BlockWeights,
        norm: Modulation,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
    ) -> None:
        """Add the feed-forward to the band `x`, in place."""
        for lo, part, strip, edges in self._in_place(x, above, below):
            modulation = norm.rows(lo, lo + len(part))
            convs = block.expand, block.depthwise
            wide = self._widen(strip, edges, modulation, *convs, slice(None), centred=block.centred)
            gate, value = wide.chunk(2, dim=2)
            rows = (F.gelu(gate) * value).flatten(0, 1)
            out = rows @ block.project.weight.flatten(1).T.to(self.precision)
            self._add(part, strip, out, block.project.bias)

    def convolve(
        self, conv: tuple[Conv, int, float], x: Tensor, above: Tensor | None, below: Tensor | None
    ) -> Tensor:
        """Convolve the band `x`; return float32 rows, shuffled where the packing says so."""
        layer, shuffle, slope = conv
        if layer.weight.shape[-1] == 1:
            out = F.linear(self._moved(x), self._cast(layer.weight.flatten(1)), self._bias(layer.bias))
        else:
            strip, _ = self._strip(x, above, below, 0, len(x))
            # Batch axis first: added last, its stride would hide from conv2d that this is channels-last.
            maps = self._moved(strip)[None].movedim(3, 1)
            # The rows above and below are part of the strip; only columns are padded here.
            maps = F.conv2d(maps, self._cast(layer.weight), self._bias(layer.bias), padding=(0, 1))
            if shuffle:
                maps = F.pixel_shuffle(maps, shuffle) if shuffle > 0 else F.pixel_unshuffle(maps, -shuffle)
            out = maps[0].movedim(0, 2)
        out = out.float()
        return (out if slope == 1 else F.leaky_relu(out, slope)).contiguous()

    # ------------------------------------------------------------------------------------------- strips

    def _in_place(
        self, x: Tensor, above: Tensor | None, below: Tensor | None
    ) -> Iterator[tuple[int, Tensor, Tensor, tuple[bool, bool]]]:
        """Yield the strips of a band that is being overwritten, and where they begin.

        Each sees its neighbours as they were.
        """
        step = self.strip(x.shape[1])
        for lo in range(0, len(x), step):
            part = x[lo : lo + step]
            strip, edges = self._strip(x[lo:], above, below, 0, len(part))
            above = part[-1:].clone()
            yield lo, part, strip, edges

    def _strip(
        self, x: Tensor, above: Tensor | None, below: Tensor | None, lo: int, hi: int
    ) -> tuple[Tensor, tuple[bool, bool]]:
        """Return rows lo − 1 to hi + 1 in float32, and whether the first and last lie outside the photo."""
        first = x[lo - 1 : lo] if lo else above
        last = x[hi : hi + 1] if hi < len(x) else below
        zeros = x.new_zeros(1, *x.shape[1:])
        parts = [zeros if first is None else first, x[lo:hi], zeros if last is None else last]
        rows = torch.cat([part.reshape(-1, *x.shape[1:]).to(self.device) for part in parts]).float()
        return rows, (first is None, last is None)

    def _widen(
        self,
        strip: Tensor,
        edges: tuple[bool, bool],
        modulation: tuple[Tensor, Tensor],
        expand: Conv,
        depthwise: Conv,
        part: slice,
        *,
        centred: bool,
    ) -> Tensor:
        """Norm, 1×1 and depth-wise convolution, of the output channels in `part`: `y x wide`."""
        if centred:
            normed = F.layer_norm(strip, strip.shape[-1:], eps=NORM_EPS)
        else:
            normed = strip * torch.rsqrt(strip.var(-1, correction=0, keepdim=True) + NORM_EPS)
        scale, shift = modulation
        normed = torch.addcmul(shift, normed, scale).to(self.precision)
        weight, bias = expand.weight.flatten(1)[part], expand.bias
        wide = F.linear(normed, self._cast(weight), self._bias(None if bias is None else bias[part]))
        # Zero padding acts on the 1×1 convolution's output, not on what it was computed from.
        for outside, row in zip(edges, (0, -1), strict=True):
            if outside:
                wide[row] = 0
        taps, bias = depthwise.weight[part], depthwise.bias
        out = F.conv2d(
            wide[None].movedim(3, 1),
            self._cast(taps),
            self._bias(None if bias is None else bias[part]),
            padding=(0, 1),
            groups=len(taps),
        )
        return out[0].movedim(0, 2)

    def _add(self, to: Tensor, strip: Tensor, rows: Tensor, bias: Tensor | None) -> None:
        rows = rows.float() if bias is None else rows.float() + bias
        to.copy_(strip[1:-1] + rows.view(*to.shape))

    def _moved(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.precision)

    def _cast(self, weight: Tensor) -> Tensor:
        return weight.to(self.precision)

    def _bias(self, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias.to(self.precision)
