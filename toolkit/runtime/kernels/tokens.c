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

/* log(2^k * (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1), within some units in the last place; the
   polynomial of Cephes' logf. */
INLINE vec log_of(vec k, vec f) {
    vec p = f * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    vec square = f * f;
    vec tail = p * f * square - k * 2.12194440e-4f - square * 0.5f;
    return f + tail + k * 0.693359375f;
}

/* -log(x) of normal x above 0. */
INLINE vec minus_log_of(vec x) {
    const uint32_t half = 0x3f3504f3u, one = 0x3f800000u;
    uvec bits = (uvec)x - half + one;
    vec k = __builtin_convertvector((ivec)(bits >> 23) - 127, vec);
    return -log_of(k, (vec)((bits & 0x7fffffu) + half) - 1.0f);
}

#define BLOCK 64 /* numbers that are made at once: what one loop stores, the next one loads */

/* Split uniform numbers in (0, 1), which counters from `first` on give, into 2^k * (1 + f). Of u near 1 f
   is exact, because 1 is taken off in double precision. */
INLINE void split_uniforms(uint64_t first, float *k, float *f) {
    const uint64_t half = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u; /* sqrt(1/2) and 1, bit by bit */
    ulvec steps;
    for (int lane = 0; lane < HALF; lane++) steps[lane] = (uint64_t)lane;
    for (int i = 0; i < BLOCK; i += HALF) {
        dvec u = (dvec)((bits_of(steps + (first + i)) >> 12) | one) - 1.0 + 0x1p-53;
        ulvec bits = (ulvec)u - half + one;
        /* A number below 2^52 as a double, without a conversion that AVX2 lacks. */
        dvec power = (dvec)((bits >> 52) | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
        fvec powers = __builtin_convertvector(power, fvec);
        fvec fractions = __builtin_convertvector((dvec)((bits & 0xfffffffffffffu) + half) - 1.0, fvec);
        memcpy(k + i, &powers, sizeof powers);
        memcpy(f + i, &fractions, sizeof fractions);
    }
}

/* Gumbel noise out[positions, count], -log(-log u): u of a position's token i has the 52 bits of counter
   keys[position] + i, so that it is never 0 or 1. */
void gumbel_noise(const uint64_t *keys, int64_t positions, int64_t count, float *out) {
    float k[BLOCK], f[BLOCK];
    for (int64_t p = 0; p < positions; p++, out += count)
        for (int64_t i = 0; i < count; i += BLOCK) {
            split_uniforms(keys[p] + (uint64_t)i, k, f);
            for (int64_t j = 0; j < BLOCK && i + j < count; j += LANES) {
                vec e = -log_of(load(k, j, LANES, FP32), load(f, j, LANES, FP32));
                int n = count - i - j < LANES ? (int)(count - i - j) : LANES;
                store(out, i + j, n, FP32, minus_log_of(e));
            }
        }
}

INLINE dvec halves(vec x, int which) {
    fvec half;
    memcpy(&half, (const char *)&x + which * sizeof half, sizeof half);
    return __builtin_convertvector(half, dvec);
}

/* Whether x comes before y among descending numbers: as in PyTorch, NaN is above all others. */
INLINE int above(double x, double y) { return x > y || (x != x && y == y); }

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
            lvec better = ((y > best[h]) | ((y != y) & (best[h] == best[h]))) & (now[h] < count);
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
        if (above(y, greatest) || (!above(greatest, y) && id < token)) greatest = y, token = id;
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
    for (; last && above(x, values[last - 1]); last--) values[last] = values[last - 1], ids[last] = ids[last - 1];
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
        if (!any(~(x <= values[k - 1]))) continue; /* NaN is not, either */
        for (int lane = 0; lane < n; lane++)
            if (above(x[lane], values[k - 1])) insert(values, ids, k - 1, x[lane], i + lane);
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
