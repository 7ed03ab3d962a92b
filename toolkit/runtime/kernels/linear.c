/* Linear maps of few rows.

   Every output is one chain of fused multiply-adds over the inputs in order, for any number of rows and on
   any thread. So a row's bits do not depend on other rows. Rows share each load of the weights, so a tree
   costs little more than one token while memory bandwidth is the limit. */

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

/* A tile's sums stay in registers: `rows` rows of `wide` registers of outputs. */
#define SUMS (REGISTERS * 3 / 4) /* the others hold weights and inputs */
#if LANES == 16
#define ROWS 12
#define ALL(CASE)                                                                              \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) \
    CASE(12)
#else
#define ROWS 6
#define ALL(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#endif
#define WIDE (OUTPUTS / LANES) /* registers of a block's outputs */
#define MATRIX_ROWS 32
#define AHEAD 2048 /* bytes of weights fetched before they are needed */
#define LINE 64    /* bytes of a cache line */
#define CHUNK 128  /* inputs whose weights stay in the nearest cache while several tiles use them */

/* Registers of outputs in a tile of `rows` rows: as many as SUMS allows. */
#define WIDE_OF(rows)                                         \
    ((rows) * WIDE <= SUMS        ? WIDE                      \
     : (rows) * WIDE / 2 <= SUMS  ? WIDE / 2                  \
                                  : WIDE / 4)

/* What a tile prefetches: the weights that come next, or its share of the next chunk's. */
typedef struct {
    const char *from;
    int64_t pace; /* bytes for each OUTPUTS * 4 bytes of weights used */
} Soon;

/* Inputs [first, end) of a block, and the block's outputs. */
typedef struct {
    const char *w;          /* of the first input on */
    const float *bias;      /* or null */
    int64_t in, first, end; /* inputs of a row, and which of them */
    int64_t stride, valid;  /* of the outputs: from row to row, and how many there are */
} Part;

INLINE void fetch(Soon *soon, const int wide) {
    __builtin_prefetch(soon->from);
    if (wide * LANES * 4 > LINE) __builtin_prefetch(soon->from + LINE);
    soon->from += soon->pace;
}

/* How many outputs from `at` on are in one register; 0 or less for none. */
INLINE int lanes_at(const Part *part, int at) {
    const int64_t left = part->valid - at;
    return left < LANES ? (int)left : LANES;
}

/* The sums over the inputs before `first`, which are in `out`. */
INLINE void begin(const Part *part, const float *out, const int rows, const int wide, int at, vec *sum) {
#pragma GCC unroll 8
    for (int i = 0; i < wide; i++) {
        const int n = lanes_at(part, at + i * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const float *from = out + r * part->stride;
            sum[r * wide + i] = part->first && n > 0 ? load(from, at + i * LANES, n, FP32) : (vec){0};
        }
    }
}

INLINE void finish(const Part *part, float *out, const int rows, const int wide, int at, const vec *sum) {
    const float *bias = part->end == part->in ? part->bias : 0;
#pragma GCC unroll 8
    for (int i = 0; i < wide; i++) {
        const int n = lanes_at(part, at + i * LANES);
        if (n <= 0) return;
        const vec b = bias ? load(bias, at + i * LANES, n, FP32) : (vec){0};
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
            store(out + r * part->stride, at + i * LANES, n, FP32, sum[r * wide + i] + b);
    }
}

enum { WHOLE, FIRST, SECOND }; /* an fp32 weight, or the first or second bf16 one of a pair */

INLINE vec weights_at(const char *w, int i, const int which) {
    uvec bits;
    memcpy(&bits, w + i * sizeof bits, sizeof bits);
    return (vec)(which == WHOLE ? bits : which == FIRST ? bits << 16 : bits & 0xffff0000u);
}

/* Add one input's products. The loops are ordered so that few registers hold weights and inputs. */
INLINE void add_products(const char *w, const int which, const float *x, int64_t in, const int rows,
                         const int wide, vec *sum) {
    if (rows <= wide) {
        vec one[ROWS];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) one[r] = (vec){0} + x[r * in];
#pragma GCC unroll 8
        for (int i = 0; i < wide; i++) {
            const vec weights = weights_at(w, i, which);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) sum[r * wide + i] += weights * one[r];
        }
    } else {
        vec weights[WIDE];
#pragma GCC unroll 8
        for (int i = 0; i < wide; i++) weights[i] = weights_at(w, i, which);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
            for (int i = 0; i < wide; i++) sum[r * wide + i] += weights[i] * x[r * in];
    }
}

