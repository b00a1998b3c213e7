/* One token of each of B texts through a LLaMA, whole: `kernel.py` compiles this for the machine.

   PyTorch's products of a few rows use one core or wait for memory, and in bfloat16 they are slower
   than both. Here every weight is read once for all texts and widened to float32 in registers, and
   rows are shared by the threads. WEIGHT is float, or unsigned short for bfloat16; sums and
   activations are float32. The sums of a text are the same, to the bit, whatever stands beside it. */

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef struct {
    const WEIGHT *attention_norm, *qkv, *wo, *ffn_norm, *up, *w2;
    WEIGHT *keys, *values; /* (B, capacity, K, E) by the strides of the model */
} Layer;

typedef struct {
    int64_t n_layers, dim, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size, capacity, n_threads;
    int64_t text_stride, position_stride, head_stride; /* of keys and values, in elements */
    float eps;
    const WEIGHT *embeddings, *norm, *head;
    const float *turns; /* (positions, E / 2, 2): cosine and sine */
    const Layer *layers;
    /* B rows of D, max(D, F), max(qkv, 2F), H E; and for each thread one of H / K * capacity */
    float *x, *normed, *wide, *mixed, *scores;
} Model;

#define INLINE static inline __attribute__((always_inline))
#define N_LANES 8
#define N_ROWS 3 /* N_ROWS * N_TEXTS sums at once fill the registers of AVX2 and hide the latency */
#define N_TEXTS 4
#define N_MIXED 4

typedef float Lanes __attribute__((vector_size(4 * N_LANES)));
typedef float HalfLanes __attribute__((vector_size(2 * N_LANES)));

INLINE float widen(WEIGHT w) {
#ifdef HALF
    uint32_t bits = (uint32_t)w << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
#else
    return w;
#endif
}

INLINE WEIGHT narrow(float value) { /* to nearest, ties to even */
#ifdef HALF
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (WEIGHT)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#else
    return value;
#endif
}

/* Both take `n` <= N_LANES elements; lanes past them are 0. */
INLINE Lanes load(const float *from, int n) {
    Lanes lanes = {0};
    if (n == N_LANES)
        memcpy(&lanes, from, sizeof lanes);
    else
        for (int i = 0; i < n; i++) lanes[i] = from[i];
    return lanes;
}

INLINE Lanes load_weights(const WEIGHT *from, int n) {
#ifdef HALF
    typedef uint32_t Words __attribute__((vector_size(4 * N_LANES)));
    typedef uint16_t Shorts __attribute__((vector_size(2 * N_LANES)));
    Shorts halves = {0};
    if (n == N_LANES)
        memcpy(&halves, from, sizeof halves);
    else
        for (int i = 0; i < n; i++) halves[i] = from[i];
#ifdef __AVX2__ /* in one instruction, where gcc makes two halves and joins them */
    return (Lanes)((Words)_mm256_cvtepu16_epi32((__m128i)halves) << 16);
#else
    return (Lanes)(__builtin_convertvector(halves, Words) << 16);
#endif
#else
    return load(from, n);
#endif
}

INLINE float add_up(Lanes lanes) {
    HalfLanes halves[2];
    memcpy(halves, &lanes, sizeof lanes);
    HalfLanes sum = halves[0] + halves[1];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* e^x by a Taylor series around the nearest power of two (error 1e-7 of the value), so that loops
   over it can be done in lanes; 0 far below. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = __builtin_floorf(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts */
    float sum = 1.0f / 5040;
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = (sum * r + 1.0f) * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return sum * power;
}

/* sums[r][b] += w[r] * x[b], lane by lane, for `n` <= N_LANES elements */
INLINE void add_products(Lanes sums[N_ROWS][N_TEXTS], const WEIGHT *w, int64_t w_stride,
                         const float *x, int64_t x_stride, int n, int n_rows, int n_texts) {
    Lanes texts[N_TEXTS];
#pragma GCC unroll 4
    for (int b = 0; b < n_texts; b++) texts[b] = load(x + b * x_stride, n);
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
        Lanes row = load_weights(w + r * w_stride, n);
#pragma GCC unroll 4
        for (int b = 0; b < n_texts; b++) sums[r][b] += row * texts[b];
    }
}

