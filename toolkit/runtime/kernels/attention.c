/* Position-ordered tree attention.

   A node attends to an ordered list of K/V rows: rows 0 .. prefix-1, then its own list. One fixed order
   of arithmetic runs over that list, so the result depends on nothing but the query and the rows on
   it: not on how many nodes there are, on where rows lie, or on where the prefix ends. Four nodes
   share each load of a prefix row; every query head of a group reads its KV head in place. */

#include <stdlib.h>

#include "lanes.h"

typedef struct {
    const void *data;
    int64_t head, row; /* strides, in elements */
} Heads;

typedef struct {
    Heads query, key, value;
    void *out; /* [nodes, heads, value_width] */
    int64_t dtype, nodes, heads, kv_heads, width, value_width;
    int64_t tables;          /* 1, or one per KV head */
    int64_t prefix;          /* rows that every node sees */
    const int32_t *tails;    /* [tables, nodes, longest] rows */
    const int32_t *lengths;  /* [tables, nodes] */
    int64_t longest;
    const float *sinks; /* [heads], or null */
    double scale, softcap; /* softcap 0: none */
    int64_t threads;
} Attention;

#define CHUNKS 16 /* widths up to 256 */
#define SHARED 4

INLINE const char *row_of(const Heads *of, int64_t head, int64_t row, int64_t size) {
    return (const char *)of->data + (head * of->head + row * of->row) * size;
}

INLINE int lanes_of(int64_t width, int chunk) {
    int64_t left = width - chunk * LANES;
    return left < LANES ? (int)left : LANES;
}

/* Scores of one row for `count` nodes, whose queries are q. */
INLINE void score(const char *k, v16 (*q)[CHUNKS], const int count, const int chunks,
                  int64_t width, const int dtype, float scale, float **at, int64_t j) {
    v16 sum[SHARED];
    for (int b = 0; b < count; b++) sum[b] = (v16){0};
    for (int c = 0; c < chunks; c++) {
        v16 key = load(k, c * LANES, lanes_of(width, c), dtype);
        for (int b = 0; b < count; b++) sum[b] = sum[b] + q[b][c] * key;
    }
    for (int b = 0; b < count; b++) at[b][j] = total(sum[b]) * scale;
}

INLINE void gather(const char *v, v16 (*out)[CHUNKS], const int count, const int chunks,
                   int64_t width, const int dtype, float **at, int64_t j) {
    for (int c = 0; c < chunks; c++) {
        v16 value = load(v, c * LANES, lanes_of(width, c), dtype);
        for (int b = 0; b < count; b++) out[b][c] = out[b][c] + at[b][j] * value;
    }
}

/* Scores to weights, not yet normalised; returns what they sum to. */
INLINE float weigh(float *s, int64_t count, const Attention *a, int64_t head) {
    if (a->softcap > 0)
        for (int64_t j = 0; j < count; j++)
            s[j] = (float)a->softcap * tanhf(s[j] / (float)a->softcap);
    float most = a->sinks ? a->sinks[head] : -INFINITY;
    for (int64_t j = 0; j < count; j++) most = s[j] > most ? s[j] : most;
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t j = count; j < padded; j++) s[j] = -INFINITY;
    v16 sum = {0};
    for (int64_t j = 0; j < padded; j += LANES) {
        v16 e = exp16(load(s, j, LANES, FP32) - most);
        store(s, j, LANES, FP32, e);
        sum = sum + e;
    }
    float whole = total(sum);
    if (a->sinks) {
        v16 sink = {a->sinks[head] - most};
        whole += exp16(sink)[0];
    }
    return whole;
}

