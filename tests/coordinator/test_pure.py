"""The parts without I/O: averages, canonical models, states, decisions, tokens."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import aggregation, models, states
from coordinator.decisions import Aggregate, Fail, Wait, decide, nobody_launched
from coordinator.records import Participant, Round
from coordinator.states import ParticipantEvent, ParticipantState, RoundEvent, RoundState
from coordinator.tokens import Tokens
from swashplate.blobs import sha256_digest
from swashplate.errors import InvalidRequestError
from swashplate.messages import ExperimentConfig
from swashplate.model_ref import ModelRef

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18)
moderate = st.floats(-1e100, 1e100)
model_json = st.fixed_dictionaries(
    {"w": st.lists(numbers, min_size=1, max_size=20), "b": numbers},
    optional={"a.0,": numbers, "é": st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=3)},
)


@st.composite
def rounds_of_updates(draw):
    size = draw(st.integers(1, 6))
    count = draw(st.integers(1, 6))
    return [
        {
            "proplet_id": f"p-{n}",
            "num_samples": draw(st.integers(1, 10**6)),
            "update": {"w": draw(st.lists(moderate, min_size=size, max_size=size)), "b": draw(moderate)},
        }
        for n in range(count)
    ]


@given(rounds_of_updates())
def test_fedavg_is_numpys_weighted_average(updates):
    mean = aggregation.fedavg(aggregation.contributions(updates))
    weights = [u["num_samples"] for u in updates]
    largest = max(abs(x) for u in updates for x in [*u["update"]["w"], u["update"]["b"]])
    expected = np.average([u["update"]["w"] for u in updates], axis=0, weights=weights)
    np.testing.assert_allclose(mean["w"], expected, rtol=1e-12, atol=1e-12 * largest)
    expected_b = np.average([u["update"]["b"] for u in updates], weights=weights)
    np.testing.assert_allclose(mean["b"], expected_b, rtol=1e-12, atol=1e-12 * largest)


@given(rounds_of_updates(), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_arrival_does_not_change_a_byte(updates, rng: random.Random, nameless):
    if nameless:
        for one in updates:
            del one["proplet_id"]
    shuffled = rng.sample(updates, len(updates))
    one, other = (models.encode(aggregation.fedavg(aggregation.contributions(u))) for u in (updates, shuffled))
    assert one == other


@given(model_json)
def test_a_model_reads_back_as_the_same_tensors(value):
    model = models.parse(value)
    text = models.encode(model)
    again = models.parse(json.loads(text))
    assert list(again) == list(model)
    for name, tensor in model.items():
        np.testing.assert_array_equal(again[name], tensor)
    assert models.encode(again) == text


@given(model_json)
def test_the_text_of_a_model_has_one_form(value):
    text = models.encode(models.parse(value)).decode()
    assert text.startswith('{"w":[')
    assert text.index('"b":') > 0
    as_floats = {k: (np.array(v, dtype=float) + 0.0).tolist() for k, v in reversed(value.items())}
    assert models.encode(models.parse(as_floats)).decode() == text
    assert "-0," not in text.replace("e-0", "")


def test_whole_numbers_have_no_fraction_and_zero_has_no_sign():
    model = models.parse({"z": [[1.0, 2.5]], "b": -0.0, "w": [0.0, -0.0, 1e15, 1e16, 0.1, -3.0, 1e-7]})
    assert models.encode(model) == b'{"w":[0,0,1000000000000000,1e+16,0.1,-3,1e-07],"b":0,"z":[[1,2.5]]}'


def test_the_zero_model_of_the_guide():
    text = models.encode(models.parse({"w": [0.0, 0.0, 0.0], "b": 0.0}))
    assert text == b'{"w":[0,0,0],"b":0}'
    assert sha256_digest(text).startswith("sha256:")


@pytest.mark.parametrize("depth", [1, 15, 17, 100])
def test_nesting_has_a_limit(depth):
    value = 1.0
    for _ in range(depth):
        value = [value]
    model = {"w": [1], "b": 0, "deep": value}
    if depth <= models.MAX_DEPTH:
        assert models.shapes(models.parse(model))["deep"] == [1] * depth
    else:
        with pytest.raises(InvalidRequestError, match="deeper"):
            models.parse(model)


def test_a_model_that_is_not_finite_is_never_written():
    with pytest.raises(InvalidRequestError, match="not finite"):
        models.encode({"w": np.array([1.0, np.nan]), "b": np.array(0.0)})


def test_an_average_of_nothing_is_refused():
    with pytest.raises(InvalidRequestError, match="No updates provided"):
        aggregation.fedavg([])


ROUND_MOVES = {
    ("configured", "enough updates"): "aggregating",
    ("configured", "too few updates"): "failed",
    ("configured", "nobody launched"): "cancelled",
    ("configured", "base lost"): "failed",
    ("aggregating", "base lost"): "failed",
    ("aggregating", "model stored"): "completed",
    ("aggregating", "model refused"): "failed",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RoundState, RoundEvent)))
def test_a_round_moves_as_the_table_says_and_not_otherwise(state, event):
    expected = ROUND_MOVES.get((state.value, event.value))
    if expected is None:
        with pytest.raises(states.IllegalTransitionError, match=state.value):
            states.round_after(state, event)
    else:
        assert states.round_after(state, event) is RoundState(expected)


PARTICIPANT_MOVES = """
            launched  postponed  refused  ended    completed  updated
  pending   launched  pending    skipped  ended    launched   updated
  launched  launched  launched   skipped  ended    launched   updated
  skipped   -         -          -        skipped  skipped    updated
  ended     ended     ended      ended    ended    ended      updated
  updated   updated   updated    updated  updated  updated    -
