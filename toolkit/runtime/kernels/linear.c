/* Linear maps of few rows.

   Every output is one chain of fused multiply-adds over the inputs in order, however many rows go
   together and whichever thread computes it: a row's bits are its own. Rows share each load of the
   weights, so that a tree costs little more than one token while memory is what a pass waits for. */

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

#ifdef __AVX512F__
#define ROWS 12 /* accumulators of that many rows stay in registers */
#define ALL(CASE)                                                                              \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) \
    CASE(12)
#else
#define ROWS 3
#define ALL(CASE) CASE(1) CASE(2) CASE(3)
#endif
#ifdef __AMX_BF16__
#define BF16_ROWS 32
#else
#define BF16_ROWS ROWS
#endif
#define AHEAD 2048 /* bytes of weights fetched before they are needed */

/* What a tile fetches on its way: the weights that come next, or its share of the next block's. */
typedef struct {
    const char *from;
    int64_t pace; /* bytes for each OUTPUTS * 4 bytes of weights used */
} Soon;

INLINE void fetch(Soon *soon) {
    __builtin_prefetch(soon->from);
    __builtin_prefetch(soon->from + 64);
    soon->from += soon->pace;
}

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

INLINE void fp32_some(const float *w, Soon soon, const float *bias, const float *x, int64_t in,
                      const int rows, float *out, int64_t stride, int64_t valid) {
    v16 sum[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (v16){0};
    for (int64_t k = 0; k < in; k++, w += OUTPUTS) {
        v16 w0 = load(w, 0, LANES, FP32), w1 = load(w, LANES, LANES, FP32);
        fetch(&soon);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float one = x[r * in + k];
            sum[r][0] += w0 * one;
            sum[r][1] += w1 * one;
        }
    }
    finish(sum, rows, bias, out, stride, valid);
}

INLINE u16 pairs(const void *from) {
    u16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

#ifdef __AMX_BF16__
/* Up to 32 rows on the matrix unit, which sums every row by itself. */
static void bf16_tile(const char *w, Soon soon, const float *bias, const char *x, int64_t in,
                      int rows, float *out, int64_t stride, int64_t valid) {
    const int upper = rows < LANES ? rows : LANES, lower = rows - upper;
    const int64_t row = in * 2, step = LANES * OUTPUTS * 4;
    float sums[2 * LANES * OUTPUTS];
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    const int heights[] = {upper, upper, lower, lower, upper, lower, LANES, LANES};
    for (int i = 0; i < 8; i++) shape.rows[i] = (uint8_t)heights[i], shape.bytes[i] = heights[i] ? 64 : 0;
    __asm__ volatile("" ::"r"(&shape) : "memory"); /* all of it is read, whatever the header says */
    _tile_loadconfig(&shape);
    _tile_zero(0);
    _tile_zero(1);
    if (lower) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < in; k += INPUTS, w += step, x += INPUTS * 2) {
        for (int pair = 0; pair < LANES; pair++) fetch(&soon);
        _tile_loadd(4, x, row);
        _tile_loadd(6, w, OUTPUTS * 4);
        _tile_loadd(7, w + 64, OUTPUTS * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (lower) {
            _tile_loadd(5, x + LANES * row, row);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, OUTPUTS * 4);
    _tile_stored(1, sums + LANES, OUTPUTS * 4);
    if (lower) {
        _tile_stored(2, sums + LANES * OUTPUTS, OUTPUTS * 4);
        _tile_stored(3, sums + LANES * OUTPUTS + LANES, OUTPUTS * 4);
    }
    _tile_release();
    for (int r = 0; r < rows; r++) {
        v16 sum[1][2] = {{load(sums + r * OUTPUTS, 0, LANES, FP32), load(sums + r * OUTPUTS, LANES, LANES, FP32)}};
        finish(sum, 1, bias, out + r * stride, stride, valid);
    }
}
#else
/* Two inputs at a time: the first in the lower half of a lane, the second in the upper one. */
INLINE void bf16_some(const char *w, Soon soon, const float *bias, const char *x, int64_t in,
                      const int rows, float *out, int64_t stride, int64_t valid) {
    v16 sum[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (v16){0};
    for (int64_t k = 0; k < in; k += 2, w += OUTPUTS * 4) {
        const u16 w0 = pairs(w), w1 = pairs(w + 64);
        fetch(&soon);
        const v16 even0 = (v16)(w0 << 16), odd0 = (v16)(w0 & 0xffff0000u);
        const v16 even1 = (v16)(w1 << 16), odd1 = (v16)(w1 & 0xffff0000u);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            uint32_t both;
            memcpy(&both, x + (r * in + k) * 2, sizeof both);
            const u16 lanes = both - (u16){0};
            const v16 even = (v16)(lanes << 16), odd = (v16)(lanes & 0xffff0000u);
            sum[r][0] += even0 * even;
            sum[r][1] += even1 * even;
            sum[r][0] += odd0 * odd;
            sum[r][1] += odd1 * odd;
        }
    }
    finish(sum, rows, bias, out, stride, valid);
}

static void bf16_tile(const char *w, Soon soon, const float *bias, const char *x, int64_t in,
                      int rows, float *out, int64_t stride, int64_t valid) {
#define BF16_CASE(R) \
    case R: bf16_some(w, soon, bias, x, in, R, out, stride, valid); return;
    switch (rows) { ALL(BF16_CASE) }
}
#endif

static void fp32_tile(const float *w, Soon soon, const float *bias, const float *x, int64_t in,
                      int rows, float *out, int64_t stride, int64_t valid) {
#define FP32_CASE(R) \
    case R: fp32_some(w, soon, bias, x, in, R, out, stride, valid); return;
    switch (rows) { ALL(FP32_CASE) }
}

void linear_block(const Linear *of, const void *x, int64_t rows, float *out, int64_t stride,
                  int64_t block) {
    const int64_t first = block * OUTPUTS, in = row_in(of->in, of->dtype);
    const int64_t valid = of->out - first < OUTPUTS ? of->out - first : OUTPUTS;
    const int64_t size = of->dtype == FP32 ? 4 : 2, most = of->dtype == FP32 ? ROWS : BF16_ROWS;
    const char *w = (const char *)of->weight + block * in * OUTPUTS * size, *from = x;
    const float *bias = of->bias ? of->bias + first : 0;
    const int64_t tiles = (rows + most - 1) / most, bytes = in * OUTPUTS * size;
    out += first;
    for (int64_t t = 0; t < tiles; t++) {
        const int height = (int)((rows + tiles - t - 1) / (tiles - t)); /* all of much the same */
        const Soon soon = tiles == 1 ? (Soon){w + AHEAD, OUTPUTS * 4}
                                     : (Soon){w + bytes + bytes / tiles * t, OUTPUTS * 4 / tiles};
        if (of->dtype == FP32)
            fp32_tile((const float *)w, soon, bias, (const float *)from, in, height, out, stride, valid);
        else
            bf16_tile(w, soon, bias, from, in, height, out, stride, valid);
        from += height * in * size, out += height * stride, rows -= height;
    }
}

/* Whether the system lets us use what these kernels were compiled for. */
int ready(void) {
#ifdef __AMX_BF16__
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return 1;
#endif
}
