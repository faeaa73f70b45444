"""Every pair of state and event, for tasks and for attempts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.state.states import (
    ATTEMPT,
    INVOCATION,
    TASK,
    AttemptEvent,
    AttemptState,
    IllegalEventError,
    InvocationEvent,
    InvocationState,
    TaskEvent,
    TaskState,
    next_attempt,
    next_invocation,
    next_task,
)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TaskState, TaskEvent)))
def test_a_task_knows_exactly_the_events_of_its_table(state, event):
    if (state, event) in TASK:
        assert next_task(state, event) is TASK[state, event]
    else:
        with pytest.raises(IllegalEventError):
            next_task(state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(AttemptState, AttemptEvent)))
def test_an_attempt_knows_exactly_the_events_of_its_table(state, event):
    if (state, event) in ATTEMPT:
        assert next_attempt(state, event) is ATTEMPT[state, event]
    else:
        with pytest.raises(IllegalEventError):
            next_attempt(state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(InvocationState, InvocationEvent)))
def test_an_invocation_knows_exactly_the_events_of_its_table(state, event):
    if (state, event) in INVOCATION:
        assert next_invocation(state, event) is INVOCATION[state, event]
    else:
        with pytest.raises(IllegalEventError):
            next_invocation(state, event)


def test_nothing_happens_to_an_ended_attempt_or_invocation():
    assert not [pair for pair in (*ATTEMPT, *INVOCATION) if pair[0].ended]


def test_an_ended_task_can_only_be_started_again_or_reset_or_be_refused_its_start():
    assert {event for state, event in TASK if state.ended} == {TaskEvent.START, TaskEvent.RESET, TaskEvent.REFUSED}


@given(st.lists(st.sampled_from(AttemptEvent), max_size=12))
def test_whatever_is_reported_an_attempt_ends_at_most_once(events):
    state, endings = AttemptState.QUEUED, 0
    for event in events:
        if (state, event) in ATTEMPT:
            state = next_attempt(state, event)
            endings += state.ended
    assert endings <= 1
