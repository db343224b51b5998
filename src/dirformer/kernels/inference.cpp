// Row kernels of the streaming engine: everything a DIRformer block does to a band of rows, in one call, and the
// convolutions between blocks. Packing of weights: native.py.
#include "sweep.h"

// --------------------------------------------------------------------------------- 3×3 and 1×1 convolutions

// Mirrored field by field in abi.py.
struct Conv {
    long half, low;      // of the input
    long width, inputs, outputs;
    long taps;           // 9: 3×3 with zeros around the photo; 1: 1×1
    long shuffle;        // r > 0: pixel-shuffle by r, columns in order (dy, dx, c); -2: pixel-unshuffle by 2; 0: none
    const void *weights;
    const float *bias;
    float slope;         // of the leaky ReLU behind; 1: none
};

// Write n pixels of row y, from column x0, where resampling takes them.
static void place(const Conv &s, const float *from, float *out, long n, long y, long x0) {
    const long c = s.outputs;
    if (s.shuffle > 0) {
        const long r = s.shuffle, run = c / (r * r);
        for (long i = 0; i < n; i++)
            for (long dy = 0; dy < r; dy++)
                memcpy(out + (((y * r + dy) * s.width + x0 + i) * r) * run, from + i * c + dy * r * run, r * run * sizeof(float));
    } else if (s.shuffle < 0) {
        for (long i = 0; i < n; i++) {
            float *to = out + (y / 2 * (s.width / 2) + (x0 + i) / 2) * 4 * c + y % 2 * 2 + (x0 + i) % 2;
            for (long k = 0; k < c; k++) to[4 * k] = from[i * c + k];
        }
    } else {
        memcpy(out + (y * s.width + x0) * c, from, n * c * sizeof(float));
    }
}

template <class T>
static long convolve(const Conv &s, const char *x, const char *above, const char *below, long rows, float *out, char *space) {
    const bool low = sizeof(T) == 2;
    const long c = low ? even(s.inputs) : s.inputs, pitch = (s.width + 2) * c, size = s.half ? 2 : 4;
    Scratch scratch{space};
    T *ring = scratch.carve<T>(3 * pitch);
    float *row = scratch.carve<float>(s.half || low ? s.width * c : 0);
    float *o = scratch.carve<float>(CHUNK * s.outputs);
    long offsets[CHUNK];
    if (!space) return scratch.next - (char *)nullptr;
    for (long i = 0; i < CHUNK; i++) offsets[i] = i * s.outputs;
    memset(ring, 0, 3 * pitch * sizeof(T));
    auto fetch = [&](const char *from, long y) {
        T *to = ring + (y + 3) % 3 * pitch;
        if (!from) {
            memset(to, 0, pitch * sizeof(T));
            return;
        }
        const float *f = (const float *)from;
        if (s.half) widen_row((const half_t *)from, row, s.width * s.inputs), f = row;
        if (c == s.inputs) cast(f, to + c, s.width * c);
        else for (long i = 0; i < s.width; i++) cast(f + i * s.inputs, to + (i + 1) * c, s.inputs);
    };
    const long row_bytes = s.width * s.inputs * size;
    if (s.taps == 9) fetch(above, -1);
    fetch(x, 0);
    for (long y = 0; y < rows; y++) {
        if (s.taps == 9) fetch(y + 1 < rows ? x + (y + 1) * row_bytes : below, y + 1);
        else if (y) fetch(x + y * row_bytes, y);
        for (long x0 = 0; x0 < s.width; x0 += CHUNK) {
            const long n = least(s.width - x0, CHUNK);
            const T *taps[9];
            for (long t = 0; t < s.taps; t++) {
                const long dy = s.taps == 9 ? t / 3 - 1 : 0, dx = s.taps == 9 ? t % 3 - 1 : 0;
                taps[t] = ring + (y + dy + 3) % 3 * pitch + (x0 + dx + 1) * c;
            }
            multiply<T>({taps, c, (int)s.taps, c, s.outputs, (const T *)s.weights, s.bias, o, offsets, false, false}, n);
            if (s.slope != 1)
                for (long i = 0; i < n * s.outputs; i++) o[i] = o[i] < 0 ? o[i] * s.slope : o[i];
            place(s, o, out, n, y, x0);
        }
    }
    return 0;
}

// Each returns the bytes of scratch it needs when given none.
extern "C" {
long dirformer_abi_size(long which) { return which == 0 ? sizeof(Sweep) : sizeof(Conv); }
long dirformer_sweep(const Sweep *s, char *x, const char *above, const char *below, long rows, float *sums, char *scratch) {
#if defined(__AVX512BF16__)
    if (s->low) return sweep<half_t>(*s, x, above, below, rows, sums, scratch);
#endif
    return sweep<float>(*s, x, above, below, rows, sums, scratch);
}
long dirformer_convolve(const Conv *s, const char *x, const char *above, const char *below, long rows, float *out, char *scratch) {
#if defined(__AVX512BF16__)
    if (s->low) return convolve<half_t>(*s, x, above, below, rows, out, scratch);
#endif
    return convolve<float>(*s, x, above, below, rows, out, scratch);
}
}
