// What the row kernels share: vectors, products, norm, depth-wise convolution, gate, and the sweep that takes a
// band of rows through one half of a transformer block.
//
// Maps are (rows, width, channels), channels side by side, float32 or bfloat16 (`half`). Arithmetic is float32;
// with `low` the factors of the large products are rounded to bfloat16 and summed in float32.
//
// Every number is one chain of fused multiply-adds whose order depends on neither the band it is computed in nor
// its neighbours, so results do not depend on how a map was cut. Vectors are GCC/Clang vector extensions, so
// that the same lines become AVX-512, AVX2, SSE or NEON.
//
// A product's weights are packed in panels of 2·LANES columns (the last may be LANES wide), each (k, columns);
// for `low` (k/2, columns, 2).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define TILE 12  // 24 of 32 registers hold sums
#elif defined(__AVX__)
#define LANES 8
#define TILE 6
#elif defined(__aarch64__)
#define LANES 4
#define TILE 12
#else
#define LANES 4
#define TILE 6
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));  // at any address
typedef uint16_t half_t;

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define SLACK 64  // floats behind every buffer that whole vectors may touch

static inline vec load(const float *p) { return *(const loose *)p; }
static inline void store(float *p, vec v) { *(loose *)p = v; }
static inline vec all(float s) { return s - vec{}; }
static inline float widen(half_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline half_t narrow(float f) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (f != f) return 0x7fc0;
    return (half_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static void widen_row(const half_t *from, float *to, long n) {
    for (long i = 0; i < n; i++) to[i] = widen(from[i]);
}
static void narrow_row(const float *from, half_t *to, long n) {
#if defined(__AVX512BF16__)
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256bh v = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
        memcpy(to + i, &v, 32);
    }
    for (; i < n; i++) to[i] = narrow(from[i]);
#else
    for (long i = 0; i < n; i++) to[i] = narrow(from[i]);
#endif
}
static inline vec load_part(const float *p, int n) {  // n floats, then zeros
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    float lanes[LANES] = {0};
    for (int i = 0; i < n; i++) lanes[i] = p[i];
    return load(lanes);
#endif
}
static inline void store_part(float *p, vec v, int n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    float lanes[LANES];
    store(lanes, v);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
#endif
}
static inline float total(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float lanes[LANES];
    store(lanes, v);
    for (int s = LANES / 2; s; s /= 2)
        for (int i = 0; i < s; i++) lanes[i] += lanes[i + s];
    return lanes[0];
#endif
}

// What every library of kernels says of itself.
extern "C" {
long dirformer_lanes() { return LANES; }
long dirformer_has_low() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}
}

// ---------------------------------------------------------------------------------------------- products

// One tile of a product: ROWS rows of A, `pitch` apart, times NV vectors of a panel. A 3×3 convolution is the
// product of nine shifted maps side by side: a[t] is where tap t begins.
template <int ROWS, int NV>
static inline __attribute__((always_inline)) void tile(
    vec (&sum)[TILE][2], const float *const *a, long shift, long pitch, int taps, long k, const float *b) {
    for (int t = 0; t < taps; t++) {
        const float *at = a[t] + shift;
        for (long p = 0; p < k; p++, b += NV * LANES) {
            vec w[NV];
            EACH(j, NV) w[j] = load(b + j * LANES);
            EACH(i, ROWS) {
                float s = at[i * pitch + p];
                EACH(j, NV) sum[i][j] += s * w[j];
            }
        }
    }
}
#if defined(__AVX512BF16__)
template <int ROWS, int NV>
static inline __attribute__((always_inline)) void tile(
    vec (&sum)[TILE][2], const half_t *const *a, long shift, long pitch, int taps, long k, const half_t *b) {
    for (int t = 0; t < taps; t++) {
        const half_t *at = a[t] + shift;
        for (long p = 0; p < k; p += 2, b += NV * LANES * 2) {
            __m512bh w[NV];
            EACH(j, NV) w[j] = (__m512bh)_mm512_loadu_si512(b + j * LANES * 2);
            EACH(i, ROWS) {
                int pair;
                memcpy(&pair, at + i * pitch + p, 4);
                __m512bh s = (__m512bh)_mm512_set1_epi32(pair);
                EACH(j, NV) sum[i][j] = (vec)_mm512_dpbf16_ps((__m512)sum[i][j], s, w[j]);
            }
        }
    }
}
#endif

