"""How the Triton kernels of `tiles.py` and `gradients.py` are launched: the parts of a block, on any map.

A block is three parts: the sums of its attention, its attention, its feed-forward. Each is norm → 1×1, whose
result `wide` is written once, then depth-wise 3×3 and what follows it in one more kernel: sums, or gate and
product, added to the map. So a block reads its map five times, writes it twice, and writes and reads each
wide map once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from dirformer.kernels import gradients, tiles
from dirformer.kernels.protocol import WIDE, Conv
from dirformer.networks.dirformer import NORM_EPS, Attention

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether Triton's interpreter runs the kernels, on a CPU: the environment variable TRITON_INTERPRET."""
SUMMED = 256
"""Programs that share the sums over a photo: about two for each multiprocessor."""


# ---------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class Part:
    """The 1×1 and the depth-wise 3×3 of one part of a block, as the tiles read them."""

    weight: Float[Tensor, "outs c"]
    """In the precision of the products, as the wide map is."""
    bias: Float[Tensor, "outs"] | None
    taps: Float[Tensor, "9 outs"]
    taps_bias: Float[Tensor, "outs"] | None
    inner: int
    """Channels behind the depth-wise convolution and the gate."""
    half: int
    """Where the value half of a gated part begins: `inner`, rounded up to whole vectors; 0: no gate."""
    centred: bool
    product: str

    @property
    def outs(self) -> int:
        return len(self.weight)


