/* Checks the kernels by themselves, for CPUs that no Python of this machine runs on: products, attention,
   whole passes and tokens against plain loops, and that a row's bits are its own. Prints what is wrong. */

#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"

int tree_attention(const Attention *of, const Visible *visible, int64_t threads);
int linear(const Linear *of, const void *x, int64_t rows, void *out, int64_t threads);
void gated(const void *gate, const void *up, void *out, int64_t count, int64_t width, int64_t stride,
           int64_t threads, int64_t act, int64_t dtype);
void gumbel_noise(const uint64_t *keys, int64_t positions, int64_t count, float *out);
int64_t draw_token(const void *logits, int64_t dtype, const float *noise, double scale, int64_t count);
void top_tokens(const void *logits, int64_t dtype, int64_t rows, int64_t stride, int64_t count, int64_t k,
                const float *noise, int64_t noise_stride, double scale, int32_t *out, int64_t threads);

static uint32_t state = 1;
static int wrong;

static float draw(void) { /* in [-1, 1) */
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1.0f;
}

static uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static float widened(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

static void put(void *to, int64_t i, float x, int dtype) {
    if (dtype == FP32) ((float *)to)[i] = x;
    else ((uint16_t *)to)[i] = narrow(x);
}

static float get(const void *from, int64_t i, int dtype) {
    return dtype == FP32 ? ((const float *)from)[i] : widened(((const uint16_t *)from)[i]);
}

static void *drawn(int64_t count, int dtype) {
    void *out = calloc(count + 64, 4);
    for (int64_t i = 0; i < count; i++) put(out, i, draw(), dtype);
    return out;
}

static void require(int right, const char *what, int64_t a, int64_t b, int64_t c) {
    if (right) return;
    wrong++;
    printf("%s: %ld %ld %ld\n", what, (long)a, (long)b, (long)c);
}

static void near(double got, double expected, double tolerance, const char *what, int64_t a, int64_t b) {
    require(fabs(got - expected) <= tolerance * (1 + fabs(expected)), what, a, b, 0);
}

static void check_linear(int64_t in, int64_t out, int64_t rows, int dtype, int64_t threads) {
    const int64_t padded = dtype == FP32 ? in : (in + 31) / 32 * 32, blocks = (out + 31) / 32;
    void *weight = drawn(in * out, dtype), *x = drawn(rows * in, dtype), *bias = drawn(out, FP32);
    char *laid = aligned_alloc(64, blocks * padded * 32 * 4);
    memset(laid, 0, blocks * padded * 32 * 4);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            const int64_t block = o / 32 * padded * 32, at = dtype == FP32 ? i * 32 + o % 32 : (i / 2 * 32 + o % 32) * 2 + i % 2;
            put(laid, block + at, get(weight, o * in + i, dtype), dtype);
        }
    const Linear of = {laid, bias, in, out, dtype};
    void *whole = calloc(rows * out, 4), *alone = calloc(out, 4);
    linear(&of, x, rows, whole, threads);
    for (int64_t r = 0; r < rows; r++) {
        linear(&of, (char *)x + r * in * size_of(dtype), 1, alone, 1);
        require(!memcmp(alone, (char *)whole + r * out * size_of(dtype), out * size_of(dtype)),
                "a linear's row is another among others", in, out, r);
        for (int64_t o = 0; o < out; o++) {
            double sum = get(bias, o, FP32);
            for (int64_t i = 0; i < in; i++) sum += (double)get(x, r * in + i, dtype) * get(weight, o * in + i, dtype);
            near(get(whole, r * out + o, dtype), sum, dtype == FP32 ? 1e-4 : 2e-2, "a product is wrong", r, o);
        }
    }
    free(weight), free(x), free(bias), free(laid), free(whole), free(alone);
}

static void check_attention(int64_t width, int64_t prefix, int64_t nodes, int dtype, int64_t threads) {
    const int64_t heads = 4, kv_heads = 2, rows = prefix + nodes + 3, size = size_of(dtype);
    void *q = drawn(heads * nodes * width, dtype), *k = drawn(kv_heads * rows * width, dtype);
    void *v = drawn(kv_heads * rows * width, dtype), *out = calloc(nodes * heads * width, 4);
    void *one = calloc(heads * width, 4);
    uint8_t *mask = malloc(nodes * nodes);
    for (int64_t i = 0; i < nodes * nodes; i++) mask[i] = i % nodes == i / nodes || draw() > 0.3f;
    Attention a = {
        .query = {q, nodes * width, width}, .key = {k, rows * width, width}, .value = {v, rows * width, width},
        .out = out, .out_row = heads * width, .query_dtype = dtype, .dtype = dtype, .out_dtype = dtype,
        .nodes = nodes, .heads = heads, .kv_heads = kv_heads, .width = width, .value_width = width, .scale = 0.5,
    };
    const Visible visible = {mask, 1, nodes, nodes, prefix};
    tree_attention(&a, &visible, threads);
    for (int64_t n = 0; n < nodes; n++) {
        Attention alone = a;
        alone.query.data = (char *)q + n * width * size, alone.out = one, alone.nodes = 1;
        const Visible own = {mask + n * nodes, 1, 1, nodes, prefix};
        tree_attention(&alone, &own, 1);
        require(!memcmp(one, (char *)out + n * heads * width * size, heads * width * size),
                "a node's attention is another among others", width, prefix, n);
        for (int64_t h = 0; h < heads; h++) {
            const int64_t kv = h / 2 * rows;
            double weights[2048], sum = 0;
            for (int64_t j = 0; j < prefix + nodes; j++) {
                double score = 0;
                for (int64_t c = 0; c < width; c++)
                    score += (double)get(q, (h * nodes + n) * width + c, dtype) * get(k, (kv + j) * width + c, dtype);
                weights[j] = j < prefix || mask[n * nodes + j - prefix] ? exp(0.5 * score) : 0;
                sum += weights[j];
            }
            for (int64_t c = 0; c < width; c++) {
                double value = 0;
                for (int64_t j = 0; j < prefix + nodes; j++) value += weights[j] / sum * get(v, (kv + j) * width + c, dtype);
                near(get(out, (n * heads + h) * width + c, dtype), value, dtype == FP32 ? 1e-4 : 2e-2,
                     "attention is wrong", n, h);
            }
        }
    }
    free(q), free(k), free(v), free(out), free(one), free(mask);
}

