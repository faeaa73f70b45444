"""A few of the schedules that ``scripts/simulate`` runs by the thousand; and that it can fail, and fails the same way again."""

from __future__ import annotations

import pytest

from manager.plans import progress
from manager.plans.dag import Node
from manager.plans.scheduler import Scheduler
from manager.state.ledger import Ledger
from manager.work import dispatch
from manager.work.attempts import Attempts
from manager.work.dispatch import Dispatch
from manager.work.leases import Leases
from manager.work.load import requirements_of
from manager.work.stops import Stops
from proplet.work.attempts import Attempts as PropletAttempts
from proplet.work.outbox import Outbox
from tests.simulation.plan import Plan, Step, drawn
from tests.simulation.uploads import VirtualUploads
from tests.simulation.world import simulate

FEW = 30
MANY = 80
"""Within so many schedules a planted bug must have been seen."""


@pytest.mark.parametrize("first", range(0, FEW, 10))
def test_schedules_settle_and_every_invariant_holds(first):
    for seed in range(first, first + 10):
        outcome = simulate(seed)
        assert outcome.broken is None, f"scripts/simulate --seed {seed}"


def test_a_seed_does_the_same_every_time():
    traces: list[list[str]] = [[], []]
    for trace in traces:
        simulate(7, trace=trace.append)
    assert len(traces[0]) > 50
    assert traces[0] == traces[1]


def test_another_seed_does_something_else():
    assert drawn(1) != drawn(2)
    traces: list[list[str]] = [[], []]
    for seed, trace in enumerate(traces):
        simulate(seed, trace=trace.append)
    assert traces[0] != traces[1]


# Bugs that are planted, and found.


def effects_before_the_commit(monkeypatch):
    monkeypatch.setattr(Ledger, "then", lambda _self, effect, **_about: effect())


def answers_before_the_commit(monkeypatch):
    async def at_once(_self, *_about: str) -> None:
        return

    monkeypatch.setattr(Ledger, "durable", at_once)


def starts_are_not_recognised(monkeypatch):
    monkeypatch.setattr(PropletAttempts, "_known", lambda _self, _ref: False)


def results_are_sent_once(monkeypatch):
    async def never(_self) -> None:
        return

    monkeypatch.setattr(Outbox, "_resend_at", lambda _self, _when: None)
    monkeypatch.setattr(Outbox, "send_everything", never)


def attempts_are_not_taken_up_again(monkeypatch):
    monkeypatch.setattr(Attempts, "recover", lambda _self, _ended: None)


def nobody_is_told_to_stop(monkeypatch):
    monkeypatch.setattr(Stops, "tell", lambda _self, _attempt: None)


def children_do_not_wait(monkeypatch):
    monkeypatch.setattr(progress, "nodes_of", lambda tasks: {task.id: Node(task.state) for task in tasks})


def what_is_due_is_not_moved_on(monkeypatch):
    monkeypatch.setattr(Scheduler, "_moved_on", lambda _self, task, _now: task)


def nothing_expires_by_itself(monkeypatch):
    monkeypatch.setattr(Leases, "begin", lambda _self, _attempt: None)
    monkeypatch.setattr(Leases, "_silent", lambda _self, _proplet: None)


def the_last_comes_first(monkeypatch):
    enqueue = Dispatch.enqueue
    monkeypatch.setattr(
        Dispatch,
        "enqueue",
        lambda self, task, attempt: enqueue(self, task, attempt.changed(created_at=-attempt.created_at)),
    )


def who_denies_is_asked_again_at_once(monkeypatch):
    monkeypatch.setattr(dispatch, "requirements_of", lambda task, target, *_avoided: requirements_of(task, target))


def large_results_are_told_before_they_are_there(monkeypatch):
    async def at_once(_self, _upload) -> None:
        return

    monkeypatch.setattr(VirtualUploads, "_put", at_once)


@pytest.mark.parametrize(
    "plant",
    [
        large_results_are_told_before_they_are_there,
        effects_before_the_commit,
        answers_before_the_commit,
        starts_are_not_recognised,
        results_are_sent_once,
        attempts_are_not_taken_up_again,
        nobody_is_told_to_stop,
        children_do_not_wait,
        what_is_due_is_not_moved_on,
        nothing_expires_by_itself,
        the_last_comes_first,
        who_denies_is_asked_again_at_once,
    ],
)
def test_a_planted_bug_is_found(monkeypatch, plant):
    plant(monkeypatch)
    assert any(simulate(seed).broken for seed in range(MANY))


# Schedules that once failed.


def test_a_result_that_waits_for_a_manager_that_was_long_away_is_not_lost():
    plan = Plan.of(
        Step(1.0, "create", {"key": "a", "env": {"DOES": "ok:1.0"}, "timeout_s": 5.0, "retries": 0, "start": True}),
        Step(1.5, "crash", {"who": "manager", "down_s": 14.0, "told_s": 0.0}),
    )
    assert simulate(1, plan=plan).broken is None


def test_a_stop_that_meets_the_result_leaves_nothing_behind():
    for delay in range(10):
        plan = Plan.of(
            Step(1.0, "create", {"key": "a", "env": {"DOES": "ok:1.0"}, "timeout_s": 5.0, "start": True}),
            Step(1.98 + delay / 100, "stop", {"key": "a"}),
            slow_commits=1.0,
        )
        for seed in range(4):
            assert simulate(seed, plan=plan).broken is None
