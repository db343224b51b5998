// A part of a transformer block and its gradient: norm → 1×1 → depth-wise 3×3 → what stands behind (`Kind`).
//
// Nothing wide is kept for the gradient: it is computed again strip by strip, and every wide row lives in a ring
// that stays in the cache. Photos are shared out among threads. Gradients of weights are summed by groups of
// photos, and the groups do not depend on the threads.
#include <atomic>
#include <thread>
#include <vector>

#include "sweep.h"

// Mirrored field by field in abi.py. Weights are as torch has them.
struct Part {
    long kind, half, low, centred;
    long photos, height, width, channels;
    long inner;                        // FEED: hidden channels, otherwise channels
    long heads, threads, groups;
    const float *scale, *shift;        // (photos, channels)
    const float *expand, *depthwise;   // (wide, channels), (wide, 9)
    const float *project;              // FEED: (channels, hidden); ATTEND: (photos, channels, channels)
};
struct Gradients {
    float *scale, *shift;              // (photos, channels)
    float *expand, *depthwise;         // (groups, …)
    float *project;                    // FEED: (groups, …); ATTEND: (photos, …)
};

const long STRIP = 128;  // pixels worked on at a time, at least

static long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

// Widths of a part, and where a row of its weights stands among columns that are padded to whole vectors.
struct Shape {
    long c, cp, rows, wide, inner, step;
    bool split;
    explicit Shape(const Part &s)
        : c(s.channels), cp(padded(c)), rows(s.kind == ATTEND ? c : s.kind == FEED ? 2 * s.inner : 2 * c),
          wide(s.kind == FEED ? 2 * padded(s.inner) : padded(rows)), inner(s.kind == FEED ? wide / 2 : wide),
          step(least(s.height, STRIP / s.width + 1)), split(s.kind == FEED) {}
    long column(long row) const { return split && row >= rows / 2 ? row - rows / 2 + wide / 2 : row; }
    long row(long column) const {  // -1: padding
        if (!split) return column < rows ? column : -1;
        const long at = column % (wide / 2);
        return at < rows / 2 ? at + column / (wide / 2) * (rows / 2) : -1;
    }
};

// Weights (columns, k) in the panels of native.h; a weight stands at w[column(j) + row(p)], either -1: zero.
template <class T, class Column, class Row>
static void pack(T *to, long columns, long k, const float *w, Column column, Row row) {
    const long per = 4 / sizeof(T);
    float panel[4 * LANES];
    for (long j0 = 0; j0 < columns; j0 += 2 * LANES) {
        const long n = least(columns - j0, 2 * LANES);
        long at[2 * LANES];
        bool whole = true, dense = true;
        for (long j = 0; j < n; j++) {
            at[j] = column(j0 + j);
            whole = whole && at[j] >= 0;
            dense = dense && at[j] == at[0] + j;
        }
        dense = dense && whole;
        for (long p = 0; p < k; p += per, to += n * per) {
            for (long q = 0; q < per; q++) {
                const long from = p + q < k ? row(p + q) : -1;
                if (from < 0) for (long j = 0; j < n; j++) panel[j * per + q] = 0;
                else if (dense) for (long j = 0; j < n; j++) panel[j * per + q] = w[at[0] + from + j];
                else if (whole) for (long j = 0; j < n; j++) panel[j * per + q] = w[at[j] + from];
                else for (long j = 0; j < n; j++) panel[j * per + q] = at[j] < 0 ? 0 : w[at[j] + from];
            }
            cast(panel, to, n * per);
        }
    }
}
// Which column or row: the first `count`, `pitch` apart.
static auto plainly(long count, long pitch) {
    return [=](long i) { return i < count ? i * pitch : -1; };
}

