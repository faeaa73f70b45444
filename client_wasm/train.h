// Logistic regression, trained by mini-batch stochastic gradient descent, in float64.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct dataset {
    size_t rows, features;
    double *x;  // [rows][features], row-major
    double *y;  // [rows], each 0 or 1
};

struct model {
    size_t features;
    double *w;  // [features]
    double b;
};

struct hyperparams {
    uint64_t epochs, batch_size, seed;
    double lr;
};

struct metrics {
    double loss;      // mean log-loss in nats
    double accuracy;  // fraction of rows whose label is the more probable one; p = 0.5 counts as 1
};

struct metrics evaluate(const struct model *m, const struct dataset *d);

// Changes `m` in place. Equal arguments give equal bits: the order of the rows depends on the seed alone.
void train(struct model *m, const struct dataset *d, struct hyperparams h);
