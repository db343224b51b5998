"""The Triton kernels of a transformer block: what one program computes of one tile. See `launches.py`.

Maps are `photos rows columns channels`, channels side by side. `wide` is the result of norm → 1×1, of a map
or of a band with its neighbours; its pixels lie `stride` apart. Products take factors of 16 or 32 bits and
sum in float32; everything else is float32.

PRODUCT is how float32 factors are multiplied: "tf32x3" (three products of their halves, exact to a few 1e-7),
"tf32", or "ieee".
"""

# ruff: noqa: ANN001, ANN201, ANN202, N803
# Triton's functions have no Python types, and its constants are written in capitals.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def taken(wide, taps, k, in_k, y, x, rows, columns, stride: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """The depth-wise 3×3 around pixels (y, x) of channels k. Beyond `rows` and `columns` all is zero."""
    out = tl.zeros((BM, BK), dtype=tl.float32)
    # A loop of rows that stays one: nine tiles in flight do not fit into the registers.
    for i in range(3):
        row = y + (i - 1)
        in_row = (row >= 0) & (row < rows)
        for j in tl.static_range(3):
            column = x + (j - 1)
            inside = in_row & (column >= 0) & (column < columns)
            place = (row * columns + column)[:, None] * stride + k[None, :]
            value = tl.load(wide + place, mask=inside[:, None] & in_k[None, :], other=0.0).to(tl.float32)
            tap = tl.load(taps + (3 * i + j) * stride + k, mask=in_k, other=0.0)
            out += value * tap[None, :]
    return out


@triton.jit
def dot(a, b, total, PRODUCT: tl.constexpr):
    """Total + a·b."""
    if PRODUCT == "ieee":
        # Triton's interpreter knows no bfloat16 products; wider factors give the same.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRODUCT)


@triton.jit
def places(tile, columns, TY: tl.constexpr, TX: tl.constexpr):
    """Rows and columns of the pixels of a tile, row by row."""
    across = tl.cdiv(columns, TX)
    m = tl.arange(0, TY * TX)
    return (tile // across) * TY + m // TX, (tile % across) * TX + m % TX


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _moments(row, in_p, channels: tl.constexpr, eps, BM: tl.constexpr, BK: tl.constexpr):
    """Mean and inverse deviation over the channels of each pixel, in two passes."""
    total = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, channels, BK):
        k = start + tl.arange(0, BK)
        mask = in_p[:, None] & (k < channels)[None, :]
        total += tl.sum(tl.load(row + k[None, :], mask=mask, other=0.0).to(tl.float32), axis=1)
    mean = total / channels
    squares = tl.zeros((BM,), dtype=tl.float32)
    for start in range(0, channels, BK):
        k = start + tl.arange(0, BK)
        mask = in_p[:, None] & (k < channels)[None, :]
        value = tl.load(row + k[None, :], mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - mean[:, None], 0.0)
        squares += tl.sum(value * value, axis=1)
    return mean, tl.rsqrt(squares / channels + eps)


