"""Where an invocation runs and what follows from its answer, for every answer."""

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from manager.latent.calls import Answer, Deployment, after, choose, given
from manager.state.records import AttemptKey, Invocation
from manager.state.states import InvocationState

GUEST = Answer(None, "bad", "trap:unreachable")
LOST = Answer(None, "lost", "proplet_restarted", retryable=True)
REFUSED = Answer(None, "not here", "not_deployed", retryable=True, began=False)


def deployment(proplet_id: str, **more) -> Deployment:
    return Deployment(AttemptKey("t", 1), proplet_id, **{"turns": 2, **more})


def running(*, retry: int = 0) -> Invocation:
    queued = Invocation("i", 1, "t", InvocationState.QUEUED, "{}", 1.0, 100.0, retry=retry)
    return given(queued, deployment("p"), 2.0)


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([deployment("a", busy=1), deployment("b")], "b"),
        ([deployment("a", busy=1, turns=4), deployment("b", busy=1, turns=2)], "a"),
        ([deployment("a", load=3), deployment("b", load=1)], "b"),
        ([deployment("a", last=2), deployment("b", last=1)], "b"),
        ([deployment("b"), deployment("a")], "a"),
    ],
)
def test_the_least_busy_deployment_is_called(others, chosen):
    assert choose(others).proplet_id == chosen


@drawn(st.lists(st.builds(deployment, st.text("abc", min_size=1), busy=st.integers(0, 3), turns=st.integers(1, 2))))
def test_no_deployment_gets_more_than_it_has_turns(deployments):
    chosen = choose(deployments)
    assert (chosen is None) == all(each.busy >= each.turns for each in deployments)
    assert chosen is None or chosen.busy < chosen.turns


@pytest.mark.parametrize(
    ("answer", "retries", "state", "retry"),
    [
        (Answer('"ok"'), 5, InvocationState.COMPLETED, 0),
        (GUEST, 5, InvocationState.FAILED, 0),
        (LOST, 0, InvocationState.FAILED, 0),
        (LOST, 1, InvocationState.QUEUED, 1),
        (REFUSED, 0, InvocationState.QUEUED, 0),
    ],
)
def test_what_follows_from_an_answer(answer, retries, state, retry):
    found = after(running(), answer, retries, 10.0)
    assert (found.state, found.retry) == (state, retry)


def test_retries_are_used_up():
    assert after(running(retry=1), LOST, 1, 10.0).state is InvocationState.FAILED


@pytest.mark.parametrize("answer", [LOST, REFUSED])
def test_nothing_is_tried_again_after_the_deadline(answer):
    found = after(running(), answer, 5, 100.0)
    assert (found.state, found.code) == (InvocationState.FAILED, answer.code)
