/* A whole pass of a decoder: norms, linears, rotations, attention over the cache, activations.

   One team of threads walks through all layers, and splits each phase by outputs, heads or rows. How
   the work is split, and how many rows go together, changes no bit of a row. Activations are fp32
   whatever the weights are; what a pass writes is its own rows of the cache, and logits. */

#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#include "kernels.h"

enum { NONE = 0, RMS = 1, LAYER = 2 };

INLINE int64_t size_of(int64_t dtype) { return dtype == FP32 ? 4 : 2; }

typedef struct {
    const float *weight, *bias; /* or null */
    double eps;
    int64_t kind, width;
} Norm;

typedef struct {
    Norm before_attention, query_norm, key_norm, after_attention, before_mlp, after_mlp;
    Linear qkv[3], out, up[2], down; /* those that are not there have no outputs */
    int64_t heads, kv_heads, width;
    int64_t interleaved; /* query, key, value head by head, and not all queries first */
    int64_t table, rotated; /* which table rotates, and how many dimensions of a head */
    int64_t parallel;       /* the MLP beside the attention, and not after it */
    int64_t act, gated;
    double scale, softcap;
} Block;

typedef struct {
    int64_t layers, embedded, dtype;
    const Block *blocks;
    Norm norm;
    Linear head;
    double cap; /* of logits; 0: none */
} Decoder;

/* Where one layer's K/V lie: rows [kv_heads, room, width], of which this pass's start at `first`. */
typedef struct {
    char *keys, *values;
    char *queries; /* [nodes, heads, width] to keep, or null */
    int64_t room, first, seen;
} Place;

typedef struct {
    int64_t nodes, keep; /* logits of the last `keep` rows */
    float *x;            /* [nodes, embedded], used up */
    const int64_t *positions;
    const float *const *cos, *const *sin; /* tables [positions, rotated]; half of sin is negated */
    const Place *places;
    const Seen *seen;
    int64_t tables; /* entries of `seen` */
    void *logits;   /* [keep, vocabulary] */
    int64_t threads;
} Pass;

/* What the rows of a pass need on their way. */
typedef struct {
    int64_t qkv_width, up_width;
    char *normed, *also, *attended, *inner; /* inputs of linears, of the weights' dtype */
    float *qkv, *up;
    float *first, *second; /* what attention and MLP returned */
    float *logits;
    float *scores; /* of each thread */
    int64_t score_room;
    Lists *lists;
    int32_t *room; /* of the lists */
} Space;

static float total_of(const float *x, int64_t width, float mean, int squares) {
    v16 sum = {0};
    for (int64_t c = 0; c < width; c += LANES) {
        int n = width - c < LANES ? (int)(width - c) : LANES;
        v16 part = load(x, c, n, FP32);
        if (squares) {
            v16 off = part - mean;
            if (n < LANES)
                for (int i = n; i < LANES; i++) off[i] = 0.0f;
            part = off * off;
        }
        sum = sum + part;
    }
    return total(sum);
}

/* One row, stored as `dtype`. */
static void norm(const Norm *of, const float *x, void *out, int64_t width, const int dtype) {
    float mean = of->kind == LAYER ? total_of(x, width, 0.0f, 0) / (float)width : 0.0f;
    float scale = 1.0f / sqrtf(total_of(x, width, mean, 1) / (float)width + (float)of->eps);
    for (int64_t c = 0; c < width; c += LANES) {
        int n = width - c < LANES ? (int)(width - c) : LANES;
        v16 y = (load(x, c, n, FP32) - mean) * scale;
        if (of->weight) y = y * load(of->weight, c, n, FP32);
        if (of->bias) y = y + load(of->bias, c, n, FP32);
        if (dtype == FP32) store(out, c, n, FP32, y);
        else store(out, c, n, BF16, y);
    }
}

/* x[width], whose dimension i is paired with i + rotated / 2, in place. */
static void rotate(float *x, const float *cos, const float *sin, int64_t rotated) {
    const int64_t half = rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        float left = x[i], right = x[i + half];
        x[i] = left * cos[i] + right * sin[i];
        x[i + half] = right * cos[i + half] + left * sin[i + half];
    }
}