def make_part(
    expand: Conv, depthwise: Conv, precision: torch.dtype, *, gated: bool, centred: bool, tf32: bool = False
) -> Part:
    """Reorder the tensors of a part; the halves of a gated one are padded with zeros."""
    inner = len(expand.weight) // (2 if gated else 1)
    half = -(-inner // 16) * 16 if gated else 0

    def padded(tensor: Tensor) -> Tensor:
        return _halves(tensor, inner, half) if inner < half else tensor

    return Part(
        weight=padded(expand.weight.flatten(1)).to(precision).contiguous(),
        bias=None if expand.bias is None else padded(expand.bias).float(),
        taps=padded(depthwise.weight.flatten(1)).float().T.contiguous(),
        taps_bias=None if depthwise.bias is None else padded(depthwise.bias).float(),
        inner=inner,
        half=half,
        centred=centred,
        product="ieee" if INTERPRETED else "tf32" if tf32 else "tf32x3",
    )


def _halves(tensor: Tensor, inner: int, half: int) -> Tensor:
    """Pad both halves of the first axis from `inner` to `half` entries."""
    halves = tensor.view(2, inner, *tensor.shape[1:])
    return torch.cat([halves, halves.new_zeros(2, half - inner, *tensor.shape[1:])], dim=1).flatten(0, 1)


def _power(count: int, least: int, most: int) -> int:
    return min(most, max(least, 1 << (count - 1).bit_length()))


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    kernel[grid](*arguments, **constants)


def widened(
    part: Part, x: Float[Tensor, "photos *pixels c"], scale: Tensor, shift: Tensor, out: Tensor | None = None
) -> Float[Tensor, "photos *pixels outs"]:
    """Norm, scale and shift, 1×1 convolution."""
    photos, channels = len(x), x.shape[-1]
    pixels = x.numel() // (photos * channels)
    if out is None:
        out = torch.empty(*x.shape[:-1], part.outs, dtype=part.weight.dtype, device=x.device)
    size = _tile(part, "widen", channels)
    grid = (-(-pixels // size["BM"]) * -(-part.outs // size["BO"]), photos)
    bias = part.weight if part.bias is None else part.bias
    _launch(
        tiles.widen,
        grid,
        *(x, scale, shift, part.weight, bias, out, pixels, channels, part.outs, NORM_EPS),
        CENTRED=part.centred,
        BIASED=part.bias is not None,
        PRODUCT=part.product,
        **size,
    )
    return out


def summed(
    part: Part, wide: Tensor, heads: int, height: int, top: int
) -> tuple[Float[Tensor, "photos heads d d"], Float[Tensor, "photos heads 2 d"]]:
    """Depth-wise 3×3, then q·kᵀ, q² and k² over the photos' `height` rows, from row `top` of `wide` on."""
    photos, rows, width, stride = wide.shape
    channels = part.weight.shape[1]
    head = channels // heads
    size = _tile(part, "sums", head)
    tile_count = -(-height // size["TY"]) * -(-width // size["TX"])
    programs = max(1, min(tile_count, SUMMED // (photos * heads)))
    gram = torch.empty(programs, photos, heads, head, head, device=wide.device)
    squares = torch.empty(programs, photos, heads, 2, head, device=wide.device)
    bias = part.taps if part.taps_bias is None else part.taps_bias
    _launch(
        tiles.sums,
        (programs, photos, heads),
        *(wide, part.taps, bias, gram, squares, height, width, rows, top, stride, head, channels),
        BIASED=part.taps_bias is not None,
        PRODUCT=part.product,
        **size,
    )
    return gram.sum(0), squares.sum(0)


def projected(
    part: Part,
    wide: Float[Tensor, "photos rows x outs"],
    matrix: Float[Tensor, "*photos c inner"],
    bias: Float[Tensor, "c"] | None,
    x: Float[Tensor, "photos y x c"],
    out: Float[Tensor, "photos y x c"],
    top: int,
    first: int = 0,
) -> None:
    """Depth-wise 3×3 of channels from `first` on, gate, product; added to `x` into `out`, or in place."""
    photos, height, width, channels = x.shape
    size = _tile(part, "project", channels)
    grid = (-(-height // size["TY"]) * -(-width // size["TX"]), photos, -(-channels // size["BN"]))
    _launch(
        tiles.project,
        grid,
        *(wide, part.taps, part.taps if part.taps_bias is None else part.taps_bias, matrix),
        *(part.taps if bias is None else bias, x, out, height, width, wide.shape[1], top),
        *(part.outs, first, part.inner if part.half else matrix.shape[-1], part.half, channels),
        EACH=matrix.ndim == 3,
        GATED=part.half > 0,
        BIASED=part.taps_bias is not None,
        ADDED=bias is not None,
        PRODUCT=part.product,
        **size,
    )


# ----------------------------------------------------------------------------------------------------- maps


def sums_of(
    part: Part,
    x: Float[Tensor, "photos y x c"],
    scale: Float[Tensor, "photos c"],
    shift: Float[Tensor, "photos c"],
    heads: int,
    above: Tensor | None = None,
    below: Tensor | None = None,
) -> tuple[Float[Tensor, "photos heads d d"], Float[Tensor, "photos heads 2 d"]]:
    """Return q·kᵀ, and q² and k², summed over each photo. `above` and `below` are the rows beside a band."""
    found = []
    for photo, turns in _turns(part, x):
        sums = []
        for lo, hi in turns:
            first = x[photo, lo - 1 : lo] if lo else above
            last = x[photo, hi : hi + 1] if hi < x.shape[1] else below
            wide, top = _wide_rows(part, x[photo, lo:hi], first, last, scale[photo], shift[photo])
            sums.append(summed(part, wide, heads, hi - lo, top))
        found.append(
            sums[0]
            if len(sums) == 1
            else tuple(torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
        )
    gram, squares = (torch.cat(parts) if len(found) > 1 else parts[0] for parts in zip(*found, strict=True))
    return gram, squares


def add_part(
    part: Part,
    x: Float[Tensor, "photos y x c"],
    out: Float[Tensor, "photos y x c"],
    scale: Float[Tensor, "photos c"],
    shift: Float[Tensor, "photos c"],
    matrix: Float[Tensor, "*photos c inner"],
    bias: Float[Tensor, "c"] | None,
    above: Tensor | None = None,
    below: Tensor | None = None,
) -> None:
    """Write `x` with a part's product added into `out`, which may be `x`."""
    for photo, turns in _turns(part, x):
        own = matrix[photo] if matrix.ndim == 3 else matrix
        first = above
        for lo, hi in turns:
            last = x[photo, hi : hi + 1] if hi < x.shape[1] else below
            wide, top = _wide_rows(part, x[photo, lo:hi], first, last, scale[photo], shift[photo])
            # The next turn sees this row as it was.
            first = x[photo, hi - 1 : hi].clone() if hi < x.shape[1] else None
            projected(part, wide, own, bias, x[photo, lo:hi], out[photo, lo:hi], top)


def _turns(part: Part, x: Tensor) -> Iterator[tuple[slice, list[tuple[int, int]]]]:
    """Say which photos are worked on at once, and which rows of them: a wide map takes WIDE bytes at most."""
    photos, height, width = x.shape[:3]
    row = width * part.outs * part.weight.dtype.itemsize
    if photos * height * row <= WIDE:
        yield slice(None), [(0, height)]
        return
    step = max(2, WIDE // row)
    turns = [(lo, min(height, lo + step)) for lo in range(0, height, step)]
    for photo in range(photos):
        yield slice(photo, photo + 1), turns


def _wide_rows(
    part: Part, x: Tensor, above: Tensor | None, below: Tensor | None, scale: Tensor, shift: Tensor
) -> tuple[Tensor, int]:
    """Return the wide map of rows `x` and of their neighbours, and at which row of it `x` begins."""
    rows = [rows for rows in (above, x, below) if rows is not None]
    if len(rows) == 1:
        return widened(part, x, scale, shift), 0
    height = sum(piece.shape[1] for piece in rows)
    wide = torch.empty(1, height, x.shape[2], part.outs, dtype=part.weight.dtype, device=x.device)
    at = 0
    for piece in rows:
        widened(part, piece, scale, shift, wide[:, at : at + piece.shape[1]])
        at += piece.shape[1]
    return wide, 0 if above is None else 1


def mixed(
    attention: Attention, gram: Tensor, squares: Tensor, matrix: Tensor, precision: torch.dtype, product: str
) -> Float[Tensor, "photos c c"]:
    """Do what `Attention.mixing` does, in one kernel; `matrix` is the projection's, `c c`."""
    photos, heads, head = gram.shape[:3]
    channels = len(matrix)
    out = torch.empty(photos, channels, channels, dtype=precision, device=gram.device)
    _launch(
        tiles.mix,
        (photos, heads),
        *(gram, squares, attention.temperature, matrix, out, head, channels),
        **_way(attention, head, channels, product),
    )
    return out


def mixed_backward(
    attention: Attention, gradient: Tensor, gram: Tensor, squares: Tensor, matrix: Tensor, product: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrix, `2c 2c`, that takes (q, k) to their gradients; those of temperature and `matrix`."""
    photos, heads, head = gram.shape[:3]
    channels = len(matrix)
    pull = gradient.new_zeros(photos, 2 * channels, 2 * channels)
    of_temperature = gram.new_empty(photos, heads, 1, 1)
    of_matrix = gram.new_empty(photos, channels, channels)
    _launch(
        gradients.mix_backward,
        (photos, heads),
        *(gradient, gram, squares, attention.temperature, matrix),
        *(pull, of_temperature, of_matrix, head, channels),
        **_way(attention, head, channels, product),
    )
    return pull, of_temperature.sum(0), of_matrix.sum(0)


def _way(attention: Attention, head: int, channels: int, product: str) -> dict[str, Any]:
    wide = _power(head, 16, 256)
    return {
        "UNIT": attention.qk_norm,
        "KEYS": attention.key_axis,
        "DIVIDE": attention.divide,
        "PRODUCT": product,
        "BC": _power(channels, 16, 32),
        "BD": wide,
        "num_warps": 4 if wide <= 64 else 8,
    }


# ------------------------------------------------------------------------------------------------ gradients


def spread(part: Part, wide: Float[Tensor, "photos y x outs"]) -> Float[Tensor, "photos y x outs"]:
    """The depth-wise 3×3 of a whole map."""
    photos, height, width, stride = wide.shape
    out = torch.empty_like(wide)
    size = _tile(part, "spread", stride)
    grid = (-(-height // size["TY"]) * -(-width // size["TX"]), photos, -(-stride // size["BK"]))
    _launch(gradients.spread, grid, wide, part.taps, out, height, width, stride, **size)
    return out


def gate_backward(
    part: Part, wide: Float[Tensor, "photos y x outs"], matrix: Tensor, gradient: Tensor
) -> tuple[Float[Tensor, "photos y x outs"], Float[Tensor, "photos y x half"]]:
    """Return the gradient of what the gate takes, and the gate's own output."""
    photos, height, width, channels = gradient.shape
    inside, gated = torch.empty_like(wide), wide.new_empty(*wide.shape[:3], part.half)
    size = _tile(part, "gate_backward", channels)
    grid = (-(-height // size["TY"]) * -(-width // size["TX"]), photos, -(-part.half // size["BK"]))
    _launch(
        gradients.gate_backward,
        grid,
        *(wide, part.taps, matrix, gradient, gated, inside, height, width, part.half, part.inner, channels),
        PRODUCT=part.product,
        **size,
    )
    return inside, gated


def behind(
    part: Part,
    slopes: Float[Tensor, "photos y x outs"],
    wide: Float[Tensor, "photos y x outs"],
    x: Float[Tensor, "photos y x c"],
    scale: Tensor,
    shift: Tensor,
    passed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From the gradient behind the depth-wise 3×3: of map, scale, shift, 1×1 and taps.

    `passed` is the gradient that went past the part; it is added to the map's.
    """
    photos, height, width, channels = x.shape
    size = _tile(part, "taps_backward", part.outs)
    tile_count = -(-height // size["TY"]) * -(-width // size["TX"])
    blocks = -(-part.outs // size["BK"])
    programs = max(1, min(tile_count, 4 * SUMMED // (photos * blocks)))
    of_wide, parts = (
        torch.empty_like(wide),
        wide.new_empty(photos, programs, 9, part.outs, dtype=torch.float32),
    )
    _launch(
        gradients.taps_backward,
        (programs, photos, blocks),
        *(slopes, wide, part.taps, of_wide, parts, height, width, part.outs),
        **size,
    )
    of_taps = parts.sum((0, 1)).T
    size, pixels = _tile(part, "widen_backward", channels), height * width
    count = -(-pixels // size["BM"])
    dx, normed = torch.empty_like(x), torch.empty(x.shape, dtype=wide.dtype, device=x.device)
    parts = wide.new_empty(photos, count, 2, channels, dtype=torch.float32)
    _launch(
        gradients.widen_backward,
        (count, photos),
        *(of_wide, part.weight, x, scale, shift, passed, dx, normed, parts),
        *(pixels, channels, part.outs, NORM_EPS),
        CENTRED=part.centred,
        PRODUCT=part.product,
        **size,
    )
    of_scale, of_shift = parts.sum(1).unbind(1)
    of_weight = (of_wide.flatten(0, 2).T @ normed.flatten(0, 2)).float()
    if part.half:
        of_weight, of_taps = (
            t.view(2, part.half, -1)[:, : part.inner].flatten(0, 1) for t in (of_weight, of_taps)
        )
    return dx, of_scale, of_shift, of_weight[..., None, None], of_taps.reshape(-1, 1, 3, 3)


def _tile(part: Part, kernel: str, channels: int) -> dict[str, int]:
    """Return the sizes of a kernel's tiles: the fastest of six or so on an H100, by width and precision."""
    low = part.weight.dtype != torch.float32
    narrow = channels <= 64
    size = {"TY": 4, "TX": 16, "num_warps": 4}
    if kernel == "widen":
        most = 64 if narrow else 32
        size = {
            "BM": most,
            "BK": _power(channels, 16, most),
            "BO": _power(part.outs, 16, 128),
            "num_warps": 4,
        }
    elif kernel == "sums":
        size |= {"BD": _power(channels, 16, 256), "num_warps": 4 if narrow else 8}
    elif kernel == "project":
        size |= _project_tile(part, channels, low=low)
    elif kernel == "spread":
        size |= {"TY": 2, "BK": _power(channels, 16, 64)}
    elif kernel == "gate_backward":
        size |= {"BK": _power(part.half, 16, 32), "BN": _power(channels, 16, 64)}
    elif kernel == "taps_backward":
        size |= {"TY": 2, "BK": _power(channels, 16, 32)}
    else:
        rows = 16 if channels > 256 else 32
        size = {"BM": rows, "BO": 32, "BC": _power(channels, 16, 512), "num_warps": 4}
    return size


def _project_tile(part: Part, channels: int, *, low: bool) -> dict[str, int]:
    size = {"BK": _power(part.inner, 16, 32), "BN": _power(channels, 16, 256)}
    if channels > 128:
        if low:
            return size | ({"TY": 2, "TX": 32} if part.half else {})
        return size | {"TY": 4 if part.half else 8, "num_warps": 8}
    if part.half and 32 < channels <= 64:
        return size | {"TY": 8}
    return size | ({"BK": _power(part.inner, 16, 64)} if part.half or low else {})
