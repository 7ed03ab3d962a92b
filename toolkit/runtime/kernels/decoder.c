/* A whole pass of a decoder: norms, linears, rotations, attention over the cache, activations.

   A layer is a few phases. Each is split by outputs, heads or rows among a team of threads. A row's bits
   depend neither on the split nor on the other rows. Activations are fp32 for weights of any dtype. A
   pass writes its own rows of the cache, and logits. */

#include <stdlib.h>

#include "kernels.h"

enum { NONE = 0, RMS = 1, LAYER = 2 };

typedef struct {
    const float *weight, *bias; /* or null */
    double eps;
    int64_t kind, width;
} Norm;

typedef struct {
    Norm before_attention, query_norm, key_norm, after_attention, before_mlp, after_mlp;
    Linear qkv[3], out, up[2], down; /* those that do not exist have no outputs */
    int64_t heads, kv_heads, width;
    int64_t interleaved; /* query, key and value of each head together, instead of all queries first */
    int64_t table, rotated; /* which cos/sin tables rotate, and how many dimensions of a head */
    int64_t parallel;       /* the MLP reads what attention reads */
    int64_t act, gated;
    double scale, softcap;
} Layer;

typedef struct {
    int64_t layers, embedded, dtype;
    const char *embedding; /* [vocabulary, embedded]; or null, and passes bring x */
    const Layer *each;
    Norm norm;
    Linear head;
    double softcap; /* of logits; 0: none */
} Decoder;

/* One layer's K/V: rows [kv_heads, room, width]; this pass writes rows from `first` on. */
typedef struct {
    char *keys, *values;
    char *queries; /* written: [nodes, heads, width]; or null */
    int64_t room, first, visible;
} LayerCache;

typedef struct {
    int64_t nodes, keep; /* logits of the last `keep` rows */
    const int64_t *tokens;
    float *x; /* [nodes, embedded], overwritten; or null for the rows of `embedding` */
    const int64_t *positions;
    const float *const *cos, *const *sin; /* tables [positions, rotated]; half of sin is negated */
    const LayerCache *caches;
    const Visible *visible;
    int64_t tables; /* entries of `visible` */
    void *logits;   /* [keep, vocabulary] */
    int64_t threads;
} PassCall;

typedef struct LayerPass LayerPass;

/* The intermediate values of a pass. */
typedef struct {
    int64_t qkv_width, up_width;
    int64_t dtype;                          /* of the inputs of linears: */
    char *normed, *also, *attended, *inner;
    float *x, *qkv, *up;
    float *first, *second; /* outputs of attention and MLP */
    float *logits;
    float *scores; /* of each thread */
    int64_t score_room;
    Lists *lists;
    int32_t *room; /* of the lists */
    LayerPass *layers; /* one more than there are layers, for the head */
    Phase *phases;
} Space;

/* One layer of a pass: the context of its phases. */
struct LayerPass {
    const Decoder *d;
    const PassCall *p;
    const Space *s;
    const Layer *b, *before; /* this layer, and the layer before or null */
    const LayerCache *cache;
    Attention attention;
};

static float total_of(const float *x, int64_t width, float mean, int squares) {
    vec sum = {0};
    for (int64_t c = 0; c < width; c += LANES) {
        int n = width - c < LANES ? (int)(width - c) : LANES;
        vec part = load(x, c, n, FP32);
        if (squares) {
            vec off = part - mean;
            if (n < LANES)
                for (int i = n; i < LANES; i++) off[i] = 0.0f;
            part = off * off;
        }
        sum = sum + part;
    }
    return total(sum);
}

/* Norm one row of x into `out`, as `dtype`. */
static void norm(const Norm *of, const float *x, void *out, int64_t width, const int dtype) {
    float mean = of->kind == LAYER ? total_of(x, width, 0.0f, 0) / (float)width : 0.0f;
    float scale = 1.0f / sqrtf(total_of(x, width, mean, 1) / (float)width + (float)of->eps);
    for (int64_t c = 0; c < width; c += LANES) {
        int n = width - c < LANES ? (int)(width - c) : LANES;
        vec y = (load(x, c, n, FP32) - mean) * scale;
        if (of->weight) y = y * load(of->weight, c, n, FP32);
        if (of->bias) y = y + load(of->bias, c, n, FP32);
        if (dtype == FP32) store(out, c, n, FP32, y);
        else store(out, c, n, BF16, y);
    }
}

