/* Activations: out = act(gate) * up, every element by the same arithmetic wherever it lies.

   Stock kernels finish a row by scalar code that differs in the last place, so that an element's value
   depends on how many rows there are. */

#include "kernels.h"

/* Abramowitz & Stegun 7.1.26: within 1.5e-7. */
INLINE v16 erf16(v16 x) {
    i16 negative = x < 0.0f;
    v16 a = chosen(negative, -x, x);
    v16 t = 1.0f / (a * 0.3275911f + 1.0f);
    v16 p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    v16 y = 1.0f - p * t * exp16(-a * a);
    return chosen(negative, -y, y);
}

INLINE v16 act16(v16 x, const int act) {
    if (act == SILU) return x / (exp16(-x) + 1.0f);
    if (act == GELU) return x * (erf16(x * 0.7071067811865476f) + 1.0f) * 0.5f;
    if (act == RELU) return chosen(x <= 0.0f, (v16){0}, x);
    v16 u = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
    v16 tanh = 1.0f - 2.0f / (exp16(u + u) + 1.0f);
    return x * (tanh + 1.0f) * 0.5f;
}

INLINE void row(const void *gate, const void *up, void *out, int64_t count, const int act,
                const int dtype, const int out_dtype) {
    for (int64_t c = 0; c < count; c += LANES) {
        int n = count - c < LANES ? (int)(count - c) : LANES;
        v16 y = act16(load(gate, c, n, dtype), act);
        store(out, c, n, out_dtype, up ? y * load(up, c, n, dtype) : y);
    }
}

void activate(const void *gate, const void *up, void *out, int64_t count, int64_t act,
              int64_t dtype, int64_t out_dtype) {
#define CASE(A)                                                                     \
    if (act == A) {                                                                 \
        if (dtype == BF16) row(gate, up, out, count, A, BF16, BF16);                \
        else if (out_dtype == BF16) row(gate, up, out, count, A, FP32, BF16);       \
        else row(gate, up, out, count, A, FP32, FP32);                              \
    }
    CASE(SILU) CASE(GELU_TANH) CASE(GELU) CASE(RELU)
}

/* gate and up: [count, width], rows `stride` elements apart; up may be null; out is contiguous. */
void gated(const void *gate, const void *up, void *out, int64_t count, int64_t width,
           int64_t stride, int64_t threads, int64_t act, int64_t dtype) {
    const int64_t size = dtype == FP32 ? 4 : 2;
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t r = 0; r < count; r++) {
        const char *g = (const char *)gate + r * stride * size;
        const char *u = up ? (const char *)up + r * stride * size : 0;
        activate(g, u, (char *)out + r * width * size, width, act, dtype, dtype);
    }
}
