/* Linear maps of few rows.

   Every output is one chain of fused multiply-adds over the inputs in order, however many rows go
   together and whichever thread computes it: a row's bits are its own. Rows share each load of the
   weights, so that a tree costs little more than one token while memory is what a pass waits for. */

#include "kernels.h"

#ifdef __AVX512F__
#define ROWS 12 /* accumulators of that many rows stay in registers */
#else
#define ROWS 3
#endif
#define AHEAD 2048 /* bytes of weights fetched before they are needed */

INLINE void finish(v16 (*sum)[2], const int rows, const float *bias, float *out, int64_t stride,
                   int64_t valid) {
    int left = valid < LANES ? (int)valid : LANES, right = valid - left < LANES ? (int)(valid - left) : LANES;
    v16 b0 = {0}, b1 = {0};
    if (bias) b0 = load(bias, 0, left, FP32), b1 = load(bias, LANES, right, FP32);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        store(out + r * stride, 0, left, FP32, sum[r][0] + b0);
        if (right > 0) store(out + r * stride, LANES, right, FP32, sum[r][1] + b1);
    }
}

INLINE void fp32_tile(const float *w, const float *bias, const float *x, int64_t in, const int rows,
                      float *out, int64_t stride, int64_t valid) {
    v16 sum[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (v16){0};
    for (int64_t k = 0; k < in; k++, w += OUTPUTS) {
        v16 w0 = load(w, 0, LANES, FP32), w1 = load(w, LANES, LANES, FP32);
        __builtin_prefetch((const char *)w + AHEAD);
        __builtin_prefetch((const char *)w + AHEAD + 64);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float one = x[r * in + k];
            sum[r][0] += w0 * one;
            sum[r][1] += w1 * one;
        }
    }
    finish(sum, rows, bias, out, stride, valid);
}

INLINE void bf16_tile(const uint32_t *w, const float *bias, const float *x, int64_t in, const int rows,
                      float *out, int64_t stride, int64_t valid) {
    v16 sum[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (v16){0};
    for (int64_t k = 0; k < in; k += 2, w += OUTPUTS) {
        u16 p0, p1;
        memcpy(&p0, w, sizeof p0);
        memcpy(&p1, w + LANES, sizeof p1);
        __builtin_prefetch((const char *)w + AHEAD);
        __builtin_prefetch((const char *)w + AHEAD + 64);
        v16 even0 = (v16)(p0 << 16), odd0 = (v16)(p0 & 0xffff0000u);
        v16 even1 = (v16)(p1 << 16), odd1 = (v16)(p1 & 0xffff0000u);
        const int second = k + 1 < in;
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float one = x[r * in + k], two = second ? x[r * in + k + 1] : 0.0f;
            sum[r][0] += even0 * one;
            sum[r][1] += even1 * one;
            sum[r][0] += odd0 * two;
            sum[r][1] += odd1 * two;
        }
    }
    finish(sum, rows, bias, out, stride, valid);
}

static void tile(const Linear *of, int64_t block, const float *x, int rows, float *out,
                 int64_t stride) {
    const int64_t first = block * OUTPUTS, in = of->in;
    const int64_t valid = of->out - first < OUTPUTS ? of->out - first : OUTPUTS;
    const float *bias = of->bias ? of->bias + first : 0;
    const float *fp32 = (const float *)of->weight + block * in * OUTPUTS;
    const uint32_t *bf16 = (const uint32_t *)of->weight + block * ((in + 1) / 2) * OUTPUTS;
    out += first;
#define CASE(R)                                                                   \
    case R:                                                                       \
        if (of->dtype == FP32) fp32_tile(fp32, bias, x, in, R, out, stride, valid); \
        else bf16_tile(bf16, bias, x, in, R, out, stride, valid);                 \
        return;
    switch (rows) {
        CASE(1) CASE(2) CASE(3)
#if ROWS == 12
        CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

void linear_block(const Linear *of, const float *x, int64_t rows, float *out, int64_t stride,
                  int64_t block) {
    int64_t left = (rows + ROWS - 1) / ROWS; /* tiles, all of much the same height */
    while (rows > 0) {
        int height = (int)((rows + left - 1) / left);
        tile(of, block, x, height, out, stride);
        x += height * of->in, out += height * stride, rows -= height, left--;
    }
}