template <int ROWS, int NV>  // both sides read across pixels
static inline __attribute__((always_inline)) void tile(
    vec (&sum)[TILE][2], const float *a, const float *b, long a_pitch, long b_pitch, long n) {
    for (long p = 0; p < n; p++, a += a_pitch, b += b_pitch) {
        vec w[NV];
        EACH(j, NV) w[j] = load(b + j * LANES);
        EACH(i, ROWS) EACH(j, NV) sum[i][j] += a[i] * w[j];
    }
}
#if defined(__AVX512BF16__)
template <int ROWS, int NV>  // pairs of pixels lie side by side: (n/2, channels, 2), pitches per pair
static inline __attribute__((always_inline)) void tile(
    vec (&sum)[TILE][2], const half_t *a, const half_t *b, long a_pitch, long b_pitch, long n) {
    for (long p = 0; p < n; p += 2, a += a_pitch, b += b_pitch) {
        __m512bh w[NV];
        EACH(j, NV) w[j] = (__m512bh)_mm512_loadu_si512(b + j * LANES * 2);
        EACH(i, ROWS) {
            int pair;
            memcpy(&pair, a + 2 * i, 4);
            __m512bh s = (__m512bh)_mm512_set1_epi32(pair);
            EACH(j, NV) sum[i][j] = (vec)_mm512_dpbf16_ps((__m512)sum[i][j], s, w[j]);
        }
    }
}
#endif

template <class T> struct Product {
    const T *const *a;  // one pointer per tap, to the first row
    long pitch;           // of A, from row to row
    int taps;
    long k, n;
    const T *weights;
    const float *bias;    // n numbers, or null
    float *out;
    const long *offsets;  // where each row of the result stands, from `out`
    bool add, round_up;   // add to what stands there; whole vectors may be written past n
};

template <class T, int ROWS, int NV> static void tile_out(const Product<T> &g, long i, long j) {
    vec sum[TILE][2];
    EACH(r, ROWS) EACH(v, NV) sum[r][v] = g.bias ? load(g.bias + j + v * LANES) : vec{};
    tile<ROWS, NV>(sum, g.a, i * g.pitch, g.pitch, g.taps, g.k, g.weights + j * g.k * g.taps);
    EACH(r, ROWS) EACH(v, NV) {
        float *to = g.out + g.offsets[i + r] + j + v * LANES;
        long left = g.n - j - v * LANES;
        if (left >= LANES || g.round_up)
            store(to, g.add ? load(to) + sum[r][v] : sum[r][v]);
        else if (left > 0)
            store_part(to, g.add ? load_part(to, left) + sum[r][v] : sum[r][v], left);
    }
}
template <class T, int NV, int ROWS = TILE> static void tiles_of(const Product<T> &g, long rows, long i, long j) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) tile_out<T, ROWS, NV>(g, i, j);
        else tiles_of<T, NV, ROWS - 1>(g, rows, i, j);
    }
}
template <class T> static void multiply(const Product<T> &g, long rows) {
    for (long j = 0; j < g.n; j += 2 * LANES)
        for (long i = 0; i < rows; i += TILE) {
            long part = rows - i < TILE ? rows - i : TILE;
            if (g.n - j > LANES) tiles_of<T, 2>(g, part, i, j);
            else tiles_of<T, 1>(g, part, i, j);
        }
}

