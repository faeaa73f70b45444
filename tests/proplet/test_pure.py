"""The proplet's pure parts."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proplet.data_store import demo
from proplet.sandbox import entry
from proplet.sandbox.frames import LOGGED_EVERY_S, Allowance
from proplet.settings import PropletSettings
from proplet.work import states
from proplet.work.states import AttemptEvent, AttemptState
from swashplate.errors import ConfigurationError, ConflictError

FUNCTIONS = {"add": True, "_start": True, "memory": False}


def test_a_round_is_always_a_command():
    assert entry.choose("fl-round-1-p", ["--invoke", "add"], {**FUNCTIONS, "fl-round-1-p": True}) == "_start"


def test_the_named_function_wins_then_the_tasks_name_then_start():
    assert entry.choose("x", ["--dir", ".", "--invoke=add"], FUNCTIONS) == "add"
    assert entry.choose("add", [], FUNCTIONS) == "add"
    assert entry.choose("memory", [], FUNCTIONS) == "_start"
    assert entry.choose("unknown", [], FUNCTIONS) == "_start"


@pytest.mark.parametrize("cli_args", [["--invoke"], ["--invoke", "memory"], ["--invoke", "nothing"]])
def test_an_invoked_name_that_is_no_function_is_an_error(cli_args):
    with pytest.raises(entry.GuestError, match="_start, add, memory"):
        entry.choose("add", cli_args, FUNCTIONS)


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_keep_their_value_within_their_type(value):
    assert entry.arguments(["i64"], [str(value)]) == [value]
    if -(2**31) <= value < 2**31:
        assert entry.arguments(["i32"], [str(value)]) == [value]
    else:
        with pytest.raises(entry.GuestError, match="out of the range of i32"):
            entry.arguments(["i32"], [str(value)])


@given(st.floats(allow_nan=False))
def test_a_double_comes_back_from_its_decimal_text(value):
    text = entry.decimal("f64", value)
    assert entry.arguments(["f64"], [text]) == [value]


@given(st.floats(width=32, allow_nan=False))
def test_a_float_comes_back_from_its_decimal_text(value):
    [back] = entry.arguments(["f32"], [entry.decimal("f32", value)])
    assert struct.pack("<f", back) == struct.pack("<f", value)


def test_a_float_is_written_as_short_as_it_can_be():
    assert entry.decimal("f32", struct.unpack("<f", struct.pack("<f", 0.1))[0]) == "0.1"
    assert entry.decimal("f64", math.inf) == "inf"


@pytest.mark.parametrize(
    ("types", "inputs", "reason"),
    [
        (["i32"], [], "takes 1 argument "),
        (["i32"], ["one"], "not a number"),
        (["i32"], ["1.5"], "not a number"),
        (["f32"], ["1e39"], "out of the range"),
        (["f64"], ["1e999"], "out of the range"),
    ],
)
def test_wrong_inputs_name_the_reason(types, inputs, reason):
    with pytest.raises(entry.GuestError, match=reason):
        entry.arguments(types, inputs)


def test_every_event_that_the_table_does_not_know_is_refused():
    for state, event in itertools.product(AttemptState, AttemptEvent):
        if (state, event) in states.TRANSITIONS:
            assert states.after(state, event) is states.TRANSITIONS[state, event]
        else:
            with pytest.raises(ConflictError, match=f"{state} cannot take {event}"):
                states.after(state, event)


def test_every_state_can_still_become_acknowledged():
    reachable = {AttemptState.ACKNOWLEDGED}
    for _ in AttemptState:
        reachable |= {before for (before, _), then in states.TRANSITIONS.items() if then in reachable}
    assert reachable == set(AttemptState)


@given(st.text(max_size=80))
def test_seeded_rows_are_in_range_for_every_id(name):
    rows = demo.rows(name)
    assert len(rows) == 64
    assert -(2**63) <= demo.name_hash(name) < 2**63
    for row in rows:
        assert row["y"] in {0, 1}
        assert all(0 <= feature <= 0.9 for feature in row["x"])


def test_seeded_rows_follow_the_formula():
    assert demo.name_hash("ab") == 97 * 31 + 98
    s = (97 * 31 + 98) % 1000
    assert demo.rows("ab")[0] == {"x": [s % 10 / 10, 2 * s % 10 / 10, 3 * s % 10 / 10], "y": s % 2}
    assert demo.name_hash("3fe95a65-74f1-4ede-bf20-ef565f04cecb") == reference_hash(
        "3fe95a65-74f1-4ede-bf20-ef565f04cecb"
    )


def reference_hash(text: str) -> int:
    """Wrapping arithmetic done once, at the end: the ring of integers modulo 2**64."""
    total = sum(ord(c) * 31 ** (len(text) - 1 - i) for i, c in enumerate(text)) % 2**64
    return total - 2**64 if total >= 2**63 else total


def test_a_guest_that_was_loud_once_is_heard_again_later():
    now = [0.0]
    allowance = Allowance(10, lambda: now[0])
    assert allowance.spend(4) == 6
    assert allowance.spend(20) < 0
    now[0] = LOGGED_EVERY_S - 1
    assert allowance.left() < 0
    now[0] = LOGGED_EVERY_S
    assert allowance.left() == 10


def settings(**more: str) -> PropletSettings:
    identity = dict.fromkeys(("PROPLET_DOMAIN_ID", "PROPLET_CHANNEL_ID", "PROPLET_ENTITY_ID", "PROPLET_API_KEY"), "x")
    return PropletSettings.load({**identity, **more})


def test_labels_are_read_as_pairs():
    assert settings(PROPLET_LABELS="a=b, c = d=e,").label_map() == {"a": "b", "c": "d=e"}
    with pytest.raises(ConfigurationError, match="PROPLET_LABELS"):
        settings(PROPLET_LABELS="lonely").label_map()


def test_durations_may_carry_a_unit():
    assert settings(PROPLET_LIVELINESS_INTERVAL="30s").heartbeat == 30
    assert settings(PROPLET_LIVELINESS_INTERVAL="5").heartbeat == 5
