// The gradient of a part of a block; included by training.cpp alone.
#pragma once

// ---------------------------------------------------------------------------------------------- backward

// The normal distribution's density at x.
static inline vec density(vec x) {
    typedef int32_t ints __attribute__((vector_size(LANES * 4)));
    vec y = x * x * -0.721347520f;  // in powers of two
    y = y < -126.0f ? all(-126.0f) : y;
    const vec r = y + 12582912.0f;  // the nearest whole number stands in the lowest bits
    const vec z = y - (r - 12582912.0f);
    vec p = (((((0.000154035304f * z + 0.00133335581f) * z + 0.00961812911f) * z + 0.0555041087f) * z +
              0.240226507f) * z + 0.693147181f) * z + 1.0f;
    return 0.398942280f * (vec)((ints)p + ((ints)r << 23));
}

// Pixels of a map to and from float32 rows padded to cp.
static void widen_rows(const char *from, bool half, float *to, long n, long c, long cp) {
    if (c == cp) c = cp = n * c, n = 1;
    for (long p = 0; p < n; p++, to += cp) {
        if (half) widen_row((const half_t *)from + p * c, to, c);
        else memcpy(to, (const float *)from + p * c, c * sizeof(float));
        for (long i = c; i < cp; i++) to[i] = 0;
    }
}
static void narrow_rows(const float *from, char *to, bool half, long n, long c, long cp) {
    if (c == cp) c = cp = n * c, n = 1;
    for (long p = 0; p < n; p++, from += cp) {
        if (half) narrow_row(from, (half_t *)to + p * c, c);
        else memcpy((float *)to + p * c, from, c * sizeof(float));
    }
}
// Rows for a product along channels: as they are, or rounded.
static const float *rows_of(const float *from, float *, long) { return from; }
static const half_t *rows_of(const float *from, half_t *to, long n) {
    narrow_row(from, to, n);
    return to;
}
// Rows for sums over pixels: as they are, or rounded with pairs of pixels side by side.
static const float *pairs_of(const float *from, float *, long, long) { return from; }
static const half_t *pairs_of(const float *from, half_t *to, long n, long columns) {
    for (long p = 0; p < n; p += 2) {
        const float *one = from + p * columns, *two = one + columns;
        const bool last = p + 1 == n;
        for (long i = 0; i < columns; i += LANES, to += 2 * LANES) {
#if defined(__AVX512BF16__)
            const __m512 b = last ? _mm512_setzero_ps() : _mm512_loadu_ps(two + i);
            const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(one + i)));
            const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
            _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
            for (long j = 0; j < LANES; j++) to[2 * j] = narrow(one[i + j]), to[2 * j + 1] = last ? 0 : narrow(two[i + j]);
#endif
        }
    }
    return to - (n + 1) / 2 * 2 * columns;
}

// One row's share in the gradient of the taps (9, wide): its gradient times the nine neighbours.
static void taps_row(const float *const *rows, const float *d, long width, long wide, float *taps) {
    for (long c = 0; c < wide; c += LANES) {
        vec sum[9], left[3], middle[3];
        EACH(t, 9) sum[t] = load(taps + t * wide + c);
        EACH(y, 3) {
            left[y] = load(rows[y] + c);
            middle[y] = load(rows[y] + wide + c);
        }
        for (long x = 0; x < width; x++) {
            const vec g = load(d + (x + 1) * wide + c);
            EACH(y, 3) {
                const vec right = load(rows[y] + (x + 2) * wide + c);
                sum[3 * y] += left[y] * g;
                sum[3 * y + 1] += middle[y] * g;
                sum[3 * y + 2] += right * g;
                left[y] = middle[y];
                middle[y] = right;
            }
        }
        EACH(t, 9) store(taps + t * wide + c, sum[t]);
    }
}

// Gate and value of COUNT pixels and their gradients, from the product's gradient `dh`; the product goes to `h`.
template <int COUNT>
static void gate_back(const float *const *rows, long wide, const float *taps, const float *dh, float *h, float *d) {
    const long inner = wide / 2;
    for (long c = 0; c < inner; c += LANES) {
        vec gate[4], value[4];
        depthwise<COUNT>(rows, c, wide, taps, nullptr, gate);
        depthwise<COUNT>(rows, c + inner, wide, taps, nullptr, value);
        EACH(x, COUNT) {
            const vec share = share_below(gate[x]), open = gate[x] * share, g = load(dh + x * inner + c);
            store(h + x * inner + c, open * value[x]);
            store(d + x * wide + c, g * value[x] * (share + gate[x] * density(gate[x])));
            store(d + x * wide + c + inner, g * open);
        }
    }
}

