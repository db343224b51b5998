// Exemplar filling: for each patch that touches a hole, the nearest patch that is known, and the vote of these
// patches on the colours in the hole. All numbers are integers, so that stock torch (`holes/match.py`) computes the
// same, and any number of threads too.
#include "products.h"

#include <thread>
#include <vector>

#define RADIUS 3
#define SIDE (2 * RADIUS + 1)
#define ROW (3 * SIDE)  // numbers in a row of a patch

// Mirrored field by field in abi.py.
struct Level {
    long height, width, targets, threads;
    const uint8_t *colour;   // (height, width, 3): the photo with its holes as they are filled by now
    const uint8_t *weight;   // (height, width): how much a pixel counts in a distance
    const uint8_t *source;   // (height, width): 1 where a whole patch is known
    const int32_t *index;    // (height, width): which target, or -1
    const int32_t *target;   // (targets): where the patches lie that touch a hole
};

struct Patch {
    int32_t colour[SIDE][ROW], weight[SIDE][ROW];
};

// The photo's edge is repeated around it.
static void take(const Level &s, long at, Patch &patch) {
    auto inside = [](long v, long end) { return v < 0 ? 0 : v < end ? v : end - 1; };
    const long y = at / s.width, x = at % s.width;
    for (long i = 0; i < SIDE; i++)
        for (long j = 0; j < SIDE; j++) {
            const long from = inside(y + i - RADIUS, s.height) * s.width + inside(x + j - RADIUS, s.width);
            for (long c = 0; c < 3; c++) {
                patch.colour[i][3 * j + c] = s.colour[3 * from + c];
                patch.weight[i][3 * j + c] = s.weight[from];
            }
        }
}

// At most 49 · 3 · 255² · 64 < 2³¹. The sum is broken off where it reaches the bound.
static int32_t distance(const Level &s, const Patch &patch, long at, int32_t bound) {
    const uint8_t *row = s.colour + 3 * (at - RADIUS * s.width - RADIUS);
    int32_t sum = 0;
    for (long i = 0; i < SIDE && sum < bound; i++, row += 3 * s.width)
        for (long k = 0; k < ROW; k++) {
            const int32_t d = patch.colour[i][k] - row[k];
            sum += d * d * patch.weight[i][k];
        }
    return sum;
}

// Not for secrets: three rounds of xor-shift and multiplication.
static uint32_t scramble(uint32_t x) {
    x ^= x >> 16, x *= 0x7feb352du;
    x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

template <class Work>
static void share(long count, long threads, Work work) {
    if (threads < 2 || count < 1024) return work(0, count);
    std::vector<std::thread> crew;
    for (long i = 0; i < threads; i++) crew.emplace_back(work, count * i / threads, count * (i + 1) / threads);
    for (auto &thread : crew) thread.join();
}

extern "C" {
long dirformer_abi_size(long) { return sizeof(Level); }

// One pass: each target tries the sources of four neighbours `step` away, moved along, then random ones around its
// best, the radius halved each time. `before` is only read, so the order of targets does not matter.
long dirformer_search(const Level *level, const int32_t *before, int32_t *after, int32_t *distances, long step, long radius, long seed) {
    const Level &s = *level;
    share(s.targets, s.threads, [&](long begin, long end) {
        const long dy[] = {0, 0, step, -step}, dx[] = {step, -step, 0, 0};
        Patch patch;
        for (long t = begin; t < end; t++) {
            const long y = s.target[t] / s.width, x = s.target[t] % s.width;
            take(s, s.target[t], patch);
            long best = before[t];
            int32_t least = distance(s, patch, best, INT32_MAX);
            auto consider = [&](long cy, long cx) {
                if (cy < 0 || cx < 0 || cy >= s.height || cx >= s.width) return;
                const long at = cy * s.width + cx;
                if (!s.source[at]) return;
                const int32_t d = distance(s, patch, at, least);
                if (d < least) least = d, best = at;
            };
            for (int k = 0; k < 4; k++) {
                const long ny = y + dy[k], nx = x + dx[k];
                if (ny < 0 || nx < 0 || ny >= s.height || nx >= s.width) continue;
                const int32_t near = s.index[ny * s.width + nx];
                if (near >= 0) consider(before[near] / s.width - dy[k], before[near] % s.width - dx[k]);
            }
            uint32_t random = scramble((uint32_t)seed ^ scramble((uint32_t)t));
            for (long r = radius; r >= 1; r /= 2) {
                random = scramble(random + 0x9e3779b9u);
                const long oy = (long)(random % (2 * r + 1)) - r;
                random = scramble(random + 0x9e3779b9u);
                const long ox = (long)(random % (2 * r + 1)) - r;
                consider(best / s.width + oy, best % s.width + ox);
            }
            after[t] = (int32_t)best;
            distances[t] = least;
        }
    });
    return 0;
}

// Each pixel of a hole becomes the mean of what the sources of all patches around it say, weighted by `strength`.
long dirformer_vote(const Level *level, const int32_t *nearest, const int32_t *strength, const int32_t *holes, long count, uint8_t *voted) {
    const Level &s = *level;
    share(count, s.threads, [&](long begin, long end) {
        for (long k = begin; k < end; k++) {
            const long y = holes[k] / s.width, x = holes[k] % s.width;
            int64_t sums[3] = {0, 0, 0}, total = 0;
            for (long i = -RADIUS; i <= RADIUS; i++)
                for (long j = -RADIUS; j <= RADIUS; j++) {
                    const long ty = y - i, tx = x - j;
                    if (ty < 0 || tx < 0 || ty >= s.height || tx >= s.width) continue;
                    const long t = s.index[ty * s.width + tx];
                    const uint8_t *from = s.colour + 3 * (nearest[t] + i * s.width + j);
                    total += strength[t];
                    for (long c = 0; c < 3; c++) sums[c] += (int64_t)strength[t] * from[c];
                }
            for (long c = 0; c < 3; c++) voted[3 * k + c] = (uint8_t)((sums[c] + total / 2) / total);
        }
    });
    return 0;
}
}