@triton.jit(do_not_specialize=["pixels"])
def widen(
    x,
    scale,
    shift,
    weight,
    bias,
    wide,
    pixels,
    channels: tl.constexpr,
    outs: tl.constexpr,
    eps,
    CENTRED: tl.constexpr,
    BIASED: tl.constexpr,
    PRODUCT: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    BO: tl.constexpr,
):
    """Norm, scale and shift, 1×1 convolution. Floor: one read of `x`, one write of `wide`.

    Programs of the same pixels follow each other, so that they find `x` in the cache.
    """
    photo = tl.program_id(1)
    tiles = tl.cdiv(outs, BO)
    o = (tl.program_id(0) % tiles) * BO + tl.arange(0, BO)
    p = (tl.program_id(0) // tiles) * BM + tl.arange(0, BM)
    in_p, in_o = p < pixels, o < outs
    x += photo.to(tl.int64) * pixels * channels
    wide += photo.to(tl.int64) * pixels * outs
    row = x + p[:, None] * channels
    mean, deviation = _moments(row, in_p, channels, eps, BM, BK)
    out = tl.zeros((BM, BO), dtype=tl.float32)
    for start in range(0, channels, BK):
        k = start + tl.arange(0, BK)
        in_k = k < channels
        value = tl.load(row + k[None, :], mask=in_p[:, None] & in_k[None, :], other=0.0).to(tl.float32)
        if CENTRED:
            value -= mean[:, None]
        factor = tl.load(scale + photo * channels + k, mask=in_k, other=0.0)
        added = tl.load(shift + photo * channels + k, mask=in_k, other=0.0)
        value = value * deviation[:, None] * factor[None, :] + added[None, :]
        matrix = tl.load(
            weight + o[None, :] * channels + k[:, None], mask=in_o[None, :] & in_k[:, None], other=0.0
        )
        out = dot(value.to(matrix.dtype), matrix, out, PRODUCT)
    if BIASED:
        out += tl.load(bias + o, mask=in_o, other=0.0)[None, :]
    tl.store(
        wide + p[:, None] * outs + o[None, :],
        out.to(wide.dtype.element_ty),
        mask=in_p[:, None] & in_o[None, :],
    )


@triton.jit(do_not_specialize=["height", "width", "rows", "top"])
def sums(
    wide,
    taps,
    bias,
    gram,
    squares,
    height,
    width,
    rows,
    top,
    stride: tl.constexpr,
    head: tl.constexpr,
    channels: tl.constexpr,
    BIASED: tl.constexpr,
    PRODUCT: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
    BD: tl.constexpr,
):
    """Depth-wise 3×3, then q·kᵀ, q² and k² over every `programs`-th tile of a photo.

    Floor: one read of `wide`. Writes `programs photos heads d d` and `programs photos heads 2 d`.
    """
    program, photo, h = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(2)
    k = tl.arange(0, BD)
    in_k = k < head
    wide += photo.to(tl.int64) * rows * width * stride
    product = tl.zeros((BD, BD), dtype=tl.float32)
    q_squared = tl.zeros((BD,), dtype=tl.float32)
    k_squared = tl.zeros((BD,), dtype=tl.float32)
    tile, tiles = program, tl.cdiv(height, TY) * tl.cdiv(width, TX)
    while tile < tiles:
        y, x = places(tile, width, TY, TX)
        in_p = (y < height) & (x < width)
        q = taken(wide, taps, h * head + k, in_k, y + top, x, rows, width, stride, TY * TX, BD)
        key = taken(wide, taps, channels + h * head + k, in_k, y + top, x, rows, width, stride, TY * TX, BD)
        if BIASED:
            q += tl.load(bias + h * head + k, mask=in_k, other=0.0)[None, :]
            key += tl.load(bias + channels + h * head + k, mask=in_k, other=0.0)[None, :]
        q = tl.where(in_p[:, None], q, 0.0)
        key = tl.where(in_p[:, None], key, 0.0)
        q_low, key_low = q.to(wide.dtype.element_ty), key.to(wide.dtype.element_ty)
        product = dot(tl.trans(q_low), key_low, product, PRODUCT)
        q_squared += tl.sum(q * q, axis=0)
        k_squared += tl.sum(key * key, axis=0)
        tile += tl.num_programs(0)
    place = (program * tl.num_programs(1) + photo) * heads + h
    mask = in_k[:, None] & in_k[None, :]
    tl.store(gram + (place * head + k[:, None]) * head + k[None, :], product, mask=mask)
    tl.store(squares + place * 2 * head + k, q_squared, mask=in_k)
    tl.store(squares + (place * 2 + 1) * head + k, k_squared, mask=in_k)


@triton.jit(do_not_specialize=["height", "width", "rows", "top"])
def project(
    wide,
    taps,
    bias,
    matrix,
    added,
    x,
    out,
    height,
    width,
    rows,
    top,
    stride: tl.constexpr,
    first: tl.constexpr,
    inner: tl.constexpr,
    half: tl.constexpr,
    channels: tl.constexpr,
    EACH: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    PRODUCT: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """Depth-wise 3×3, gate (or none), product, added to the map.

    `matrix` is `channels inner`, one for all photos or EACH its own. Read are the `inner` channels of `wide`
    from `first` on; the value half of a gated one begins at channel `half`. Floor: one read of `wide` and
    `x`, one write.
    """
    photo = tl.program_id(1)
    if EACH:
        matrix += photo * channels * inner
    y, column = places(tl.program_id(0), width, TY, TX)
    in_p = (y < height) & (column < width)
    n = tl.program_id(2) * BN + tl.arange(0, BN)
    in_n = n < channels
    wide += photo.to(tl.int64) * rows * width * stride
    total = tl.zeros((TY * TX, BN), dtype=tl.float32)
    for start in range(0, inner, BK):
        k = start + tl.arange(0, BK)
        in_k = k < inner
        value = taken(wide, taps, first + k, in_k, y + top, column, rows, width, stride, TY * TX, BK)
        if BIASED:
            value += tl.load(bias + first + k, mask=in_k, other=0.0)[None, :]
        if GATED:
            second = taken(wide, taps, half + k, in_k, y + top, column, rows, width, stride, TY * TX, BK)
            if BIASED:
                second += tl.load(bias + half + k, mask=in_k, other=0.0)[None, :]
            value = gelu(value) * second
        place = matrix + n[None, :] * inner + k[:, None]
        factors = tl.load(place, mask=in_n[None, :] & in_k[:, None], other=0.0)
        total = dot(value.to(factors.dtype), factors, total, PRODUCT)
    if ADDED:
        total += tl.load(added + n, mask=in_n, other=0.0)[None, :]
    mask = in_p[:, None] & in_n[None, :]
    place = (y * width + column)[:, None] * channels + n[None, :]
    x += photo.to(tl.int64) * height * width * channels
    out += photo.to(tl.int64) * height * width * channels
    total += tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def attention(
    gram,
    squares,
    warmth,
    head: tl.constexpr,
    UNIT: tl.constexpr,
    KEYS: tl.constexpr,
    DIVIDE: tl.constexpr,
    BD: tl.constexpr,
):
    """Of one photo and head: the attention, the cosines, and the inverse lengths of q and k."""
    i = tl.arange(0, BD)
    inside = i < head
    both = inside[:, None] & inside[None, :]
    cosine = tl.load(gram + i[:, None] * head + i[None, :], mask=both, other=0.0)
    q = tl.load(squares + i, mask=inside, other=1.0)
    k = tl.load(squares + head + i, mask=inside, other=1.0)
    # Clamped under the root: the slope of a root at 0 is infinite.
    q, k = tl.rsqrt(tl.maximum(q, 1e-24)), tl.rsqrt(tl.maximum(k, 1e-24))
    if UNIT:
        cosine *= q[:, None] * k[None, :]
    logits = cosine / warmth if DIVIDE else cosine * warmth
    logits = tl.where(both, logits, float("-inf"))
    if KEYS:
        logits -= tl.where(inside, tl.max(logits, axis=1), 0.0)[:, None]
        weights = tl.exp(logits)
        weights /= tl.where(inside, tl.sum(weights, axis=1), 1.0)[:, None]
    else:
        logits -= tl.where(inside, tl.max(logits, axis=0), 0.0)[None, :]
        weights = tl.exp(logits)
        weights /= tl.where(inside, tl.sum(weights, axis=0), 1.0)[None, :]
    return weights, cosine, q, k


@triton.jit
def mix(
    gram,
    squares,
    temperature,
    matrix,
    out,
    head: tl.constexpr,
    channels: tl.constexpr,
    UNIT: tl.constexpr,
    KEYS: tl.constexpr,
    DIVIDE: tl.constexpr,
    PRODUCT: tl.constexpr,
    BC: tl.constexpr,
    BD: tl.constexpr,
):
    """The attention of one photo and head, merged into the projection: head's columns of a c×c matrix."""
    photo, h = tl.program_id(0), tl.program_id(1)
    place = photo * tl.num_programs(1) + h
    weights, _, _, _ = attention(
        gram + place * head * head,
        squares + place * 2 * head,
        tl.load(temperature + h),
        head,
        UNIT,
        KEYS,
        DIVIDE,
        BD,
    )
    i = tl.arange(0, BD)
    inside = i < head
    out += photo * channels * channels
    for start in range(0, channels, BC):
        c = start + tl.arange(0, BC)
        to = c[:, None] * channels + h * head + i[None, :]
        mask = (c < channels)[:, None] & inside[None, :]
        factors = tl.load(matrix + to, mask=mask, other=0.0)
        mixed = dot(factors, weights, tl.zeros((BC, BD), dtype=tl.float32), PRODUCT)
        tl.store(out + to, mixed.to(out.dtype.element_ty), mask=mask)