/* A tile of `rows` rows and all outputs of a block, in as many pieces as its sums need. */
INLINE void tile_of(const Part *part, Soon soon, const float *x, const int rows, float *out, const int dtype) {
    const int wide = WIDE_OF(rows);
    for (int at = 0; at < OUTPUTS && at < part->valid; at += wide * LANES) {
        vec sum[SUMS];
        const char *w = part->w + at * 4; /* an output has four bytes: one fp32 weight or two bf16 */
        begin(part, out, rows, wide, at, sum);
        for (int64_t k = part->first; k < part->end; k += dtype == FP32 ? 1 : 2, w += OUTPUTS * 4) {
            fetch(&soon, wide);
            if (dtype == FP32) {
                add_products(w, WHOLE, x + k, part->in, rows, wide, sum);
            } else {
                add_products(w, FIRST, x + k, part->in, rows, wide, sum);
                add_products(w, SECOND, x + k + 1, part->in, rows, wide, sum);
            }
        }
        finish(part, out, rows, wide, at, sum);
    }
}

#define TILE_CASE(R, DTYPE) \
    case R: tile_of(part, soon, x, R, out, DTYPE); return;
#define FP32_CASE(R) TILE_CASE(R, FP32)
#define BF16_CASE(R) TILE_CASE(R, BF16)

static void fp32_tile(const Part *part, Soon soon, const float *x, int rows, float *out) {
    switch (rows) { ALL(FP32_CASE) }
}

static void bf16_tile(const Part *part, Soon soon, const float *x, int rows, float *out) {
    switch (rows) { ALL(BF16_CASE) }
}

/* A block's outputs in tiles of rows. Several tiles, or the pieces of one, are computed for one chunk of
   inputs after another. Storing a sum and loading it again does not change it. */
static void block_in_registers(const Linear *of, Part part, const float *x, int64_t rows, float *out) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS, turns = tiles * (WIDE / WIDE_OF((rows + tiles - 1) / tiles));
    const int64_t chunk = turns > 1 ? CHUNK : part.in, size = size_of(of->dtype);
    for (; part.first < part.in; part.first = part.end, part.w += chunk * OUTPUTS * size) {
        part.end = part.first + chunk < part.in ? part.first + chunk : part.in;
        const int64_t bytes = (part.end - part.first) * OUTPUTS * size;
        for (int64_t t = 0, row = 0; t < tiles; t++) {
            const int height = (int)((rows - row + tiles - t - 1) / (tiles - t)); /* nearly equal */
            const Soon soon = turns == 1 ? (Soon){part.w + AHEAD, OUTPUTS * 4}
                                         : (Soon){part.w + bytes + bytes / tiles * t, OUTPUTS * 4 / turns};
            (of->dtype == FP32 ? fp32_tile : bf16_tile)(&part, soon, x + row * part.in, height,
                                                        out + row * part.stride);
            row += height;
        }
    }
}

#ifdef __AMX_BF16__
/* Up to 32 rows on the matrix unit, which sums every row by itself. */
static void matrix_tile(const Part *part, Soon soon, const char *x, int rows, float *out) {
    const int upper = rows < LANES ? rows : LANES, lower = rows - upper;
    const char *w = part->w;
    const int64_t row = part->in * 2, step = LANES * OUTPUTS * 4;
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
    for (int64_t k = 0; k < part->in; k += INPUTS, w += step, x += INPUTS * 2) {
        for (int pair = 0; pair < LANES; pair++) fetch(&soon, WIDE);
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
        const vec sum[] = {load(sums + r * OUTPUTS, 0, LANES, FP32), load(sums + r * OUTPUTS, LANES, LANES, FP32)};
        finish(part, out + r * part->stride, 1, WIDE, 0, sum);
    }
}

static void block_in_matrices(const Part *part, const char *x, int64_t rows, float *out) {
    const int64_t tiles = (rows + MATRIX_ROWS - 1) / MATRIX_ROWS, bytes = part->in * OUTPUTS * 2;
    for (int64_t t = 0, row = 0; t < tiles; t++) {
        const int height = (int)((rows - row + tiles - t - 1) / (tiles - t));
        const Soon soon = tiles == 1 ? (Soon){part->w + AHEAD, OUTPUTS * 4}
                                     : (Soon){part->w + bytes + bytes / tiles * t, OUTPUTS * 4 / tiles};
        matrix_tile(part, soon, x + row * part->in * 2, height, out + row * part->stride);
        row += height;
    }
}
#endif

void linear_block(const Linear *of, const void *x, int64_t rows, float *out, int64_t stride,
                  int64_t block) {
    const int64_t at = block * OUTPUTS, in = row_in(of->in, of->dtype);
    const Part part = {
        .w = (const char *)of->weight + block * in * OUTPUTS * size_of(of->dtype),
        .bias = of->bias ? of->bias + at : 0,
        .in = in,
        .end = in,
        .stride = stride,
        .valid = of->out - at < OUTPUTS ? of->out - at : OUTPUTS,
    };
#ifdef __AMX_BF16__
    if (of->dtype == BF16) {
        block_in_matrices(&part, x, rows, out + at);
        return;
    }
#endif
    block_in_registers(of, part, x, rows, out + at);
}

/* Whether the system allows the instructions that these kernels were compiled for. */
int ready(void) {
#ifdef __AMX_BF16__
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return 1;
#endif
}