template <class T, int ROWS, int NV>
static void outer(const T *a, const T *b, long a_pitch, long b_pitch, long n, float *out, long ldo) {
    vec sum[TILE][2];
    EACH(i, ROWS) EACH(j, NV) sum[i][j] = vec{};
    tile<ROWS, NV>(sum, a, b, a_pitch, b_pitch, n);
    EACH(i, ROWS) EACH(j, NV) {
        float *to = out + i * ldo + j * LANES;
        store(to, load(to) + sum[i][j]);
    }
}
template <class T, int NV, int ROWS = TILE>
static void outers(long rows, const T *a, const T *b, long a_pitch, long b_pitch, long n, float *out, long ldo) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) outer<T, ROWS, NV>(a, b, a_pitch, b_pitch, n, out, ldo);
        else outers<T, NV, ROWS - 1>(rows, a, b, a_pitch, b_pitch, n, out, ldo);
    }
}
// Sums of a ⊗ b over n pixels, added to `out` (rows, columns); columns are padded to LANES.
template <class T>
static void correlate(const T *a, long a_pitch, long rows, const T *b, long b_pitch, long columns, long n, float *out, long ldo) {
    const long per = 4 / sizeof(T);
    for (long j = 0; j < columns; j += 2 * LANES)
        for (long i = 0; i < rows; i += TILE) {
            const long part = rows - i < TILE ? rows - i : TILE;
            float *to = out + i * ldo + j;
            if (columns - j > LANES) outers<T, 2>(part, a + per * i, b + per * j, a_pitch, b_pitch, n, to, ldo);
            else outers<T, 1>(part, a + per * i, b + per * j, a_pitch, b_pitch, n, to, ldo);
        }
}

// ------------------------------------------------------------------------------- norm, depth-wise, gate

static void cast(const float *from, float *to, long n) { memcpy(to, from, n * sizeof(float)); }
static void cast(const float *from, half_t *to, long n) { narrow_row(from, to, n); }

// Layer norm of `n` pixels with the modulation folded in: x̂ ⊙ scale + shift; with `centred` the mean goes.
template <class T>
static void norm(const float *x, T *out, long n, long c, const float *scale, const float *shift, bool centred, long ldo) {
    long whole = c / LANES * LANES;
    int rest = (int)(c - whole);
    float row[c + LANES];
    for (long p = 0; p < n; p++, x += c, out += ldo) {
        vec sum{}, square{};
        for (long i = 0; i < whole; i += LANES) sum += load(x + i);
        if (rest) sum += load_part(x + whole, rest);
        float mean = total(sum) / c;
        for (long i = 0; i < whole; i += LANES) {
            vec d = load(x + i) - mean;
            square += d * d;
        }
        float variance = total(square);
        for (int i = 0; i < rest; i++) variance += (x[whole + i] - mean) * (x[whole + i] - mean);
        float inverse = 1 / std::sqrt(variance / c + 1e-5f), base = centred ? mean : 0;
        for (long i = 0; i < whole; i += LANES)
            store(row + i, (load(x + i) - base) * inverse * load(scale + i) + load(shift + i));
        for (long i = whole; i < c; i++) row[i] = (x[i] - base) * inverse * scale[i] + shift[i];
        if (c % 2) row[c] = 0;
        cast(row, out, sizeof(T) == 2 ? c + c % 2 : c);
    }
}

// 3×3 depth-wise sums of one channel vector at COUNT neighbouring pixels; rows[i] stands one pixel to the left.
template <int COUNT>
static inline __attribute__((always_inline)) void depthwise(
    const float *const *rows, long c, long channels, const float *taps, const float *bias, vec (&sum)[4]) {
    EACH(x, COUNT) sum[x] = bias ? load(bias + c) : vec{};
    EACH(dy, 3) {
        vec column[COUNT + 2];
        EACH(x, COUNT + 2) column[x] = load(rows[dy] + x * channels + c);
        EACH(dx, 3) {
            vec w = load(taps + (dy * 3 + dx) * channels + c);
            EACH(x, COUNT) sum[x] += column[x + dx] * w;
        }
    }
}

// The normal distribution's share below x: 1/2 + x·P(x²)/Q(x²), a rational fit of ours.
static inline vec share_below(vec x) {
    vec z = x > 5.5f ? all(5.5f) : x;
    z = z < -5.5f ? all(-5.5f) : z;
    vec t = z * z;
    vec p = ((((2.22158549e-08f * t + 6.53073401e-06f) * t + 0.000182858656f) * t + 0.00476162037f) * t +
             0.0351423838f) * t + 0.398941985f;
    vec q = ((((1.1953952e-06f * t + 7.86103613e-05f) * t + 0.00196243781f) * t + 0.029398727f) * t +
             0.25475248f) * t + 1.0f;
    return 0.5f + z * (p / q);
}
// Exact-erf GELU, 2e-7 of max(1, |x|) off at most.
static inline vec gelu(vec x) { return x * share_below(x); }