/* `count` nodes from `node` on, of one query head. */
INLINE void some(const Attention *a, int64_t head, int64_t node, const int count, const int chunks,
                 const int value_chunks, const int dtype, float *scratch, int64_t stride) {
    const int64_t size = dtype == FP32 ? 4 : 2, kv = head / (a->heads / a->kv_heads);
    const int64_t table = (a->tables == 1 ? 0 : kv) * a->nodes;
    v16 q[SHARED][CHUNKS], out[SHARED][CHUNKS];
    float *at[SHARED];
    for (int b = 0; b < count; b++) {
        at[b] = scratch + b * stride;
        const char *row = row_of(&a->query, head, node + b, size);
        for (int c = 0; c < chunks; c++) q[b][c] = load(row, c * LANES, lanes_of(a->width, c), dtype);
        for (int c = 0; c < value_chunks; c++) out[b][c] = (v16){0};
    }
    const float scale = (float)a->scale;
    for (int64_t j = 0; j < a->prefix; j++)
        score(row_of(&a->key, kv, j, size), q, count, chunks, a->width, dtype, scale, at, j);
    float sums[SHARED];
    for (int b = 0; b < count; b++) {
        const int32_t *tail = a->tails + (table + node + b) * a->longest;
        int64_t length = a->lengths[table + node + b];
        for (int64_t j = 0; j < length; j++)
            score(row_of(&a->key, kv, tail[j], size), q + b, 1, chunks, a->width, dtype, scale,
                  at + b, a->prefix + j);
        sums[b] = weigh(at[b], a->prefix + length, a, head);
    }
    for (int64_t j = 0; j < a->prefix; j++)
        gather(row_of(&a->value, kv, j, size), out, count, value_chunks, a->value_width, dtype, at, j);
    for (int b = 0; b < count; b++) {
        const int32_t *tail = a->tails + (table + node + b) * a->longest;
        int64_t length = a->lengths[table + node + b];
        for (int64_t j = 0; j < length; j++)
            gather(row_of(&a->value, kv, tail[j], size), out + b, 1, value_chunks, a->value_width,
                   dtype, at + b, a->prefix + j);
        char *row = (char *)a->out + ((node + b) * a->heads + head) * a->value_width * size;
        float share = sums[b] > 0 ? 1.0f / sums[b] : 0.0f;
        for (int c = 0; c < value_chunks; c++)
            store(row, c * LANES, lanes_of(a->value_width, c), dtype, out[b][c] * share);
    }
}

INLINE void group(const Attention *a, int64_t head, int64_t node, int64_t count, const int chunks,
                  const int value_chunks, const int dtype, float *scratch, int64_t stride) {
    if (count == SHARED) {
        some(a, head, node, SHARED, chunks, value_chunks, dtype, scratch, stride);
        return;
    }
    for (int64_t b = 0; b < count; b++)
        some(a, head, node + b, 1, chunks, value_chunks, dtype, scratch, stride);
}

/* The common head sizes are compiled with their size known; the arithmetic is the same. */
static void any_group(const Attention *a, int64_t head, int64_t node, int64_t count,
                      float *scratch, int64_t stride) {
    int chunks = (int)((a->width + LANES - 1) / LANES);
    int value_chunks = (int)((a->value_width + LANES - 1) / LANES);
#define KNOWN(C)                                                                       \
    if (a->width == C * LANES && a->value_width == C * LANES) {                        \
        if (a->dtype == FP32) group(a, head, node, count, C, C, FP32, scratch, stride); \
        else group(a, head, node, count, C, C, BF16, scratch, stride);                  \
        return;                                                                        \
    }
    KNOWN(2) KNOWN(4) KNOWN(8)
    if (a->dtype == FP32) group(a, head, node, count, chunks, value_chunks, FP32, scratch, stride);
    else group(a, head, node, count, chunks, value_chunks, BF16, scratch, stride);
}

/* 0, or 1 when there is no memory for the scores. */
int tree_attention(const Attention *a) {
    int64_t stride = (a->prefix + a->longest + LANES) / LANES * LANES + LANES;
    int64_t groups = (a->nodes + SHARED - 1) / SHARED, tasks = groups * a->heads;
    int64_t threads = a->threads < tasks ? a->threads : tasks;
    int failed = 0;
#pragma omp parallel num_threads((int)threads) reduction(| : failed) if (threads > 1)
    {
        float *scratch = malloc(SHARED * stride * sizeof(float));
        failed = scratch == NULL;
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tasks; t++) {
            int64_t node = t % groups * SHARED, left = a->nodes - node;
            if (scratch)
                any_group(a, t / groups, node, left < SHARED ? left : SHARED, scratch, stride);
        }
        free(scratch);
    }
    return failed;
}
