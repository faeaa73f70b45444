"""Where an invocation runs, and what follows from how it went there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from manager.state.records import AttemptKey, CallKey, Invocation
from manager.state.states import InvocationEvent, next_invocation

NEVER_RAN = frozenset({"not_deployed", "no_slot"})
"""A proplet that answers so has not begun: running it elsewhere is not running it twice."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A latent task on a proplet that has it ready. ``busy`` of its ``turns`` are taken by this task, ``load`` counts what
    the proplet runs for all of them. ``last`` counts up with each invocation that goes anywhere.
    """

    key: AttemptKey
    proplet_id: str
    turns: int
    busy: int = 0
    load: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """How an invocation went; result and report as they are stored. ``began``: whether its guest may have run."""

    result: str | None = None
    error: str | None = None
    code: str | None = None
    retryable: bool = False
    began: bool = True
    report: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None


def choose(deployments: Iterable[Deployment]) -> Deployment | None:
    """The least busy one with a turn left; among equals the one that was used longest ago."""
    free = [each for each in deployments if each.busy < each.turns]
    return min(free, key=lambda each: (each.busy / each.turns, each.load, each.last, each.proplet_id), default=None)


def given(invocation: Invocation, deployment: Deployment, now: float) -> Invocation:
    return invocation.changed(
        state=next_invocation(invocation.state, InvocationEvent.GIVEN),
        turn=invocation.turn + 1,
        number=deployment.key.number,
        proplet_id=deployment.proplet_id,
        started_at=now,
    )


def id_of_turn(invocation: Invocation) -> str:
    """What a proplet knows it by. One that comes back to a proplet must not be answered with what it said before."""
    return invocation.id if invocation.turn <= 1 else f"{invocation.id}.{invocation.turn}"


def key_of(invocation: Invocation) -> CallKey:
    """Of its present turn, which a proplet was given."""
    assert invocation.number is not None
    return CallKey(invocation.task_id, invocation.number, id_of_turn(invocation))


def invocation_of(id_of_turn: str) -> str:
    return id_of_turn.partition(".")[0]


def after(invocation: Invocation, answer: Answer, retries: int, now: float) -> Invocation:
    """The invocation as it is then: ended, or waiting for another turn.

    It runs at most once, unless its task has ``retries``. What never began does not count.
    """
    again = invocation.changed(started_at=None)
    if answer.failed and not answer.began and now < invocation.deadline:
        return again.changed(state=next_invocation(invocation.state, InvocationEvent.RETURNED))
    if answer.failed and answer.retryable and invocation.retry < retries and now < invocation.deadline:
        back = next_invocation(invocation.state, InvocationEvent.RETURNED)
        return again.changed(state=back, retry=invocation.retry + 1)
    return ended(invocation, answer, now)


def ended(invocation: Invocation, answer: Answer, now: float) -> Invocation:
    event = InvocationEvent.FAILED if answer.failed else InvocationEvent.COMPLETED
    return invocation.changed(
        state=next_invocation(invocation.state, event),
        finished_at=now,
        result=answer.result,
        error=answer.error,
        code=answer.code,
        report=answer.report,
    )
