// A sweep over a band of rows, shared by inference and training: norm, 1x1, depth-wise 3x3, head.
#pragma once
#include "products.h"

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