template <int COUNT>
static void depthwise_row(const float *const *rows, long channels, const float *taps, const float *bias, float *out, long ldo) {
    for (long c = 0; c < channels; c += LANES) {
        vec sum[4];
        depthwise<COUNT>(rows, c, channels, taps, bias, sum);
        EACH(x, COUNT) store(out + x * ldo + c, sum[x]);
    }
}
template <int COUNT>  // gate channels first, then as many value channels
static void gated_row(const float *const *rows, long channels, const float *taps, const float *bias, float *out, long ldo) {
    for (long c = 0; c < channels / 2; c += LANES) {
        vec gate[4], value[4];
        depthwise<COUNT>(rows, c, channels, taps, bias, gate);
        depthwise<COUNT>(rows, c + channels / 2, channels, taps, bias, value);
        EACH(x, COUNT) store(out + x * ldo + c, gelu(gate[x]) * value[x]);
    }
}

// --------------------------------------------------------------------------------------------- the sweep

enum Kind { STATISTICS, ATTEND, FEED };

// Mirrored field by field in abi.py.
struct Sweep {
    long kind, half, low, centred;
    long width, channels;
    long wide;   // columns of the first product, padded to LANES; FEED: gate and value, each padded
    long inner;  // k of the second product
    long heads;
    long step;   // rows per turn
    long block;  // rows per set of sums
    const float *scale, *shift;
    const void *expand;
    const float *expand_bias, *depthwise, *depthwise_bias;
    const void *project;
    const float *project_bias;
    // Context windows. Without them: one cut, no modulations, no mixings.
    long cuts;         // of a row, at `ends`: cells to sum in, or spans that blend the same two windows
    long modulations;  // windows a row's modulation is blended of; scale, shift: (rows + 2, modulations, c)
    long mixings;      // windows a row's attention is blended of; project, below: (mixings, packed), float
    const int64_t *ends, *left;  // per pixel, the window before it
    const float *across;         // per pixel, the weight of the window behind it
    const float *below, *down;   // the lower windows' attention; per row, its weight
};

const long CHUNK = 256;  // pixels per product; fixed, because sums over pixels are cut there

struct Scratch {
    char *next;
    template <class U> U *carve(long count) {
        U *p = (U *)next;
        next += (count * sizeof(U) + SLACK * 4 + 63) / 64 * 64;
        return p;
    }
};

static long even(long n) { return n + n % 2; }
static long least(long a, long b) { return a < b ? a : b; }