/* Rotate x in place: dimension i is paired with i + rotated / 2. */
static void rotate(float *x, const float *cos, const float *sin, int64_t rotated) {
    const int64_t half = rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        float left = x[i], right = x[i + half];
        x[i] = left * cos[i] + right * sin[i];
        x[i + half] = right * cos[i + half] + left * sin[i + half];
    }
}

static void copy(void *to, const void *x, int64_t width, int64_t dtype, int64_t from) {
    for (int64_t c = 0; c < width; c += LANES) {
        int n = width - c < LANES ? (int)(width - c) : LANES;
        store(to, c, n, dtype, load(x, c, n, from));
    }
}

static void put(char *to, const float *x, int64_t width, int64_t dtype) {
    if (dtype == FP32) copy(to, x, width, FP32, FP32);
    else copy(to, x, width, BF16, FP32);
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

/* One block of outputs of several linears, whose outputs are concatenated. */
static void block_among(const Linear *of, int64_t block, const void *x, int64_t rows, float *out,
                        int64_t stride) {
    for (; block >= blocks_of(of); of++) block -= blocks_of(of), out += of->out;
    linear_block(of, x, rows, out, stride, block);
}

/* One block of outputs of the MLP's first half: act(gate) * up, or act(up). */
static void act_block(const Layer *b, int64_t block, int64_t rows, const Space *s) {
    const int64_t inner = b->up[0].out, first = block * OUTPUTS;
    const int64_t count = inner - first < OUTPUTS ? inner - first : OUTPUTS;
    linear_block(&b->up[0], s->also, rows, s->up, s->up_width, block);
    if (b->gated) linear_block(&b->up[1], s->also, rows, s->up + inner, s->up_width, block);
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = s->up + r * s->up_width + first;
        char *to = s->inner + (r * row_in(inner, b->down.dtype) + first) * size_of(s->dtype);
        activate(gate, b->gated ? gate + inner : 0, to, count, b->act, FP32, s->dtype);
    }
}

/* The start of a head in a row of qkv; part 0 is its query, 1 its key, 2 its value. */
static float *part_of(const Layer *b, float *row, int part, int64_t head) {
    if (b->interleaved) return row + (3 * head + part) * b->width;
    return row + (part * b->heads + (part == 2 ? b->kv_heads - b->heads : 0) + head) * b->width;
}

/* Norm and rotate the heads of one row, and write its keys and values into the cache. */
static void write_row(const Decoder *d, const Layer *b, const PassCall *p, const LayerCache *at, float *row,
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

static Attention attention_of(const Decoder *d, const Layer *b, const LayerCache *at, const Space *s,
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
        .out_dtype = s->dtype,
        .nodes = nodes,
        .heads = b->heads,
        .kv_heads = b->kv_heads,
        .width = b->width,
        .value_width = b->width,
        .lists = s->lists[at->visible],
        .scale = b->scale,
        .softcap = b->softcap,
    };
}

/* x += norm(branch), or x += branch where the layer has no norm there; `branch` is overwritten. */
static void add(const Norm *after, float *x, float *branch, int64_t width) {
    if (after->kind) norm(after, branch, branch, width, FP32);
    for (int64_t c = 0; c < width; c++) x[c] += branch[c];
}

/* The phases of a layer; each function does one task of a phase. The number of a task is that of a row,
   or of a block of a linear's outputs. */

#define PHASE(name) static void name(const void *context, int64_t task, int64_t thread)
#define OF_LAYER                                           \
    const LayerPass *l = context;                              \
    const Decoder *d = l->d;                               \
    const Layer *b = l->b;                                 \
    const Space *s = l->s;                                 \
    const int64_t nodes = l->p->nodes, width = d->embedded; \
    (void)thread, (void)b, (void)nodes, (void)width

/* Add the outputs of the layer before, which are in `first` and `second`; norm the inputs of this one. */
PHASE(enter) {
    OF_LAYER;
    const Layer *before = l->before;
    const int64_t row = row_in(width, d->dtype) * size_of(s->dtype);
    float *x = s->x + task * width;
    if (!before && !l->p->x)
        copy(x, d->embedding + l->p->tokens[task] * width * size_of(d->dtype), width, FP32, d->dtype);
    if (before && before->parallel) add(&before->after_attention, x, s->first + task * width, width);
    if (before) add(&before->after_mlp, x, s->second + task * width, width);
    norm(&b->before_attention, x, s->normed + task * row, width, s->dtype);
    if (b->parallel) norm(&b->before_mlp, x, s->also + task * row, width, s->dtype);
}

