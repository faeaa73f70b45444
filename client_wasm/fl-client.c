// The federated learning guest: one site's part of one round.
//
//     read_inputs   the model, the site's dataset, the hyperparameters      inputs.c, json.c
//     train         mini-batch SGD on the logistic loss                     train.c
//     stdout        the update, one JSON object on one line
//     stderr        the log
//
// A WASI preview 1 command. Exit code 0 means that the update was written, 1 that stderr says why there is none.
// It uses neither the clock nor WASI's randomness: equal inputs give equal bytes.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common.h"
#include "inputs.h"
#include "train.h"

// With %.17g every float64 reads back as itself, with %f it reads well.
static void print_array(FILE *to, const char *format, const char *comma, const double *values, size_t count) {
    fputc('[', to);
    for (size_t i = 0; i < count; i++) {
        if (i) fputs(comma, to);
        fprintf(to, format, values[i]);
    }
    fputc(']', to);
}

static void print_update(FILE *to, const struct inputs *in, struct metrics before, struct metrics after) {
    fputs("{\"round_id\":", to);
    json_print(to, in->round_id);
    fputs(",\"proplet_id\":", to);
    json_print(to, in->proplet_id);
    fputs(",\"base_model_uri\":", to);
    json_print(to, in->model_uri);
    fprintf(to, ",\"num_samples\":%zu", in->dataset.rows);
    fprintf(to, ",\"metrics\":{\"loss_before\":%.17g,\"loss\":%.17g", before.loss, after.loss);
    fprintf(to, ",\"accuracy_before\":%.17g,\"accuracy\":%.17g}", before.accuracy, after.accuracy);
    fputs(",\"update\":{\"w\":", to);
    print_array(to, "%.17g", ",", in->model.w, in->model.features);
    fprintf(to, ",\"b\":%.17g}}", in->model.b);
}

static void log_model(const char *when, const struct model *m) {
    fprintf(stderr, "DEBUG: %s - w: ", when);
    print_array(stderr, "%f", ", ", m->w, m->features);
    fprintf(stderr, ", b: %f\n", m->b);
}

static void log_first_sample(const struct dataset *d) {
    fputs("DEBUG: First sample - x: ", stderr);
    print_array(stderr, "%f", ", ", d->x, d->features);
    fprintf(stderr, ", y: %.0f\n", d->y[0]);
}

// JSON has no NaN or Infinity, and an average that contains one is lost: no update is better than such an update.
static void check_finite(const struct model *m, struct metrics metrics, const char *when) {
    bool finite = isfinite(m->b) && isfinite(metrics.loss);
    for (size_t i = 0; i < m->features; i++) finite = finite && isfinite(m->w[i]);
    if (!finite) fail("the model or its loss is not finite %s training; lower \"lr\" or scale the features", when);
}

int main(void) {
    static char log_buffer[1 << 14];
    setvbuf(stderr, log_buffer, _IOFBF, sizeof log_buffer);

    struct inputs in = read_inputs();
    fprintf(stderr, "Loaded dataset with %zu samples from Local Data Store\n", in.dataset.rows);
    log_model("Initial model", &in.model);
    log_first_sample(&in.dataset);
    fflush(stderr);  // whoever stops a long training still finds what it was given

    struct metrics before = evaluate(&in.model, &in.dataset);
    check_finite(&in.model, before, "before");
    train(&in.model, &in.dataset, in.hyperparams);
    struct metrics after = evaluate(&in.model, &in.dataset);
    check_finite(&in.model, after, "after");
    log_model("Final model after training", &in.model);

    char *update;
    size_t length;
    FILE *to = open_memstream(&update, &length);
    if (!to) fail("out of memory");
    print_update(to, &in, before, after);
    if (fclose(to) != 0) fail("out of memory");
    fprintf(stderr, "DEBUG: Update payload: %s\n", update);
    fflush(stderr);
    if (fwrite(update, 1, length, stdout) != length || fputc('\n', stdout) == EOF || fflush(stdout) != 0)
        fail("stdout: the update could not be written");
    return 0;
}