// From the normalised map's gradient `dn` to that of x (both n × cp, `dx` in place of `dn`); sums for scale and
// shift; the normalised map itself for the product's gradient. `mask` is 1 in c channels, then 0.
static void norm_back(const float *x, float *dn, float *normed, long n, long c, long cp, const float *scale,
                      const float *shift, const float *mask, bool centred, float *dscale, float *dshift) {
    float y[cp], centre[cp];
    for (long p = 0; p < n; p++, x += cp, dn += cp, normed += cp) {
        vec sum{}, square{};
        for (long i = 0; i < cp; i += LANES) sum += load(x + i);
        const float mean = total(sum) / c;
        for (long i = 0; i < cp; i += LANES) {
            const vec v = (load(x + i) - mean) * load(mask + i);
            store(centre + i, v);
            square += v * v;
        }
        const float inverse = 1 / std::sqrt(total(square) / c + 1e-5f);
        vec along{}, across{};
        for (long i = 0; i < cp; i += LANES) {
            const vec v = (centred ? load(centre + i) : load(x + i)) * inverse, d = load(dn + i);
            store(y + i, v);
            store(normed + i, v * load(scale + i) + load(shift + i));
            store(dscale + i, load(dscale + i) + d * v);
            store(dshift + i, load(dshift + i) + d);
            const vec g = d * load(scale + i);
            along += g * v;
            across += g;
        }
        const float a = total(along) / c * inverse, m = centred ? total(across) / c : 0;
        for (long i = 0; i < cp; i += LANES)
            store(dn + i, (load(dn + i) * load(scale + i) - m - load(centre + i) * a) * inverse);
    }
}

