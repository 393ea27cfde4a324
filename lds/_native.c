/* What every outer step on all pairs pays, in one pass over the edge probabilities; and draws of a sampled graph.

   Plain C with the vector extensions of GCC and Clang, called through ctypes: a compiler that has them not, fails here,
   and lds takes the path through torch. The step is compiled in several forms, of which the processor decides. `lds/graph/_native_step.py` allocates all arrays and states their sizes.

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
/* Places that are read together. */
#define BATCH 32

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
#if X86
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx2,fma,avx512f")))
#endif

/* The module is found by Python's import system and opened by ctypes; nobody imports it. */
API void *PyInit__native(void) { return 0; }

/* Changes with the arguments of the functions: a library that was left by another version is not used. */
API int lds_interface(void) { return 2; }

/* The form of the step for this processor: 0 for all, 1 with AVX2, 2 with AVX-512. */
API int lds_form(void) {
#if X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512f") ? 2 : 1;
#else
    return 0;
#endif
}

INLINE float largest(const float *x, int64_t count, int64_t *nonzero) {
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
    float result;
    memcpy(&result, &most, sizeof result);
    return result;
}

#if X86
AVX2 static float largest_avx2(const float *x, int64_t count, int64_t *nonzero) { return largest(x, count, nonzero); }
#endif

/* Largest absolute value of count numbers, infinity if one is NaN, and how many are not zero. */
API float lds_largest(const float *x, int64_t count, int64_t *nonzero) {
#if X86
    if (lds_form()) return largest_avx2(x, count, nonzero);
#endif
    return largest(x, count, nonzero);
}

/* Which of up to 64 numbers are not zero, by bits. */
INLINE uint64_t which(const float *x, int count) {
    uint64_t found = 0;
    for (int k = 0; k < count; k++) found |= (uint64_t)(x[k] != 0) << k;
    return found;
}

INLINE int64_t pack(uint64_t (*which)(const float *, int), int64_t pairs, const float *const *thin,
                    const float *const *full, const int64_t *width, int64_t n, int64_t per_side, int64_t K,
                    int64_t chunk, int64_t cap, int64_t *start, int32_t *column, float *value, float *panels) {
    int64_t found = 0, s = 0, first = 0, before = 0; /* The first pair of a chunk, and the columns before it. */
    for (int64_t low = 0; low < K; low += chunk) {
        int64_t high = low + chunk < K ? low + chunk : K;
        for (; before + width[first] <= low; first++) before += width[first];
        for (int64_t i = 0; i < n; i++) {
            start[s++] = found;
            for (int64_t p = first, offset = before; p < pairs && offset < high; offset += width[p++]) {
                int64_t from = low > offset ? low - offset : 0;
                int64_t to = high - offset < width[p] ? high - offset : width[p];
                for (int64_t k = from; k < to; k += 64) {
                    const float *part = thin[p] + i * width[p] + k;
                    for (uint64_t bits = which(part, to - k < 64 ? (int)(to - k) : 64); bits; bits &= bits - 1) {
                        int at = __builtin_ctzll(bits);
                        if (found == cap) return -1;
                        column[found] = (int32_t)(offset + k + at);
                        value[found++] = part[at];
                    }
                }
            }
        }
    }
    start[s] = found;
    for (int64_t J = 0; J < per_side; J++) {
        float *panel = panels + J * K * SIDE;
        int64_t rows = n - J * SIDE < SIDE ? n - J * SIDE : SIDE;
        if (rows < SIDE) memset(panel, 0, (size_t)(K * SIDE) * sizeof(float));
        for (int64_t p = 0; p < pairs; panel += width[p++] * SIDE) {
            const float *x = full[p] + J * SIDE * width[p];
            for (int64_t k = 0; k < width[p]; k++)
                for (int64_t r = 0; r < rows; r++) panel[k * SIDE + r] = x[r * width[p] + k];
        }
    }
    return found;
}

#if X86
AVX2 static inline uint64_t which_avx2(const float *x, int count) {
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    uint64_t found = 0;
    for (int k = 0; k < count; k += 8) { /* Lanes that are left out are not read. */
        __m256i some = _mm256_loadu_si256((const void *)(lanes + (count - k < 8 ? 8 - (count - k) : 0)));
        __m256 differs = _mm256_cmp_ps(_mm256_maskload_ps(x + k, some), _mm256_setzero_ps(), _CMP_NEQ_UQ);
        found |= (uint64_t)_mm256_movemask_ps(differs) << k;
    }
    return found;
}

