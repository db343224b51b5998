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
