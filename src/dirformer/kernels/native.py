"""Row kernels in C++ (`kernels.cpp`), compiled on first use where there is a compiler, called by ctypes.

The stock-torch kernels (`stock.py`) do the same and are always there; tests hold both to the plain modules.
A call releases the GIL, so Python threads run bands side by side.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dirformer.inference.context import Blend, Modulation
from dirformer.kernels.build import CompilerMissingError, compiled
from dirformer.networks.dirformer import Block

SOURCE = Path(__file__).with_name("inference.cpp")

_STATISTICS, _ATTEND, _FEED = range(3)


class _Sweep(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_long)
            for name in (
                *("kind", "half", "low", "centred", "width", "channels"),
                *("wide", "inner", "heads", "step", "block"),
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("scale", "shift", "expand", "expand_bias", "depthwise", "depthwise_bias"),
                *("project", "project_bias"),
            )
        ),
        *((name, ctypes.c_long) for name in ("cuts", "modulations", "mixings")),
        *((name, ctypes.c_void_p) for name in ("ends", "left", "across", "below", "down")),
    ]


class _Conv(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("half", "low", "width", "inputs", "outputs", "taps", "shuffle")),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("slope", ctypes.c_float),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """Return the kernels, compiled now or found in the cache; CompilerMissingError if there are none."""
    return _declared(compiled(SOURCE))


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, long = ctypes.c_void_p, ctypes.c_long
    for name, structure in (("dirformer_sweep", _Sweep), ("dirformer_convolve", _Conv)):
        function = getattr(lib, name)
        function.restype = long
        function.argtypes = [ctypes.POINTER(structure), pointer, pointer, pointer, long, pointer, pointer]
    lib.dirformer_lanes.restype = lib.dirformer_has_low.restype = long
    return lib


@dataclass(frozen=True)
class PackedBlock:
    """One transformer block's weights in the order the kernels read them."""

    heads: int
    centred: bool
    hidden: int
    query_key: tuple[Tensor, Tensor | None, Tensor, Tensor | None]
    """First product, its bias, depth-wise taps, their bias; here and below."""
    value: tuple[Tensor, Tensor | None, Tensor, Tensor | None]
    expand: tuple[Tensor, Tensor | None, Tensor, Tensor | None]
    project: Tensor
    project_bias: Tensor | None
    attention_bias: Tensor | None


@dataclass(frozen=True)
class PackedConv:
    """One convolution's weights in the order the kernels read them."""

    weights: Tensor
    bias: Tensor | None
    inputs: int
    outputs: int
    taps: int
    shuffle: int
    slope: float