AVX2 static int64_t pack_avx2(int64_t pairs, const float *const *thin, const float *const *full, const int64_t *width,
                              int64_t n, int64_t per_side, int64_t K, int64_t chunk, int64_t cap, int64_t *start,
                              int32_t *column, float *value, float *panels) {
    return pack(which_avx2, pairs, thin, full, width, n, per_side, K, chunk, cap, start, column, value, panels);
}
#endif

/* Factor pairs, ready for `lds_step`.

   pairs: how many; thin[p], full[p]: the sides, [n, width[p]]; K: sum of the widths.
   start [chunks * n + 1], column [cap], value [cap]: the entries of thin that are not zero, by chunks of `chunk`
   columns, in them by rows. panels [per_side * K * 64]: full, transposed, in columns of tiles, zero beyond n.
   Returns the number of entries, or -1 where there are more than cap. */
API int64_t lds_pack(int64_t pairs, const float *const *thin, const float *const *full, const int64_t *width, int64_t n,
                     int64_t per_side, int64_t K, int64_t chunk, int64_t cap, int64_t *start, int32_t *column,
                     float *value, float *panels) {
#if X86
    if (lds_form())
        return pack_avx2(pairs, thin, full, width, n, per_side, K, chunk, cap, start, column, value, panels);
#endif
    return pack(which, pairs, thin, full, width, n, per_side, K, chunk, cap, start, column, value, panels);
}

/* What `lds_pack` wrote. */
typedef struct {
    int64_t n, K, chunks;
    const int64_t *start;
    const int32_t *column;
    const float *value, *panels;
} Factors;

#if X86
/* D += E transposed, of 8 x 8 numbers in tiles. */
AVX2 static inline void add_square(float *D, const float *E) {
    __m256 a[8], b[8];
    for (int r = 0; r < 8; r++) a[r] = _mm256_loadu_ps(E + r * SIDE);
    for (int r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
    }
    for (int r = 0; r < 8; r += 4)
        for (int k = 0; k < 2; k++) {
            a[r + 2 * k] = _mm256_shuffle_ps(b[r + k], b[r + k + 2], 0x44);
            a[r + 2 * k + 1] = _mm256_shuffle_ps(b[r + k], b[r + k + 2], 0xee);
        }
    for (int r = 0; r < 4; r++) {
        float *upper = D + r * SIDE, *lower = upper + 4 * SIDE;
        __m256 first = _mm256_permute2f128_ps(a[r], a[r + 4], 0x20), second = _mm256_permute2f128_ps(a[r], a[r + 4], 0x31);
        _mm256_storeu_ps(upper, _mm256_add_ps(_mm256_loadu_ps(upper), first));
        _mm256_storeu_ps(lower, _mm256_add_ps(_mm256_loadu_ps(lower), second));
    }
}

AVX2 static inline void add_squares(float *D, const float *E) {
    for (int r = 0; r < SIDE; r += 8)
        for (int k = 0; k < SIDE; k += 8) add_square(D + r * SIDE + k, E + k * SIDE + r);
}

