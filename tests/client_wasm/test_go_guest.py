"""The guest in Go says and learns what the guest in C does, and makes nothing up either."""

from __future__ import annotations

import numpy as np
import pytest

from client_wasm import build_go
from client_wasm.__main__ import main

from .conftest import RunGuest, dataset, environment, model, runner
from .test_guest_training import given, random_problem, reference_sgd

pytestmark = [pytest.mark.go, pytest.mark.timeout(600)]  # the first build compiles Go's standard library

IDS = {"ROUND_ID": "r-1", "PROPLET_ID": "p-1", "MODEL_URI": "fl/models/global_model_v0"}


@pytest.fixture(scope="session")
def run_go(go_guest) -> RunGuest:
    return runner(go_guest)


@pytest.mark.parametrize("features", [1, 3, 30])
@pytest.mark.parametrize(
    "hyperparams",
    [
        {},
        {"epochs": 3, "lr": 0.5, "batch_size": 7, "seed": 42},
        {"epochs": 2, "lr": 0.1, "batch_size": 1, "seed": 2**53 - 1},
        {"epochs": 4, "lr": 1.5, "batch_size": 10**15},
    ],
)
def test_both_guests_learn_what_an_independent_implementation_does(run_go, run_guest, features, hyperparams):
    w, b, x, y = random_problem(67, features)
    env = {**given(w, b, x, y, **hyperparams), **IDS}
    expected_w, expected_b = reference_sgd(w, b, x, y, **hyperparams)
    in_go, in_c = run_go(env).update, run_guest(env).update
    for update in (in_go, in_c):
        np.testing.assert_allclose(update["update"]["w"], expected_w, rtol=0, atol=1e-9)
        assert update["update"]["b"] == pytest.approx(expected_b, abs=1e-9)
    assert list(in_go) == list(in_c)
    assert in_go["metrics"] == pytest.approx(in_c["metrics"], abs=1e-9)
    for field in ("round_id", "proplet_id", "base_model_uri", "num_samples"):
        assert in_go[field] == in_c[field]


def test_both_guests_log_the_same_phrases(run_go, run_guest):
    env = {**environment(model([0, 0, 0]), dataset([[0.1, 0.2, 0.3]] * 64, [0, 1] * 32)), **IDS}
    in_go, in_c = run_go(env), run_guest(env)
    ours, theirs = (
        [line for line in outcome.stderr.splitlines() if not line.startswith("DEBUG: Update payload: ")]
        for outcome in (in_go, in_c)
    )
    assert [line for line in ours if "_REQUEST:" not in line] == theirs
    assert ours[0] == 'TASK_REQUEST:{"proplet_id":"p-1","round_id":"r-1"}'
    update = in_go.stdout.decode().rstrip("\n")
    assert in_go.stderr.splitlines()[-2:] == [f"DEBUG: Update payload: {update}", f"UPDATE_REQUEST:{update}"]
    assert in_go.stdout.count(b"\n") == 1


def test_large_inputs_come_as_files(run_go, small):
    files = {"model.json": small["MODEL_DATA"], "data/dataset.json": small["DATASET_DATA"]}
    expected = run_go({**small, **IDS}).update
    assert run_go({**IDS, "HYPERPARAMS": small["HYPERPARAMS"]}, files).update == expected


def test_four_mebibytes_of_variables_arrive(run_go, run_guest):
    w, b, x, y = random_problem(4000, 40)
    env = {**given(w, b, x, y), **IDS}
    assert 3 << 20 < sum(map(len, env.values())) < 4 << 20
    np.testing.assert_allclose(run_go(env).update["update"]["w"], run_guest(env).update["update"]["w"], atol=1e-9)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ROUND_ID": ""}, "ROUND_ID is not set"),
        ({"MODEL_DATA": ""}, "no model"),
        ({"DATASET_DATA": ""}, "no dataset"),
        ({"MODEL_DATA": "null"}, "model: expected an object"),
        ({"MODEL_DATA": '{"w": [1, 2], "b": NaN}'}, "model: expected an object"),
        ({"MODEL_DATA": '{"W": [1, 2], "b": 0}'}, 'model: "w" is missing'),
        ({"MODEL_DATA": '{"w": [1, null], "b": 0}'}, "expected a number, found null"),
        ({"MODEL_DATA": '{"w": [1, 1e309], "b": 0}'}, "1e309"),
        ({"MODEL_DATA": '{"w": [1, 2]}'}, '"b" is missing'),
        ({"MODEL_DATA": '{"w": [1, 2, 3], "b": 0}'}, "the model has 3 weights, the dataset has 2 features"),
        ({"DATASET_DATA": "{}"}, '"data" is missing'),
        ({"DATASET_DATA": '{"data": []}'}, "no samples"),
        ({"DATASET_DATA": '{"data": [{"x": [1, 2], "y": -1}]}'}, "row 0: label -1 is neither 0 nor 1"),
        ({"DATASET_DATA": '{"data": [{"x": [1, 2]}]}'}, 'row 0: "y" is missing'),
        ({"DATASET_DATA": '{"data": [{"x": [1, 2], "y": 0}, {"x": [1], "y": 0}]}'}, "row 1 has 1 features"),
        ({"DATASET_DATA": '{"data": [{"x": [1, 2], "y": 0}], "size": 2}'}, '"size" is 2, but there are 1 samples'),
        ({"DATASET_DATA": '{"data": [{"x": [1, 2], "y": 0}], "schema": "v9"}'}, "the schema is not"),
        ({"HYPERPARAMS": '{"epochs": 0}'}, '"epochs" is 0'),
        ({"HYPERPARAMS": '{"epochs": 1.5}'}, '"epochs" is 1.5'),
        ({"HYPERPARAMS": '{"epochs": null}'}, '"epochs" is missing'),
        ({"HYPERPARAMS": '{"lr": 0}'}, '"lr" is 0'),
        ({"HYPERPARAMS": '{"lr": "1"}'}, '"lr"'),
        ({"HYPERPARAMS": "["}, "hyperparams: expected an object"),
        ({"MODEL_DATA": '{"w": [1e300, 1e300], "b": 0}', "HYPERPARAMS": '{"lr": 1e300}'}, "not finite"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_without_an_update(run_go, small, changed, reason):
    if changed.get("HYPERPARAMS") == '{"lr": 1e300}':
        changed["DATASET_DATA"] = dataset([[1e300, 1], [-1e300, 1]], [0, 0])
    outcome = run_go({**small, **IDS, **changed})
    assert (outcome.code, outcome.stdout) == (1, b"")
    assert outcome.stderr.splitlines()[-1].startswith("error: ")
    assert reason in outcome.stderr.splitlines()[-1]


def test_the_build_command_makes_a_guest_that_works(go_command, tmp_path, monkeypatch, capsys, small):
    built = tmp_path / "fl-client.wasm"
    monkeypatch.setattr(build_go, "GUEST", built)
    monkeypatch.setenv("GOFLAGS", "-nonsense")  # nothing of the user's settings changes what is built
    assert main(["build", "--go"]) == 0
    assert f"{built.stat().st_size} bytes" in capsys.readouterr().out
    assert runner(built)({**small, **IDS}).update["num_samples"] == 2


def test_a_missing_go_is_named_with_a_hint(monkeypatch, capsys):
    monkeypatch.setattr(build_go, "go", lambda: None)
    assert main(["build", "--go"]) == 1
    error = capsys.readouterr().err
    assert "hint: pip install 'swashplate[go]'" in error
    assert "Traceback" not in error
