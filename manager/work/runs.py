"""What a start makes of a task, and what an ended attempt means for it. Pure.

A run is one start. It has one target (any proplet, or the pinned one), or with ``broadcast`` one per proplet; the attempts
of a target follow each other until one ends it. The run ends when every target has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from manager.state import results
from manager.state.records import Attempt, Task
from manager.state.states import AttemptEvent, AttemptState, TaskEvent, next_attempt, next_task
from manager.work import denials

STEADY_S = 60.0
"""A standing task that ran this long begins again without delay, whatever went wrong before."""
RESTART_MOST_S = 30.0
FINAL_DENIALS = frozenset({"invalid_start", "unsupported"})
"""Another proplet would say the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``free``: it costs none of the task's retries, since nobody had taken it. ``final``: nobody is
    left who could be asked.
    """

    event: AttemptEvent
    result: str | None = None
    error: str | None = None
    code: str | None = None
    retryable: bool = False
    free: bool = False
    final: bool = False
    report: str | None = None


def retry_delay(retry: int, most: float = 5.0) -> float:
    """Seconds before the attempt after ``retry`` earlier ones: 0.2 s, doubling."""
    return min(most, 0.2 * 2.0 ** min(retry, 20))


def begin(task: Task, targets: Sequence[str | None], now: float) -> tuple[Task, list[Attempt]]:
    """The task in its next run and that run's first attempts; raises ``IllegalEventError`` when it is active."""
    run = task.run + 1
    attempts = [
        Attempt(task.id, task.attempt + number, run, AttemptState.QUEUED, now, target=target)
        for number, target in enumerate(targets, 1)
    ]
    begun = task.changed(
        state=next_task(task.state, TaskEvent.START),
        run=run,
        attempt=attempts[-1].number,
        proplet_id=None,
        stopping=False,
        updated_at=now,
        started_at=None,
        finished_at=None,
        result=None,
        error=None,
        code=None,
    )
    # A tag may have moved since; only an uploaded file keeps its digest.
    return (begun if task.spec.file else begun.changed(digest=None, size=None)), attempts


def ended(attempt: Attempt, outcome: Outcome, now: float) -> Attempt:
    """Raises ``IllegalEventError`` when it had ended already."""
    return attempt.changed(
        state=next_attempt(attempt.state, outcome.event),
        finished_at=now,
        result=outcome.result,
        error=outcome.error,
        code=outcome.code,
        report=outcome.report,
    )


def follow(
    task: Task, attempt: Attempt, outcome: Outcome, others: Iterable[Attempt], now: float
) -> tuple[Task, Attempt | None]:
    """The task after ``attempt`` ended so, and the attempt that takes its place; ``others`` are the rest of its run."""
    others = list(others)
    delay = _again(task, attempt, outcome, others, now)
    if delay is not None:
        return _next(task, attempt, outcome, now, delay)
    everyone = [*others, attempt]
    if any(not other.state.ended for other in everyone):
        return task.changed(updated_at=now), None
    return _settled(task, everyone, now), None


def _again(task: Task, attempt: Attempt, outcome: Outcome, others: Sequence[Attempt], now: float) -> float | None:
    """Seconds until the next attempt for the same target; None when there is to be none."""
    if task.stopping:
        return None
    if attempt.stop_at is not None:  # its proplet was to be rid of it
        return 0.0
    if outcome.event is AttemptEvent.INTERRUPTED:
        return None
    if outcome.event is AttemptEvent.DENIED:
        if outcome.final or outcome.code in FINAL_DENIALS or denials.too_many([*others, attempt], attempt.target):
            return None
        return 0.0 if outcome.code in denials.BY_POLICY else retry_delay(0)
    if outcome.free:
        return 0.0
    if task.standing:
        if not _restarts(task, attempt, outcome):
            return None
        return 0.0 if _steady(attempt, now) else retry_delay(attempt.retry, RESTART_MOST_S)
    failed = outcome.event in {AttemptEvent.FAILED, AttemptEvent.EXPIRED}
    return retry_delay(attempt.retry) if failed and outcome.retryable and attempt.retry < task.spec.retries else None


def _restarts(task: Task, attempt: Attempt, outcome: Outcome) -> bool:
    if outcome.event is AttemptEvent.EXPIRED or outcome.retryable:
        return task.spec.latent or task.spec.restart != "never"
    if task.spec.latent or attempt.accepted_at is None:  # it would not compile, or not be found, another time either
        return False
    if outcome.event is AttemptEvent.COMPLETED:
        return task.spec.restart == "always"
    return task.spec.restart != "never"


def _steady(attempt: Attempt, now: float) -> bool:
    return attempt.accepted_at is not None and now - attempt.accepted_at >= STEADY_S


def _next(task: Task, attempt: Attempt, outcome: Outcome, now: float, delay: float) -> tuple[Task, Attempt]:
    counted = outcome.event is not AttemptEvent.DENIED and not outcome.free and attempt.stop_at is None
    following = Attempt(
        task.id,
        task.attempt + 1,
        attempt.run,
        AttemptState.QUEUED,
        # It keeps its place among those that wait.
        attempt.created_at,
        target=attempt.target,
        retry=0 if task.standing and _steady(attempt, now) else attempt.retry + counted,
        not_before=now + delay,
    )
    changed = task.changed(attempt=following.number, updated_at=now)
    if not task.spec.broadcast:
        changed = changed.changed(state=next_task(task.state, TaskEvent.AGAIN), proplet_id=None)
    return changed, following


_EVENT = {
    AttemptState.COMPLETED: TaskEvent.COMPLETED,
    AttemptState.INTERRUPTED: TaskEvent.INTERRUPTED,
}


def _settled(task: Task, attempts: Iterable[Attempt], now: float) -> Task:
    """Every target has ended: what the last attempt of each says decides."""
    last: dict[str | None, Attempt] = {}
    for attempt in sorted(attempts, key=lambda entry: entry.number):
        last[attempt.target if task.spec.broadcast else None] = attempt
    event, result, error, code = _together(list(last.values())) if task.spec.broadcast else _alone(last[None])
    return task.changed(
        state=next_task(task.state, event), updated_at=now, finished_at=now, result=result, error=error, code=code
    )


_End = tuple[TaskEvent, str | None, str | None, str | None]
"""The task's event, result, error and code."""


def _alone(last: Attempt) -> _End:
    return _EVENT.get(last.state, TaskEvent.FAILED), last.result, last.error, last.code


def _together(last: Sequence[Attempt]) -> _End:
    """A broadcast has a result per proplet; it completed when it did on each."""
    result = results.together({str(each.target): each.result for each in last})
    bad = [each for each in last if each.state is not AttemptState.COMPLETED]
    if not bad:
        return TaskEvent.COMPLETED, result, None, None
    failed = [each for each in bad if each.state is not AttemptState.INTERRUPTED]
    shown = failed or bad
    reasons = "; ".join(f"{each.target}: {each.error or each.state}" for each in shown[:5])
    error = f"{len(shown)} of {len(last)} proplets {'failed' if failed else 'were stopped'}: {reasons}"
    return (TaskEvent.FAILED if failed else TaskEvent.INTERRUPTED), result, error, shown[0].code