// The gradient for one photo; sums for weights are added to `expand` (wide, cp), `taps` (9, wide) and `project`
// (channels, inner). `dy` is the gradient of the map, for STATISTICS `dsums` that of the sums.
template <class T> struct Back {
    const Part &s;
    const Shape f;
    const Packed<T> &weights;
    long pitch, most;
    float *rings, *scale, *shift, *mask, *dscale, *dshift, *squares, *x, *dy, *dn, *normed, *big, *expand, *taps, *project;
    T *narrow_c, *pairs_c, *narrow_wide, *pairs_wide, *mixing;
    long *offsets;

    Back(const Part &s, const Packed<T> &weights, Scratch &scratch) : s(s), f(s), weights(weights) {
        const long low = sizeof(T) == 2;
        pitch = (s.width + 2) * f.wide;
        most = (f.step + 1) * s.width;
        rings = scratch.carve<float>((2 * f.step + 5) * pitch);
        for (float **p : {&scale, &shift, &mask, &dscale, &dshift}) *p = scratch.carve<float>(f.cp);
        squares = scratch.carve<float>(padded(2 * f.c));
        for (float **p : {&x, &dy, &dn, &normed}) *p = scratch.carve<float>(most * f.cp);
        big = scratch.carve<float>(most * f.wide);
        narrow_c = scratch.carve<T>(most * f.cp);
        pairs_c = scratch.carve<T>(low * (most + 1) * f.cp);
        narrow_wide = scratch.carve<T>(low * most * f.wide);
        pairs_wide = scratch.carve<T>(low * (most + 1) * f.wide);
        // Kept over the photos of a group:
        expand = scratch.carve<float>(f.wide * f.cp);
        taps = scratch.carve<float>(9 * f.wide);
        project = scratch.carve<float>(s.kind == STATISTICS ? 0 : f.c * f.inner);
        mixing = scratch.carve<T>(s.kind == FEED ? 0 : 2 * s.heads * padded(f.c / s.heads) * even(f.c) + f.wide * even(f.c));
        offsets = scratch.carve<long>(most);
    }

    float *wide_row(long y) const { return rings + (y + f.step + 2) % (f.step + 2) * pitch; }
    float *gradient_row(long y) const { return rings + (f.step + 2 + (y + f.step + 3) % (f.step + 3)) * pitch; }

    void clear() {
        memset(expand, 0, f.wide * f.cp * sizeof(float));
        memset(taps, 0, 9 * f.wide * sizeof(float));
        if (s.kind != STATISTICS) memset(project, 0, f.c * f.inner * sizeof(float));
    }

    template <class Row> void aim(long from, long n, Row row) {
        for (long i = 0; i < n; i++) offsets[i] = row(from + i / s.width) - rings + (i % s.width + 1) * f.wide;
    }
    void line_up(long n, long ldo) {
        for (long i = 0; i < n; i++) offsets[i] = i * ldo;
    }
    void product(const T *a, long a_pitch, long k, long n, const T *panels, float *out, long rows, bool round_up = true) {
        multiply<T>({&a, a_pitch, 1, sizeof(T) == 2 ? even(k) : k, n, panels, nullptr, out, offsets, false, round_up}, rows);
    }
    // `work(four or one, lines, pixel)` over a row of pixels; `row` gives a ring's row.
    template <class Row, class Work> void along(long y, Row row, Work work) {
        const float *lines[3] = {row(y - 1), row(y), row(y + 1)};
        for (long i = 0; i < s.width;) {
            const long moved = s.width - i >= 4 ? 4 : 1;
            work(moved == 4, lines, i);
            for (auto &line : lines) line += moved * f.wide;
            i += moved;
        }
    }

    void photo(long i, const char *map, const char *dmap, const float *dsums, char *dx) {
        const long c = f.c, cp = f.cp, wide = f.wide, width = s.width, height = s.height, size = s.half ? 2 : 4;
        const long row_bytes = width * c * size;
        auto wide_at = [&](long y) { return wide_row(y); };
        auto gradient_at = [&](long y) { return gradient_row(y); };
        for (long j = 0; j < cp; j++) {
            scale[j] = j < c ? s.scale[i * c + j] : 0;
            shift[j] = j < c ? s.shift[i * c + j] : 0;
            mask[j] = j < c;
            dscale[j] = dshift[j] = 0;
        }
        if (wide > f.rows) memset(rings, 0, (2 * f.step + 5) * pitch * sizeof(float));
        for (long r = 0; r < 2 * f.step + 5; r++) {
            memset(rings + r * pitch, 0, wide * sizeof(float));
            memset(rings + (r + 1) * pitch - wide, 0, wide * sizeof(float));
        }
        memset(wide_row(-1), 0, pitch * sizeof(float));
        memset(gradient_row(-1), 0, pitch * sizeof(float));
        prepare(i, dsums);

        long known = 0;
        for (long r = 0; r < height; r += f.step) {
            const long count = least(f.step, height - r);
            const bool last = r + count == height;
            const long until = least(height, r + count + 1);
            if (until > known) {
                const long m = (until - known) * width;
                const char *from = map + known * row_bytes;
                const float *rows = (const float *)from;
                if (s.half) widen_row((const half_t *)from, x, m * c), rows = x;
                norm<T>(rows, narrow_c, m, c, scale, shift, s.centred, cp);
                aim(known, m, wide_at);
                product(narrow_c, cp, c, wide, weights.expand, rings, m);
                known = until;
            }
            if (last) memset(wide_row(height), 0, pitch * sizeof(float));
            behind(r, count, dmap ? dmap + r * row_bytes : nullptr);
            for (long y = r; y < r + count; y++) {
                const float *lines[3] = {wide_row(y - 1), wide_row(y), wide_row(y + 1)};
                taps_row(lines, gradient_row(y), width, wide, taps);
            }
            // The last row's gradient needs the next strip.
            if (last) memset(gradient_row(height), 0, pitch * sizeof(float));
            const long from = r ? r - 1 : 0, m = ((last ? height : r + count - 1) - from) * width;
            for (long y = from; y < from + m / width; y++)
                along(y, gradient_at, [&](bool four, const float *const *lines, long at) {
                    float *to = big + ((y - from) * width + at) * wide;
                    (four ? depthwise_row<4> : depthwise_row<1>)(lines, wide, weights.taps_back, nullptr, to, wide);
                });
            line_up(m, cp);
            product(rows_of(big, narrow_wide, m * wide), wide, wide, cp, weights.expand_back, dn, m);
            widen_rows(map + from * row_bytes, s.half, x, m, c, cp);
            norm_back(x, dn, normed, m, c, cp, scale, shift, mask, s.centred, dscale, dshift);
            correlate(pairs_of(big, pairs_wide, m, wide), wide * per, wide, pairs_of(normed, pairs_c, m, cp), cp * per, cp, m, expand, cp);
            if (dmap) {
                widen_rows(dmap + from * row_bytes, s.half, x, m, c, cp);
                for (long j = 0; j < m * cp; j++) dn[j] += x[j];
            }
            narrow_rows(dn, dx + from * row_bytes, s.half, m, c, cp);
        }
    }
    static const long per = 4 / sizeof(T);

    // Products that differ from photo to photo.
    void prepare(long i, const float *dsums) {
        const long c = f.c, d = c / s.heads, pitch = padded(d);
        if (s.kind == ATTEND) {
            pack(mixing, f.wide, c, s.project + i * c * c, plainly(c, 1), plainly(c, c));
        } else if (s.kind == STATISTICS) {
            for (long h = 0; h < s.heads; h++) {
                const float *g = dsums + h * d * pitch;
                T *to = mixing + 2 * h * pitch * even(d);
                pack(to, pitch, d, g, plainly(d, pitch), plainly(d, 1));
                pack(to + pitch * even(d), pitch, d, g, plainly(d, 1), plainly(d, pitch));
            }
            for (long j = 0; j < padded(2 * c); j++) squares[j] = j < 2 * c ? 2 * dsums[c * pitch + j] : 0;
        }
    }

    // From the gradient behind the depth-wise convolution's rows to the gradient of these rows.
    void behind(long r, long count, const char *dmap) {
        const long c = f.c, wide = f.wide, n = count * s.width;
        auto wide_at = [&](long y) { return wide_row(y); };
        auto gradient_at = [&](long y) { return gradient_row(y); };
        const T *incoming = nullptr;
        if (dmap) {
            widen_rows(dmap, s.half, dy, n, c, f.cp);
            incoming = rows_of(dy, narrow_c, n * f.cp);
        }
        if (s.kind == FEED) {
            float *dh = big, *h = big + n * f.inner;
            line_up(n, f.inner);
            product(incoming, f.cp, c, f.inner, weights.project_back, dh, n);
            for (long y = r; y < r + count; y++)
                along(y, wide_at, [&](bool four, const float *const *lines, long at) {
                    const long p = ((y - r) * s.width + at) * f.inner;
                    (four ? gate_back<4> : gate_back<1>)(lines, wide, weights.taps, dh + p, h + p, gradient_row(y) + (at + 1) * wide);
                });
            correlate(pairs_of(dy, pairs_c, n, f.cp), f.cp * per, c, pairs_of(h, pairs_wide, n, f.inner), f.inner * per, f.inner, n, project, f.inner);
            return;
        }
        for (long y = r; y < r + count; y++)
            along(y, wide_at, [&](bool four, const float *const *lines, long at) {
                float *to = big + ((y - r) * s.width + at) * wide;
                (four ? depthwise_row<4> : depthwise_row<1>)(lines, wide, weights.taps, nullptr, to, wide);
            });
        aim(r, n, gradient_at);
        if (s.kind == ATTEND) {
            product(incoming, f.cp, c, wide, mixing, rings, n);
            correlate(pairs_of(dy, pairs_c, n, f.cp), f.cp * per, c, pairs_of(big, pairs_wide, n, wide), wide * per, wide, n, project, wide);
            return;
        }
        const long d = c / s.heads, size = padded(d) * even(d);
        const T *w = rows_of(big, narrow_wide, n * wide);
        for (long h = 0; h < s.heads; h++) {
            product(w + c + h * d, wide, d, d, mixing + 2 * h * size, rings + h * d, n, false);
            product(w + h * d, wide, d, d, mixing + (2 * h + 1) * size, rings + c + h * d, n, false);
        }
        for (long p = 0; p < n; p++)
            for (long j = 0; j < wide; j += LANES) {
                float *to = rings + offsets[p] + j;
                store(to, load(to) + load(big + p * wide + j) * load(squares + j));
            }
    }
};

