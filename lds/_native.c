/* What every outer step on all pairs pays, in one pass over the edge probabilities; and draws of a sampled graph.

   Plain C with the vector extensions of GCC and Clang, called through ctypes: a compiler that has them not, fails here,
   and lds takes the path through torch. `lds/graph/_native_step.py` allocates all arrays and states their sizes.

   Layout (lds/graph/_tiles.py): tile (I, J), I <= J, is 64 x 64 floats; tiles come in the order of I, then J; a
   segment is a row of a tile. Entries i >= j, or beyond n, are zero and stay so.

   No array is read or written beyond what the comments say, whatever numbers it holds. No -ffast-math: NaN counts. */

#if !defined(__GNUC__)
#error "needs the vector extensions of GCC or Clang"
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SIDE 64
#define AREA (SIDE * SIDE)

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#else
#define X86 0
#endif

#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

/* The module is found by Python's import system and opened by ctypes; nobody imports it. */
API void *PyInit__native(void) { return 0; }

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t mask8 __attribute__((vector_size(32)));
typedef float v8_memory __attribute__((vector_size(32), aligned(4), may_alias));

#define LOAD(p) (*(const v8_memory *)(p))
#define STORE(p, x) (*(v8_memory *)(p) = (x))

/* Changes with the arguments of the functions: a library that was left by another version is not used. */
API int lds_interface(void) { return 1; }

