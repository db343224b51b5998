"""What all sets of kernels share: a block's tensors, windows of attention, and the interface itself.

Maps are `y x c`, channels side by side. A band is some rows `x` of a map, with the row `above` and the row
`below` it as they were before the sweep; a neighbour outside the photo is None.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dirformer.ground.errors import ConfigError

DMTA_DGFN = "dmta-dgfn"
"""The kind of block that these kernels compute; see `Block.kind`."""
WIDE = 2**28
"""Bytes of a wide map that a GPU's kernels write at a time; a larger map is worked on in so many rows."""


@dataclass(frozen=True)
class Conv:
    """One convolution's tensors."""

    weight: Float[Tensor, "o i k k"]
    bias: Float[Tensor, "o"] | None


@dataclass(frozen=True)
class BlockWeights:
    """The tensors of one transformer block. Its norms' scale and shift are arguments of each call."""

    kind: str
    """Which definition of a block these tensors belong to."""
    heads: int
    centred: bool
    """Whether the norms take the mean away."""
    qkv: Conv
    qkv_depthwise: Conv
    attention_bias: Float[Tensor, "c"] | None
    """Bias of the projection; its matrix is part of the mixing matrix."""
    expand: Conv
    depthwise: Conv
    project: Conv


def kind_of(block: Any) -> str | None:
    """Return the kind that a block's own class states.

    A subclass must state its kind itself: what it inherits says nothing about what it computes.
    """
    kind = vars(type(block)).get("kind")
    return kind if isinstance(kind, str) else None


def block_weights(block: Any) -> BlockWeights:
    """Collect the tensors of a block.

    Raises:
        ConfigError: if the block is of a kind that no kernels know.
    """
    require_known(kind_of(block))
    attention, feed = block.attention, block.feed_forward
    return BlockWeights(
        kind=DMTA_DGFN,
        heads=attention.heads,
        centred=attention.norm.bias is not None,
        qkv=conv_weights(attention.qkv),
        qkv_depthwise=conv_weights(attention.qkv_depthwise),
        attention_bias=_plain(attention.project.bias),
        expand=conv_weights(feed.expand),
        depthwise=conv_weights(feed.depthwise),
        project=conv_weights(feed.project),
    )


def weights_state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return where each weight lies and how often it was written: another value where one has changed."""
    return tuple((p.data_ptr(), p._version) for p in module.parameters())  # noqa: SLF001


def conv_weights(conv: Any) -> Conv:
    """Return a convolution's tensors, without their gradients."""
    return Conv(conv.weight.detach(), _plain(conv.bias))


def _plain(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def require_known(kind: str | None) -> None:
    """Raise ConfigError unless these kernels compute blocks of that kind."""
    if kind != DMTA_DGFN:
        raise ConfigError(
            f"the kernels got a block of kind {kind!r}; they compute {DMTA_DGFN!r} only: "
            "restore with the plain modules, model(lq, noise)"
        )


@dataclass(frozen=True)
class Axis:
    """One side of a map in context windows: its cells, and which windows each pixel blends.

    A window is two neighbouring cells; a single cell is a window by itself.
    """

    bounds: list[int]
    """Where cells begin, and where the last ends."""
    ends: list[int]
    """Where the spans end within which pixels blend the same two windows."""
    left: Int[Tensor, "n"]
    """Per pixel, the window before it; the window behind it is the next, where there is more than one."""
    share: Float[Tensor, "n"]
    """Per pixel, the weight of the window behind it; beyond the outer centres the outer window has it all."""

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.bounds) - 1

    @property
    def windows(self) -> int:
        """Number of windows."""
        return max(1, self.cells - 1)

    def cell(self, place: int) -> int:
        """Return the cell a pixel lies in."""
        return bisect.bisect_right(self.bounds, place) - 1

    def pairs(self, cells: Float[Tensor, "cells *rest"]) -> Float[Tensor, "windows *rest"]:
        """Sum each two neighbouring cells."""
        return cells if len(cells) == 1 else cells[:-1] + cells[1:]

    def blend(self, values: Float[Tensor, "windows *rest"], lo: int, hi: int) -> Float[Tensor, "n *rest"]:
        """Return what pixels lo to hi see of values per window; pixels outside see the outermost."""
        place = torch.arange(lo, hi).clamp(0, len(self.left) - 1)
        left = self.left[place]
        share = self.share[place].view(-1, *[1] * (values.ndim - 1)).to(values)
        left = left.to(values.device)
        return torch.lerp(values[left], values[(left + 1).clamp(max=self.windows - 1)], share)


