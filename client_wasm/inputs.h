// What the guest is given, from files below /in or from the environment. A file wins over its variable.
//
//     /in/model.json          or MODEL_DATA    {"w": [..], "b": 0}, further keys ignored
//     /in/data/dataset.json   or DATASET_DATA  {"data": [{"x": [..], "y": 0}, ..]}
//     /in/task.json           or               an object, of which four keys are read; null means absent
//         "hyperparams"          HYPERPARAMS   {"epochs": 1, "lr": 0.01, "batch_size": 16, "seed": 0}, each optional
//         "round_id"             ROUND_ID      optional: the guest also runs as an ordinary task
//         "proplet_id"           PROPLET_ID    optional
//         "model_uri"            MODEL_URI     optional
//
// A missing model or dataset, or anything malformed, ends the program: nothing is ever made up in its place.
#pragma once

#include "json.h"
#include "train.h"

struct inputs {
    struct slice round_id, proplet_id, model_uri;
    struct hyperparams hyperparams;
    struct model model;
    struct dataset dataset;
};

struct inputs read_inputs(void);