PHASE(project) {
    OF_LAYER;
    const int64_t qkv = blocks_in(b->qkv, 3);
    if (task < qkv) block_among(b->qkv, task, s->normed, nodes, s->qkv, s->qkv_width);
    else act_block(b, task - qkv, nodes, s);
}

PHASE(cache_row) {
    OF_LAYER;
    write_row(d, b, l->p, l->cache, s->qkv + task * s->qkv_width, task);
}

PHASE(attend) {
    OF_LAYER;
    attention_task(&l->attention, task, s->scores + s->score_room * thread);
}

/* The linear after attention, and in a parallel layer the MLP's last one. */
PHASE(leave) {
    OF_LAYER;
    const int64_t out = blocks_of(&b->out);
    if (task < out) linear_block(&b->out, s->attended, nodes, s->first, width, task);
    else linear_block(&b->down, s->inner, nodes, s->second, width, task - out);
}

PHASE(enter_mlp) {
    OF_LAYER;
    const int64_t row = row_in(width, d->dtype) * size_of(s->dtype);
    float *x = s->x + task * width;
    add(&b->after_attention, x, s->first + task * width, width);
    norm(&b->before_mlp, x, s->also + task * row, width, s->dtype);
}

PHASE(act) {
    OF_LAYER;
    act_block(b, task, nodes, s);
}

PHASE(leave_mlp) {
    OF_LAYER;
    linear_block(&b->down, s->inner, nodes, s->second, width, task);
}

/* Add the last layer's outputs and norm, for the rows whose logits are wanted. */
PHASE(enter_head) {
    OF_LAYER;
    const Layer *last = l->before;
    const int64_t row = row_in(width, d->dtype) * size_of(s->dtype);
    const int64_t from = (task + nodes - l->p->keep) * width;
    float *x = s->x + from;
    if (last->parallel) add(&last->after_attention, x, s->first + from, width);
    add(&last->after_mlp, x, s->second + from, width);
    norm(&d->norm, x, s->normed + task * row, width, s->dtype);
}

PHASE(head) {
    OF_LAYER;
    const PassCall *p = l->p;
    const int64_t vocabulary = d->head.out, first = task * OUTPUTS, end = first + OUTPUTS;
    const int64_t count = (end < vocabulary ? end : vocabulary) - first;
    float *logits = d->dtype == FP32 ? p->logits : s->logits;
    linear_block(&d->head, s->normed, p->keep, logits, vocabulary, task);
    for (int64_t r = 0; r < p->keep; r++) {
        float *of = logits + r * vocabulary + first;
        if (d->softcap > 0)
            for (int64_t c = 0; c < count; c++) of[c] = (float)d->softcap * tanhf(of[c] / (float)d->softcap);
        if (d->dtype != FP32) put((char *)p->logits + (r * vocabulary + first) * 2, of, count, d->dtype);
    }
}

#define MOST_PHASES 8 /* of a layer */

