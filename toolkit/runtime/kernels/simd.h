/* Vectors as wide as this CPU's registers, in extensions of GCC and Clang. Kernels are written once, for
   LANES. Only this file and the matrix unit's part of linear.c differ between instruction sets. */

#ifndef SIMD_H
#define SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16     /* floats in a register */
#define REGISTERS 32 /* that a kernel may use */
#elif defined(__AVX2__)
#define LANES 8
#define REGISTERS 16
#elif defined(__aarch64__)
#define LANES 4
#define REGISTERS 32
#else
#define LANES 4
#define REGISTERS 16
#endif

#define INLINE static inline __attribute__((always_inline))
#define VECTOR(type) type __attribute__((vector_size(LANES * sizeof(type))))

typedef VECTOR(float) vec;
typedef VECTOR(int32_t) ivec;
typedef VECTOR(uint32_t) uvec;
typedef VECTOR(uint16_t) hvec;
typedef float vec4 __attribute__((vector_size(16)));
typedef float vec8 __attribute__((vector_size(32)));

enum { FP32 = 0, BF16 = 1 };

INLINE int64_t size_of(int64_t dtype) { return dtype == FP32 ? 4 : 2; }

/* Elements [at, at + n) of a row, n <= LANES, as floats; lanes beyond n are zero. */
INLINE vec load(const void *row, int64_t at, int n, int dtype) {
    vec out = {0};
    if (dtype == FP32) {
        const float *p = (const float *)row + at;
        if (n == LANES) memcpy(&out, p, sizeof out);
        else memcpy(&out, p, n * sizeof(float));
        return out;
    }
    hvec raw = {0};
    const uint16_t *p = (const uint16_t *)row + at;
    if (n == LANES) memcpy(&raw, p, sizeof raw);
    else memcpy(&raw, p, n * sizeof(uint16_t));
    uvec wide = __builtin_convertvector(raw, uvec) << 16;
    return (vec)wide;
}

/* The first n lanes of x to elements [at, at + n) of a row; bf16 is rounded to nearest even. */
INLINE void store(void *row, int64_t at, int n, int dtype, vec x) {
    if (dtype == FP32) {
        float *p = (float *)row + at;
        if (n == LANES) memcpy(p, &x, sizeof x);
        else memcpy(p, &x, n * sizeof(float));
        return;
    }
    uvec bits = (uvec)x;
    uvec nan = (uvec)(x != x);
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    rounded = (rounded & ~nan) | (nan & 0x7fc0);
    hvec raw = __builtin_convertvector(rounded, hvec);
    uint16_t *p = (uint16_t *)row + at;
    if (n == LANES) memcpy(p, &raw, sizeof raw);
    else memcpy(p, &raw, n * sizeof(uint16_t));
}

/* The sum of all lanes, always in the same order. */
INLINE float total(vec x) {
    vec4 quarters[LANES / 4];
    memcpy(quarters, &x, sizeof x);
    for (int half = LANES / 8; half; half /= 2)
        for (int i = 0; i < half; i++) quarters[i] += quarters[i + half];
    vec4 c = quarters[0];
    return (c[0] + c[2]) + (c[1] + c[3]);
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* The index of the vector whose sum becomes lane `lane` of `totals`. */
#define TOTAL_AT(lane) ((lane) / 4 + LANES / 4 * ((lane) % 4))

/* The sums over lanes of each of LANES vectors; all in the same order. */
INLINE vec totals(vec *x) {
#if LANES == 16
    for (int i = 0; i < 8; i++)
        x[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               SHUFFLE(x[2 * i], x[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++)
        x[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               SHUFFLE(x[2 * i], x[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        x[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               SHUFFLE(x[2 * i], x[2 * i + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    return SHUFFLE(x[0], x[1], 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           SHUFFLE(x[0], x[1], 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif LANES == 8
    for (int i = 0; i < 4; i++)
        x[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11) +
               SHUFFLE(x[2 * i], x[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15);
    for (int i = 0; i < 2; i++)
        x[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
               SHUFFLE(x[2 * i], x[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return SHUFFLE(x[0], x[1], 0, 2, 8, 10, 4, 6, 12, 14) + SHUFFLE(x[0], x[1], 1, 3, 9, 11, 5, 7, 13, 15);
#else
    for (int i = 0; i < 2; i++)
        x[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 4, 5) + SHUFFLE(x[2 * i], x[2 * i + 1], 2, 3, 6, 7);
    return SHUFFLE(x[0], x[1], 0, 2, 4, 6) + SHUFFLE(x[0], x[1], 1, 3, 5, 7);
#endif
}

INLINE vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* exp(x) to a unit in the last place or two; 0 below -87.3, and no overflow up to 88. */
INLINE vec exp_of(vec x) {
    const vec low = (vec){0} - 87.3f;
    ivec under = x < low;
    x = pick(under, low, x);
    x = pick(x > 88.0f, (vec){0} + 88.0f, x);
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    vec n = (x * 1.44269504088896341f + magic) - magic;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    vec y = p * (vec)power;
    return (vec)((ivec)y & ~under);
}

#endif