template <class T> struct Packed {
    T *expand, *expand_back, *project, *project_back;
    float *taps, *taps_back;
    Packed(const Part &s, const Shape &f, Scratch &scratch, bool back) {
        expand = scratch.carve<T>(f.wide * even(f.c));
        taps = scratch.carve<float>(9 * f.wide);
        project = scratch.carve<T>(s.kind == FEED && !back ? f.cp * even(s.inner) : 0);
        expand_back = scratch.carve<T>(back ? f.cp * f.wide : 0);
        taps_back = scratch.carve<float>(back ? 9 * f.wide : 0);
        project_back = scratch.carve<T>(s.kind == FEED && back ? f.inner * even(f.c) : 0);
    }
    void fill(const Part &s, const Shape &f, bool back) {
        auto wide = [&](long i) { return f.row(i) < 0 ? -1 : f.row(i) * f.c; };
        pack(expand, f.wide, f.c, s.expand, wide, plainly(f.c, 1));
        for (long j = 0; j < f.wide; j++)
            for (long t = 0; t < 9; t++) {
                taps[t * f.wide + j] = f.row(j) < 0 ? 0 : s.depthwise[f.row(j) * 9 + t];
                if (back) taps_back[(8 - t) * f.wide + j] = taps[t * f.wide + j];
            }
        if (back) pack(expand_back, f.cp, f.wide, s.expand, plainly(f.c, 1), wide);
        if (s.kind != FEED) return;
        auto narrow = plainly(f.c, s.inner), inner = plainly(s.inner, 1);
        if (back) pack(project_back, f.inner, f.c, s.project, inner, narrow);
        else pack(project, f.cp, s.inner, s.project, narrow, inner);
    }
};

template <class Work> static void share_out(long count, long threads, Work work) {
    std::atomic<long> next{0};
    auto run = [&](long thread) {
        for (long i; (i = next++) < count;) work(i, thread);
    };
    std::vector<std::thread> others;
    for (long t = 1; t < least(threads, count); t++) others.emplace_back(run, t);
    run(0);
    for (auto &other : others) other.join();
}

static long length_of_sums(const Part &s) { return s.channels * padded(s.channels / s.heads) + padded(2 * s.channels); }

// ----------------------------------------------------------------------------------------------- forward

// `out` is a map, with x added; for STATISTICS `sums` takes one set per photo, zero before.
template <class T> static long forward(const Part &s, const char *x, char *out, float *sums, char *space) {
    const Shape f(s);
    Scratch scratch{space};
    Packed<T> weights(s, f, scratch, false);
    const long size = s.half ? 2 : 4, photo = s.height * s.width * f.c * size;
    const int64_t end = s.width;  // no context windows: a row is one cut
    Sweep part{s.kind, s.half, s.low, s.centred, s.width, f.c, f.wide, s.inner, s.heads, f.step, s.height,
               nullptr, nullptr, weights.expand, nullptr, weights.taps, nullptr, weights.project, nullptr,
               1, 0, 0, &end};
    const long mixing = s.kind == ATTEND ? f.cp * even(f.c) : 0;
    const long each = (sweep<T>(part, nullptr, nullptr, nullptr, s.height, nullptr, nullptr) + mixing * sizeof(T) + SLACK * 4 + 63) / 64 * 64;
    char *own = scratch.carve<char>(each * s.threads);
    if (!space) return scratch.next - (char *)nullptr;
    weights.fill(s, f, false);
    share_out(s.photos, s.threads, [&](long i, long thread) {
        Scratch mine{own + thread * each};
        Sweep sw = part;
        sw.scale = s.scale + i * f.c;
        sw.shift = s.shift + i * f.c;
        if (s.kind == ATTEND) {
            T *to = mine.carve<T>(mixing);
            pack(to, f.cp, f.c, s.project + i * f.c * f.c, plainly(f.c, f.c), plainly(f.c, 1));
            sw.project = to;
        }
        char *map = (char *)x + i * photo;  // STATISTICS only reads
        if (s.kind != STATISTICS) map = (char *)memcpy(out + i * photo, map, photo);
        sweep<T>(sw, map, nullptr, nullptr, s.height, s.kind == STATISTICS ? sums + i * length_of_sums(s) : nullptr, mine.next);
    });
    return 0;
}

#include "backward.h"

// Each returns the bytes of scratch it needs when given none.
extern "C" {
long dirformer_abi_size(long which) { return which == 0 ? sizeof(Part) : sizeof(Gradients); }
long dirformer_forward(const Part *s, const char *x, char *out, float *sums, char *space) {
#if defined(__AVX512BF16__)
    if (s->low) return forward<half_t>(*s, x, out, sums, space);
#endif
    return forward<float>(*s, x, out, sums, space);
}
long dirformer_backward(const Part *s, const char *x, const char *dy, const float *dsums, char *dx, const Gradients *out, char *space) {
#if defined(__AVX512BF16__)
    if (s->low) return backward<half_t>(*s, x, dy, dsums, dx, *out, space);
#endif
    return backward<float>(*s, x, dy, dsums, dx, *out, space);
}
}
