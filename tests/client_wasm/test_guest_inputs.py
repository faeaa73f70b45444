"""What the guest accepts, what it refuses, and what it writes."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import RunGuest, dataset, environment, model

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_the_update_names_its_round_proplet_and_model(run_guest: RunGuest, small):
    ids = {"ROUND_ID": "r-1", "PROPLET_ID": "p-1", "MODEL_URI": "fl/models/global_model_v0"}
    outcome = run_guest({**small, **ids})
    assert outcome.stdout.endswith(b"}\n")
    assert outcome.stdout.count(b"\n") == 1
    update = outcome.update
    assert list(update) == ["round_id", "proplet_id", "base_model_uri", "num_samples", "metrics", "update"]
    assert (update["round_id"], update["proplet_id"]) == ("r-1", "p-1")
    assert update["base_model_uri"] == "fl/models/global_model_v0"
    assert set(update["update"]) == {"w", "b"}


def test_ids_are_optional(run_guest: RunGuest, small):
    update = run_guest(small).update
    assert (update["round_id"], update["proplet_id"], update["base_model_uri"]) == ("", "", "")


def test_ids_are_escaped(run_guest: RunGuest, small):
    awkward = 'quote " backslash \\ newline \n tab \t bell \x07 umlaut ü emoji 🚁 slash /'
    assert run_guest({**small, "ROUND_ID": awkward}).update["round_id"] == awkward


def test_the_log_shows_samples_models_and_payload(run_guest: RunGuest):
    env = environment(model([0, 0, 0], version=0), dataset([[0.1, 0.2, 0.3]] * 64, [0] * 64))
    outcome = run_guest(env)
    lines = outcome.stderr.splitlines()
    assert lines[:3] == [
        "Loaded dataset with 64 samples from Local Data Store",
        "DEBUG: Initial model - w: [0.000000, 0.000000, 0.000000], b: 0.000000",
        "DEBUG: First sample - x: [0.100000, 0.200000, 0.300000], y: 0",
    ]
    assert lines[3].startswith("DEBUG: Final model after training - w: [-0.00")
    assert lines[4] == "DEBUG: Update payload: " + outcome.stdout.decode().rstrip("\n")
    assert len(lines) == 5


def test_files_win_over_variables(run_guest: RunGuest, small):
    wanted = environment(model([1.0]), dataset([[2.0]], [1]), epochs=2, lr=0.5)
    task = {
        "round_id": "file-round",
        "proplet_id": "file-proplet",
        "model_uri": "file-uri",
        "hyperparams": {"epochs": 2, "lr": 0.5},
        "name": "fl-round-1",
        "inputs": [1, {"nested": None}],
    }
    files = {
        "task.json": json.dumps(task),
        "model.json": wanted["MODEL_DATA"],
        "data/dataset.json": wanted["DATASET_DATA"],
    }
    variables = {**small, "ROUND_ID": "env", "PROPLET_ID": "env", "MODEL_URI": "env", "HYPERPARAMS": "not even JSON"}
    update = run_guest(variables, files).update
    assert (update["round_id"], update["proplet_id"], update["base_model_uri"]) == (
        "file-round",
        "file-proplet",
        "file-uri",
    )
    assert update["update"] == run_guest(wanted).update["update"]


def test_each_absent_file_leaves_its_variable_in_charge(run_guest: RunGuest, small):
    ids = {"ROUND_ID": "env-round", "HYPERPARAMS": '{"lr": 0.5}'}
    expected = run_guest({**small, **ids}).update
    assert run_guest({**small, **ids}, {}).update == expected
    task = {"task.json": '{"round_id": null, "hyperparams": null}'}
    assert run_guest({**small, **ids}, task).update == expected
    assert run_guest({**small, **ids}, {"model.json": small["MODEL_DATA"]}).update == expected


@pytest.mark.parametrize(
    ("absent", "named"), [("MODEL_DATA", "no model"), ("DATASET_DATA", "no dataset")], ids=["model", "dataset"]
)
@pytest.mark.parametrize("files", [None, {}], ids=["no-directory", "empty-directory"])
def test_nothing_replaces_a_missing_input(refused, small, absent, named, files):
    assert named in refused({**small, absent: ""}, files)
    del small[absent]
    assert named in refused(small, files)


def test_a_malformed_file_is_not_passed_over_in_favour_of_a_variable(refused, small):
    assert "model" in refused(small, {"model.json": ""})
    assert "task" in refused(small, {"task.json": "[]"})
    assert "dataset" in refused(small, {"data/dataset.json": "{}"})
    assert "NUL" in refused(small, {"model.json": b'{"w": [1, 2], "b": 0}\0'})
    assert "/in/model.json" in refused(small, {"model.json/oops": ""})


def test_w_of_another_length_is_refused_with_both_numbers(refused):
    reason = refused(environment(model([0] * 3), dataset([[1, 2]], [0])))
    assert reason == "error: the model has 3 weights, the dataset has 2 features"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no model"),
        (" ", "byte 1: expected an object"),
        ("null", "expected an object"),
        ("[]", "expected an object"),
        ('{"w": [1, 2]}', '"b" is missing'),
        ('{"b": 0}', '"w" is missing'),
        ('{"w": 1, "b": 0}', "expected an array"),
        ('{"w": [[1], 2], "b": 0}', "expected a number"),
        ('{"w": [1, "2"], "b": 0}', "expected a number"),
        ('{"w": [1, true], "b": 0}', "expected a number"),
        ('{"w": [1, null], "b": 0}', "expected a number"),
        ('{"w": [1, 2], "b": []}', "expected a number"),
        ('{"w": [1, 2], "b": NaN}', "expected a number"),
        ('{"w": [1, Infinity], "b": 0}', "expected a number"),
        ('{"w": [1, -Infinity], "b": 0}', "expected a number"),
        ('{"w": [1, 1e309], "b": 0}', "too large"),
        ('{"w": [1, -1e400], "b": 0}', "too large"),
        ('{"w": [1, 01], "b": 0}', "superfluous zero"),
        ('{"w": [1, .5], "b": 0}', "expected a number"),
        ('{"w": [1, 5.], "b": 0}', "digit after '.'"),
        ('{"w": [1, 1e], "b": 0}', "digit in the exponent"),
        ('{"w": [1, +1], "b": 0}', "expected a number"),
        ('{"w": [1, 0x10], "b": 0}', "expected ',' or ']'"),
        ('{"w": [1, 2,], "b": 0}', "expected a number"),
        ('{"w": [1 2], "b": 0}', "expected ',' or ']'"),
        ('{"w": [1, 2], "b": 0,}', "expected a string"),
        ('{"w": [1, 2] "b": 0}', "expected ',' or '}'"),
        ('{"w": [1, 2], "b" 0}', "expected ':'"),
        ('{"w": [1, 2], "b": 0', "expected ',' or '}'"),
        ('{"w": [1, 2], "b": 0} x', "expected the end"),
        ('{"w": [1, 2], "b": 0, "b": 0}', '"b" appears twice'),
        ('{"w": [1, 2], "b": 0, "\\u0062": 0}', '"b" appears twice'),
        ("{'w': [1, 2], 'b': 0}", "expected a string"),
        ('{"w": [1, 2], "b": 0, "x": "\\q"}', "unknown escape"),
        ('{"w": [1, 2], "b": 0, "x": "\\u12g4"}', "hexadecimal"),
        ('{"w": [1, 2], "b": 0, "x": "\\ud800"}', "surrogate"),
        ('{"w": [1, 2], "b": 0, "x": "\\udc00"}', "surrogate"),
        ('{"w": [1, 2], "b": 0, "x": "\\ud800\\u0041"}', "surrogate"),
        ('{"w": [1, 2], "b": 0, "x": "a\nb"}', "control character"),
        ('{"w": [1, 2], "b": 0, "x": "a', "string without an end"),
        ('{"w": [1, 2], "b": 0, "x": "a\\', "unknown escape"),
        ('{"w": [1, 2], "b": 0, "x": nul}', "expected a value"),
        ('{"w": [1, 2], "b": 0, "x": truefalse}', "expected ',' or '}'"),
        ('{"w": [1, 2], "b": 0, "x": }', "expected a number"),
        ('\ufeff{"w": [1, 2], "b": 0}', "expected an object"),
    ],
)
def test_a_malformed_model_is_refused(refused, small, text, reason):
    assert reason in refused({**small, "MODEL_DATA": text})


@pytest.mark.parametrize(
    "text",
    [
        b'"\xff"',
        b'"\xc3"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xe0\x80\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xf0\x80\x80\x80"',
    ],
)
def test_text_that_is_not_utf8_is_refused(refused, small, text):
    assert "not UTF-8" in refused(small, {"model.json": b'{"w": [1, 2], "b": 0, "x": ' + text + b"}"})


@pytest.mark.parametrize("opening", ["[", '{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("depth", [65, 1000, 1_000_000])
def test_a_nesting_bomb_is_refused_and_does_not_exhaust_the_stack(refused, small, opening, depth):
    bomb = '{"w": [1, 2], "b": 0, "x": ' + opening * depth
    assert "nested too deeply" in refused({**small}, {"model.json": bomb})


def test_a_model_may_carry_anything_else(run_guest: RunGuest, small):
    extra = {
        "version": 3,
        "W": [1],
        "notes": {"w": [9, 9], "b": 9, "a": [[], {}, [[1, -2.5e-3, True, False, None, "ü\n"]], {"": {"x": []}}]},
        "text": 'a"b\\c/\b\f\n\r\t\u0000 \U0001f681 é',
    }
    expected = run_guest(small).update["update"]
    assert run_guest({**small, "MODEL_DATA": model([0.5, -0.25], 0.125, **extra)}).update["update"] == expected
    nested = "[" * 64 + "]" * 64
    spaced = f' \t\r\n{{ "x" : {nested} ,\n"\\u0077":[5E-1 , -25e-2], "b" :1.25e-1 }} \n'
    assert run_guest({**small, "MODEL_DATA": spaced}).update["update"] == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "expected an object"),
        ("{}", '"data" is missing'),
        ('{"data": []}', "no samples"),
        ('{"data": {}}', "expected an array"),
        ('{"data": [[1, 2]]}', "expected an object"),
        ('{"data": [{"x": [1, 2]}]}', 'row 0 has no "y"'),
        ('{"data": [{"y": 0}]}', 'row 0 has no "x"'),
        ('{"data": [{"x": [], "y": 0}]}', "row 0 has no features"),
        ('{"data": [{"x": [1, 2], "y": 0}, {"x": [1], "y": 0}]}', "row 1 has 1 features, row 0 has 2"),
        ('{"data": [{"x": [1, 2], "y": 0}, {"x": [1, 2, 3], "y": 0}]}', "row 1 has 3 features, row 0 has 2"),
        ('{"data": [{"x": [1, 2], "y": -1}]}', "row 0: label -1 is neither 0 nor 1"),
        ('{"data": [{"x": [1, 2], "y": 2}]}', "label 2 is neither"),
        ('{"data": [{"x": [1, 2], "y": 0.5}]}', "label 0.5 is neither"),
        ('{"data": [{"x": [1, 2], "y": true}]}', "expected a number"),
        ('{"data": [{"x": [1, 2], "y": "1"}]}', "expected a number"),
        ('{"data": [{"x": [1, NaN], "y": 1}]}', "expected a number"),
        ('{"data": [{"x": [1, 1e999], "y": 1}]}', "too large"),
        ('{"data": [{"x": "12", "y": 1}]}', "expected an array"),
        ('{"data": [{"x": [1, 2], "x": [1, 2], "y": 1}]}', '"x" appears twice'),
        ('{"data": [{"x": [1, 2], "y": 1}], "size": 2}', '"size" is 2, but there are 1 samples'),
        ('{"size": 0, "data": [{"x": [1, 2], "y": 1}]}', '"size" is 0, but there are 1 samples'),
        ('{"data": [{"x": [1, 2], "y": 1}], "schema": "images-v2"}', "the schema is not"),
        ('{"data": [{"x": [1, 2], "y": 1}', "expected ',' or ']'"),
    ],
)
def test_a_malformed_dataset_is_refused(refused, small, text, reason):
    assert reason in refused({**small, "DATASET_DATA": text})


def test_a_dataset_needs_neither_size_nor_schema_and_its_rows_may_carry_more(run_guest: RunGuest, small):
    rows = '[{"x": [1, 2], "y": -0.0, "id": {"a": [1]}}, {"weight": 2, "y": 1.0, "x": [3.0, -4e0]}]'
    assert run_guest({**small, "DATASET_DATA": f'{{"data": {rows}}}'}) == run_guest(small)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "expected an object"),
        ("{", "expected a string"),
        ("{} {}", "expected the end"),
        ('{"epochs": 0}', '"epochs" is 0'),
        ('{"epochs": -1}', '"epochs" is -1'),
        ('{"epochs": 1.5}', '"epochs" is 1.5'),
        ('{"epochs": "1"}', "expected a number"),
        ('{"epochs": true}', "expected a number"),
        ('{"epochs": null}', "expected a number"),
        ('{"epochs": 1e300}', '"epochs" is 1'),
        ('{"epochs": 1, "epochs": 1}', '"epochs" appears twice'),
        ('{"batch_size": 0}', '"batch_size" is 0'),
        ('{"batch_size": 0.5}', '"batch_size" is 0.5'),
        ('{"batch_size": [16]}', "expected a number"),
        ('{"lr": 0}', '"lr" is 0'),
        ('{"lr": -0.1}', '"lr" is -0.1'),
        ('{"lr": 1e999}', "too large"),
        ('{"lr": NaN}', "expected a number"),
        ('{"lr": "0.1"}', "expected a number"),
        ('{"seed": -1}', '"seed" is -1'),
        ('{"seed": 0.5}', '"seed" is 0.5'),
        ('{"seed": 9007199254740992}', '"seed" is 9007199254740992'),
        ('{"seed": {}}', "expected a number"),
    ],
)
def test_wrong_hyperparams_are_refused_in_a_variable_and_in_a_file(refused, small, text, reason):
    assert reason in refused({**small, "HYPERPARAMS": text})
    if not text.endswith("{") and text != "{} {}":
        assert reason in refused(small, {"task.json": f'{{"hyperparams": {text}}}'})


def test_an_unknown_hyperparameter_is_ignored_and_named_on_one_line_of_the_log(run_guest: RunGuest, small):
    outcome = run_guest({**small, "HYPERPARAMS": '{"learning\\nrate": [0.1], "epochs": 1.0}'})
    assert outcome.stderr.splitlines()[0] == 'Ignored unknown hyperparameter "learning\\u000arate"'
    assert outcome.update == run_guest(small).update


def test_task_fields_of_another_type_are_refused(refused, small):
    assert "expected a string" in refused(small, {"task.json": '{"round_id": 7}'})
    assert "expected an object" in refused(small, {"task.json": '{"hyperparams": "{}"}'})
    assert "appears twice" in refused(small, {"task.json": '{"round_id": "a", "round_id": "b"}'})


def test_more_data_than_memory_is_refused(refused, small):
    rows = ",".join(['{"x": [1, 2], "y": 0}'] * 1_000_000)
    assert refused(small, {"data/dataset.json": f'{{"data": [{rows}], "pad": "{"x" * (40 << 20)}"}}'}).endswith(
        "out of memory"
    )


def unchanged_by_training(run_guest: RunGuest, texts: list[str]) -> list[float]:
    """What the guest reads and writes as weights: on rows of zeros the gradient of w is exactly 0."""
    rows = dataset([[0] * len(texts)], [0])
    files = {"model.json": f'{{"w": [{",".join(texts)}], "b": 0}}', "data/dataset.json": rows}
    outcome = run_guest({}, files)
    assert outcome.code == 0, outcome.stderr
    return json.loads(outcome.stdout, parse_int=float)["update"]["w"]  # as an int, -0 would lose its sign


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


@settings(max_examples=100, deadline=None)
@given(values=st.lists(finite, min_size=1, max_size=50))
def test_a_weight_survives_reading_and_writing_bit_for_bit(run_guest: RunGuest, values):
    assert bits(unchanged_by_training(run_guest, [repr(v) for v in values])) == bits(values)


# Decimals of every length and size, not only the shortest ones that repr gives.
decimals = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    st.integers(0, 10**25).map(str),
    st.one_of(st.just(""), st.from_regex(r"\.[0-9]{1,30}", fullmatch=True)),
    st.one_of(
        st.just(""), st.integers(-345, 280).map(lambda e: f"e{e}"), st.integers(-30, 30).map(lambda e: f"E{e:+}")
    ),
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(decimals, min_size=1, max_size=50))
def test_a_decimal_is_read_as_the_nearest_float64(run_guest: RunGuest, texts):
    assert bits(unchanged_by_training(run_guest, texts)) == bits([float(text) for text in texts])


HALFWAY = [
    "9007199254740993",  # 2^53 + 1: a tie, to even
    "9007199254740995",
    "9007199254740992.999",
    "9007199254740993.0000000000000000000001",
    "1e23",
    "8.5e22",
    "0.1e-6",
    "5e-324",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
    "2.2250738585072011e-308",
    "1.7976931348623157e308",
    "1.7976931348623158e308",
    "18446744073709551615",
    "18446744073709551616",
    "9999999999999999999e-27",
    "9999999999999999999e27",
    "0.000000000000000000000000000000000000000000000000000000000001",
    "1" + "0" * 400 + "e-400",
    "0e99999999999",
    "1e-99999999999",
    "-0",
    "-0.0e5",
]


def test_ties_limits_and_oddly_written_numbers_are_read_exactly(run_guest: RunGuest):
    assert bits(unchanged_by_training(run_guest, HALFWAY)) == bits([float(text) for text in HALFWAY])
