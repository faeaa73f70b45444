"""Every pair of state and event, for tasks and for attempts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.states import (
    ATTEMPT,
    TASK,
    AttemptEvent,
    AttemptState,
    IllegalEventError,
    TaskEvent,
    TaskState,
    next_attempt,
    next_task,
    retry_delay,
    task_event,
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


def test_nothing_happens_to_an_ended_attempt():
    assert not [pair for pair in ATTEMPT if pair[0].ended]


def test_an_ended_task_can_only_be_started_again():
    assert {event for state, event in TASK if state.ended} == {TaskEvent.START}


@given(st.lists(st.sampled_from(AttemptEvent), max_size=12))
def test_whatever_is_reported_an_attempt_ends_at_most_once(events):
    state, endings = AttemptState.RESOLVING, 0
    for event in events:
        if (state, event) in ATTEMPT:
            state = next_attempt(state, event)
            endings += state.ended
    assert endings <= 1


@given(st.integers(1, 10), st.integers(0, 5), st.booleans())
def test_a_task_is_tried_at_most_retries_times_more(attempt, retries, retryable):
    event = task_event(AttemptState.FAILED, retryable=retryable, attempt=attempt, retries=retries)
    assert (event is TaskEvent.RETRY) == (retryable and attempt <= retries)


def test_what_was_stopped_or_succeeded_is_never_retried():
    for outcome, event in (
        (AttemptState.COMPLETED, TaskEvent.COMPLETED),
        (AttemptState.INTERRUPTED, TaskEvent.INTERRUPTED),
    ):
        assert task_event(outcome, retryable=True, attempt=1, retries=5) is event


def test_the_delay_between_attempts_grows_to_a_limit():
    assert [retry_delay(n) for n in (1, 2, 3, 10, 1000)] == [0.2, 0.4, 0.8, 5.0, 5.0]
