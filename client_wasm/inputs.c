#include "inputs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

// Whole numbers up to here are exact in a float64, and every JSON reader agrees on them (RFC 8259, section 6).
static const double LARGEST_WHOLE = 9007199254740991;  // 2^53 - 1

// The file's text, NUL-terminated; NULL when there is no such file.
static char *read_file(const char *path) {
    int file = open(path, O_RDONLY);
    if (file < 0 && (errno == ENOENT || errno == ENOTCAPABLE)) return NULL;
    if (file < 0) fail("%s: %s", path, strerror(errno));
    char *text = NULL;
    size_t length = 0, capacity = 1 << 16;
    for (;;) {
        text = resize(text, capacity, 1);
        ssize_t got = read(file, text + length, capacity - length);
        if (got < 0) fail("%s: %s", path, strerror(errno));
        if (got == 0) break;
        length += (size_t)got;
        if (length == capacity && __builtin_mul_overflow(capacity, 2, &capacity)) fail("%s: too large", path);
    }
    close(file);
    text[length] = 0;
    if (strlen(text) != length) fail("%s: byte %zu: NUL is not JSON", path, strlen(text));
    return text;
}

// A variable's text; NULL when it is unset or empty.
static char *variable(const char *name) {
    char *text = getenv(name);
    return text && *text ? text : NULL;
}

static void once(bool *seen, const char *what, const char *key) {
    if (*seen) fail("%s: \"%s\" appears twice", what, key);
    *seen = true;
}

static double *room_for_one(double *values, size_t count, size_t *capacity) {
    if (count < *capacity) return values;
    *capacity = *capacity ? 2 * *capacity : 64;
    return resize(values, *capacity, sizeof *values);
}

static struct model read_model(struct json j) {
    struct model m = {0};
    bool has_w = false, has_b = false;
    size_t capacity = 0;
    struct slice key;
    for (json_object(&j); json_key(&j, &key);) {
        if (is(key, "w")) {
            once(&has_w, "model", "w");
            for (json_array(&j); json_item(&j);) {
                m.w = room_for_one(m.w, m.features, &capacity);
                m.w[m.features++] = json_number(&j);
            }
        } else if (is(key, "b")) {
            once(&has_b, "model", "b");
            m.b = json_number(&j);
        } else {
            json_skip(&j);
        }
    }
    json_end(&j);
    if (!has_w || !has_b) fail("model: \"%s\" is missing", has_w ? "b" : "w");
    return m;
}

// Appends one {"x": [..], "y": 0} to the dataset.
static void read_row(struct json *j, struct dataset *d, size_t *room_x, size_t *room_y) {
    size_t row = d->rows, features = 0, filled = row * d->features;
    double y = 0;
    bool has_x = false, has_y = false;
    struct slice key;
    for (json_object(j); json_key(j, &key);) {
        if (is(key, "x")) {
            once(&has_x, "dataset", "x");
            for (json_array(j); json_item(j); features++) {
                d->x = room_for_one(d->x, filled + features, room_x);
                d->x[filled + features] = json_number(j);
            }
        } else if (is(key, "y")) {
            once(&has_y, "dataset", "y");
            y = json_number(j);
        } else {
            json_skip(j);
        }
    }
    if (!has_x || !has_y) fail("dataset: row %zu has no \"%s\"", row, has_x ? "y" : "x");
    if (features == 0) fail("dataset: row %zu has no features", row);
    if (row == 0) d->features = features;
    if (features != d->features) fail("dataset: row %zu has %zu features, row 0 has %zu", row, features, d->features);
    if (y != 0 && y != 1) fail("dataset: row %zu: label %g is neither 0 nor 1", row, y);
    d->y = room_for_one(d->y, row, room_y);
    d->y[row] = y == 1;
    d->rows++;
}

static struct dataset read_dataset(struct json j) {
    struct dataset d = {0};
    size_t room_x = 0, room_y = 0;
    double size = 0;
    bool has_data = false, has_size = false, has_schema = false;
    struct slice key;
    for (json_object(&j); json_key(&j, &key);) {
        if (is(key, "data")) {
            once(&has_data, "dataset", "data");
            for (json_array(&j); json_item(&j);) read_row(&j, &d, &room_x, &room_y);
        } else if (is(key, "size")) {
            once(&has_size, "dataset", "size");
            size = json_number(&j);
        } else if (is(key, "schema")) {
            once(&has_schema, "dataset", "schema");
            if (!is(json_string(&j), "fl-demo-dataset-v1")) fail("dataset: the schema is not \"fl-demo-dataset-v1\"");
        } else {
            json_skip(&j);
        }
    }
    json_end(&j);
    if (!has_data) fail("dataset: \"data\" is missing");
    if (d.rows == 0) fail("dataset: no samples");
    if (has_size && size != (double)d.rows) fail("dataset: \"size\" is %.17g, but there are %zu samples", size, d.rows);
    return d;
}

