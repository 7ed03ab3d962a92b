/* Tokens by their logits: Gumbel noise, the token that is drawn with it, and the likeliest tokens. */

#include "simd.h"
#include "team.h"

#define HALF (LANES / 2)
typedef double dvec __attribute__((vector_size(LANES * 4)));
typedef int64_t lvec __attribute__((vector_size(LANES * 4)));
typedef uint64_t ulvec __attribute__((vector_size(LANES * 4)));
typedef float fvec __attribute__((vector_size(LANES * 2))); /* as many floats as dvec has doubles */

INLINE int any(ivec mask) {
    int64_t words[LANES / 2], all = 0;
    memcpy(words, &mask, sizeof words);
    for (int i = 0; i < LANES / 2; i++) all |= words[i];
    return all != 0;
}

/* SplitMix64 (Steele, Lea and Flood 2014): the random bits of counters. */
INLINE ulvec bits_of(ulvec counter) {
    ulvec z = counter * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* -log(x) of a normal x above 0, within two units in the last place; the series of fdlibm's log. */
INLINE dvec minus_log(dvec x) {
    ulvec bits = (ulvec)x + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu); /* halves from sqrt(1/2) on */
    ulvec power = (bits >> 52) - 1023, mantissa = (bits & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu;
    /* A number below 2^52 as a double, without a conversion that AVX2 lacks. */
    dvec k = (dvec)((power + 2048) | 0x4330000000000000u) - (4503599627370496.0 + 2048.0);
    dvec f = (dvec)mantissa - 1.0, s = f / (f + 2.0), z = s * s;
    dvec r = z * 1.479819860511658591e-01 + 1.531383769920937332e-01;
    r = r * z + 1.818357216161805012e-01;
    r = r * z + 2.222219843214978396e-01;
    r = r * z + 2.857142874366239149e-01;
    r = r * z + 3.999999999940941908e-01;
    r = (r * z + 6.666666666666735130e-01) * z;
    dvec square = f * f * 0.5;
    return (square - (s * (square + r) + k * 1.90821492927058770002e-10)) - f - k * 6.93147180369123816490e-01;
}

/* Gumbel noise out[positions, count], -log(-log u): u of a position's token i has the 52 bits of counter
   keys[position] + i, so that it is never 0 or 1. */
void gumbel_noise(const uint64_t *keys, int64_t positions, int64_t count, float *out) {
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < count; i += HALF) {
            ulvec counter;
            for (int lane = 0; lane < HALF; lane++) counter[lane] = keys[p] + (uint64_t)(i + lane);
            dvec u = (dvec)((bits_of(counter) >> 12) | 0x3ff0000000000000u) - 1.0 + 0x1p-53;
            dvec e = minus_log(u);
            fvec g = __builtin_convertvector(minus_log(e), fvec);
            int n = count - i < HALF ? (int)(count - i) : HALF;
            memcpy(out + p * count + i, &g, n * sizeof(float));
        }
}

INLINE dvec halves(vec x, int which) {
    fvec half;
    memcpy(&half, (const char *)&x + which * sizeof half, sizeof half);
    return __builtin_convertvector(half, dvec);
}

/* The first token with the greatest logits[i] + scale * noise[i], in double precision. */
int64_t draw_token(const void *logits, int64_t dtype, const float *noise, double scale, int64_t count) {
    dvec best[2] = {(dvec){0} - INFINITY, (dvec){0} - INFINITY};
    lvec at[2] = {{0}, {0}}, now[2];
    for (int lane = 0; lane < LANES; lane++) now[lane / HALF][lane % HALF] = lane;
    for (int64_t i = 0; i < count; i += LANES) {
        int n = count - i < LANES ? (int)(count - i) : LANES;
        vec x = load(logits, i, n, (int)dtype), g = load(noise, i, n, FP32);
        for (int h = 0; h < 2; h++) {
            dvec y = halves(x, h) + halves(g, h) * scale;
            lvec better = (y > best[h]) & (now[h] < count);
            best[h] = (dvec)(((lvec)y & better) | ((lvec)best[h] & ~better));
            at[h] = (now[h] & better) | (at[h] & ~better);
            now[h] += LANES;
        }
    }
    double greatest = -INFINITY;
    int64_t token = 0;
    for (int lane = 0; lane < LANES; lane++) {
        double y = best[lane / HALF][lane % HALF];
        int64_t id = at[lane / HALF][lane % HALF];
        if (y > greatest || (y == greatest && id < token)) greatest = y, token = id;
    }
    return token;
}

typedef struct {
    const char *logits;         /* [rows, count], `stride` elements apart */
    const float *noise;         /* [rows, count] or more, `noise_stride` elements apart; or null */
    int64_t dtype, stride, noise_stride, count, k;
    float scale;
    int32_t *out; /* [rows, 2 * k + 1] */
} Tops;

INLINE vec noisy(const Tops *of, const char *logits, const float *noise, int64_t i, int n) {
    vec x = load(logits, i, n, (int)of->dtype);
    return noise ? x + load(noise, i, n, FP32) * of->scale : x;
}

/* Put a token in its place among descending ones, `last` at the latest; what is there is dropped. */
INLINE void insert(float *values, int32_t *ids, int64_t last, float x, int64_t id) {
    for (; last && x > values[last - 1]; last--) values[last] = values[last - 1], ids[last] = ids[last - 1];
    values[last] = x, ids[last] = (int32_t)id;
}

static void top_of_row(const void *context, int64_t row, int64_t thread) {
    (void)thread;
    const Tops *of = context;
    const char *logits = of->logits + row * of->stride * size_of(of->dtype);
    const float *noise = of->noise ? of->noise + row * of->noise_stride : 0;
    const int64_t count = of->count, k = of->k;
    int32_t *packed = of->out + row * (2 * k + 1), *ids = packed + k;
    float *values = (float *)packed;
    for (int64_t i = 0; i < k; i++) insert(values, ids, i, noisy(of, logits, noise, i, 1)[0], i);
    for (int64_t i = k; i < count; i += LANES) {
        int n = count - i < LANES ? (int)(count - i) : LANES;
        vec x = noisy(of, logits, noise, i, n);
        if (!any(x > values[k - 1])) continue;
        for (int lane = 0; lane < n; lane++)
            if (x[lane] > values[k - 1]) insert(values, ids, k - 1, x[lane], i + lane);
    }
    vec sums = {0};
    int64_t whole = count / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) sums += exp_of(noisy(of, logits, noise, i, LANES) - values[0]);
    float sum = total(sums);
    if (whole < count) {
        vec last = exp_of(noisy(of, logits, noise, whole, (int)(count - whole)) - values[0]);
        for (int lane = 0; lane < count - whole; lane++) sum += last[lane];
    }
    float log_sum = values[0] + logf(sum);
    memcpy(packed + 2 * k, &log_sum, sizeof log_sum);
}

/* The k likeliest tokens of each row after scale * noise, the first of equals first: a row of out has
   their values, as floats, their ids, and the logarithm of the sum of all exponentials, a float. */
void top_tokens(const void *logits, int64_t dtype, int64_t rows, int64_t stride, int64_t count, int64_t k,
                const float *noise, int64_t noise_stride, double scale, int32_t *out, int64_t threads) {
    const Tops of = {logits, noise, dtype, stride, noise_stride, count, k, (float)scale, out};
    const Phase phase = {top_of_row, &of, rows};
    run_phases(&phase, 1, threads);
}