"""


def participant_moves():
    events, *rows = (line.split() for line in PARTICIPANT_MOVES.strip().splitlines())
    return [(state, event, after) for state, *row in rows for event, after in zip(events, row, strict=True)]


@pytest.mark.parametrize(("state", "event", "expected"), participant_moves())
def test_a_participant_moves_as_the_table_says_and_not_otherwise(state, event, expected):
    if expected == "-":
        with pytest.raises(states.IllegalTransitionError, match=state):
            states.participant_after(ParticipantState(state), ParticipantEvent(event))
    else:
        after = states.participant_after(ParticipantState(state), ParticipantEvent(event))
        assert after is ParticipantState(expected)


def test_the_table_of_participants_is_complete():
    pairs = {(state, event) for state, event, _ in participant_moves()}
    assert pairs == {(s.value, e.value) for s in ParticipantState for e in ParticipantEvent}


def test_every_end_of_a_round_is_final():
    assert {s for s in RoundState if not any(start is s for start, _ in states.ROUND)} == states.OVER


def a_round(*, n: int, k: int, deadline: float = 100) -> Round:
    config = ExperimentConfig(
        round_id="r-1",
        model_ref="fl/models/global_model_v0",
        participants=[f"p-{i}" for i in range(n)],
        k_of_n=k,
        task_wasm_image="image",
    )
    return Round(config, ModelRef("global_model", 0), "sha256:0", {"w": [3], "b": []}, k, 0.0, deadline)


@given(st.lists(st.sampled_from(ParticipantState), min_size=1, max_size=8), st.integers(1, 8), st.floats(0, 200))
def test_a_round_waits_exactly_while_k_updates_are_possible_in_time(found, k, now):
    k = min(k, len(found))
    participants = {f"p-{i}": Participant(f"p-{i}", state) for i, state in enumerate(found)}
    decision = decide(a_round(n=len(found), k=k), participants, now)
    updated = found.count(ParticipantState.UPDATED)
    lost = found.count(ParticipantState.SKIPPED) + found.count(ParticipantState.ENDED)
    if updated >= k:
        assert decision == Aggregate()
    elif now >= 100:
        assert isinstance(decision, Fail)
        assert decision.code == "timeout"
    elif len(found) - lost < k:
        assert isinstance(decision, Fail)
        assert decision.code == "too_few_participants"
    else:
        assert decision == Wait()


def test_a_failure_names_the_participants_and_their_reasons():
    lost = Participant("p-1", ParticipantState.SKIPPED, error="not found")
    ended = replace(lost, proplet_id="p-2", state=ParticipantState.ENDED, error="", code="task_failed")
    decision = decide(a_round(n=3, k=2), {"p-0": Participant("p-0"), "p-1": lost, "p-2": ended}, 1)
    assert isinstance(decision, Fail)
    assert "p-1 (not found), p-2 (task_failed)" in decision.error


def test_a_failure_of_very_many_stays_readable():
    lost = {f"p-{i}": Participant(f"p-{i}", ParticipantState.SKIPPED, error="not found") for i in range(5000)}
    decision = decide(a_round(n=5000, k=2), lost, 1)
    assert isinstance(decision, Fail)
    assert decision.error.endswith("and 4980 more")
    assert nobody_launched(lost)


def test_a_token_is_the_same_after_a_restart_and_different_for_everybody(tmp_path: Path):
    first, again = Tokens.load(tmp_path), Tokens.load(tmp_path)
    token = first.of("r-1", "p-1")
    assert again.of("r-1", "p-1") == token
    assert again.matches(token, "r-1", "p-1")
    assert len({token, first.of("r-1", "p-2"), first.of("r-2", "p-1")}) == 3
    assert not first.matches("", "r-1", "p-1")
    assert not first.matches("ü", "r-1", "p-1")
