/* The step of θ, tile by tile, for one width of vectors: `_native.c` includes this once for each form of the code.

   Defined before: FORM(name), the name of this form's own; TARGET, the attribute of its functions; LANES, numbers of a
   vector; MAX and MIN of two vectors; ABOVE, the lanes that are larger than another vector's, zero in place of the others;
   ANY, whether a lane is not zero; SUM of the lanes; and the function add_transposed(D, E), D += E transposed. But for
   fused multiplication and addition, all forms round alike. */

typedef float FORM(vector) __attribute__((vector_size(4 * LANES)));
typedef float FORM(memory) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define VECTOR FORM(vector)
#define LOAD(p) (*(const FORM(memory) *)(p))
#define STORE(p, x) (*(FORM(memory) *)(p) = (x))
/* Vectors of a row of a tile, and of 16 numbers: in these, all forms sum up. */
#define PER_ROW (SIDE / LANES)
#define PARTS (16 / LANES)

/* out[64] += sum of value[e] * panel[column[e]] for the entries [from, to). */
TARGET static inline void FORM(add_rows)(float *out, const float *panel, const int32_t *column, const float *value,
                                         int64_t from, int64_t to) {
    VECTOR sum[PER_ROW];
    for (int k = 0; k < PER_ROW; k++) sum[k] = LOAD(out + k * LANES);
    for (int64_t e = from; e < to; e++) {
        const float *x = panel + (int64_t)column[e] * SIDE;
        const VECTOR by = value[e] - (VECTOR){0};
#pragma GCC unroll 16
        for (int k = 0; k < PER_ROW; k++) sum[k] += by * LOAD(x + k * LANES);
    }
    for (int k = 0; k < PER_ROW; k++) STORE(out + k * LANES, sum[k]);
}

/* out[64 * 64] += the rows of a strip by a panel, in chunks of columns. */
TARGET static void FORM(add_strip)(float *out, const float *panel, const Factors *f, int64_t strip) {
    int64_t first = strip * SIDE, rows = f->n - first < SIDE ? f->n - first : SIDE;
    for (int64_t c = 0; c < f->chunks; c++) {
        const int64_t *at = f->start + c * f->n + first;
        for (int64_t r = 0; r < rows; r++)
            if (at[r] < at[r + 1]) FORM(add_rows)(out + r * SIDE, panel, f->column, f->value, at[r], at[r + 1]);
    }
}

TARGET static inline float FORM(total)(VECTOR *sum) {
#pragma GCC unroll 16
    for (int half = PARTS / 2; half; half /= 2)
        for (int k = 0; k < half; k++) sum[k] += sum[k + half];
    return SUM(sum[0]);
}

/* theta -= rate * D, clipped, of one tile; and the sums and counts of its segments. Returns the sum of all. */
TARGET static double FORM(subtract)(float *theta, const float *D, float rate, float cut, float *sums, uint8_t *large) {
    const VECTOR zero = {0}, one = 1 - zero, by = rate - zero, top = cut - zero;
    VECTOR all_above[PARTS] = {{0}};
    double total = 0;
    for (int r = 0; r < SIDE; r++, theta += SIDE, D += SIDE) {
        VECTOR sum[PARTS] = {{0}}, above = zero;
#pragma GCC unroll 16
        for (int k = 0; k < PER_ROW; k++) {
            VECTOR v = LOAD(theta + k * LANES) - by * LOAD(D + k * LANES);
            v = MIN(MAX(v, zero), one);
            STORE(theta + k * LANES, v);
            VECTOR high = ABOVE(v, top);
            sum[k % PARTS] += v - high;
            all_above[k % PARTS] += high;
            above += high;
        }
        sums[r] = FORM(total)(sum);
        total += sums[r];
        int count = 0;
        if (ANY(above))
            for (int k = 0; k < SIDE; k++) count += theta[k] > cut;
        large[r] = (uint8_t)count;
    }
    return total + FORM(total)(all_above);
}

/* The step of one strip: theta -= rate * D, clipped; D is the rank-one degree term and the factor pairs. */
TARGET static double FORM(step_strip)(int64_t I, int64_t per_side, float *theta, const float *degree, const Factors *f,
                                      float rate, float cut, float *sums, uint8_t *large) {
    float D[AREA] __attribute__((aligned(64))), E[AREA] __attribute__((aligned(64)));
    double total = 0;
    int64_t i0 = I * SIDE, tile = I * per_side - I * (I - 1) / 2;
    for (int64_t J = I; J < per_side; J++, tile++) {
        int64_t j0 = J * SIDE;
        for (int r = 0; r < SIDE; r++)
            for (int k = 0; k < SIDE; k += LANES) STORE(D + r * SIDE + k, degree[i0 + r] + LOAD(degree + j0 + k));
        if (f->K) {
            memset(E, 0, sizeof E);
            FORM(add_strip)(D, f->panels + J * f->K * SIDE, f, I);
            FORM(add_strip)(E, f->panels + I * f->K * SIDE, f, J);
            FORM(add_transposed)(D, E);
        }
        if (J == I || J == per_side - 1) /* What lies outside of the triangle is zero, and stays so. */
            for (int64_t r = 0; r < SIDE; r++)
                for (int64_t k = 0; k < SIDE; k++)
                    if (i0 + r >= j0 + k || j0 + k >= f->n) D[r * SIDE + k] = 0;
        total += FORM(subtract)(theta + tile * AREA, D, rate, cut, sums + tile * SIDE, large + tile * SIDE);
    }
    return total;
}

TARGET static void FORM(step)(int64_t per_side, float *theta, const float *degree, const Factors *f, float rate,
                              float cut, float *sums, uint8_t *large, double *totals, int64_t *next) {
    int64_t I;
    while ((I = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < per_side)
        totals[I] = FORM(step_strip)(I, per_side, theta, degree, f, rate, cut, sums, large);
}

#undef PARTS
#undef PER_ROW
#undef STORE
#undef LOAD
#undef VECTOR
#undef SUM
#undef ANY
#undef ABOVE
#undef MIN
#undef MAX
#undef LANES
#undef TARGET
#undef FORM
