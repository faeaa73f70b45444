"""The guest's arithmetic, against an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import wasmtime

from client_wasm.build import GUEST

from .conftest import RunGuest, dataset, environment, model

MASK = (1 << 64) - 1


def split_mix_64(seed):
    """The generator that the JDK documents as java.util.SplittableRandom, as 64-bit integers."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def reference_sgd(w, b, x, y, *, epochs=1, lr=0.01, batch_size=16, seed=0):
    w, b, order, random = np.array(w, float), float(b), list(range(len(x))), split_mix_64(seed)
    for _ in range(epochs):
        for i in range(len(order) - 1, 0, -1):
            j = (next(random) * (i + 1)) >> 64
            order[i], order[j] = order[j], order[i]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            error = 1 / (1 + np.exp(-(x[rows] @ w + b))) - y[rows]
            w = w - lr * (error[:, None] * x[rows]).mean(axis=0)
            b = b - lr * error.mean()
    return w, b


def reference_metrics(w, b, x, y):
    z = x @ w + b
    return np.mean(np.logaddexp(0, z) - y * z), np.mean((z >= 0) == (y == 1))


def random_problem(rows, features, seed=1):
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, features))
    y = (x @ random.standard_normal(features) + random.standard_normal(rows) > 0).astype(int)
    return random.standard_normal(features), float(random.standard_normal()), x, y


def given(w, b, x, y, **hyperparams: object):
    return environment(model(w.tolist(), b), dataset(x.tolist(), y.tolist()), **hyperparams)


@pytest.mark.parametrize("features", [1, 3, 30, 200])
@pytest.mark.parametrize(
    "hyperparams",
    [
        {},
        {"epochs": 3, "lr": 0.5, "batch_size": 7, "seed": 42},
        {"epochs": 2, "lr": 0.1, "batch_size": 1, "seed": 2**53 - 1},
        {"epochs": 4, "lr": 1.5, "batch_size": 10**15},
    ],
)
def test_training_equals_an_independent_implementation(run_guest: RunGuest, features, hyperparams):
    w, b, x, y = random_problem(67, features)
    update = run_guest(given(w, b, x, y, **hyperparams)).update
    expected_w, expected_b = reference_sgd(w, b, x, y, **hyperparams)
    np.testing.assert_allclose(update["update"]["w"], expected_w, rtol=0, atol=1e-9)
    assert update["update"]["b"] == pytest.approx(expected_b, abs=1e-9)
    assert not np.allclose(expected_w, w, atol=1e-6)


def test_metrics_are_the_true_mean_log_loss_and_accuracy(run_guest: RunGuest):
    w, b, x, y = random_problem(200, 5)
    update = run_guest(given(w, b, x, y, epochs=5, lr=0.3)).update
    trained = np.array(update["update"]["w"]), update["update"]["b"]
    metrics = update["metrics"]
    assert set(metrics) == {"loss_before", "loss", "accuracy_before", "accuracy"}
    assert (metrics["loss_before"], metrics["accuracy_before"]) == pytest.approx(reference_metrics(w, b, x, y))
    assert (metrics["loss"], metrics["accuracy"]) == pytest.approx(reference_metrics(*trained, x, y))
    assert metrics["loss"] < metrics["loss_before"]
    assert update["num_samples"] == 200


def test_a_zero_model_has_the_loss_of_a_coin(run_guest: RunGuest):
    _, _, x, y = random_problem(64, 3)
    update = run_guest(given(np.zeros(3), 0.0, x, y)).update
    assert update["metrics"]["loss_before"] == pytest.approx(np.log(2), abs=1e-15)


def test_log_odds_of_a_thousand_do_not_overflow(run_guest: RunGuest):
    env = environment(model([1000.0]), dataset([[1], [-1], [1]], [1, 0, 0]), lr=1e-9)
    metrics = run_guest(env).update["metrics"]
    assert metrics["loss_before"] == pytest.approx(1000 / 3)
    assert metrics["accuracy_before"] == pytest.approx(2 / 3)


def test_equal_inputs_give_equal_bytes(run_guest: RunGuest):
    env = given(*random_problem(50, 4), epochs=3, seed=7)
    first = run_guest(env)
    assert first.code == 0
    assert all(run_guest(env) == first for _ in range(3))


def test_the_proplet_id_does_not_change_what_is_learned(run_guest: RunGuest):
    env = given(*random_problem(50, 4), epochs=3)
    here = run_guest({**env, "PROPLET_ID": "a", "ROUND_ID": "1"}).update
    there = run_guest({**env, "PROPLET_ID": "b", "ROUND_ID": "2"}).update
    assert here["update"] == there["update"]
    assert here["metrics"] == there["metrics"]


def test_another_seed_gives_another_update(run_guest: RunGuest):
    problem = random_problem(50, 4)
    updates = [run_guest(given(*problem, seed=seed)).update["update"] for seed in (0, 1)]
    assert updates[0] != updates[1]
    np.testing.assert_allclose(updates[0]["w"], updates[1]["w"], atol=0.01)


def test_defaults_are_one_epoch_of_sixteen_rows_at_a_hundredth_with_seed_zero(run_guest: RunGuest):
    problem = random_problem(50, 4)
    explicit = given(*problem, epochs=1, lr=0.01, batch_size=16, seed=0)
    assert run_guest(given(*problem)) == run_guest(explicit)
    del explicit["HYPERPARAMS"]
    assert run_guest(explicit) == run_guest(given(*problem))


def test_training_that_diverges_is_refused(refused):
    env = environment(model([1e300]), dataset([[1e300], [-1e300]], [0, 0]), lr=1e300)
    assert "not finite" in refused(env)
    env = environment(model([0.0]), dataset([[1e200], [-1e200]], [0, 1]), lr=1e200)
    assert "not finite after training" in refused(env)


def test_the_guest_imports_neither_a_clock_nor_randomness_nor_sockets():
    module = wasmtime.Module.from_file(wasmtime.Engine(), str(GUEST))
    assert {i.module for i in module.imports} == {"wasi_snapshot_preview1"}
    assert not [i.name for i in module.imports if i.name.startswith(("clock", "random", "poll", "sock"))]
    assert {e.name for e in module.exports} == {"memory", "_start"}