class NativeKernels:
    """The compiled kernels: CPU, float32, or bfloat16 products where the processor has them.

    Raises:
        CompilerMissingError: if they cannot be built, or cannot do this precision.
    """

    name = "native"
    device = torch.device("cpu")

    def __init__(self, precision: torch.dtype = torch.float32) -> None:
        self._lib = library()
        self._lanes = self._lib.dirformer_lanes()
        self.precision = precision
        self._low = precision != torch.float32
        if self._low and not (precision == torch.bfloat16 and self._lib.dirformer_has_low()):
            raise CompilerMissingError(f"this processor has no {precision} products")
        self._local = threading.local()

    def bands(self, threads: int, blocks: int) -> int:
        """Return into how many bands a map of so many row blocks is cut; results do not depend on it."""
        return min(blocks, threads if threads == 1 else 2 * threads)

    def strip(self, width: int) -> int:
        """Return the rows worked on at a time, of a map that wide; results do not depend on it."""
        return max(1, PIXELS // width)

    # ------------------------------------------------------------------------------------------- weights

    def pack_block(self, block: Block) -> PackedBlock:
        """Reorder one block's weights."""
        attention, feed = block.attention, block.feed_forward
        width = attention.project.out_channels
        hidden = feed.project.in_channels
        return PackedBlock(
            heads=attention.heads,
            centred=attention.norm.bias is not None,
            hidden=hidden,
            query_key=self._widening(attention.qkv, attention.qkv_depthwise, [slice(0, 2 * width)]),
            value=self._widening(attention.qkv, attention.qkv_depthwise, [slice(2 * width, 3 * width)]),
            # Gate and value each padded on their own: gelu(0)·0 = 0, so the padding adds nothing.
            expand=self._widening(feed.expand, feed.depthwise, [slice(0, hidden), slice(hidden, 2 * hidden)]),
            project=self._panels(feed.project.weight.flatten(1)),
            project_bias=self._padded(feed.project.bias),
            attention_bias=self._padded(attention.project.bias),
        )

    def pack_mixing(self, mixing: Float[Tensor, "c c"]) -> Tensor:
        """Reorder the matrix that takes values to the attention's output."""
        return self._panels(mixing)

    def pack_mixings(self, mixings: Float[Tensor, "windows c c"]) -> Tensor:
        """Reorder the matrices of a row of windows; float32, because they are to be blended."""
        return torch.stack([self._panels(mixing, torch.float32) for mixing in mixings])

    def pack_conv(self, conv: nn.Conv2d, shuffle: int = 0, slope: float = 1.0) -> PackedConv:
        """Reorder a 3×3 or 1×1 convolution, with what follows it (see `Conv` in kernels.cpp)."""
        weight, bias = conv.weight, conv.bias
        if shuffle > 0:  # (c, dy, dx) → (dy, dx, c): a pixel's channels then lie side by side
            order = torch.arange(len(weight)).view(-1, shuffle**2).T.flatten()
            weight, bias = weight[order], None if bias is None else bias[order]
        taps = weight.shape[2] * weight.shape[3]
        inputs = weight.shape[1]
        if self._low and inputs % 2:
            weight = nn.functional.pad(weight, (0, 0, 0, 0, 0, 1))
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        return PackedConv(self._panels(rows), self._padded(bias), inputs, len(rows), taps, shuffle, slope)

    def _widening(
        self, expand: nn.Conv2d, depthwise: nn.Conv2d, parts: list[slice]
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        def join(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else torch.cat([self._aligned(rows[part]) for part in parts])

        weights, taps = join(expand.weight.flatten(1)), join(depthwise.weight.flatten(1))
        assert weights is not None
        assert taps is not None
        return (
            self._panels(weights),
            _detached(join(expand.bias)),
            taps.detach().float().T.contiguous(),
            _detached(join(depthwise.bias)),
        )

    def _aligned(self, rows: Tensor) -> Tensor:
        missing = -len(rows) % self._lanes
        return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows

    def _padded(self, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else self._aligned(bias.detach().float()).contiguous()

    def _panels(self, rows: Float[Tensor, "n k"], low: torch.dtype = torch.bfloat16) -> Tensor:
        """(n, k) → panels of twice `lanes` columns, the last perhaps of `lanes`, each (k, columns).

        `low` is the type of what is packed for bfloat16 products.
        """
        rows = self._aligned(rows.detach().float())
        if self._low:
            # Pairs of k lie side by side: (k/2, columns, 2).
            rows = nn.functional.pad(rows, (0, rows.shape[1] % 2)).to(low)
        wide = len(rows) // (2 * self._lanes) * 2 * self._lanes
        panels = [part.view(-1, columns, *self._pairs(part)) for part, columns in self._split(rows, wide)]
        return torch.cat([panel.movedim(1, 2).flatten() for panel in panels])

    def _split(self, rows: Tensor, wide: int) -> list[tuple[Tensor, int]]:
        parts = [(rows[:wide], 2 * self._lanes), (rows[wide:], self._lanes)]
        return [(part, columns) for part, columns in parts if len(part)]

    def _pairs(self, rows: Tensor) -> tuple[int, ...]:
        return (rows.shape[1] // 2, 2) if self._low else (rows.shape[1],)

    # ------------------------------------------------------------------------------------------- sweeps

    def statistics(
        self,
        block: PackedBlock,
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
        ends = [x.shape[1]] if bounds is None else bounds[1:]
        width, sets = x.shape[2], -(-len(x) // rows) * len(ends)
        head = width // block.heads
        padded, squares = -(-head // self._lanes) * self._lanes, -(-2 * width // self._lanes) * self._lanes
        sums = torch.zeros(sets, width * padded + squares + self._lanes)[
            :, : width * padded + squares
        ].contiguous()
        self._sweep(
            _STATISTICS, block, norm, block.query_key, None, None, x, above, below, sums, rows, ends=ends
        )
        gram = sums[:, : width * padded].reshape(-1, len(ends), block.heads, head, padded)[..., :head]
        squares = sums[:, width * padded :][:, : 2 * width].reshape(-1, len(ends), 2, block.heads, head)
        return gram, squares[:, :, 0], squares[:, :, 1]

    def attend(
        self,
        block: PackedBlock,
        norm: Modulation,
        mixing: Tensor,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        blend: Blend | None = None,
    ) -> None:
        """Add the attention to the band `x`, in place."""
        self._sweep(
            _ATTEND, block, norm, block.value, mixing, block.attention_bias, x, above, below, blend=blend
        )

    def feed(
        self,
        block: PackedBlock,
        norm: Modulation,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
    ) -> None:
        """Add the feed-forward to the band `x`, in place."""
        self._sweep(_FEED, block, norm, block.expand, block.project, block.project_bias, x, above, below)

    def _sweep(
        self,
        kind: int,
        block: PackedBlock,
        norm: Modulation,
        wide: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
        project: Tensor | None,
        project_bias: Tensor | None,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        sums: Tensor | None = None,
        rows: int = 1,
        ends: list[int] | None = None,
        blend: Blend | None = None,
    ) -> None:
        width, channels = x.shape[1], x.shape[2]
        columns = norm.columns if blend is None else blend.columns
        cuts = ends or ([width] if blend is None else blend.columns.ends)
        cuts_at = torch.tensor(cuts)
        sweep = _Sweep(
            kind=kind,
            half=x.dtype == torch.bfloat16,
            low=self._low,
            centred=block.centred,
            width=width,
            channels=channels,
            wide=wide[2].shape[1],
            inner=block.hidden if kind == _FEED else channels,
            heads=block.heads,
            step=min(len(x), self.strip(width)),
            block=rows,
            scale=norm.scale.data_ptr(),
            shift=norm.shift.data_ptr(),
            expand=wide[0].data_ptr(),
            expand_bias=_pointer(wide[1]),
            depthwise=wide[2].data_ptr(),
            depthwise_bias=_pointer(wide[3]),
            project=_pointer(project),
            project_bias=_pointer(project_bias),
            cuts=len(cuts),
            modulations=0 if norm.columns is None else norm.columns.windows,
            mixings=0 if blend is None else blend.columns.windows,
            ends=cuts_at.data_ptr(),
            left=None if columns is None else columns.left.data_ptr(),
            across=None if columns is None else columns.share.data_ptr(),
            below=None if blend is None else blend.below.data_ptr(),
            down=None if blend is None else blend.down.data_ptr(),
        )
        self._call(self._lib.dirformer_sweep, sweep, x, above, below, sums)

    def convolve(self, conv: PackedConv, x: Tensor, above: Tensor | None, below: Tensor | None) -> Tensor:
        """Convolve the band `x`; return float32 rows, shuffled where the packing says so."""
        rows, width, _ = x.shape
        call = _Conv(
            half=x.dtype == torch.bfloat16,
            low=self._low,
            width=width,
            inputs=conv.inputs,
            outputs=conv.outputs,
            taps=conv.taps,
            shuffle=conv.shuffle,
            weights=conv.weights.data_ptr(),
            bias=_pointer(conv.bias),
            slope=conv.slope,
        )
        if conv.shuffle > 0:
            r = conv.shuffle
            out = torch.empty(rows * r, width * r, conv.outputs // r**2)
        elif conv.shuffle < 0:
            out = torch.empty(rows // 2, width // 2, 4 * conv.outputs)
        else:
            out = torch.empty(rows, width, conv.outputs)
        self._call(self._lib.dirformer_convolve, call, x, above, below, out)
        return out

    def _call(
        self,
        function: ctypes._NamedFuncPointer,
        structure: ctypes.Structure,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        out: Tensor | None,
    ) -> None:
        assert x.is_contiguous()
        size = function(structure, None, None, None, len(x), None, None)
        space = getattr(self._local, "space", None)
        if space is None or len(space) < size + 64:
            self._local.space = space = torch.empty(size + 64, dtype=torch.uint8)
        start = -space.data_ptr() % 64 + space.data_ptr()
        function(structure, x.data_ptr(), _pointer(above), _pointer(below), len(x), _pointer(out), start)


PIXELS = 128
"""Pixels per turn at least, if the map is narrow: fewer would read the weights too often."""


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
