"""Three sites that share only updates learn about as well as one that has all rows."""

from __future__ import annotations

import numpy as np
import pytest

from client_wasm import wdbc

from .conftest import RunGuest, dataset, environment, model

ROUNDS = 10
HYPERPARAMS = {"epochs": 3, "lr": 0.05, "batch_size": 16}


def trained(run_guest: RunGuest, w, b, rows, **hyperparams: object):
    update = run_guest(environment(model(w.tolist(), b), rows, **hyperparams)).update
    return update["num_samples"], np.array(update["update"]["w"]), update["update"]["b"]


@pytest.mark.parametrize("seed", range(5))
def test_federated_averaging_reaches_the_accuracy_of_pooled_training(run_guest: RunGuest, seed):
    x, y, features = wdbc.load()
    split = wdbc.held_out(y)
    sites = wdbc.site_rows(y, split.train)
    moments = wdbc.federated_moments([wdbc.site_sums(x[rows]) for rows in sites])
    x = wdbc.standardise(x, moments)

    w, b = np.zeros(len(features)), 0.0
    for _ in range(ROUNDS):
        own = [dataset(x[rows].tolist(), y[rows].tolist()) for rows in sites]
        updates = [trained(run_guest, w, b, rows, **HYPERPARAMS, seed=seed) for rows in own]
        total = sum(n for n, _, _ in updates)
        w, b = sum(n * w for n, w, _ in updates) / total, sum(n * b for n, _, b in updates) / total

    passes = {**HYPERPARAMS, "epochs": ROUNDS * HYPERPARAMS["epochs"], "seed": seed}
    pooled = dataset(x[split.train].tolist(), y[split.train].tolist())
    _, pooled_w, pooled_b = trained(run_guest, np.zeros(len(features)), 0.0, pooled, **passes)

    federated = wdbc.accuracy(w, b, x[split.test], y[split.test])
    central = wdbc.accuracy(pooled_w, pooled_b, x[split.test], y[split.test])
    assert federated >= 0.95
    assert abs(federated - central) <= 0.015