// A band of rows at work: the buffers and the steps of one sweep, in place. `row` and `y` count from the band's
// first row. STATISTICS adds q·kᵀ, head by head (head, head padded to LANES), then q² and k² (2c, padded to LANES)
// to one set of sums per `block` rows and cut.
template <class T> struct Band {
    static constexpr bool low = sizeof(T) == 2;
    const Sweep &s;
    const long c = s.channels, size = s.half ? 2 : 4, ring_rows = s.step + 2, pitch = (s.width + 2) * s.wide;
    const long a_pitch = low ? even(c) : c, o_pitch = s.kind == FEED ? s.wide / 2 : s.wide;
    const long capacity = CHUNK + s.step * least(s.width, CHUNK);
    const long matrix = (c + LANES - 1) / LANES * LANES * a_pitch;  // one packed mixing matrix
    const long d = c / s.heads, padded = (d + LANES - 1) / LANES * LANES;
    const long set = c * padded + (2 * c + LANES - 1) / LANES * LANES;
    float *ring, *o, *pixels, *shared, *scale, *shift;
    T *a, *o_low, *blended[2];
    long *offsets;

    // Share out the scratch memory; returns its end, counted from `space`.
    long carve(char *space) {
        Scratch scratch{space};
        ring = scratch.carve<float>(ring_rows * pitch);
        a = scratch.carve<T>(CHUNK * a_pitch);
        o = scratch.carve<float>(capacity * o_pitch);
        o_low = low ? scratch.carve<T>(capacity * o_pitch) : (T *)o;
        pixels = scratch.carve<float>(s.half ? capacity * c : 0);
        offsets = scratch.carve<long>(capacity);
        for (auto &to : blended) to = scratch.carve<T>(s.mixings ? matrix : 0);
        shared = scratch.carve<float>(s.mixings ? CHUNK * o_pitch : 0);
        scale = scratch.carve<float>(s.modulations ? c : 0);
        shift = scratch.carve<float>(s.modulations ? c : 0);
        return scratch.next - space;
    }

    float *line(long row) const { return ring + (row + ring_rows) % ring_rows * pitch; }

    // Norm of n pixels from pixel p of a row; with context windows, each pixel has its own scale and shift.
    void norm_pixels(const float *f, long row, long p, long n) {
        if (!s.modulations) {
            norm<T>(f, a, n, c, s.scale, s.shift, s.centred, a_pitch);
            return;
        }
        for (long i = 0; i < n; i++) {
            const long x0 = (p + i) % s.width, next = s.modulations > 1 ? c : 0;
            const long at = ((row + 1 + (p + i) / s.width) * s.modulations + s.left[x0]) * c;
            const float share = s.across[x0];
            for (long k = 0; k < c; k++) {
                scale[k] = s.scale[at + k] + share * (s.scale[at + next + k] - s.scale[at + k]);
                shift[k] = s.shift[at + k] + share * (s.shift[at + next + k] - s.shift[at + k]);
            }
            norm<T>(f + i * c, a + i * a_pitch, 1, c, scale, shift, s.centred, a_pitch);
        }
    }

    // Norm and first product of `count` rows into the ring, whose outer columns stay zero.
    void expand(const char *from, long row, long count) {
        if (!from) {
            memset(line(row), 0, pitch * sizeof(float));
            return;
        }
        for (long p = 0; p < count * s.width; p += CHUNK) {
            const long n = least(count * s.width - p, CHUNK);
            const float *f = (const float *)(from + p * c * size);
            if (s.half) widen_row((const half_t *)f, pixels, n * c), f = pixels;
            norm_pixels(f, row, p, n);
            for (long i = 0; i < n; i++)
                offsets[i] = line(row + (p + i) / s.width) - ring + ((p + i) % s.width + 1) * s.wide;
            const T *base = a;
            multiply<T>({&base, a_pitch, 1, a_pitch, s.wide, (const T *)s.expand, s.expand_bias, ring, offsets, false, true}, n);
        }
    }

    // Depth-wise convolution of n pixels of row y from column x0, with the gate in FEED.
    void filter(float *to, long y, long x0, long n) const {
        const auto four = s.kind == FEED ? gated_row<4> : depthwise_row<4>;
        const auto one = s.kind == FEED ? gated_row<1> : depthwise_row<1>;
        const float *lines[3];
        for (long dy = 0; dy < 3; dy++) lines[dy] = line(y + dy - 1) + x0 * s.wide;
        for (long i = 0; i < n;) {
            (n - i >= 4 ? four : one)(lines, s.wide, s.depthwise, s.depthwise_bias, to + i * o_pitch, o_pitch);
            const long moved = n - i >= 4 ? 4 : 1;
            for (auto &l : lines) l += moved * s.wide;
            i += moved;
        }
    }

    // Second product of n pixels, added to the map.
    void project(char *to, long n) {
        float *out = s.half ? pixels : (float *)to;
        if (s.half) widen_row((half_t *)to, pixels, n * c);
        if (low) narrow_row(o, (half_t *)o_low, n * o_pitch);
        for (long i = 0; i < n; i++) offsets[i] = i * c;
        const T *base = o_low;
        multiply<T>({&base, o_pitch, 1, low ? even(s.inner) : s.inner, c, (const T *)s.project, s.project_bias, out, offsets, true, false}, n);
        if (s.half) narrow_row(pixels, (half_t *)to, n * c);
    }

    // The attention of one window column at row y, blended of the upper and the lower window.
    void blend(long window, long y) {
        const float *top = (const float *)s.project + window * matrix, *bottom = s.below + window * matrix;
        T *to = blended[window % 2];
        const float share = s.down[y];
        float part[CHUNK];
        for (long i = 0; i < matrix; i += CHUNK) {
            const long n = least(matrix - i, CHUNK);
            for (long k = 0; k < n; k++) part[k] = top[i + k] + share * (bottom[i + k] - top[i + k]);
            cast(part, to + i, n);
        }
    }

    // As `project`, for n pixels of row y from column x0, which lie between windows j and j + 1.
    void mix(char *to, long n, long y, long x0, long j) {
        if (x0 == 0) blend(0, y);
        if (s.mixings > 1 && x0 == (j ? s.ends[j - 1] : 0)) blend(j + 1, y);
        float *out = s.half ? pixels : (float *)to;
        if (s.half) widen_row((half_t *)to, pixels, n * c);
        for (long i = 0; i < n; i++) offsets[i] = i * c;
        for (long side = 0; side < (s.mixings > 1 ? 2 : 1); side++) {
            for (long i = 0; i < n; i++) {
                const float share = side ? s.across[x0 + i] : 1 - s.across[x0 + i];
                for (long k = 0; k < o_pitch; k++) shared[i * o_pitch + k] = share * o[i * o_pitch + k];
            }
            if (low) narrow_row(shared, (half_t *)o_low, n * o_pitch);
            const T *base = low ? o_low : (T *)shared;
            multiply<T>({&base, o_pitch, 1, a_pitch, c, blended[(j + side) % 2], side ? nullptr : s.project_bias, out, offsets, true, false}, n);
        }
        if (s.half) narrow_row(pixels, (half_t *)to, n * c);
    }

    // Sums over n pixels: queries in the first c columns, keys in the next.
    void gather(float *sums, long n) const {
        for (long h = 0; h < s.heads; h++)
            correlate<float>(o + h * d, o_pitch, d, o + c + h * d, o_pitch, padded, n, sums + h * d * padded, padded);
        float *squares = sums + c * padded;
        for (long i = 0; i < 2 * c; i += LANES) {
            vec sum{};
            for (long p = 0; p < n; p++) {
                vec v = load(o + p * o_pitch + i);
                sum += v * v;
            }
            store(squares + i, load(squares + i) + sum);
        }
    }

    // Rows r to r + count of the band, whose neighbours are in the ring.
    void turn(char *x, long r, long count, float *sums) {
        long filled = 0;
        char *to = x + r * s.width * c * size;
        for (long y = r; y < r + count; y++)
            for (long x0 = 0, j = 0, n; x0 < s.width; x0 += n, j += x0 == s.ends[j]) {
                n = least(s.ends[j] - x0, CHUNK);
                filter(o + filled * o_pitch, y, x0, n);
                if (s.kind == STATISTICS) gather(sums + (y / s.block * s.cuts + j) * set, n);
                else if (s.kind == ATTEND && s.mixings) mix(x + (y * s.width + x0) * c * size, n, y, x0, j);
                else filled += n;
                if (filled >= CHUNK || (filled && y == r + count - 1 && x0 + n == s.width)) {
                    project(to, filled);
                    to += filled * c * size;
                    filled = 0;
                }
            }
    }
};

// Take a band through a sweep. `above` and `below` are its neighbours as they were before, null outside the photo.
template <class T>
static long sweep(const Sweep &s, char *x, const char *above, const char *below, long rows, float *sums, char *space) {
    Band<T> band{s};
    const long needed = band.carve(space);
    if (!space) return needed;
    memset(band.ring, 0, band.ring_rows * band.pitch * sizeof(float));
    band.expand(above, -1, 1);
    band.expand(x, 0, 1);
    for (long r = 0; r < rows; r += s.step) {
        const long count = least(rows - r, s.step), known = least(rows - r - 1, count);
        if (known) band.expand(x + (r + 1) * s.width * band.c * band.size, r + 1, known);
        if (known < count) band.expand(below, rows, 1);
        band.turn(x, r, count, sums);
    }
    return 0;
}