template <class T>
static long backward(const Part &s, const char *x, const char *dy, const float *dsums, char *dx, const Gradients &out, char *space) {
    const Shape f(s);
    Scratch scratch{space};
    Packed<T> weights(s, f, scratch, true);
    Scratch trial{nullptr};
    Back<T> measured(s, weights, trial);
    const long each = trial.next - (char *)nullptr;
    char *own = scratch.carve<char>(each * s.threads);
    if (!space) return scratch.next - (char *)nullptr;
    weights.fill(s, f, true);
    const long photo = s.height * s.width * f.c * (s.half ? 2 : 4);
    share_out(s.groups, s.threads, [&](long group, long thread) {
        Scratch mine{own + thread * each};
        Back<T> back(s, weights, mine);
        back.clear();
        for (long i = group * s.photos / s.groups; i < (group + 1) * s.photos / s.groups; i++) {
            back.photo(i, x + i * photo, dy ? dy + i * photo : nullptr, dsums ? dsums + i * length_of_sums(s) : nullptr, dx + i * photo);
            memcpy(out.scale + i * f.c, back.dscale, f.c * sizeof(float));
            memcpy(out.shift + i * f.c, back.dshift, f.c * sizeof(float));
            if (s.kind == ATTEND) {  // a matrix per photo
                for (long j = 0; j < f.c; j++) memcpy(out.project + (i * f.c + j) * f.c, back.project + j * f.inner, f.c * sizeof(float));
                memset(back.project, 0, f.c * f.inner * sizeof(float));
            }
        }
        for (long row = 0; row < f.rows; row++) {
            const long j = f.column(row), at = group * f.rows + row;
            memcpy(out.expand + at * f.c, back.expand + j * f.cp, f.c * sizeof(float));
            for (long t = 0; t < 9; t++) out.depthwise[at * 9 + t] = back.taps[t * f.wide + j];
        }
        if (s.kind == FEED)
            for (long j = 0; j < f.c; j++)
                memcpy(out.project + (group * f.c + j) * s.inner, back.project + j * f.inner, s.inner * sizeof(float));
    });
    return 0;
}
