/* Position-ordered tree attention.

   A node attends to an ordered list of K/V rows: rows 0 .. prefix-1, then its own list. One fixed order
   of arithmetic runs over that list, so the result depends on nothing but the query and the rows on
   it: not on how many nodes there are, on where rows lie, or on where the prefix ends. Four nodes
   share each load of a prefix row; every query head of a group reads its KV head in place. */

#include <stdlib.h>

#include "kernels.h"

#define CHUNKS 16 /* widths up to 256 */

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
                 const int value_chunks, const int dtype, float *scratch) {
    const Lists *lists = &a->lists;
    const int64_t size = dtype == FP32 ? 4 : 2, out_size = a->out_dtype == FP32 ? 4 : 2;
    const int64_t query_size = a->query_dtype == FP32 ? 4 : 2;
    const int64_t kv = head / (a->heads / a->kv_heads), prefix = lists->prefix;
    const int64_t table = (lists->tables == 1 ? 0 : kv) * lists->nodes;
    const int64_t stride = attention_room(prefix + lists->longest) / SHARED;
    v16 q[SHARED][CHUNKS], out[SHARED][CHUNKS];
    float *at[SHARED];
    for (int b = 0; b < count; b++) {
        at[b] = scratch + b * stride;
        const char *row = row_of(&a->query, head, node + b, query_size);
        for (int c = 0; c < chunks; c++)
            q[b][c] = load(row, c * LANES, lanes_of(a->width, c), a->query_dtype);
        for (int c = 0; c < value_chunks; c++) out[b][c] = (v16){0};
    }
    const float scale = (float)a->scale;
    for (int64_t j = 0; j < prefix; j++)
        score(row_of(&a->key, kv, j, size), q, count, chunks, a->width, dtype, scale, at, j);
    float sums[SHARED];
    for (int b = 0; b < count; b++) {
        const int32_t *tail = lists->tails + (table + node + b) * lists->longest;
        int64_t length = lists->lengths[table + node + b];
        for (int64_t j = 0; j < length; j++)
            score(row_of(&a->key, kv, tail[j], size), q + b, 1, chunks, a->width, dtype, scale,
                  at + b, prefix + j);
        sums[b] = weigh(at[b], prefix + length, a, head);
    }
    for (int64_t j = 0; j < prefix; j++)
        gather(row_of(&a->value, kv, j, size), out, count, value_chunks, a->value_width, dtype, at, j);
    for (int b = 0; b < count; b++) {
        const int32_t *tail = lists->tails + (table + node + b) * lists->longest;
        int64_t length = lists->lengths[table + node + b];
        for (int64_t j = 0; j < length; j++)
            gather(row_of(&a->value, kv, tail[j], size), out + b, 1, value_chunks, a->value_width,
                   dtype, at + b, prefix + j);
        char *row = (char *)a->out + ((node + b) * a->out_row + head * a->value_width) * out_size;
        float share = sums[b] > 0 ? 1.0f / sums[b] : 0.0f;
        for (int c = 0; c < value_chunks; c++)
            store(row, c * LANES, lanes_of(a->value_width, c), a->out_dtype, out[b][c] * share);
    }
}

INLINE void group(const Attention *a, int64_t head, int64_t node, int64_t count, const int chunks,
                  const int value_chunks, const int dtype, float *scratch) {
    if (count == SHARED) {
        some(a, head, node, SHARED, chunks, value_chunks, dtype, scratch);
        return;
    }
    for (int64_t b = 0; b < count; b++)
        some(a, head, node + b, 1, chunks, value_chunks, dtype, scratch);
}

/* The common head sizes are compiled with their size known; the arithmetic is the same. */
void attention_task(const Attention *a, int64_t task, float *scratch) {
    const int64_t groups = (a->nodes + SHARED - 1) / SHARED, head = task / groups;
    const int64_t node = task % groups * SHARED, left = a->nodes - node;
    const int64_t count = left < SHARED ? left : SHARED;
    const int chunks = (int)((a->width + LANES - 1) / LANES);
    const int value_chunks = (int)((a->value_width + LANES - 1) / LANES);
#define KNOWN(C)                                                             \
    if (a->width == C * LANES && a->value_width == C * LANES) {              \
        if (a->dtype == FP32) group(a, head, node, count, C, C, FP32, scratch); \
        else group(a, head, node, count, C, C, BF16, scratch);                \
        return;                                                              \
    }
    KNOWN(2) KNOWN(4) KNOWN(8)
    if (a->dtype == FP32) group(a, head, node, count, chunks, value_chunks, FP32, scratch);
    else group(a, head, node, count, chunks, value_chunks, BF16, scratch);
}

static int all_see(const Seen *seen, int64_t row) {
    for (int64_t t = 0; t < seen->tables * seen->nodes; t++)
        if (!seen->mask[t * seen->rows + row]) return 0;
    return 1;
}

Lists listed(const Seen *seen, int32_t *room) {
    const int64_t tasks = seen->tables * seen->nodes;
    int64_t first = 0;
    while (first < seen->rows && all_see(seen, first)) first++; /* these are of the prefix, too */
    const int64_t longest = seen->rows - first;
    Lists lists = {room, room + tasks * longest, seen->tables, seen->nodes, longest,
                   seen->prefix + first};
    for (int64_t t = 0; t < tasks; t++) {
        const uint8_t *mask = seen->mask + t * seen->rows;
        int32_t *tail = lists.tails + t * longest, length = 0;
        for (int64_t j = first; j < seen->rows; j++)
            if (mask[j]) tail[length++] = (int32_t)(seen->prefix + j);
        lists.lengths[t] = length;
    }
    return lists;
}

/* Attention alone, for passes that do not run here as a whole: 0, or 1 when there is no memory. */
int tree_attention(const Attention *of, const Seen *seen, int64_t threads) {
    Attention a = *of;
    int32_t *room = malloc(lists_room(seen) * sizeof(int32_t));
    if (!room) return 1;
    a.lists = listed(seen, room);
    int64_t tasks = attention_tasks(&a), floats = attention_room(seen->prefix + seen->rows);
    int failed = 0;
    if (threads > tasks) threads = tasks;
#pragma omp parallel num_threads((int)threads) reduction(| : failed) if (threads > 1)
    {
        float *scratch = malloc(floats * sizeof(float));
        failed = scratch == NULL;
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tasks; t++)
            if (scratch) attention_task(&a, t, scratch);
        free(scratch);
    }
    free(room);
    return failed;
}