static void put(char *to, const float *x, int64_t width, int64_t dtype) {
    for (int64_t c = 0; c < width; c += LANES) {
        int n = width - c < LANES ? (int)(width - c) : LANES;
        v16 part = load(x, c, n, FP32);
        if (dtype == FP32) store(to, c, n, FP32, part);
        else store(to, c, n, BF16, part);
    }
}

static int64_t blocks_in(const Linear *of, int count) {
    int64_t blocks = 0;
    for (int i = 0; i < count; i++) blocks += blocks_of(of + i);
    return blocks;
}

static int64_t outs_in(const Linear *of, int count) {
    int64_t outs = 0;
    for (int i = 0; i < count; i++) outs += of[i].out;
    return outs;
}

/* One block of several linears whose outputs lie one after the other. */
static void block_among(const Linear *of, int64_t block, const void *x, int64_t rows, float *out,
                        int64_t stride) {
    for (; block >= blocks_of(of); of++) block -= blocks_of(of), out += of->out;
    linear_block(of, x, rows, out, stride, block);
}

/* One block of the MLP's first half: act(gate) * up, or act(up). */
static void act_block(const Block *b, int64_t block, int64_t rows, const Space *s) {
    const int64_t inner = b->up[0].out, first = block * OUTPUTS;
    const int64_t count = inner - first < OUTPUTS ? inner - first : OUTPUTS;
    linear_block(&b->up[0], s->also, rows, s->up, s->up_width, block);
    if (b->gated) linear_block(&b->up[1], s->also, rows, s->up + inner, s->up_width, block);
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = s->up + r * s->up_width + first;
        char *to = s->inner + (r * row_in(inner, b->down.dtype) + first) * size_of(b->down.dtype);
        activate(gate, b->gated ? gate + inner : 0, to, count, b->act, FP32, b->down.dtype);
    }
}

/* Where a head's part of a row of qkv starts: part 0 query, 1 key, 2 value. */
static float *part_of(const Block *b, float *row, int part, int64_t head) {
    if (b->interleaved) return row + (3 * head + part) * b->width;
    return row + (part * b->heads + (part == 2 ? b->kv_heads - b->heads : 0) + head) * b->width;
}

/* Norm and rotate one row's heads; write its keys and values into the cache. */
static void place(const Decoder *d, const Block *b, const Pass *p, const Place *at, float *row,
                  int64_t node) {
    const int64_t bytes = b->width * size_of(d->dtype);
    const int64_t offset = p->positions[node] * b->rotated;
    const float *cos = b->rotated ? p->cos[b->table] + offset : 0;
    const float *sin = b->rotated ? p->sin[b->table] + offset : 0;
    for (int64_t h = 0; h < b->heads; h++) {
        float *query = part_of(b, row, 0, h);
        if (b->query_norm.kind) norm(&b->query_norm, query, query, b->width, FP32);
        if (b->rotated) rotate(query, cos, sin, b->rotated);
        if (at->queries) put(at->queries + (node * b->heads + h) * bytes, query, b->width, d->dtype);
    }
    for (int64_t h = 0; h < b->kv_heads; h++) {
        float *key = part_of(b, row, 1, h), *value = part_of(b, row, 2, h);
        if (b->key_norm.kind) norm(&b->key_norm, key, key, b->width, FP32);
        if (b->rotated) rotate(key, cos, sin, b->rotated);
        int64_t to = (h * at->room + at->first + node) * bytes;
        put(at->keys + to, key, b->width, d->dtype);
        put(at->values + to, value, b->width, d->dtype);
    }
}

static Attention attention_of(const Decoder *d, const Block *b, const Place *at, const Space *s,
                              int64_t nodes) {
    const int64_t head = b->interleaved ? 3 * b->width : b->width, rows = at->room * b->width;
    return (Attention){
        .query = {s->qkv, head, s->qkv_width},
        .key = {at->keys, rows, b->width},
        .value = {at->values, rows, b->width},
        .out = s->attended,
        .out_row = row_in(b->out.in, d->dtype),
        .query_dtype = FP32,
        .dtype = d->dtype,
        .out_dtype = d->dtype,
        .nodes = nodes,
        .heads = b->heads,
        .kv_heads = b->kv_heads,
        .width = b->width,
        .value_width = b->width,
        .lists = s->lists[at->seen],
        .scale = b->scale,
        .softcap = b->softcap,
    };
}

