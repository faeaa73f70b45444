#include "train.h"

#include <math.h>
#include <string.h>

#include "common.h"

// z = w . x + b, the log-odds of label 1.
static double log_odds(const struct model *m, const double *x) {
    double z = m->b;
    for (size_t i = 0; i < m->features; i++) z += m->w[i] * x[i];
    return z;
}

// p(y = 1 | x) = 1 / (1 + e^-z), in the form that cannot overflow.  Bishop, PRML (2006), eq. 4.59
static double sigmoid(double z) {
    double e = exp(-fabs(z));
    return (z >= 0 ? 1 : e) / (1 + e);
}

// -ln p(y | x) = ln(1 + e^z) - y z = max(z, 0) + ln(1 + e^-|z|) - y z.  PRML eq. 4.90, for one row
static double log_loss(double z, double y) { return fmax(z, 0) + log1p(exp(-fabs(z))) - y * z; }

struct metrics evaluate(const struct model *m, const struct dataset *d) {
    double loss = 0;
    size_t right = 0;
    for (size_t i = 0; i < d->rows; i++) {
        double z = log_odds(m, d->x + i * d->features);
        loss += log_loss(z, d->y[i]);
        right += (z >= 0) == (d->y[i] == 1);
    }
    return (struct metrics){.loss = loss / (double)d->rows, .accuracy = (double)right / (double)d->rows};
}

// SplitMix64.  Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, fig. 16
static uint64_t random64(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

// A number in [0, n), from the high half of random * n.  Lemire, "Fast random integer generation in an interval", ACM
// TOMACS 29 (2019), without its rejection step: the bias is below n / 2^64.
static size_t random_below(uint64_t *state, size_t n) { return (size_t)((unsigned __int128)random64(state) * n >> 64); }

// Fisher-Yates.  Knuth, The Art of Computer Programming, vol. 2, sec. 3.4.2, algorithm P
static void shuffle(size_t *order, size_t n, uint64_t *state) {
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = random_below(state, i + 1), swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

// One step:  w <- w - lr * mean((p - y) x),  b <- b - lr * mean(p - y)  over the rows of the batch.  PRML eq. 4.91
static void step(struct model *m, const struct dataset *d, const size_t *batch, size_t size, double lr, double *slope) {
    double slope_b = 0;
    memset(slope, 0, m->features * sizeof *slope);
    for (size_t k = 0; k < size; k++) {
        const double *restrict x = d->x + batch[k] * d->features;
        double error = sigmoid(log_odds(m, x)) - d->y[batch[k]];
        for (size_t i = 0; i < m->features; i++) slope[i] += error * x[i];
        slope_b += error;
    }
    for (size_t i = 0; i < m->features; i++) m->w[i] -= lr * (slope[i] / (double)size);
    m->b -= lr * (slope_b / (double)size);
}

void train(struct model *m, const struct dataset *d, struct hyperparams h) {
    size_t batch_size = h.batch_size < d->rows ? (size_t)h.batch_size : d->rows;
    size_t *order = resize(NULL, d->rows, sizeof *order);
    double *slope = resize(NULL, m->features, sizeof *slope);
    uint64_t random_state = h.seed;
    for (size_t i = 0; i < d->rows; i++) order[i] = i;

    for (uint64_t epoch = 0; epoch < h.epochs; epoch++) {
        shuffle(order, d->rows, &random_state);
        for (size_t from = 0; from < d->rows; from += batch_size) {
            size_t left = d->rows - from;
            step(m, d, order + from, left < batch_size ? left : batch_size, h.lr, slope);
        }
    }
}
