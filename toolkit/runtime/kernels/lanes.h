/* Sixteen floats at a time, in vector extensions that GCC and Clang lower to what the CPU has. */

#ifndef LANES_H
#define LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t half16 __attribute__((vector_size(32)));

enum { FP32 = 0, BF16 = 1 };

/* Elements [at, at + n) of a row, n <= 16, as floats; lanes beyond n are zero. */
INLINE v16 load(const void *row, int64_t at, int n, int dtype) {
    v16 out = {0};
    if (dtype == FP32) {
        const float *p = (const float *)row + at;
        if (n == LANES) memcpy(&out, p, sizeof out);
        else memcpy(&out, p, n * sizeof(float));
        return out;
    }
    half16 raw = {0};
    const uint16_t *p = (const uint16_t *)row + at;
    if (n == LANES) memcpy(&raw, p, sizeof raw);
    else memcpy(&raw, p, n * sizeof(uint16_t));
    u16 wide = __builtin_convertvector(raw, u16) << 16;
    return (v16)wide;
}

/* The first n lanes of x to elements [at, at + n) of a row; bf16 is rounded to nearest even. */
INLINE void store(void *row, int64_t at, int n, int dtype, v16 x) {
    if (dtype == FP32) {
        float *p = (float *)row + at;
        if (n == LANES) memcpy(p, &x, sizeof x);
        else memcpy(p, &x, n * sizeof(float));
        return;
    }
    u16 bits = (u16)x;
    u16 nan = (u16)(x != x);
    u16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    rounded = (rounded & ~nan) | (nan & 0x7fc0);
    half16 raw = __builtin_convertvector(rounded, half16);
    uint16_t *p = (uint16_t *)row + at;
    if (n == LANES) memcpy(p, &raw, sizeof raw);
    else memcpy(p, &raw, n * sizeof(uint16_t));
}

/* The sum of all lanes, always in the same order. */
INLINE float total(v16 x) {
    union { v16 whole; v8 half[2]; } a = {x};
    union { v8 whole; v4 half[2]; } b = {a.half[0] + a.half[1]};
    v4 c = b.half[0] + b.half[1];
    return (c[0] + c[2]) + (c[1] + c[3]);
}

INLINE v16 chosen(i16 mask, v16 yes, v16 no) {
    return (v16)(((i16)yes & mask) | ((i16)no & ~mask));
}

/* exp(x) to a unit in the last place or two; 0 below -87.3, and no overflow up to 88. */
INLINE v16 exp16(v16 x) {
    const v16 low = {-87.3f, -87.3f, -87.3f, -87.3f, -87.3f, -87.3f, -87.3f, -87.3f,
                     -87.3f, -87.3f, -87.3f, -87.3f, -87.3f, -87.3f, -87.3f, -87.3f};
    i16 under = x < low;
    x = chosen(under, low, x);
    x = chosen(x > 88.0f, low - low + 88.0f, x);
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    v16 n = (x * 1.44269504088896341f + magic) - magic;
    v16 r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    v16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    i16 power = (__builtin_convertvector(n, i16) + 127) << 23;
    v16 y = p * (v16)power;
    return (v16)((i16)y & ~under);
}

#endif