/* Whether the faster of the two forms of `lds_step` is for this processor. */
API int lds_avx2(void) {
#if X86
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

/* Largest absolute value of count numbers, infinity if one is NaN, and how many are not zero. */
API float lds_largest(const float *x, int64_t count, int64_t *nonzero) {
    uint32_t most = 0;
    int64_t found = 0;
    while (count > 0) { /* In parts whose counts fit 32 bits, so that both loops are vectors. */
        int32_t part = count < 1 << 20 ? (int32_t)count : 1 << 20, some = 0;
        for (int32_t k = 0; k < part; k++) {
            uint32_t bits;
            memcpy(&bits, x + k, sizeof bits);
            bits &= 0x7fffffff; /* Of absolute values, these are ordered as the numbers are, and NaN is above all. */
            most = bits > most ? bits : most;
            some += bits != 0;
        }
        found += some, x += part, count -= part;
    }
    *nonzero = found;
    if (most > 0x7f800000) most = 0x7f800000;
    float largest;
    memcpy(&largest, &most, sizeof largest);
    return largest;
}

/* Factor pairs, ready for `lds_step`.

   pairs: how many; thin[p], full[p]: the sides, [n, width[p]]; K: sum of the widths.
   start [chunks * n + 1], column [cap], value [cap]: the entries of thin that are not zero, by chunks of `chunk`
   columns, in them by rows. panels [per_side * K * 64]: full, transposed, in columns of tiles, zero beyond n.
   Returns the number of entries, or -1 where there are more than cap. */
API int64_t lds_pack(int64_t pairs, const float *const *thin, const float *const *full, const int64_t *width, int64_t n,
                     int64_t per_side, int64_t K, int64_t chunk, int64_t cap, int64_t *start, int32_t *column,
                     float *value, float *panels) {
    int64_t found = 0, s = 0;
    for (int64_t low = 0; low < K; low += chunk) {
        int64_t high = low + chunk < K ? low + chunk : K;
        for (int64_t i = 0; i < n; i++) {
            start[s++] = found;
            int64_t offset = 0;
            for (int64_t p = 0; p < pairs; offset += width[p++]) {
                int64_t from = low > offset ? low - offset : 0;
                int64_t to = high - offset < width[p] ? high - offset : width[p];
                const float *row = thin[p] + i * width[p];
                for (int64_t k = from; k < to; k++)
                    if (row[k] != 0) {
                        if (found == cap) return -1;
                        column[found] = (int32_t)(offset + k);
                        value[found++] = row[k];
                    }
            }
        }
    }
    start[s] = found;
    for (int64_t J = 0; J < per_side; J++) {
        float *panel = panels + J * K * SIDE;
        int64_t rows = n - J * SIDE < SIDE ? n - J * SIDE : SIDE;
        if (rows < SIDE) memset(panel, 0, (size_t)(K * SIDE) * sizeof(float));
        for (int64_t p = 0; p < pairs; panel += width[p++] * SIDE)
            for (int64_t r = 0; r < rows; r++)
                for (int64_t k = 0; k < width[p]; k++) panel[k * SIDE + r] = full[p][(J * SIDE + r) * width[p] + k];
    }
    return found;
}

/* The larger of two vectors, and the smaller. */
INLINE v8 larger(v8 a, v8 b) {
    mask8 first = a > b;
    return (v8)(((mask8)a & first) | ((mask8)b & ~first));
}

INLINE v8 smaller(v8 a, v8 b) {
    mask8 first = a < b;
    return (v8)(((mask8)a & first) | ((mask8)b & ~first));
}

/* out[64] += sum of value[e] * panel[column[e]] for the entries [from, to). */
INLINE void add_rows(float *out, const float *panel, const int32_t *column, const float *value, int64_t from,
                     int64_t to) {
    v8 a0 = LOAD(out), a1 = LOAD(out + 8), a2 = LOAD(out + 16), a3 = LOAD(out + 24);
    v8 a4 = LOAD(out + 32), a5 = LOAD(out + 40), a6 = LOAD(out + 48), a7 = LOAD(out + 56);
    for (int64_t e = from; e < to; e++) {
        const float *x = panel + (int64_t)column[e] * SIDE;
        v8 t = value[e] - (v8){0};
        a0 += t * LOAD(x), a1 += t * LOAD(x + 8), a2 += t * LOAD(x + 16), a3 += t * LOAD(x + 24);
        a4 += t * LOAD(x + 32), a5 += t * LOAD(x + 40), a6 += t * LOAD(x + 48), a7 += t * LOAD(x + 56);
    }
    STORE(out, a0), STORE(out + 8, a1), STORE(out + 16, a2), STORE(out + 24, a3);
    STORE(out + 32, a4), STORE(out + 40, a5), STORE(out + 48, a6), STORE(out + 56, a7);
}

/* The step of one strip: theta -= rate * D, clipped; D is the rank-one degree term and the factor pairs. */
INLINE double step_strip(int64_t I, int64_t n, int64_t per_side, float *theta, const float *degree, int64_t K,
                         int64_t chunks, const int64_t *start, const int32_t *column, const float *value,
                         const float *panels, float rate, float cut, float *sums, uint8_t *large) {
    float D[AREA] __attribute__((aligned(64))), E[AREA] __attribute__((aligned(64)));
    const v8 zero = {0}, one = 1 - zero, by = rate - zero;
    double total = 0;
    int64_t i0 = I * SIDE, rows = n - i0 < SIDE ? n - i0 : SIDE;
    for (int64_t J = I; J < per_side; J++) {
        int64_t tile = I * per_side - I * (I - 1) / 2 + J - I, j0 = J * SIDE, cols = n - j0 < SIDE ? n - j0 : SIDE;
        const float *across = panels + J * K * SIDE, *down = panels + I * K * SIDE;
        uint8_t touched[SIDE] = {0};
        for (int r = 0; r < SIDE; r++)
            for (int k = 0; k < SIDE; k += 8) STORE(D + r * SIDE + k, degree[i0 + r] + LOAD(degree + j0 + k));
        for (int64_t c = 0; c < chunks; c++) {
            const int64_t *at = start + c * n;
            for (int64_t r = 0; r < rows; r++)
                if (at[i0 + r] < at[i0 + r + 1])
                    add_rows(D + r * SIDE, across, column, value, at[i0 + r], at[i0 + r + 1]);
            for (int64_t r = 0; r < cols; r++)
                if (at[j0 + r] < at[j0 + r + 1]) {
                    if (!touched[r]) memset(E + r * SIDE, 0, SIDE * sizeof(float));
                    touched[r] = 1;
                    add_rows(E + r * SIDE, down, column, value, at[j0 + r], at[j0 + r + 1]);
                }
        }
        for (int64_t r = 0; r < cols; r++)
            if (touched[r])
                for (int k = 0; k < SIDE; k++) D[k * SIDE + r] += E[r * SIDE + k];
        if (J == I || cols < SIDE || rows < SIDE) /* What lies outside of the triangle is zero, and stays so. */
            for (int64_t r = 0; r < SIDE; r++)
                for (int64_t k = 0; k < SIDE; k++)
                    if (i0 + r >= j0 + k || r >= rows || k >= cols) D[r * SIDE + k] = 0;
        for (int r = 0; r < SIDE; r++) {
            float *x = theta + tile * AREA + r * SIDE;
            v8 sum = zero, most = zero;
            for (int k = 0; k < SIDE; k += 8) {
                v8 v = LOAD(x + k) - by * LOAD(D + r * SIDE + k);
                v = smaller(larger(v, zero), one);
                STORE(x + k, v);
                sum += v;
                most = larger(v, most);
            }
            float small = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
            double above = 0;
            int count = 0, hot = 0;
            for (int k = 0; k < 8; k++) hot |= most[k] > cut;
            if (hot) {
                small = 0;
                for (int k = 0; k < SIDE; k++) {
                    if (x[k] > cut) above += x[k], count++;
                    else small += x[k];
                }
            }
            sums[tile * SIDE + r] = small;
            large[tile * SIDE + r] = (uint8_t)count;
            total += small + above;
        }
    }
    return total;
}

#define STEP(name)                                                                                                    \
    static void name(int64_t n, int64_t per_side, float *theta, const float *degree, int64_t K, int64_t chunks,       \
                     const int64_t *start, const int32_t *column, const float *value, const float *panels,            \
                     float rate, float cut, float *sums, uint8_t *large, double *totals, int64_t *next) {             \
        int64_t I;                                                                                                    \
        while ((I = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < per_side)                                        \
            totals[I] = step_strip(I, n, per_side, theta, degree, K, chunks, start, column, value, panels, rate, cut, \
                                   sums, large);                                                                      \
    }

STEP(step_portable)
#if X86
__attribute__((target("avx2,fma"))) STEP(step_avx2)
#endif

/* Take the projected step of all strips that `next`, which counts from 0, has not given to another thread.

   theta [tiles * 64 * 64]; degree [per_side * 64]: q, zero beyond n; rate: the step size; start, column, value and panels
   as `lds_pack` wrote them. Writes, for each segment, the sum of its entries <= cut, and the number of the others; and
   for each strip the sum of its entries. */
API void lds_step(int portable, int64_t n, int64_t per_side, float *theta, const float *degree, int64_t K,
                  int64_t chunks, const int64_t *start, const int32_t *column, const float *value, const float *panels,
                  float rate, float cut, float *sums, uint8_t *large, double *totals, int64_t *next) {
#if X86
    if (!portable && lds_avx2()) {
        step_avx2(n, per_side, theta, degree, K, chunks, start, column, value, panels, rate, cut, sums, large, totals,
                  next);
        return;
    }
#endif
    step_portable(n, per_side, theta, degree, K, chunks, start, column, value, panels, rate, cut, sums, large, totals,
                  next);
}

/* List the entries above the cut of the segments that have some: their places and values. Returns how many; -1 where
   there are more than cap. */
API int64_t lds_large(const float *theta, int64_t segments, float cut, const uint8_t *large, int64_t cap,
                      int64_t *place, float *value) {
    int64_t found = 0;
    for (int64_t s = 0; s < segments; s++)
        if (large[s])
            for (int64_t e = s * SIDE; e < (s + 1) * SIDE; e++)
                if (theta[e] > cut) {
                    if (found == cap) return -1;
                    place[found] = e;
                    value[found++] = theta[e];
                }
    return found;
}

/* xoshiro256** of Blackman and Vigna (public domain), seeded by splitmix64. */
typedef struct {
    uint64_t s[4];
} Generator;

static uint64_t rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static Generator seeded(uint64_t seed) {
    Generator g;
    for (int k = 0; k < 4; k++) {
        uint64_t z = (seed += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        g.s[k] = z ^ (z >> 31);
    }
    return g;
}

static double uniform(Generator *g) { /* A multiple of 2^-53 in [0, 1). */
    uint64_t *s = g->s, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t, s[3] = rotate(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* The first of count ends that is larger than x, from a place on; the last where none is. */
static int64_t search(const double *ends, int64_t count, int64_t from, double x) {
    int64_t low = from, high = from, stride = 1;
    while (high < count && !(ends[high] > x)) low = high + 1, high += stride, stride *= 2;
    if (high > count - 1) high = count - 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (ends[middle] > x) high = middle;
        else low = middle + 1;
    }
    return low < count ? low : count - 1;
}

#define BATCH 32

/* Draw a graph: the places of its edges, distinct.

   ends [tiles]: running totals of the sums of tiles, of the entries <= cut; sums [tiles * 64]; listed, chance
   [listed_count]: the others. The law is that of ThinningSampler (lds/graph/_thinning.py): points of a Poisson process of
   intensity kappa * p, here in their order, so that one entry's points follow each other. Returns the number of edges;
   -1 where there are more than cap. */
API int64_t lds_draw(uint64_t seed, const float *theta, int64_t tiles, const float *sums, const double *ends, float cut,
                     const int64_t *listed, const float *chance, int64_t listed_count, int64_t cap, int64_t *place) {
    Generator g = seeded(seed);
    int64_t found = 0, tile = 0, last = -1;
    for (int64_t k = 0; k < listed_count; k++)
        if (uniform(&g) < chance[k]) {
            if (found == cap) return -1;
            place[found++] = listed[k];
        }
    const double kappa = -log1p(-(double)cut) / cut, end = kappa * ends[tiles - 1];
    double arrival = 0, share[BATCH];
    int64_t segment[BATCH];
    for (int more = 1; more;) {
        int count = 0;
        while (count < BATCH) {
            arrival -= log1p(-uniform(&g));
            if (!(arrival < end)) {
                more = 0;
                break;
            }
            double x = arrival / kappa;
            tile = search(ends, tiles, tile, x);
            segment[count] = tile;
            share[count++] = x - (tile ? ends[tile - 1] : 0);
            for (int k = 0; k < SIDE; k += 16) __builtin_prefetch(sums + tile * SIDE + k);
        }
        for (int k = 0; k < count; k++) {
            const float *row = sums + segment[k] * SIDE;
            double rest = share[k];
            int at = -1;
            for (int r = 0; r < SIDE; r++) {
                if (!(row[r] > 0)) continue; /* Rounding may lead past the last one. */
                at = r;
                if (rest < row[r]) break;
                rest -= row[r];
            }
            if (at < 0) {
                segment[k] = -1;
                continue;
            }
            share[k] = rest / row[at];
            segment[k] = segment[k] * SIDE + at;
            for (int c = 0; c < SIDE; c += 16) __builtin_prefetch(theta + segment[k] * SIDE + c);
        }
        for (int k = 0; k < count; k++) {
            if (segment[k] < 0) continue;
            const float *x = theta + segment[k] * SIDE;
            double sum = 0;
            for (int c = 0; c < SIDE; c++) sum += x[c] > cut ? 0 : x[c];
            double rest = share[k] * sum;
            int at = -1;
            for (int c = 0; c < SIDE; c++) {
                if (!(x[c] > 0) || x[c] > cut) continue;
                at = c;
                if (rest < x[c]) break;
                rest -= x[c];
            }
            if (at < 0) continue;
            double p = x[at], u = uniform(&g) * kappa;
            int64_t entry = segment[k] * SIDE + at;
            /* -log(1 - p) >= p: most need no logarithm. */
            if ((u < 1 || u * p < -log1p(-p)) && entry != last) {
                if (found == cap) return -1;
                place[found++] = last = entry;
            }
        }
    }
    return found;
}

/* The graph with edges at these places: its pairs row < col, degrees [n] of A + I, and A normalised as CSR, with start
   [n + 1], index and value [2 edges + n]. Returns 0; -1 where a place is no entry i < j < n. */
API int lds_graph(int64_t n, int64_t per_side, int64_t edges, const int64_t *place, int64_t *row, int64_t *col,
                  float *degree, float *scale, int32_t *start, int32_t *index, float *value) {
    int64_t I = 0;
    memset(start, 0, (size_t)(n + 1) * sizeof(int32_t));
    for (int64_t e = 0; e < edges; e++) {
        int64_t tile = place[e] >> 12;
        if (place[e] < 0) return -1;
        /* Tiles of the same strip follow each other, mostly. */
        if (tile < I * per_side - I * (I - 1) / 2) I = 0;
        while (I + 1 <= per_side && tile >= (I + 1) * per_side - (I + 1) * I / 2) I++;
        int64_t i = I * SIDE + ((place[e] >> 6) & 63);
        int64_t j = (tile - (I * per_side - I * (I - 1) / 2) + I) * SIDE + (place[e] & 63);
        if (i >= j || j >= n) return -1;
        row[e] = i, col[e] = j;
        start[i + 1]++, start[j + 1]++;
    }
    for (int64_t i = 0; i < n; i++) {
        degree[i] = (float)(1 + start[i + 1]);
        scale[i] = 1 / sqrtf(degree[i]);
    }
    /* Counted by ends, filled from behind: start[i + 1] is then where row i begins, and moves to its end. */
    int32_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t size = start[i + 1] + 1;
        start[i + 1] = at;
        at += size;
    }
    for (int64_t i = 0; i < n; i++) index[start[i + 1]] = (int32_t)i, value[start[i + 1]++] = 1 / degree[i];
    for (int64_t e = 0; e < edges; e++) {
        int64_t i = row[e], j = col[e];
        float v = scale[i] * scale[j];
        index[start[i + 1]] = (int32_t)j, value[start[i + 1]++] = v;
        index[start[j + 1]] = (int32_t)i, value[start[j + 1]++] = v;
    }
    return 0;
}
