"""Kernels in C++ (`inference.cpp`), compiled on first use where there is a compiler, called by ctypes.

`stock.py` computes the same and needs no compiler; tests compare both with the plain modules. A call releases
the GIL, so Python threads run bands side by side. Sizes are checked here, before C++ touches memory.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.errors import ConfigError
from dirformer.kernels import abi
from dirformer.kernels.build import CompilerMissingError, compiled
from dirformer.kernels.protocol import Blend, BlockWeights, Conv, Modulation, require_known

SOURCE = Path(__file__).with_name("inference.cpp")

_STATISTICS, _ATTEND, _FEED = range(3)


@functools.cache
def library() -> ctypes.CDLL:
    """Return the kernels, compiled now or found in the cache; CompilerMissingError if there are none."""
    functions = {"dirformer_sweep": (abi.Sweep, "pppnpp"), "dirformer_convolve": (abi.Conv, "pppnpp")}
    return abi.declare(compiled(SOURCE), functions, abi.Sweep, abi.Conv)


@dataclass(frozen=True)
class PackedBlock:
    """One transformer block's weights in the order the kernels read them."""

    channels: int
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
    tf32 = False

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

    def pack_block(self, block: BlockWeights) -> PackedBlock:
        """Reorder one block's weights; ConfigError for another kind of block."""
        require_known(block.kind)
        width, hidden = block.project.weight.shape[:2]
        _check_block(block, width, hidden)
        return PackedBlock(
            channels=width,
            heads=block.heads,
            centred=block.centred,
            hidden=hidden,
            query_key=self._widening(block.qkv, block.qkv_depthwise, [slice(0, 2 * width)]),
            value=self._widening(block.qkv, block.qkv_depthwise, [slice(2 * width, 3 * width)]),
            # Gate and value each padded on their own: gelu(0)·0 = 0, so the padding adds nothing.
            expand=self._widening(
                block.expand, block.depthwise, [slice(0, hidden), slice(hidden, 2 * hidden)]
            ),
            project=self._panels(block.project.weight.flatten(1)),
            project_bias=self._padded(block.project.bias),
            attention_bias=self._padded(block.attention_bias),
        )

    def pack_mixing(self, mixing: Float[Tensor, "c c"]) -> Tensor:
        """Reorder the matrix that takes values to the attention's output."""
        return self._panels(mixing)

    def pack_mixings(self, mixings: Float[Tensor, "windows c c"]) -> Tensor:
        """Reorder the matrices of a row of windows; float32, because they are to be blended."""
        return torch.stack([self._panels(mixing, torch.float32) for mixing in mixings])

    def pack_conv(self, conv: Conv, shuffle: int = 0, slope: float = 1.0) -> PackedConv:
        """Reorder a 3×3 or 1×1 convolution, with the shuffle and the leaky ReLU that follow it."""
        weight, bias = conv.weight, conv.bias
        _check_conv(conv, shuffle)
        if shuffle > 0:  # (c, dy, dx) → (dy, dx, c): a pixel's channels then lie side by side
            order = torch.arange(len(weight)).view(-1, shuffle**2).T.flatten()
            weight, bias = weight[order], None if bias is None else bias[order]
        taps = weight.shape[2] * weight.shape[3]
        inputs = weight.shape[1]
        if self._low and inputs % 2:
            weight = F.pad(weight, (0, 0, 0, 0, 0, 1))
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        return PackedConv(self._panels(rows), self._padded(bias), inputs, len(rows), taps, shuffle, slope)

    def _widening(
        self, expand: Conv, depthwise: Conv, parts: list[slice]
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
            rows = F.pad(rows, (0, rows.shape[1] % 2)).to(low)
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
        _check_band(x, above, below, block.channels)
        ends = [x.shape[1]] if bounds is None else bounds[1:]
        _require(rows >= 1, "rows per sum", rows, "at least 1")
        _require(_rises(ends, x.shape[1]), "bounds of cells", bounds, f"a rising list to {x.shape[1]}")
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
        _check_band(x, above, below, block.channels)
        self._check_mixing(block, mixing, x, blend)
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
        _check_band(x, above, below, block.channels)
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
        _check_norm(norm, x)
        columns = norm.columns if blend is None else blend.columns
        cuts = ends or ([width] if blend is None else blend.columns.ends)
        cuts_at = torch.tensor(cuts)
        sweep = abi.Sweep(
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
        _check_band(x, above, below, conv.inputs)
        rows, width, _ = x.shape
        even = conv.shuffle >= 0 or (rows % 2 == 0 and width % 2 == 0)
        _require(even, "a band to unshuffle by 2", tuple(x.shape), "an even number of rows and columns")
        call = abi.Conv(
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

    def _check_mixing(self, block: PackedBlock, mixing: Tensor, x: Tensor, blend: Blend | None) -> None:
        width = block.channels
        size = -(-width // self._lanes) * self._lanes * (width + (width % 2 if self._low else 0))
        shape: tuple[int, ...] = (size,) if blend is None else (blend.columns.windows, size)
        dtype = torch.bfloat16 if self._low and blend is None else torch.float32
        _check_values("mixing", mixing, shape, dtype)
        if blend is not None:
            _check_values("blend.below", blend.below, shape, dtype)
            _check_values("blend.down", blend.down, (len(x),), torch.float32)
            _check_axis("blend", blend.columns.left, blend.columns.share, blend.columns.ends, x.shape[1])

    def _call(
        self,
        function: ctypes._NamedFuncPointer,
        structure: ctypes.Structure,
        x: Tensor,
        above: Tensor | None,
        below: Tensor | None,
        out: Tensor | None,
    ) -> None:
        size = function(structure, None, None, None, len(x), None, None)
        space = getattr(self._local, "space", None)
        if space is None or len(space) < size + 64:
            self._local.space = space = torch.empty(size + 64, dtype=torch.uint8)
        start = -space.data_ptr() % 64 + space.data_ptr()
        function(structure, x.data_ptr(), _pointer(above), _pointer(below), len(x), _pointer(out), start)


PIXELS = 128
"""Pixels per turn at least, if the map is narrow: fewer would read the weights too often."""


def _require(holds: bool, name: str, received: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"compiled kernels: {name} is {received}; expected {expected}")


def _rises(ends: list[int], last: int) -> bool:
    return bool(ends) and ends[-1] == last and all(a < b for a, b in itertools.pairwise([0, *ends]))


def _check_block(block: BlockWeights, width: int, hidden: int) -> None:
    """Raise ConfigError unless a block's tensors belong together."""
    _require(block.heads >= 1 and width % block.heads == 0, "heads", block.heads, f"a divisor of {width}")
    convs = {
        "qkv": (block.qkv, (3 * width, width, 1, 1)),
        "qkv_depthwise": (block.qkv_depthwise, (3 * width, 1, 3, 3)),
        "expand": (block.expand, (2 * hidden, width, 1, 1)),
        "depthwise": (block.depthwise, (2 * hidden, 1, 3, 3)),
        "project": (block.project, (width, hidden, 1, 1)),
    }
    for name, (conv, shape) in convs.items():
        _require(tuple(conv.weight.shape) == shape, f"{name}.weight", tuple(conv.weight.shape), str(shape))
        _check_bias(f"{name}.bias", conv.bias, shape[0])
    _check_bias("attention_bias", block.attention_bias, width)


def _check_conv(conv: Conv, shuffle: int) -> None:
    shape = tuple(conv.weight.shape)
    square = len(shape) == 4 and shape[2:] in {(1, 1), (3, 3)} and min(shape) >= 1
    _require(square, "a convolution's weight", shape, "outputs × inputs × 3 × 3, or × 1 × 1")
    _check_bias("a convolution's bias", conv.bias, shape[0])
    fits = shuffle in {0, -2} or (shuffle > 0 and shape[0] % shuffle**2 == 0)
    _require(fits, f"a shuffle of {shape[0]} channels", shuffle, "0, -2, or one whose square divides them")


def _check_bias(name: str, bias: Tensor | None, size: int) -> None:
    if bias is not None:
        _require(tuple(bias.shape) == (size,), name, tuple(bias.shape), str((size,)))


def _check_band(x: Tensor, above: Tensor | None, below: Tensor | None, channels: int) -> None:
    """Raise ConfigError unless a band and its neighbours are what the kernels can read."""
    fits = x.ndim == 3 and min(x.shape) >= 1 and x.shape[2] == channels
    _require(fits, "the band", tuple(x.shape), f"rows × columns × {channels}, as the weights were packed for")
    _require(
        x.dtype in {torch.float32, torch.bfloat16} and x.device.type == "cpu",
        "the band",
        f"{x.dtype} on {x.device}",
        "float32 or bfloat16 on the CPU",
    )
    _require(x.is_contiguous(), "the band", f"strided {x.stride()}", "contiguous memory")
    for name, row in (("above", above), ("below", below)):
        if row is not None:
            _check_values(f"the row {name}", row, (1, *x.shape[1:]), x.dtype)


def _check_norm(norm: Modulation, x: Tensor) -> None:
    rows, width, channels = x.shape
    shape: tuple[int, ...] = (channels,)
    if norm.columns is not None:
        shape = (rows + 2, norm.columns.windows, channels)
        _check_axis("norm", norm.columns.left, norm.columns.share, norm.columns.ends, width)
    _check_values("norm.scale", norm.scale, shape, torch.float32)
    _check_values("norm.shift", norm.shift, shape, torch.float32)


def _check_axis(name: str, left: Tensor, share: Tensor, ends: list[int], width: int) -> None:
    _check_values(f"{name}.columns.left", left, (width,), torch.int64)
    _check_values(f"{name}.columns.share", share, (width,), torch.float32)
    _require(_rises(ends, width), f"{name}.columns.ends", ends, f"a rising list to {width}")


def _check_values(name: str, values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    fits = tuple(values.shape) == shape and values.dtype == dtype
    fits = fits and values.device.type == "cpu" and values.is_contiguous()
    contiguous = "" if values.is_contiguous() else "strided "
    received = f"{contiguous}{values.dtype} {tuple(values.shape)} on {values.device}"
    _require(fits, name, received, f"contiguous {dtype} {shape} on cpu")


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
