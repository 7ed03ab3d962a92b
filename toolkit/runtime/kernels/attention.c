/* Position-ordered tree attention.

   A node attends to an ordered list of K/V rows: rows 0 .. prefix-1, then a list of its own. The list is
   computed in one fixed order, so the result depends only on the query and the rows of the list. It does
   not depend on how many nodes there are, where rows are stored, or where the prefix ends. Four nodes
   share each load of a prefix row. */

#include <stdlib.h>

#include "kernels.h"

#define WIDEST 256 /* floats of a head */
#define CHUNKS (WIDEST / LANES)

INLINE const char *row_of(const Heads *of, int64_t head, int64_t row, int64_t size) {
    return (const char *)of->data + (head * of->head + row * of->row) * size;
}

INLINE int chunks_of(int64_t width) { return (int)((width + LANES - 1) / LANES); }

/* Lanes of a chunk; `whole` says that all chunks of the width are full. */
INLINE int lanes_of(int64_t width, int chunk, const int whole) {
    int64_t left = width - (int64_t)chunk * LANES;
    return whole || left > LANES ? LANES : (int)left;
}

/* The rows of one head: row j is at `first + at[j] * stride`, or at `first + j * stride` without a list. */
typedef struct {
    const char *first;
    const int32_t *at;
    int64_t stride, count;
} HeadRows;

INLINE const char *row_at(const HeadRows *of, int64_t j) {
    return of->first + (of->at ? of->at[j] : j) * of->stride;
}

/* Scores of rows for `count` nodes with queries q[count][CHUNKS]. LANES sums are computed at a time, so up
   to LANES scores past the last one are written. */
INLINE void score(const HeadRows *rows, const vec *q, const int count, int64_t width, const int whole,
                  const int dtype, float scale, float **to) {
    const int together = LANES / count, chunks = chunks_of(width);
    for (int64_t j = 0; j < rows->count; j += together) {
        const char *key[LANES];
        vec sum[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < together; i++) key[i] = row_at(rows, j + i < rows->count ? j + i : rows->count - 1);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) sum[i] = (vec){0};
        for (int c = 0; c < chunks; c++) {
            const int n = lanes_of(width, c, whole);
#pragma GCC unroll 16
            for (int i = 0; i < together; i++) {
                const vec k = load(key[i], c * LANES, n, dtype);
#pragma GCC unroll 4
                for (int b = 0; b < count; b++) sum[TOTAL_AT(b * together + i)] += q[b * CHUNKS + c] * k;
            }
        }
        const vec scores = totals(sum) * scale;
#pragma GCC unroll 4
        for (int b = 0; b < count; b++)
            memcpy(to[b] + j, (const char *)&scores + b * together * sizeof(float), together * sizeof(float));
    }
}