/* out[b][r] (+)= w[r] . x[b] for n_rows <= N_ROWS rows and n_texts <= N_TEXTS texts, both constant
   where it is called */
INLINE void multiply_tile(float *out, int64_t out_stride, const WEIGHT *w, int64_t w_stride,
                          const float *x, int64_t x_stride, int64_t n, int n_rows, int n_texts,
                          int add) {
    Lanes sums[N_ROWS][N_TEXTS] = {0};
    int64_t i = 0;
    for (; i + N_LANES <= n; i += N_LANES)
        add_products(sums, w + i, w_stride, x + i, x_stride, N_LANES, n_rows, n_texts);
    if (i < n) add_products(sums, w + i, w_stride, x + i, x_stride, n - i, n_rows, n_texts);
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int b = 0; b < n_texts; b++) {
            float *place = out + b * out_stride + r, sum = add_up(sums[r][b]);
            *place = add ? *place + sum : sum;
        }
    }
}

/* The same for at most N_ROWS rows and any number of texts. */
INLINE void multiply_rows(float *out, int64_t out_stride, const WEIGHT *w, int64_t w_stride,
                          const float *x, int64_t x_stride, int64_t n, int64_t n_rows,
                          int64_t n_texts, int add) {
    int64_t b = 0;
#define TILE(rows, texts)                                                                          \
    multiply_tile(out + b * out_stride, out_stride, w, w_stride, x + b * x_stride, x_stride, n,    \
                  rows, texts, add)
    if (n_rows == N_ROWS) {
        for (; b + N_TEXTS <= n_texts; b += N_TEXTS) TILE(N_ROWS, N_TEXTS);
        for (; b < n_texts; b++) TILE(N_ROWS, 1);
    } else {
        for (; b < n_texts; b++)
            for (int64_t r = 0; r < n_rows; r++)
                multiply_tile(out + b * out_stride + r, out_stride, w + r * w_stride, w_stride,
                              x + b * x_stride, x_stride, n, 1, 1, add);
    }
#undef TILE
}

/* out (B, n_rows) (+)= x (B, x_stride) w^T; each thread has rows of its own */
static void multiply(float *out, const WEIGHT *w, const float *x, int64_t x_stride, int64_t n_rows,
                     int64_t n, int64_t n_texts, int add) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < n_rows; r += N_ROWS) {
        int64_t some = n_rows - r < N_ROWS ? n_rows - r : N_ROWS;
        multiply_rows(out + r, n_rows, w + r * n, n, x, x_stride, n, some, n_texts, add);
    }
}

static void normalise(float *out, const float *x, const WEIGHT *gain, int64_t n, int64_t n_texts,
                      float eps) {
#pragma omp for schedule(static)
    for (int64_t b = 0; b < n_texts; b++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += x[b * n + i] * x[b * n + i];
        float scale = 1.0f / sqrtf(sum / n + eps);
        for (int64_t i = 0; i < n; i++) out[b * n + i] = x[b * n + i] * scale * widen(gain[i]);
    }
}

static void turn_pairs(float *row, const float *turns, int64_t head_dim) {
    for (int64_t i = 0; i < head_dim; i += 2) {
        float a = row[i], b = row[i + 1];
        row[i] = a * turns[i] - b * turns[i + 1];
        row[i + 1] = a * turns[i + 1] + b * turns[i];
    }
}

/* out = sum of share[s] values[s] / total over n positions, for n_lanes * n_groups channels */
INLINE void mix(float *out, const WEIGHT *values, int64_t stride, const float *share, int64_t n,
                float total, int n_lanes, int n_groups) {
    Lanes sums[N_MIXED] = {0};
    for (int64_t s = 0; s < n; s++)
#pragma GCC unroll 4
        for (int g = 0; g < n_groups; g++)
            sums[g] += share[s] * load_weights(values + s * stride + g * N_LANES, n_lanes);
    for (int g = 0; g < n_groups; g++)
        for (int i = 0; i < n_lanes; i++) out[g * N_LANES + i] = sums[g][i] / total;
}

