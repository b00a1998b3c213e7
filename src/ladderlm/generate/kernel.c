/* One token of one text through a LLaMA, whole: `kernel.py` compiles this for the machine.

   PyTorch's matrix-vector products use one core, and in bfloat16 they are slower than memory. Here
   every weight is read once, widened to float32 in registers, and rows are shared by the threads.
   WEIGHT is float, or unsigned short for bfloat16; sums and activations are float32. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const WEIGHT *attention_norm, *qkv, *wo, *ffn_norm, *up, *w2;
    WEIGHT *keys, *values; /* (capacity, K, E), with `stride` elements from position to position */
} Layer;

typedef struct {
    int64_t n_layers, dim, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size, stride, n_threads;
    float eps;
    const WEIGHT *embeddings, *norm, *head;
    const float *turns; /* (positions, E / 2, 2): cosine and sine */
    const Layer *layers;
    float *x, *normed, *wide, *mixed, *scores; /* D, max(D, F), max(qkv, 2F), H E, H * capacity */
} Model;

static inline float widen(WEIGHT w) {
#ifdef HALF
    uint32_t bits = (uint32_t)w << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
#else
    return w;
#endif
}

static inline WEIGHT narrow(float value) { /* to nearest, ties to even */
#ifdef HALF
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (WEIGHT)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#else
    return value;
#endif
}

/* out[r] (+)= w[r] . x for the rows of this thread */
static void multiply(float *out, const WEIGHT *w, const float *x, int64_t n_rows, int64_t n,
                     int add) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < n_rows; r++) {
        const WEIGHT *row = w + r * n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += widen(row[i]) * x[i];
        out[r] = add ? out[r] + sum : sum;
    }
}

static void normalise(float *out, const float *x, const WEIGHT *gain, int64_t n, float eps) {
#pragma omp single
    {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
        float scale = 1.0f / sqrtf(sum / n + eps);
        for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * widen(gain[i]);
    }
}

static void attend(const Model *m, const Layer *layer, int64_t position, int64_t capacity) {
    const int64_t e = m->head_dim, group = m->n_heads / m->n_kv_heads;
    const float *turn = m->turns + position * e;
    float *kv = m->wide + m->n_heads * e;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < m->n_kv_heads; k++) {
        WEIGHT *keys = layer->keys + k * e, *values = layer->values + k * e;
        for (int64_t i = 0; i < e; i += 2) {
            float *pair = kv + k * e + i, a = pair[0], b = pair[1];
            keys[position * m->stride + i] = narrow(a * turn[i] - b * turn[i + 1]);
            keys[position * m->stride + i + 1] = narrow(a * turn[i + 1] + b * turn[i]);
        }
        for (int64_t i = 0; i < e; i++)
            values[position * m->stride + i] = narrow(kv[(m->n_kv_heads + k) * e + i]);
        for (int64_t h = k * group; h < (k + 1) * group; h++) {
            float *q = m->wide + h * e, *scores = m->scores + h * capacity;
            float *mixed = m->mixed + h * e, most = -INFINITY, total = 0;
            for (int64_t i = 0; i < e; i += 2) {
                float a = q[i], b = q[i + 1];
                q[i] = a * turn[i] - b * turn[i + 1];
                q[i + 1] = a * turn[i + 1] + b * turn[i];
            }
            for (int64_t s = 0; s <= position; s++) {
                const WEIGHT *key = keys + s * m->stride;
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < e; i++) sum += q[i] * widen(key[i]);
                scores[s] = sum / sqrtf((float)e);
                most = scores[s] > most ? scores[s] : most;
            }
            memset(mixed, 0, e * sizeof(float));
            for (int64_t s = 0; s <= position; s++) {
                float share = expf(scores[s] - most);
                const WEIGHT *value = values + s * m->stride;
                total += share;
#pragma omp simd
                for (int64_t i = 0; i < e; i++) mixed[i] += share * widen(value[i]);
            }
            for (int64_t i = 0; i < e; i++) mixed[i] /= total;
        }
    }
}

void step(const Model *m, int64_t token, int64_t position, int64_t capacity, float *logits) {
    for (int64_t i = 0; i < m->dim; i++) m->x[i] = widen(m->embeddings[token * m->dim + i]);
#pragma omp parallel num_threads(m->n_threads)
    {
        const int64_t e = m->head_dim, f = m->ffn_dim;
        for (int64_t l = 0; l < m->n_layers; l++) {
            const Layer *layer = m->layers + l;
            normalise(m->normed, m->x, layer->attention_norm, m->dim, m->eps);
            multiply(m->wide, layer->qkv, m->normed, (m->n_heads + 2 * m->n_kv_heads) * e, m->dim,
                     0);
            attend(m, layer, position, capacity);
            multiply(m->x, layer->wo, m->mixed, m->dim, m->n_heads * e, 1);
            normalise(m->normed, m->x, layer->ffn_norm, m->dim, m->eps);
            multiply(m->wide, layer->up, m->normed, 2 * f, m->dim, 0);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < f; i++)
                m->normed[i] = m->wide[i] / (1 + expf(-m->wide[i])) * m->wide[f + i];
            multiply(m->x, layer->w2, m->normed, m->dim, f, 1);
        }
        normalise(m->normed, m->x, m->norm, m->dim, m->eps);
        multiply(logits, m->head, m->normed, m->vocab_size, m->dim, 0);
    }
}
