/* Linear maps, attention and activations, one task at a time, for all kernels. */

#ifndef KERNELS_H
#define KERNELS_H

#include "simd.h"
#include "team.h"

/* y = Wx + b. The weight is laid out in blocks of OUTPUTS outputs: fp32 [block][in][OUTPUTS]; bf16
   [block][pair of inputs][OUTPUTS][2], padded with zeros. Rows x are of `row_dtype` and row_in elements
   apart; past `in` they are zero. */
typedef struct {
    const void *weight;
    const float *bias; /* or null */
    int64_t in, out, dtype;
} Linear;

#define OUTPUTS 32
#define INPUTS 32 /* bf16 weights are padded to a multiple of these */

INLINE int64_t blocks_of(const Linear *of) { return (of->out + OUTPUTS - 1) / OUTPUTS; }

INLINE int64_t row_in(int64_t in, int64_t dtype) {
    return dtype == FP32 ? in : (in + INPUTS - 1) / INPUTS * INPUTS;
}

/* The dtype of rows that weights of `dtype` multiply: bf16 for a matrix unit, else floats. */
INLINE int64_t row_dtype(int64_t dtype) {
#ifdef __AMX_BF16__
    return dtype;
#else
    (void)dtype;
    return FP32;
#endif
}

/* Compute one block of outputs for x[rows, row_in], into that block's columns of out[rows, stride]. */
void linear_block(const Linear *of, const void *x, int64_t rows, float *out, int64_t stride,
                  int64_t block);

enum { SILU = 0, GELU_TANH = 1, GELU = 2, RELU = 3 };

/* out = act(gate) * up over `count` elements; up may be null. */
void activate(const void *gate, const void *up, void *out, int64_t count, int64_t act, int64_t dtype,
              int64_t out_dtype);

typedef struct {
    const void *data;
    int64_t head, row; /* strides, in elements */
} Heads;

/* The rows that nodes attend to: the first `prefix`, then those in the node's mask, in order. */
typedef struct {
    const uint8_t *mask; /* [tables, nodes, rows] of the rows after the prefix */
    int64_t tables;      /* 1, or one per KV head */
    int64_t nodes, rows, prefix;
} Visible;

typedef struct {
    int32_t *tails;   /* [tables, nodes, longest] rows after the prefix */
    int32_t *lengths; /* [tables, nodes] */
    int64_t tables, nodes, longest, prefix;
} Lists;

typedef struct {
    Heads query, key, value;
    void *out;       /* [nodes, heads, value_width], of out_dtype */
    int64_t out_row; /* elements from node to node */
    int64_t query_dtype, dtype, out_dtype, nodes, heads, kv_heads, width, value_width;
    Lists lists;
    const float *sinks; /* [heads], or null */
    double scale, softcap; /* softcap 0: none */
} Attention;

#define SHARED 4 /* nodes that share each load of a prefix row */

INLINE int64_t lists_room(const Visible *visible) { /* in int32 */
    return visible->tables * visible->nodes * (visible->rows + 1);
}

/* Make lists from masks, in `room`. */
Lists make_lists(const Visible *visible, int32_t *room);

INLINE int64_t attention_tasks(const Attention *a) {
    return (a->nodes + SHARED - 1) / SHARED * a->heads;
}

/* Floats for one node's scores, which are written LANES at a time. */
INLINE int64_t scores_room(int64_t longest) { return (longest + LANES) / LANES * LANES + LANES; }

/* Floats that one thread needs. */
INLINE int64_t attention_room(int64_t longest) { return SHARED * scores_room(longest); }

/* One task of attention: one head for up to SHARED nodes. */
void attention_task(const Attention *a, int64_t task, float *room);

#endif