AVX2 static inline float sum_8(__m256 x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

AVX512 static inline float sum_16(__m512 x) {
    __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
    return sum_8(_mm256_add_ps(_mm512_castps512_ps256(x), upper));
}

#define FORM(name) name##_avx512
#define TARGET AVX512
#define LANES 16
#define MAX _mm512_max_ps
#define MIN _mm512_min_ps
#define ABOVE(x, y) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ), x)
#define ANY(x) _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ)
#define SUM sum_16
#define add_transposed_avx512 add_squares
#include "_native_tile.h"

#define FORM(name) name##_avx2
#define TARGET AVX2
#define LANES 8
#define MAX _mm256_max_ps
#define MIN _mm256_min_ps
#define ABOVE(x, y) _mm256_and_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ), x)
#define ANY(x) _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ))
#define SUM sum_8
#define add_transposed_avx2 add_squares
#include "_native_tile.h"
#endif

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t mask4 __attribute__((vector_size(16)));

INLINE v4 select4(mask4 first, v4 a, v4 b) { return (v4)(((mask4)a & first) | ((mask4)b & ~first)); }

INLINE float sum_4(v4 x) { return (x[0] + x[2]) + (x[1] + x[3]); }

static inline void add_transposed_portable(float *D, const float *E) {
    for (int r = 0; r < SIDE; r++)
        for (int k = 0; k < SIDE; k++) D[k * SIDE + r] += E[r * SIDE + k];
}

#define FORM(name) name##_portable
#define TARGET
#define LANES 4
#define MAX(a, b) select4((a) > (b), a, b)
#define MIN(a, b) select4((a) < (b), a, b)
#define ABOVE(x, y) select4((x) > (y), x, (v4){0})
#define ANY(x) (sum_4(x) != 0)
#define SUM sum_4
#include "_native_tile.h"

/* Take the projected step of all strips that `next`, which counts from 0, has not given to another thread.

   form: at most what `lds_form` returns; theta [tiles * 64 * 64]; degree [per_side * 64]: q, zero beyond n; start,
   column, value and panels as `lds_pack` wrote them; rate: the step size. Writes, for each segment, the sum of its
   entries <= cut, and the number of the others; and for each strip the sum of its entries. */
API void lds_step(int form, int64_t n, int64_t per_side, float *theta, const float *degree, int64_t K, int64_t chunks,
                  const int64_t *start, const int32_t *column, const float *value, const float *panels, float rate,
                  float cut, float *sums, uint8_t *large, double *totals, int64_t *next) {
    const Factors f = {n, K, chunks, start, column, value, panels};
#if X86
    if (form == 2) return step_avx512(per_side, theta, degree, &f, rate, cut, sums, large, totals, next);
    if (form == 1) return step_avx2(per_side, theta, degree, &f, rate, cut, sums, large, totals, next);
#endif
    step_portable(per_side, theta, degree, &f, rate, cut, sums, large, totals, next);
}

/* List the entries above the cut of the segments that have some: their places and values. Returns how many; -1 where
   there are more than cap. */
API int64_t lds_large(const float *theta, int64_t segments, float cut, const uint8_t *large, int64_t cap,
                      int64_t *place, float *value) {
    int64_t found = 0, next = 0, some[BATCH];
    while (next < segments) {
        int count = 0; /* Asked for together, as they come from far. */
        for (; next < segments && count < BATCH; next++)
            if (large[next]) {
                for (int k = 0; k < SIDE; k += 16) __builtin_prefetch(theta + next * SIDE + k);
                some[count++] = next;
            }
        for (int k = 0; k < count; k++)
            for (int64_t e = some[k] * SIDE; e < (some[k] + 1) * SIDE; e++)
                if (theta[e] > cut) {
                    if (found == cap) return -1;
                    place[found] = e;
                    value[found++] = theta[e];
                }
    }
    return found;
}

/* Running totals [tiles] of the sums [tiles * 64] of segments. */
API void lds_ends(const float *sums, int64_t tiles, double *ends) {
    double total = 0;
    for (int64_t t = 0; t < tiles; t++, sums += SIDE) {
        double part[4] = {0};
        for (int k = 0; k < SIDE; k += 4)
            for (int l = 0; l < 4; l++) part[l] += sums[k + l];
        ends[t] = total += (part[0] + part[2]) + (part[1] + part[3]);
    }
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

/* A line of 64 numbers >= 0 is divided among them, those above the cut left out, in the order of 8 lanes: the first is
   the numbers 0, 8, 16, ... Sums over a lane; returns that over all. */
#define LINE 8
INLINE double lane_sums(const float *x, float cut, double *lane) {
    for (int l = 0; l < LINE; l++) lane[l] = 0;
    for (int k = 0; k < SIDE; k += LINE)
        for (int l = 0; l < LINE; l++) lane[l] += x[k + l] > cut ? 0 : x[k + l];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* The number that a place on this line falls on, which becomes the place on the number; -1 where all are zero. */
INLINE int pick(const float *x, float cut, const double *lane, double *place) {
    int in = -1, at = -1;
    for (int l = 0; l < LINE; l++) {
        if (!(lane[l] > 0)) continue; /* Rounding may lead past the last one. */
        if (in >= 0) *place -= lane[in];
        in = l;
        if (*place < lane[l]) break;
    }
    if (in < 0) return -1;
    for (int k = in; k < SIDE; k += LINE) {
        if (!(x[k] > 0) || x[k] > cut) continue;
        if (at >= 0) *place -= x[at];
        at = k;
        if (*place < x[k]) break;
    }
    return at;
}

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
            double lane[LINE];
            lane_sums(row, INFINITY, lane);
            int at = pick(row, INFINITY, lane, &share[k]);
            if (at < 0) {
                segment[k] = -1;
                continue;
            }
            share[k] /= row[at];
            segment[k] = segment[k] * SIDE + at;
            for (int c = 0; c < SIDE; c += 16) __builtin_prefetch(theta + segment[k] * SIDE + c);
        }
        for (int k = 0; k < count; k++) {
            if (segment[k] < 0) continue;
            const float *x = theta + segment[k] * SIDE;
            double lane[LINE], rest = share[k] * lane_sums(x, cut, lane);
            int at = pick(x, cut, lane, &rest);
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
