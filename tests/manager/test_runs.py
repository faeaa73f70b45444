"""What a start makes of a task and what an ended attempt means for it: the policies, for every outcome."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.state.records import Attempt, Task, spec_text
from manager.state.states import AttemptEvent, AttemptState, IllegalEventError, TaskState
from manager.work.runs import Outcome, begin, ended, follow, retry_delay
from swashplate.messages import TaskCreate

COMPLETED = Outcome(AttemptEvent.COMPLETED, '"ok"')
FAILED = Outcome(AttemptEvent.FAILED, None, "bad", "trap:unreachable")
LOST = Outcome(AttemptEvent.EXPIRED, None, "lost", "proplet_lost", retryable=True)
UNTAKEN = Outcome(AttemptEvent.EXPIRED, None, "lost", "proplet_lost", retryable=True, free=True)
FULL = Outcome(AttemptEvent.DENIED, None, "full", "no_slot", retryable=True)
STOPPED = Outcome(AttemptEvent.INTERRUPTED, None, "stopped", "stopped")


def a_task(**spec) -> Task:
    made = TaskCreate(name="t", image_url="i", **spec)
    return Task("id", 1, made, spec_text(made), TaskState.PENDING, 1.0, 1.0)


def given_to(attempt: Attempt, now: float, proplet: str = "p") -> Attempt:
    return attempt.changed(state=AttemptState.ACCEPTED, proplet_id=proplet, offered_at=now, accepted_at=now)


def after(task: Task, outcome: Outcome, *, now: float = 10.0):
    """One attempt begun, accepted at 5 and ended."""
    task, (attempt,) = begin(task, [None], 2.0)
    attempt = given_to(attempt, 5.0)
    if outcome.event is AttemptEvent.DENIED:
        attempt = attempt.changed(state=AttemptState.OFFERED)
    return follow(task, ended(attempt, outcome, now), outcome, [], now)


def test_a_start_begins_a_run_with_an_attempt_per_target():
    task, attempts = begin(a_task(broadcast=True), ["a", "b"], 2.0)
    assert (task.state, task.run, task.attempt) == (TaskState.SCHEDULED, 1, 2)
    assert [(each.number, each.target, each.run) for each in attempts] == [(1, "a", 1), (2, "b", 1)]


def test_an_active_task_cannot_be_started():
    task, _ = begin(a_task(), [None], 2.0)
    with pytest.raises(IllegalEventError):
        begin(task, [None], 3.0)


def test_a_second_run_goes_on_counting_and_forgets_the_first_runs_result():
    task, _ = after(a_task(), COMPLETED)
    assert task.result == '"ok"'
    again, (attempt,) = begin(task, [None], 20.0)
    assert (again.run, again.attempt, attempt.number, attempt.run) == (2, 2, 2, 2)
    assert (again.result, again.finished_at, again.digest) == (None, None, None)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (COMPLETED, TaskState.COMPLETED),
        (FAILED, TaskState.FAILED),
        (LOST, TaskState.FAILED),
        (STOPPED, TaskState.INTERRUPTED),
    ],
)
def test_without_retries_the_attempts_end_is_the_tasks(outcome, state):
    task, following = after(a_task(), outcome)
    assert following is None
    assert (task.state, task.result, task.error, task.code) == (state, outcome.result, outcome.error, outcome.code)


@given(retries=st.integers(0, 5))
def test_an_attempt_that_is_lost_is_repeated_as_often_as_the_task_allows(retries):
    task, (attempt,) = begin(a_task(retries=retries), [None], 2.0)
    count = 0
    while attempt is not None:
        count += 1
        task, attempt = follow(task, ended(given_to(attempt, 5.0), LOST, 6.0), LOST, [], 6.0)
    assert count == retries + 1
    assert task.state is TaskState.FAILED


@pytest.mark.parametrize("outcome", [FULL, UNTAKEN])
def test_what_nobody_took_costs_no_retry_and_keeps_its_age(outcome):
    task, (attempt,) = begin(a_task(), [None], 2.0)
    offered = attempt.changed(state=AttemptState.OFFERED, proplet_id="p", offered_at=5.0)
    task, following = follow(task, ended(offered, outcome, 6.0), outcome, [], 6.0)
    assert following is not None
    assert (following.number, following.retry, following.created_at, following.state) == (
        2,
        0,
        2.0,
        AttemptState.QUEUED,
    )
    assert task.state is TaskState.SCHEDULED


def test_a_failure_that_another_attempt_could_not_change_is_final():
    task, following = after(a_task(retries=5), FAILED)
    assert (task.state, following) == (TaskState.FAILED, None)


def test_what_is_to_stop_is_not_tried_again():
    task, (attempt,) = begin(a_task(retries=5), [None], 2.0)
    task, following = follow(task.changed(stopping=True), ended(given_to(attempt, 5.0), LOST, 6.0), LOST, [], 6.0)
    assert (task.state, following) == (TaskState.FAILED, None)


@pytest.mark.parametrize(
    ("policy", "outcome", "goes_on"),
    [
        ("never", FAILED, False),
        ("never", LOST, False),
        ("on_failure", FAILED, True),
        ("on_failure", LOST, True),
        ("on_failure", COMPLETED, False),
        ("always", COMPLETED, True),
        ("always", STOPPED, False),
    ],
)
def test_a_daemon_is_restarted_by_its_policy(policy, outcome, goes_on):
    task, following = after(a_task(daemon=True, restart=policy), outcome)
    assert (following is not None) == goes_on
    assert task.state.active == goes_on


@pytest.mark.parametrize(("outcome", "goes_on"), [(LOST, True), (FAILED, False), (STOPPED, False)])
def test_a_latent_task_is_deployed_again_when_its_proplet_is_lost(outcome, goes_on):
    assert (after(a_task(latent=True), outcome)[1] is not None) == goes_on


def test_a_daemon_that_ran_for_long_begins_again_at_once():
    _, following = after(a_task(daemon=True), FAILED, now=1000.0)
    assert following is not None
    assert (following.not_before, following.retry) == (1000.0, 0)


def test_a_broadcast_ends_when_every_proplet_has_and_has_a_result_for_each():
    task, (one, two) = begin(a_task(broadcast=True), ["a", "b"], 2.0)
    one, two = given_to(one, 5.0, "a"), given_to(two, 5.0, "b")
    first = ended(one, COMPLETED, 6.0)
    task, following = follow(task, first, COMPLETED, [two], 6.0)
    assert (task.state.active, following) == (True, None)
    task, following = follow(task, ended(two, COMPLETED, 7.0), COMPLETED, [first], 7.0)
    assert (task.state, following) == (TaskState.COMPLETED, None)
    assert json.loads(task.result) == {"a": "ok", "b": "ok"}


def test_a_broadcast_that_failed_on_one_proplet_names_it_and_keeps_the_others_results():
    task, (one, two) = begin(a_task(broadcast=True), ["a", "b"], 2.0)
    first = ended(given_to(one, 5.0, "a"), COMPLETED, 6.0)
    task, _ = follow(task, first, COMPLETED, [two], 6.0)
    task, _ = follow(task, ended(given_to(two, 5.0, "b"), FAILED, 7.0), FAILED, [first], 7.0)
    assert (task.state, task.code, task.error) == (
        TaskState.FAILED,
        "trap:unreachable",
        "1 of 2 proplets failed: b: bad",
    )
    assert json.loads(task.result) == {"a": "ok", "b": None}


def test_a_broadcast_counts_the_last_attempt_of_each_proplet():
    task, (one, two) = begin(a_task(broadcast=True, retries=1), ["a", "b"], 2.0)
    lost = ended(given_to(one, 5.0, "a"), LOST, 6.0)
    task, again = follow(task, lost, LOST, [two], 6.0)
    assert (again.target, again.number, again.retry) == ("a", 3, 1)
    second = ended(given_to(again, 6.5, "a"), COMPLETED, 7.0)
    task, _ = follow(task, second, COMPLETED, [lost, two], 7.0)
    task, _ = follow(task, ended(given_to(two, 5.0, "b"), COMPLETED, 8.0), COMPLETED, [lost, second], 8.0)
    assert task.state is TaskState.COMPLETED


def test_the_delay_between_attempts_grows_to_a_limit():
    assert [retry_delay(n) for n in (0, 1, 2, 10, 10_000)] == [0.2, 0.4, 0.8, 5.0, 5.0]