/* Store the new key and value of one head of one text and let its queries look back. */
static void attend(const Model *m, const Layer *layer, int64_t b, int64_t k, int64_t position) {
    const int64_t e = m->head_dim, group = m->n_heads / m->n_kv_heads, n = position + 1;
    const int64_t stride = m->position_stride, start = b * m->text_stride + k * m->head_stride;
    WEIGHT *keys = layer->keys + start, *values = layer->values + start;
    float *row = m->wide + b * (m->n_heads + 2 * m->n_kv_heads) * e;
    float *key = row + (m->n_heads + k) * e, *value = key + m->n_kv_heads * e;
    float *q = row + k * group * e, *scores = m->scores + omp_get_thread_num() * group * m->capacity;
    const float *turns = m->turns + position * e;
    turn_pairs(key, turns, e);
    for (int64_t i = 0; i < e; i++) keys[position * stride + i] = narrow(key[i]);
    for (int64_t i = 0; i < e; i++) values[position * stride + i] = narrow(value[i]);
    for (int64_t h = 0; h < group; h++) turn_pairs(q + h * e, turns, e);
    for (int64_t s = 0; s < n; s += N_ROWS)
        multiply_rows(scores + s, n, keys + s * stride, stride, q, e, e,
                      n - s < N_ROWS ? n - s : N_ROWS, group, 0);
    const float scale = 1.0f / sqrtf((float)e);
    for (int64_t h = 0; h < group; h++) {
        float *share = scores + h * n, most = -INFINITY, total = 0;
        float *mixed = m->mixed + (b * m->n_heads + k * group + h) * e;
#pragma omp simd reduction(max : most)
        for (int64_t s = 0; s < n; s++) most = share[s] > most ? share[s] : most;
#pragma omp simd reduction(+ : total)
        for (int64_t s = 0; s < n; s++) {
            share[s] = exponential((share[s] - most) * scale);
            total += share[s];
        }
        int64_t i = 0;
        for (; i + N_MIXED * N_LANES <= e; i += N_MIXED * N_LANES)
            mix(mixed + i, values + i, stride, share, n, total, N_LANES, N_MIXED);
        for (; i < e; i += N_LANES)
            mix(mixed + i, values + i, stride, share, n, total, e - i < N_LANES ? e - i : N_LANES, 1);
    }
}

/* tokens (B), logits (B, V) */
void step(const Model *m, int64_t n_texts, const int64_t *tokens, int64_t position, float *logits) {
#pragma omp parallel num_threads(m->n_threads)
    {
        const int64_t d = m->dim, e = m->head_dim, f = m->ffn_dim, n_mixed = m->n_heads * e;
        const int64_t n_qkv = n_mixed + 2 * m->n_kv_heads * e;
#pragma omp for schedule(static)
        for (int64_t b = 0; b < n_texts; b++)
            for (int64_t i = 0; i < d; i++)
                m->x[b * d + i] = widen(m->embeddings[tokens[b] * d + i]);
        for (int64_t l = 0; l < m->n_layers; l++) {
            const Layer *layer = m->layers + l;
            normalise(m->normed, m->x, layer->attention_norm, d, n_texts, m->eps);
            multiply(m->wide, layer->qkv, m->normed, d, n_qkv, d, n_texts, 0);
#pragma omp for schedule(static) collapse(2)
            for (int64_t b = 0; b < n_texts; b++)
                for (int64_t k = 0; k < m->n_kv_heads; k++) attend(m, layer, b, k, position);
            multiply(m->x, layer->wo, m->mixed, n_mixed, d, n_mixed, n_texts, 1);
            normalise(m->normed, m->x, layer->ffn_norm, d, n_texts, m->eps);
            multiply(m->wide, layer->up, m->normed, d, 2 * f, d, n_texts, 0);
#pragma omp for schedule(static) collapse(2)
            for (int64_t b = 0; b < n_texts; b++)
                for (int64_t i = 0; i < f; i++) {
                    const float *wide = m->wide + b * 2 * f;
                    m->normed[b * f + i] = wide[i] / (1 + exponential(-wide[i])) * wide[f + i];
                }
            multiply(m->x, layer->w2, m->normed, f, d, f, n_texts, 1);
        }
        normalise(m->normed, m->x, m->norm, d, n_texts, m->eps);
        multiply(logits, m->head, m->normed, d, m->vocab_size, d, n_texts, 0);
    }
}