/* x + what a branch returned, normed where the block says so; `branch` is used up. */
static void add(const Norm *after, float *x, float *branch, int64_t width) {
    if (after->kind) norm(after, branch, branch, width, FP32);
    for (int64_t c = 0; c < width; c++) x[c] += branch[c];
}

#define ROWS_OF(row) _Pragma("omp for schedule(static)") for (int64_t row = 0; row < nodes; row++)
#define TASKS_OF(task, count) \
    _Pragma("omp for schedule(static)") for (int64_t task = 0; task < (count); task++)

/* The layer's phases; every thread of the team calls it. What the layer before left in `first` and
   `second` is still to be added. */
static void layer(const Decoder *d, const Block *b, const Block *before, const Pass *p,
                  const Place *at, const Space *s, float *scores) {
    const int64_t nodes = p->nodes, width = d->embedded, dtype = d->dtype;
    const int64_t row = row_in(width, dtype) * size_of(dtype), up = blocks_of(&b->up[0]);
    const int64_t out = blocks_of(&b->out), qkv = blocks_in(b->qkv, 3), beside = b->parallel ? up : 0;
    ROWS_OF(r) {
        float *x = p->x + r * width;
        if (before && before->parallel) add(&before->after_attention, x, s->first + r * width, width);
        if (before) add(&before->after_mlp, x, s->second + r * width, width);
        norm(&b->before_attention, x, s->normed + r * row, width, dtype);
        if (b->parallel) norm(&b->before_mlp, x, s->also + r * row, width, dtype);
    }
    TASKS_OF(t, qkv + beside) {
        if (t < qkv) block_among(b->qkv, t, s->normed, nodes, s->qkv, s->qkv_width);
        else act_block(b, t - qkv, nodes, s);
    }
    ROWS_OF(r) place(d, b, p, at, s->qkv + r * s->qkv_width, r);
    Attention attention = attention_of(d, b, at, s, nodes);
    TASKS_OF(t, attention_tasks(&attention)) attention_task(&attention, t, scores);
    if (b->parallel) {
        TASKS_OF(t, out + blocks_of(&b->down)) {
            if (t < out) linear_block(&b->out, s->attended, nodes, s->first, width, t);
            else linear_block(&b->down, s->inner, nodes, s->second, width, t - out);
        }
        return;
    }
    TASKS_OF(t, out) linear_block(&b->out, s->attended, nodes, s->first, width, t);
    ROWS_OF(r) {
        float *x = p->x + r * width;
        add(&b->after_attention, x, s->first + r * width, width);
        norm(&b->before_mlp, x, s->also + r * row, width, dtype);
    }
    TASKS_OF(t, up) act_block(b, t, nodes, s);
    TASKS_OF(t, blocks_of(&b->down)) linear_block(&b->down, s->inner, nodes, s->second, width, t);
}

