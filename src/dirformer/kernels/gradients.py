"""The Triton kernels of a block's gradient: what one program computes of one tile. See `launches.py`.

The wide maps are computed again from a part's input, so that training keeps nothing wide.
"""

# ruff: noqa: ANN001, ANN201, ANN202, C901, N803, PLR0915, SIM108
# Triton's functions have no Python types, and its constants are written in capitals.

from __future__ import annotations

import triton
import triton.language as tl

from dirformer.kernels.tiles import attention, dot, gelu, places, taken


@triton.jit
def _gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit(do_not_specialize=["height", "width"])
def spread(
    wide,
    taps,
    out,
    height,
    width,
    stride: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
    BK: tl.constexpr,
):
    """The depth-wise 3×3 of all channels. Floor: one read, one write of `wide`."""
    photo = tl.program_id(1)
    y, x = places(tl.program_id(0), width, TY, TX)
    in_p = (y < height) & (x < width)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    in_k = k < stride
    wide += photo.to(tl.int64) * height * width * stride
    out += photo.to(tl.int64) * height * width * stride
    value = taken(wide, taps, k, in_k, y, x, height, width, stride, TY * TX, BK)
    place = (y * width + x)[:, None] * stride + k[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=in_p[:, None] & in_k[None, :])


@triton.jit(do_not_specialize=["height", "width"])
def gate_backward(
    wide,
    taps,
    matrix,
    gradient,
    gated,
    inside,
    height,
    width,
    half: tl.constexpr,
    inner: tl.constexpr,
    channels: tl.constexpr,
    PRODUCT: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """From the gradient of the projection's output: that of what the gate takes, and the gate's own output.

    Floor: one read of `wide` and `gradient`, one write of `inside` (as wide) and `gated` (half as wide).
    """
    photo = tl.program_id(1)
    y, x = places(tl.program_id(0), width, TY, TX)
    in_p = (y < height) & (x < width)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    in_k, kept = k < inner, k < half
    stride = 2 * half
    pixels = photo.to(tl.int64) * height * width
    wide += pixels * stride
    inside += pixels * stride
    gated += pixels * half
    gradient += pixels * channels
    place = (y * width + x)[:, None]
    slope = tl.zeros((TY * TX, BK), dtype=tl.float32)
    for start in range(0, channels, BN):
        n = start + tl.arange(0, BN)
        in_n = n < channels
        factors = tl.load(
            matrix + n[:, None] * inner + k[None, :], mask=in_n[:, None] & in_k[None, :], other=0.0
        )
        dy = tl.load(gradient + place * channels + n[None, :], mask=in_p[:, None] & in_n[None, :], other=0.0)
        slope = dot(dy.to(factors.dtype), factors, slope, PRODUCT)
    first = taken(wide, taps, k, in_k, y, x, height, width, stride, TY * TX, BK)
    second = taken(wide, taps, half + k, in_k, y, x, height, width, stride, TY * TX, BK)
    open_ = gelu(first)
    mask = in_p[:, None] & kept[None, :]
    tl.store(gated + place * half + k[None, :], (open_ * second).to(gated.dtype.element_ty), mask=mask)
    of_first = (slope * second * _gelu_slope(first)).to(inside.dtype.element_ty)
    of_second = (slope * open_).to(inside.dtype.element_ty)
    tl.store(inside + place * stride + k[None, :], of_first, mask=mask)
    tl.store(inside + place * stride + half + k[None, :], of_second, mask=mask)


@triton.jit(do_not_specialize=["height", "width"])
def taps_backward(
    gradient,
    wide,
    taps,
    out,
    parts,
    height,
    width,
    stride: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
    BK: tl.constexpr,
):
    """The gradient behind a depth-wise 3×3: of its input, and of its taps, summed over every n-th tile.

    Both read the same nine neighbours: tap i met input q at output q − i. Floor: one read of `gradient` and
    `wide`, one write of `out`. `parts` is `photos programs 9 stride`.
    """
    program, photo = tl.program_id(0), tl.program_id(1)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    in_k = k < stride
    start = photo.to(tl.int64) * height * width * stride
    gradient += start
    wide += start
    out += start
    t0 = tl.zeros((TY * TX, BK), dtype=tl.float32)
    t1, t2, t3, t4, t5, t6, t7, t8 = t0, t0, t0, t0, t0, t0, t0, t0
    tile, tiles = program, tl.cdiv(height, TY) * tl.cdiv(width, TX)
    while tile < tiles:
        y, x = places(tile, width, TY, TX)
        mask = ((y < height) & (x < width))[:, None] & in_k[None, :]
        place = (y * width + x)[:, None] * stride + k[None, :]
        value = tl.load(wide + place, mask=mask, other=0.0).to(tl.float32)
        total = tl.zeros((TY * TX, BK), dtype=tl.float32)
        for i in tl.static_range(9):
            row, column = y - (i // 3 - 1), x - (i % 3 - 1)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            near = (row * width + column)[:, None] * stride + k[None, :]
            slope = tl.load(gradient + near, mask=inside[:, None] & in_k[None, :], other=0.0).to(tl.float32)
            total += slope * tl.load(taps + i * stride + k, mask=in_k, other=0.0)[None, :]
            if i == 0:
                t0 += slope * value
            elif i == 1:
                t1 += slope * value
            elif i == 2:
                t2 += slope * value
            elif i == 3:
                t3 += slope * value
            elif i == 4:
                t4 += slope * value
            elif i == 5:
                t5 += slope * value
            elif i == 6:
                t6 += slope * value
            elif i == 7:
                t7 += slope * value
            else:
                t8 += slope * value
        tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)
        tile += tl.num_programs(0)
    to = parts + (photo * tl.num_programs(0) + program) * 9 * stride + k
    tl.store(to, tl.sum(t0, axis=0), mask=in_k)
    tl.store(to + stride, tl.sum(t1, axis=0), mask=in_k)
    tl.store(to + 2 * stride, tl.sum(t2, axis=0), mask=in_k)
    tl.store(to + 3 * stride, tl.sum(t3, axis=0), mask=in_k)
    tl.store(to + 4 * stride, tl.sum(t4, axis=0), mask=in_k)
    tl.store(to + 5 * stride, tl.sum(t5, axis=0), mask=in_k)
    tl.store(to + 6 * stride, tl.sum(t6, axis=0), mask=in_k)
    tl.store(to + 7 * stride, tl.sum(t7, axis=0), mask=in_k)
    tl.store(to + 8 * stride, tl.sum(t8, axis=0), mask=in_k)


@triton.jit(do_not_specialize=["pixels"])
def widen_backward(
    slopes,
    weight,
    x,
    scale,
    shift,
    passed,
    out,
    normed,
    parts,
    pixels,
    channels: tl.constexpr,
    outs: tl.constexpr,
    eps,
    CENTRED: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradient behind norm and 1×1: of the map, scale and shift.

    `passed`, the gradient that went past the part, is added to the map's. Also writes the normalised map, for
    the gradient of the 1×1's weight. Floor: one read of `slopes`, `x` and `passed`, one write of `out` and
    `normed`. `parts` is `photos tiles 2 channels`.
    """
    tile, photo = tl.program_id(0), tl.program_id(1)
    p = tile * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)
    in_p, in_c = p < pixels, c < channels
    mask = in_p[:, None] & in_c[None, :]
    start = photo.to(tl.int64) * pixels
    slopes += start * outs
    x += start * channels
    passed += start * channels
    out += start * channels
    normed += start * channels
    place = p[:, None]
    slope = tl.zeros((BM, BC), dtype=tl.float32)
    for first in range(0, outs, BO):
        o = first + tl.arange(0, BO)
        in_o = o < outs
        factors = tl.load(
            weight + o[:, None] * channels + c[None, :], mask=in_o[:, None] & in_c[None, :], other=0.0
        )
        value = tl.load(slopes + place * outs + o[None, :], mask=in_p[:, None] & in_o[None, :], other=0.0)
        slope = dot(value.to(factors.dtype), factors, slope, PRODUCT)
    value = tl.load(x + place * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=1) / channels
    centred = tl.where(mask, value - mean[:, None], 0.0)
    deviation = tl.rsqrt(tl.sum(centred * centred, axis=1) / channels + eps)[:, None]
    centred *= deviation
    factor = tl.load(scale + photo * channels + c, mask=in_c, other=0.0)[None, :]
    added = tl.load(shift + photo * channels + c, mask=in_c, other=0.0)[None, :]
    if CENTRED:
        unit = centred
    else:
        unit = value * deviation
    tl.store(
        normed + place * channels + c[None, :], (unit * factor + added).to(normed.dtype.element_ty), mask=mask
    )
    to = parts + (photo * tl.num_programs(0) + tile) * 2 * channels + c
    tl.store(to, tl.sum(slope * unit, axis=0), mask=in_c)
    tl.store(to + channels, tl.sum(slope, axis=0), mask=in_c)
    slope *= factor
    along = tl.sum(slope * unit, axis=1)[:, None] / channels
    # The deviation is taken about the mean in both norms; the mean itself goes away in one only.
    slope -= centred * along
    if CENTRED:
        slope -= tl.where(mask, (tl.sum(slope, axis=1) / channels)[:, None], 0.0)
    slope *= deviation
    slope += tl.load(passed + place * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place * channels + c[None, :], slope.to(out.dtype.element_ty), mask=mask)


@triton.jit
def mix_backward(
    gradient,
    gram,
    squares,
    temperature,
    matrix,
    pull,
    of_temperature,
    of_matrix,
    head: tl.constexpr,
    channels: tl.constexpr,
    UNIT: tl.constexpr,
    KEYS: tl.constexpr,
    DIVIDE: tl.constexpr,
    PRODUCT: tl.constexpr,
    BC: tl.constexpr,
    BD: tl.constexpr,
):
    """The gradient behind `mix`: of temperature and projection, one for each photo; and of q and k.

    Through the sums q and k pull at each other, and through their squares at themselves: their gradients are
    the vector (q, k) of a pixel times a symmetric matrix, the same for all pixels. `pull` is that matrix,
    `2c 2c`; of each head these blocks are written.
    """
    photo, h = tl.program_id(0), tl.program_id(1)
    place = photo * tl.num_programs(1) + h
    warmth = tl.load(temperature + h)
    weights, cosine, q, k = attention(
        gram + place * head * head, squares + place * 2 * head, warmth, head, UNIT, KEYS, DIVIDE, BD
    )
    i = tl.arange(0, BD)
    inside = i < head
    both = inside[:, None] & inside[None, :]
    gradient += photo * channels * channels
    of_matrix += photo * channels * channels
    slope = tl.zeros((BD, BD), dtype=tl.float32)
    for start in range(0, channels, BC):
        c = start + tl.arange(0, BC)
        at = c[:, None] * channels + h * head + i[None, :]
        mask = (c < channels)[:, None] & inside[None, :]
        factors = tl.load(matrix + at, mask=mask, other=0.0)
        upper = tl.load(gradient + at, mask=mask, other=0.0).to(tl.float32)
        slope = dot(tl.trans(factors), upper, slope, PRODUCT)
        own = dot(upper, tl.trans(weights), tl.zeros((BC, BD), dtype=tl.float32), PRODUCT)
        tl.store(of_matrix + at, own, mask=mask)
    slope *= weights
    if KEYS:
        slope -= weights * tl.sum(slope, axis=1)[:, None]
    else:
        slope -= weights * tl.sum(slope, axis=0)[None, :]
    along = slope * cosine
    warming = tl.sum(tl.sum(along, axis=1), axis=0)
    if DIVIDE:
        warming = -warming / (warmth * warmth)
        slope, along = slope / warmth, along / warmth
    else:
        slope, along = slope * warmth, along * warmth
    tl.store(of_temperature + place, warming)
    pull += photo * 4 * channels * channels + h * head * (2 * channels + 1)
    rows, columns = i[:, None] * 2 * channels, i[None, :]
    if UNIT:
        slope *= q[:, None] * k[None, :]
        # Where a length was clamped, it does not depend on the sum. Twice a half: the slope of a square.
        of_q = tl.where(q < 1e12, -tl.sum(along, axis=1) * q * q, 0.0)
        of_k = tl.where(k < 1e12, -tl.sum(along, axis=0) * k * k, 0.0)
        diagonal = rows == 2 * channels * columns
        kind = pull.dtype.element_ty
        tl.store(pull + rows + columns, tl.where(diagonal, of_q[:, None], 0.0).to(kind), mask=both)
        below = pull + channels * (2 * channels + 1)
        tl.store(below + rows + columns, tl.where(diagonal, of_k[:, None], 0.0).to(kind), mask=both)
    tl.store(pull + channels + rows + columns, slope.to(pull.dtype.element_ty), mask=both)
    turned = pull + 2 * channels * channels + i[None, :] * 2 * channels + i[:, None]
    tl.store(turned, slope.to(pull.dtype.element_ty), mask=both)