/* List all phases of a pass in order; returns how many there are. */
static int64_t list_phases(const Decoder *d, const PassCall *p, const Space *s) {
    Phase *next = s->phases;
    for (int64_t i = 0; i <= d->layers; i++) {
        LayerPass *l = s->layers + i;
        const Layer *b = d->each + i;
        *l = (LayerPass){.d = d, .p = p, .s = s, .before = i ? b - 1 : 0};
        if (i == d->layers) break;
        l->b = b;
        l->cache = p->caches + i;
        l->attention = attention_of(d, b, l->cache, s, p->nodes);
        const int64_t up = blocks_of(&b->up[0]), out = blocks_of(&b->out), down = blocks_of(&b->down);
        *next++ = (Phase){enter, l, p->nodes};
        *next++ = (Phase){project, l, blocks_in(b->qkv, 3) + (b->parallel ? up : 0)};
        *next++ = (Phase){cache_row, l, p->nodes};
        *next++ = (Phase){attend, l, attention_tasks(&l->attention)};
        *next++ = (Phase){leave, l, out + (b->parallel ? down : 0)};
        if (b->parallel) continue;
        *next++ = (Phase){enter_mlp, l, p->nodes};
        *next++ = (Phase){act, l, up};
        *next++ = (Phase){leave_mlp, l, down};
    }
    *next++ = (Phase){enter_head, s->layers + d->layers, p->keep};
    *next++ = (Phase){head, s->layers + d->layers, blocks_of(&d->head)};
    return next - s->phases;
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Set up the space of a pass in one buffer, which the caller frees; null when there is no memory. */
static void *allocate(const Decoder *d, const PassCall *p, Space *s) {
    int64_t qkv = 0, up = 0, inner = 0, attended = 0, longest = 0, lists = 0, nodes = p->nodes;
    const int64_t width = row_in(d->embedded, d->dtype), size = size_of(row_dtype(d->dtype));
    s->dtype = row_dtype(d->dtype);

    for (const Layer *b = d->each; b < d->each + d->layers; b++) {
        qkv = most(qkv, outs_in(b->qkv, 3));
        up = most(up, outs_in(b->up, 2));
        inner = most(inner, row_in(b->down.in, d->dtype));
        attended = most(attended, row_in(b->out.in, d->dtype));
    }
    for (int64_t t = 0; t < p->tables; t++) {
        lists += lists_room(p->visible + t);
        longest = most(longest, p->visible[t].prefix + p->visible[t].rows);
    }
    s->score_room = attention_room(longest);
    const struct {
        void *part;
        size_t bytes;
    } cuts[] = {
        {&s->normed, nodes * width * size}, /* these four, rows of linears, are zeroed below */
        {&s->also, nodes * width * size},
        {&s->attended, nodes * attended * size},
        {&s->inner, nodes * inner * size},
        {&s->x, p->x ? 0 : nodes * d->embedded * sizeof(float)},
        {&s->qkv, nodes * qkv * sizeof(float)},
        {&s->up, nodes * up * sizeof(float)},
        {&s->first, nodes * d->embedded * sizeof(float)},
        {&s->second, nodes * d->embedded * sizeof(float)},
        {&s->logits, d->dtype == FP32 ? 0 : p->keep * d->head.out * sizeof(float)},
        {&s->scores, p->threads * s->score_room * sizeof(float)},
        {&s->lists, p->tables * sizeof(Lists)},
        {&s->room, lists * sizeof(int32_t)},
        {&s->layers, (d->layers + 1) * sizeof(LayerPass)},
        {&s->phases, (d->layers * MOST_PHASES + 2) * sizeof(Phase)},
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
    if (d->dtype != FP32) memset(s->normed, 0, (char *)s->x - s->normed); /* the padding of rows */
    if (p->x) s->x = p->x;
    s->qkv_width = qkv;
    s->up_width = up;
    int32_t *room = s->room;
    for (int64_t t = 0; t < p->tables; t++) {
        s->lists[t] = make_lists(p->visible + t, room);
        room += lists_room(p->visible + t);
    }
    return held;
}

/* Run a pass: write its logits and its rows of the cache. Returns 0, or 1 when there is no memory. */
int decoder_pass(const Decoder *d, const PassCall *p) {
    Space space;
    void *held = allocate(d, p, &space);
    if (!held) return 1;
    run_phases(space.phases, list_phases(d, p, &space), p->threads);
    free(held);
    return 0;
}

typedef struct {
    const Linear *of;
    const void *x;
    int64_t rows;
    float *sums; /* [rows, out] */
    char *out;
} Single;

PHASE(single_block) {
    const Single *s = context;
    (void)thread;
    linear_block(s->of, s->x, s->rows, s->sums, s->of->out, task);
}

PHASE(single_row) {
    const Single *s = context;
    const int64_t out = s->of->out;
    (void)thread;
    put(s->out + task * out * 2, s->sums + task * out, out, s->of->dtype);
}

/* One linear map: x[rows, in] to out[rows, out], both of the weight's dtype. */
int linear(const Linear *of, const void *x, int64_t rows, void *out, int64_t threads) {
    const int64_t in = row_in(of->in, of->dtype) * size_of(row_dtype(of->dtype));
    Single single = {of, x, rows, out, out};
    char *held = 0;
    if (of->dtype != FP32) {
        held = calloc(rows * (in + of->out * sizeof(float)) + 1, 1);
        if (!held) return 1;
        single.x = held, single.sums = (float *)(held + rows * in);
        for (int64_t r = 0; r < rows; r++)
            copy(held + r * in, (const char *)x + r * of->in * 2, of->in, row_dtype(of->dtype), of->dtype);
    }
    const Phase phases[] = {{single_block, &single, blocks_of(of)}, {single_row, &single, held ? rows : 0}};
    run_phases(phases, 2, threads);
    free(held);
    return 0;
}