static uint64_t read_whole(struct json *j, const char *name, double least) {
    double value = json_number(j);
    if (!(value >= least && value <= LARGEST_WHOLE && value == (double)(uint64_t)value))
        fail("hyperparams: \"%s\" is %.17g, expected a whole number from %.0f to 2^53 - 1", name, value, least);
    return (uint64_t)value;
}

static struct hyperparams read_hyperparams(struct json *j) {
    struct hyperparams h = {.epochs = 1, .lr = 0.01, .batch_size = 16, .seed = 0};
    bool has_epochs = false, has_lr = false, has_batch_size = false, has_seed = false;
    struct slice key;
    for (json_object(j); json_key(j, &key);) {
        if (is(key, "epochs")) {
            once(&has_epochs, "hyperparams", "epochs");
            h.epochs = read_whole(j, "epochs", 1);
        } else if (is(key, "batch_size")) {
            once(&has_batch_size, "hyperparams", "batch_size");
            h.batch_size = read_whole(j, "batch_size", 1);
        } else if (is(key, "seed")) {
            once(&has_seed, "hyperparams", "seed");
            h.seed = read_whole(j, "seed", 0);
        } else if (is(key, "lr")) {
            once(&has_lr, "hyperparams", "lr");
            h.lr = json_number(j);
            if (!(h.lr > 0)) fail("hyperparams: \"lr\" is %.17g, expected a number above 0", h.lr);
        } else {
            fputs("Ignored unknown hyperparameter ", stderr);
            json_print(stderr, key);
            fputc('\n', stderr);
            json_skip(j);
        }
    }
    return h;
}

static struct slice id_variable(const char *name) {
    const char *text = variable(name);
    if (!text) return (struct slice){"", 0};
    for (const char *at = text; *at; at += utf8_sequence(at))
        if (!utf8_sequence(at)) fail("%s: not UTF-8", name);
    return (struct slice){text, strlen(text)};
}

static void read_task(struct json j, struct inputs *in, bool *has_hyperparams) {
    static const char *const names[] = {"round_id", "proplet_id", "model_uri"};
    struct slice *const ids[] = {&in->round_id, &in->proplet_id, &in->model_uri};
    bool seen[3] = {false}, seen_hyperparams = false;
    struct slice key;
    for (json_object(&j); json_key(&j, &key);) {
        size_t i = 0;
        while (i < 3 && !is(key, names[i])) i++;
        if (i < 3) {
            once(&seen[i], "task", names[i]);
            if (!json_null(&j)) *ids[i] = json_string(&j);
        } else if (is(key, "hyperparams")) {
            once(&seen_hyperparams, "task", "hyperparams");
            if (json_null(&j)) continue;
            in->hyperparams = read_hyperparams(&j);
            *has_hyperparams = true;
        } else {
            json_skip(&j);
        }
    }
    json_end(&j);
}

struct inputs read_inputs(void) {
    struct inputs in = {
        .round_id = id_variable("ROUND_ID"),
        .proplet_id = id_variable("PROPLET_ID"),
        .model_uri = id_variable("MODEL_URI"),
        .hyperparams = {.epochs = 1, .lr = 0.01, .batch_size = 16, .seed = 0},
    };
    char *text;
    bool has_hyperparams = false;
    if ((text = read_file("/in/task.json"))) read_task(json_text("task", text), &in, &has_hyperparams);
    if (!has_hyperparams && (text = variable("HYPERPARAMS"))) {
        struct json j = json_text("hyperparams", text);
        in.hyperparams = read_hyperparams(&j);
        json_end(&j);
    }

    char *model = read_file("/in/model.json"), *dataset = read_file("/in/data/dataset.json");
    if (!model) model = variable("MODEL_DATA");
    if (!dataset) dataset = variable("DATASET_DATA");
    if (!model) fail("no model: neither /in/model.json nor MODEL_DATA is there");
    if (!dataset) fail("no dataset: neither /in/data/dataset.json nor DATASET_DATA is there");
    in.model = read_model(json_text("model", model));
    in.dataset = read_dataset(json_text("dataset", dataset));
    if (in.model.features != in.dataset.features)
        fail("the model has %zu weights, the dataset has %zu features", in.model.features, in.dataset.features);
    return in;
}