@dataclass(frozen=True)
class Modulation:
    """Scale and shift of a norm's result."""

    scale: Float[Tensor, "*rest c"]
    """`c`; with one IPR per window `y windows c`: the band's rows and one more on each side."""
    shift: Float[Tensor, "*rest c"]
    columns: Axis | None = None
    """How pixels blend windows; None if all pixels share one modulation."""

    def rows(self, lo: int, hi: int) -> tuple[Float[Tensor, "*rest c"], Float[Tensor, "*rest c"]]:
        """Return scale and shift for rows lo − 1 to hi + 1 of the band: `c`, or `y x c`."""
        if self.columns is None:
            return self.scale, self.shift
        parts = (values[lo : hi + 2].movedim(1, 0) for values in (self.scale, self.shift))
        scale, shift = (self.columns.blend(v, 0, len(self.columns.left)).movedim(0, 1) for v in parts)
        return scale, shift


@dataclass(frozen=True)
class Blend:
    """How the attentions of windows are blended over a band that lies between two rows of their centres."""

    below: Tensor
    """Packed mixing matrices of the lower row of windows; those of the upper row are `attend`'s `mixing`."""
    down: Float[Tensor, "y"]
    """Per row, the weight of the lower windows."""
    columns: Axis


@runtime_checkable
class Kernels(Protocol):
    """Sweeps over bands of rows. What `pack_…` returns is opaque: only the kernels that made it read it."""

    name: str
    device: torch.device
    precision: torch.dtype
    """Of the factors of large products; sums, norms and the residual stream are float32."""
    tf32: bool
    """Whether products of float32 factors are TF32."""

    def bands(self, threads: int, blocks: int) -> int:
        """Return into how many bands a map of so many row blocks is cut."""
        ...

    def strip(self, width: int) -> int:
        """Return the rows worked on at a time, of a map that wide."""
        ...

    def pack_block(self, block: BlockWeights) -> Any:
        """Reorder a block's weights; ConfigError for a kind of block that these kernels do not know."""
        ...

    def pack_mixing(self, mixing: Float[Tensor, "c c"]) -> Tensor:
        """Reorder the matrix that takes values to the attention's output."""
        ...

    def pack_mixings(self, mixings: Float[Tensor, "windows c c"]) -> Tensor:
        """Reorder the matrices of a row of windows, which are to be blended."""
        ...

    def pack_conv(self, conv: Conv, shuffle: int = 0, slope: float = 1.0) -> Any:
        """Reorder a 3×3 or 1×1 convolution.

        A pixel-shuffle by `shuffle` follows it (−2: a pixel-unshuffle by 2; 0: neither), and a leaky ReLU of
        that negative slope (1: none).
        """
        ...

    def statistics(
        self,
        block: Any,
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
        ...

    def attend(
        self,
        block: Any,
        norm: Modulation,
        mixing: Tensor,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        blend: Blend | None = None,
    ) -> None:
        """Add the attention to the band `x`, in place."""
        ...

    def feed(
        self, block: Any, norm: Modulation, x: Tensor, above: Tensor | None, below: Tensor | None
    ) -> None:
        """Add the feed-forward to the band `x`, in place."""
        ...

    def convolve(self, conv: Any, x: Tensor, above: Tensor | None, below: Tensor | None) -> Tensor:
        """Convolve the band `x`; return float32 rows, shuffled where the packing says so."""
        ...