static void check_gates(int64_t width, int dtype) {
    void *gate = drawn(width, dtype), *up = drawn(width, dtype), *out = calloc(width, 4);
    gated(gate, up, out, 1, width, width, 1, SILU, dtype);
    for (int64_t i = 0; i < width; i++) {
        const double x = get(gate, i, dtype);
        near(get(out, i, dtype), x / (1 + exp(-x)) * get(up, i, dtype), dtype == FP32 ? 1e-5 : 2e-2, "a gate is wrong", i, width);
    }
    free(gate), free(up), free(out);
}

static void check_noise(int64_t count) {
    const uint64_t keys[] = {7, 1ull << 63};
    float *out = malloc(2 * count * sizeof *out);
    gumbel_noise(keys, 2, count, out);
    for (int64_t i = 0; i < 2 * count; i++) {
        uint64_t z = (keys[i / count] + i % count) * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        near(out[i], -log(-log(((z ^ (z >> 31)) >> 12) * 0x1p-52 + 0x1p-53)), 1e-6, "noise is wrong", i, count);
    }
    free(out);
}

static void check_tokens(int64_t count, int64_t k, int dtype, int64_t threads) {
    const int64_t rows = 3, stride = count + 1;
    void *logits = drawn(rows * stride, dtype);
    float *noise = drawn(rows * count, FP32), *noisy = malloc(count * sizeof *noisy);
    int32_t *out = malloc(rows * (2 * k + 1) * sizeof *out);
    top_tokens(logits, dtype, rows, stride, count, k, noise, count, 0.5, out, threads);
    for (int64_t r = 0; r < rows; r++) {
        int64_t likeliest = 0;
        double sum = 0;
        for (int64_t i = 0; i < count; i++) {
            noisy[i] = get(logits, r * stride + i, dtype) + 0.5f * noise[r * count + i];
            if (noisy[i] > noisy[likeliest]) likeliest = i;
            sum += exp(noisy[i]);
        }
        int32_t *row = out + r * (2 * k + 1);
        float values[33];
        memcpy(values, row, k * sizeof *values), memcpy(values + k, row + 2 * k, sizeof *values);
        near(values[k], log(sum), 1e-5, "a normaliser is wrong", count, k);
        for (int64_t i = 0; i < k; i++) {
            int64_t greater = 0;
            for (int64_t j = 0; j < count; j++) greater += noisy[j] > noisy[row[k + i]];
            require(greater == i && values[i] == noisy[row[k + i]], "a likely token is wrong", count, k, i);
        }
        const char *first = (char *)logits + r * stride * size_of(dtype);
        require(draw_token(first, dtype, noise + r * count, 0.5, count) == likeliest, "a draw is wrong", count, r, dtype);
    }
    free(logits), free(noise), free(noisy), free(out);
}

int main(void) {
    const int64_t sizes[] = {1, 7, 33, 64, 300}, rows[] = {1, 2, 3, 4, 5, 6, 7, 12, 13, 30};
    for (int dtype = FP32; dtype <= BF16; dtype++) {
        for (int i = 0; i < 5; i++)
            for (int o = 0; o < 4; o++)
                for (int r = 0; r < 10; r++) check_linear(sizes[i], sizes[o], rows[r], dtype, 1 + r % 3);
        for (int prefix = 0; prefix < 40; prefix += 3)
            for (int nodes = 1; nodes < 10; nodes += 2) check_attention(nodes % 4 == 1 ? 32 : 20, prefix, nodes, dtype, 1 + nodes % 3);
        for (int width = 1; width < 40; width++) check_gates(width, dtype);
        for (int64_t count = 1; count < 100; count += 3)
            for (int64_t k = 1; k <= 32 && k <= count; k *= 2) check_tokens(count, k, dtype, 1 + count % 3);
    }
    for (int64_t count = 1; count < 70; count++) check_noise(count);
    printf(wrong ? "%d wrong\n" : "all right\n", wrong);
    return wrong > 0;
}