/* What the last layer returned, then the last norm and the head, for the rows that are asked for. */
static void finish(const Decoder *d, const Pass *p, const Space *s) {
    const int64_t width = d->embedded, nodes = p->keep, skipped = p->nodes - p->keep;
    const int64_t vocabulary = d->head.out, row = row_in(width, d->dtype) * size_of(d->dtype);
    const Block *last = d->blocks + d->layers - 1;
    float *logits = d->dtype == FP32 ? p->logits : s->logits;
    ROWS_OF(r) {
        const int64_t from = (r + skipped) * width;
        if (last->parallel) add(&last->after_attention, p->x + from, s->first + from, width);
        add(&last->after_mlp, p->x + from, s->second + from, width);
        norm(&d->norm, p->x + from, s->normed + r * row, width, d->dtype);
    }
    TASKS_OF(t, blocks_of(&d->head)) {
        linear_block(&d->head, s->normed, nodes, logits, vocabulary, t);
        const int64_t first = t * OUTPUTS, end = first + OUTPUTS;
        const int64_t count = (end < vocabulary ? end : vocabulary) - first;
        for (int64_t r = 0; r < nodes; r++) {
            float *of = logits + r * vocabulary + first;
            if (d->cap > 0)
                for (int64_t c = 0; c < count; c++)
                    of[c] = (float)d->cap * tanhf(of[c] / (float)d->cap);
            if (d->dtype != FP32)
                put((char *)p->logits + (r * vocabulary + first) * 2, of, count, d->dtype);
        }
    }
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Space for a pass, cut from one buffer, which the caller frees; null when there is no memory. */
static void *spaced(const Decoder *d, const Pass *p, Space *s) {
    int64_t qkv = 0, up = 0, inner = 0, attended = 0, longest = 0, lists = 0, nodes = p->nodes;
    const int64_t size = size_of(d->dtype), width = row_in(d->embedded, d->dtype);
    for (const Block *b = d->blocks; b < d->blocks + d->layers; b++) {
        qkv = most(qkv, outs_in(b->qkv, 3));
        up = most(up, outs_in(b->up, 2));
        inner = most(inner, row_in(b->down.in, d->dtype));
        attended = most(attended, row_in(b->out.in, d->dtype));
    }
    for (int64_t t = 0; t < p->tables; t++) {
        lists += lists_room(p->seen + t);
        longest = most(longest, p->seen[t].prefix + p->seen[t].rows);
    }
    s->score_room = attention_room(longest);
    const struct {
        void *part;
        size_t bytes;
    } cuts[] = {
        {&s->normed, nodes * width * size}, /* these four first: rows of linears */
        {&s->also, nodes * width * size},
        {&s->attended, nodes * attended * size},
        {&s->inner, nodes * inner * size},
        {&s->qkv, nodes * qkv * sizeof(float)},
        {&s->up, nodes * up * sizeof(float)},
        {&s->first, nodes * d->embedded * sizeof(float)},
        {&s->second, nodes * d->embedded * sizeof(float)},
        {&s->logits, d->dtype == FP32 ? 0 : p->keep * d->head.out * sizeof(float)},
        {&s->scores, p->threads * s->score_room * sizeof(float)},
        {&s->lists, p->tables * sizeof(Lists)},
        {&s->room, lists * sizeof(int32_t)},
    };
    const int count = sizeof(cuts) / sizeof(*cuts);
    size_t bytes = 64;
    for (int i = 0; i < count; i++) bytes += (cuts[i].bytes + 127) / 64 * 64;
    char *held = malloc(bytes), *at = held;
    if (!held) return 0;
    at += (64 - (size_t)at % 64) % 64;
    for (int i = 0; i < count; i++) {
        memcpy(cuts[i].part, &at, sizeof at);
        at += (cuts[i].bytes + 127) / 64 * 64;
    }
    if (d->dtype != FP32) memset(s->normed, 0, (char *)s->qkv - s->normed); /* what pads rows */
    s->qkv_width = qkv;
    s->up_width = up;
    int32_t *room = s->room;
    for (int64_t t = 0; t < p->tables; t++) {
        s->lists[t] = listed(p->seen + t, room);
        room += lists_room(p->seen + t);
    }
    return held;
}

/* Logits of a pass over the cache, whose new rows it writes: 0, or 1 when there is no memory. */
int decoder_pass(const Decoder *d, const Pass *p) {
    Space space;
    void *held = spaced(d, p, &space);
    if (!held) return 1;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *scores = space.scores + space.score_room * THREAD;
        for (int64_t i = 0; i < d->layers; i++)
            layer(d, d->blocks + i, i ? d->blocks + i - 1 : 0, p, p->places + i, &space, scores);
        finish(d, p, &space);
    }
    free(held);
    return 0;
}

/* One linear map by itself: x[rows, in] to out[rows, out], both of the weight's dtype. */
int linear(const Linear *of, const void *x, int64_t rows, void *out, int64_t threads) {
    const int64_t in = of->in, outs = of->out, row = row_in(in, of->dtype);
    const int narrow = of->dtype != FP32;
    const void *from = x;
    float *to = out;
    char *held = 0;
    if (narrow) {
        held = malloc(rows * (row * 2 + outs * sizeof(float)) + 1);
        if (!held) return 1;
        to = (float *)held;
        if (row > in) {
            char *padded = held + rows * outs * sizeof(float);
            memset(padded, 0, rows * row * 2);
            for (int64_t r = 0; r < rows; r++)
                memcpy(padded + r * row * 2, (const char *)x + r * in * 2, in * 2);
            from = padded;
        }
    }
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        TASKS_OF(t, blocks_of(of)) linear_block(of, from, rows, to, outs, t);
        if (narrow) {
            _Pragma("omp for schedule(static)") for (int64_t r = 0; r < rows; r++)
                put((char *)out + r * outs * 2, to + r * outs, outs, of->dtype);
        }
    }
    free(held);
    return 0;
}
