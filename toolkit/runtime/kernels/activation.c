/* Activations: out = act(gate) * up, with the same arithmetic for every element.

   PyTorch's kernels compute the end of a row by scalar code with other last bits, so an element's value
   depends on how many rows there are. */

#include "kernels.h"

/* Abramowitz & Stegun 7.1.26: within 1.5e-7. */
INLINE vec erf_of(vec x) {
    ivec negative = x < 0.0f;
    vec a = pick(negative, -x, x);
    vec t = 1.0f / (a * 0.3275911f + 1.0f);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec y = 1.0f - p * t * exp_of(-a * a);
    return pick(negative, -y, y);
}

INLINE vec act_of(vec x, const int act) {
    if (act == SILU) return x / (exp_of(-x) + 1.0f);
    if (act == GELU) return x * (erf_of(x * 0.7071067811865476f) + 1.0f) * 0.5f;
    if (act == RELU) return pick(x <= 0.0f, (vec){0}, x);
    vec u = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
    vec tanh = 1.0f - 2.0f / (exp_of(u + u) + 1.0f);
    return x * (tanh + 1.0f) * 0.5f;
}

INLINE void row(const void *gate, const void *up, void *out, int64_t count, const int act,
                const int dtype, const int out_dtype) {
    for (int64_t c = 0; c < count; c += LANES) {
        int n = count - c < LANES ? (int)(count - c) : LANES;
        vec y = act_of(load(gate, c, n, dtype), act);
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

typedef struct {
    const char *gate, *up; /* [count, width], rows `stride` bytes apart; up may be null */
    char *out;             /* contiguous */
    int64_t width, stride, act, dtype;
} Gated;

static void gate_row(const void *context, int64_t r, int64_t thread) {
    const Gated *of = context;
    (void)thread;
    activate(of->gate + r * of->stride, of->up ? of->up + r * of->stride : 0,
             of->out + r * of->width * size_of(of->dtype), of->width, of->act, of->dtype, of->dtype);
}

/* gate and up: [count, width], rows `stride` elements apart; up may be null; out is contiguous. */
void gated(const void *gate, const void *up, void *out, int64_t count, int64_t width,
           int64_t stride, int64_t threads, int64_t act, int64_t dtype) {
    const Gated of = {gate, up, out, width, stride * size_of(dtype), act, dtype};
    const Phase phase = {gate_row, &of, count};
    run_phases(&phase, 1, threads);
}