/* Add the rows' values, weighted for each node, to chunks `from` to `from + tile` of out[count][CHUNKS]. */
INLINE void gather_tile(const HeadRows *rows, float **weights, const int count, int from, const int tile,
                        int64_t width, const int whole, const int dtype, vec *out) {
    vec sum[8];
#pragma GCC unroll 8
    for (int i = 0; i < count * tile; i++) sum[i] = out[i / tile * CHUNKS + from + i % tile];
    for (int64_t j = 0; j < rows->count; j++) {
        const char *value = row_at(rows, j);
#pragma GCC unroll 8
        for (int c = 0; c < tile; c++) {
            const vec v = load(value, (from + c) * LANES, lanes_of(width, from + c, whole), dtype);
#pragma GCC unroll 4
            for (int b = 0; b < count; b++) sum[b * tile + c] += v * weights[b][j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count * tile; i++) out[i / tile * CHUNKS + from + i % tile] = sum[i];
}

INLINE void gather(const HeadRows *rows, float **weights, const int count, int64_t width, const int whole,
                   const int dtype, vec *out) {
    const int chunks = chunks_of(width), tile = 8 / count;
    int c = 0;
    for (; c + tile <= chunks; c += tile) gather_tile(rows, weights, count, c, tile, width, whole, dtype, out);
    for (; c < chunks; c++) gather_tile(rows, weights, count, c, 1, width, whole, dtype, out);
}

/* Turn scores into weights that are not yet normalised; returns their sum. */
static float weigh(float *s, int64_t count, const Attention *a, int64_t head) {
    if (a->softcap > 0)
        for (int64_t j = 0; j < count; j++)
            s[j] = (float)a->softcap * tanhf(s[j] / (float)a->softcap);
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t j = count; j < padded; j++) s[j] = -INFINITY;
    vec highest = (vec){0} - INFINITY;
    for (int64_t j = 0; j < padded; j += LANES) {
        const vec part = load(s, j, LANES, FP32);
        highest = pick(part > highest, part, highest);
    }
    float most = a->sinks ? a->sinks[head] : -INFINITY;
    for (int i = 0; i < LANES; i++) most = highest[i] > most ? highest[i] : most;
    vec sum = {0};
    for (int64_t j = 0; j < padded; j += LANES) {
        vec e = exp_of(load(s, j, LANES, FP32) - most);
        store(s, j, LANES, FP32, e);
        sum = sum + e;
    }
    float whole = total(sum);
    if (a->sinks) whole += exp_of((vec){0} + (a->sinks[head] - most))[0];
    return whole;
}

/* `count` nodes from `node` on, of one query head. */
INLINE void some(const Attention *a, int64_t head, int64_t node, const int count, const int whole,
                 const int dtype, float *scratch) {
    const Lists *lists = &a->lists;
    const int64_t size = size_of(dtype), out_size = size_of(a->out_dtype);
    const int64_t kv = head / (a->heads / a->kv_heads), prefix = lists->prefix;
    const int64_t table = (lists->tables == 1 ? 0 : kv) * lists->nodes;
    const int64_t stride = scores_room(prefix + lists->longest);
    const int chunks = chunks_of(a->width), value_chunks = chunks_of(a->value_width);
    vec q[SHARED * CHUNKS], out[SHARED * CHUNKS];
    float *scores[SHARED], sums[SHARED];
    HeadRows keys = {row_of(&a->key, kv, 0, size), 0, a->key.row * size, prefix}, tails[SHARED];
    for (int b = 0; b < count; b++) {
        scores[b] = scratch + b * stride;
        const char *row = row_of(&a->query, head, node + b, size_of(a->query_dtype));
        for (int c = 0; c < chunks; c++)
            q[b * CHUNKS + c] = load(row, c * LANES, lanes_of(a->width, c, whole), a->query_dtype);
        for (int c = 0; c < value_chunks; c++) out[b * CHUNKS + c] = (vec){0};
        const int64_t entry = table + node + b;
        tails[b] = (HeadRows){keys.first, lists->tails + entry * lists->longest, keys.stride, lists->lengths[entry]};
    }
    score(&keys, q, count, a->width, whole, dtype, (float)a->scale, scores);
    for (int b = 0; b < count; b++) {
        float *rest = scores[b] + prefix;
        score(tails + b, q + b * CHUNKS, 1, a->width, whole, dtype, (float)a->scale, &rest);
        sums[b] = weigh(scores[b], prefix + tails[b].count, a, head);
    }
    const char *values = row_of(&a->value, kv, 0, size);
    const HeadRows all = {values, 0, a->value.row * size, prefix};
    gather(&all, scores, count, a->value_width, whole, dtype, out);
    for (int b = 0; b < count; b++) {
        const HeadRows own = {values, tails[b].at, a->value.row * size, tails[b].count};
        float *rest = scores[b] + prefix;
        gather(&own, &rest, 1, a->value_width, whole, dtype, out + b * CHUNKS);
        char *row = (char *)a->out + ((node + b) * a->out_row + head * a->value_width) * out_size;
        const float share = sums[b] > 0 ? 1.0f / sums[b] : 0.0f;
        for (int c = 0; c < value_chunks; c++)
            store(row, c * LANES, lanes_of(a->value_width, c, whole), a->out_dtype,
                  out[b * CHUNKS + c] * share);
    }
}

INLINE void group(const Attention *a, int64_t head, int64_t node, int64_t count, const int whole,
                  const int dtype, float *scratch) {
    if (count == SHARED) {
        some(a, head, node, SHARED, whole, dtype, scratch);
        return;
    }
    for (int64_t b = 0; b < count; b++) some(a, head, node + b, 1, whole, dtype, scratch);
}

/* Widths of whole registers have code of their own; the arithmetic is the same. */
void attention_task(const Attention *a, int64_t task, float *scratch) {
    const int64_t groups = (a->nodes + SHARED - 1) / SHARED, head = task / groups;
    const int64_t node = task % groups * SHARED, left = a->nodes - node;
    const int64_t count = left < SHARED ? left : SHARED;
    if (a->width % LANES || a->value_width % LANES) {
        if (a->dtype == FP32) group(a, head, node, count, 0, FP32, scratch);
        else group(a, head, node, count, 0, BF16, scratch);
    } else if (a->dtype == FP32) group(a, head, node, count, 1, FP32, scratch);
    else group(a, head, node, count, 1, BF16, scratch);
}

static int visible_to_all(const Visible *visible, int64_t row) {
    for (int64_t t = 0; t < visible->tables * visible->nodes; t++)
        if (!visible->mask[t * visible->rows + row]) return 0;
    return 1;
}

Lists make_lists(const Visible *visible, int32_t *room) {
    const int64_t tasks = visible->tables * visible->nodes;
    int64_t first = 0;
    while (first < visible->rows && visible_to_all(visible, first)) first++; /* extend the prefix */
    const int64_t longest = visible->rows - first;
    Lists lists = {room, room + tasks * longest, visible->tables, visible->nodes, longest,
                   visible->prefix + first};
    for (int64_t t = 0; t < tasks; t++) {
        const uint8_t *mask = visible->mask + t * visible->rows;
        int32_t *tail = lists.tails + t * longest, length = 0;
        for (int64_t j = first; j < visible->rows; j++)
            if (mask[j]) tail[length++] = (int32_t)(visible->prefix + j);
        lists.lengths[t] = length;
    }
    return lists;
}

typedef struct {
    Attention attention;
    float *scores; /* of each thread */
    int64_t room;
} Alone;

static void attend(const void *context, int64_t task, int64_t thread) {
    const Alone *of = context;
    attention_task(&of->attention, task, of->scores + thread * of->room);
}

/* Attention alone, for passes that do not run in C as a whole. Returns 0, or 1 when there is no memory. */
int tree_attention(const Attention *of, const Visible *visible, int64_t threads) {
    Alone alone = {*of, 0, attention_room(visible->prefix + visible->rows)};
    int32_t *room = malloc(lists_room(visible) * sizeof(int32_t));
    alone.scores = malloc(threads * alone.room * sizeof(float));
    if (room && alone.scores) {
        alone.attention.lists = make_lists(visible, room);
        const Phase phase = {attend, &alone, attention_tasks(&alone.attention)};
        run_phases(&phase, 1, threads);
    }
    const int failed = !room || !alone.scores;
    free(alone.scores);
    free(room);
    return failed;
}
