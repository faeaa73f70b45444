"""A proplet that denies: it is asked less and less often, others at once, and there is an end to it."""

import asyncio

import pytest

from manager.state.records import Attempt, Task, spec_text
from manager.state.states import AttemptState, TaskState
from manager.work import denials, placement
from manager.work.denials import AGAIN_MOST_S, MOST, MOST_BY_ONE, avoided, in_a_row, too_many
from manager.work.load import requirements_of
from swashplate.messages import TaskCreate


def denied(number, proplet="p1", *, at=0.0, code="dataset_missing", target=None):
    return Attempt(
        "t", number, 1, AttemptState.DENIED, 0.0, target=target, proplet_id=proplet, finished_at=at, code=code
    )


def test_who_denies_is_asked_again_later_and_later():
    for times in range(1, 9):
        found = avoided([denied(n, at=100.0) for n in range(1, times + 1)], None, 100.0)
        assert found == {"p1": 100.0 + min(AGAIN_MOST_S, 2.0 ** (times - 1))}


def test_each_proplet_is_waited_for_by_itself():
    attempts = [denied(1, "p1", at=10.0), denied(2, "p2", at=10.5), denied(3, "p1", at=11.0)]
    assert avoided(attempts, None, 11.0) == {"p1": 13.0, "p2": 11.5}
    assert avoided(attempts, None, 12.0) == {"p1": 13.0}
    assert avoided(attempts, None, 13.0) == {}


@pytest.mark.parametrize("code", ["no_slot", "superseded"])
def test_what_passes_by_itself_counts_for_nothing(code):
    attempts = [denied(n, code=code) for n in range(1, 5 * MOST)]
    assert not too_many(attempts, None)
    assert avoided(attempts, None, 0.0) == {}


def test_there_is_an_end_whoever_denies_and_an_acceptance_begins_anew():
    attempts = [denied(n, f"p{n}") for n in range(1, MOST + 1)]
    assert too_many(attempts, None)
    assert not too_many(attempts[1:], None)
    by_two = [denied(n, f"p{n % 2}") for n in range(1, 2 * MOST_BY_ONE)]
    assert too_many(by_two, None)
    assert not too_many(by_two[1:-1], None)
    taken = attempts[-2].changed(state=AttemptState.LOST, accepted_at=1.0)
    assert in_a_row([*attempts[:-2], taken, attempts[-1]], None) == [attempts[-1]]


def test_the_targets_of_a_broadcast_do_not_count_for_each_other():
    attempts = [denied(n, target=f"p{n % 2}") for n in range(1, 2 * MOST_BY_ONE - 1)]
    assert not too_many(attempts, "p0")
    assert len(in_a_row(attempts, "p1")) == MOST_BY_ONE - 1


def test_a_clock_that_was_set_back_makes_nobody_wait_longer():
    assert avoided([denied(1, at=5000.0)], None, 10.0) == {"p1": 11.0}


def test_why_it_waits_tells_of_a_denial():
    wanted = placement.Requirements(avoided=frozenset({"a"}))
    fleet = [placement.Candidate("a"), placement.Candidate("b", room=0)]
    assert placement.choose(wanted, fleet) is None
    assert placement.explain(wanted, fleet) == "1 of 2 proplets denied it a moment ago; 1 has no free slot"


async def test_another_proplet_is_asked_at_once_and_the_first_one_not(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        await p1.status(await p1.started(), "denied", code="dataset_missing", reason="there is no mnist here")
        path = f"/tasks/{task['id']}"
        shown = await world.until(lambda shown: "moment ago" in shown.get("waiting", ""), path)
        assert shown["waiting"] == (
            "the only proplet denied it a moment ago; p1 denied: dataset_missing: there is no mnist here"
        )
        other = await world.launch()
        start = await p1.started()
        assert start.id == other["id"]  # it is not full
        async with world.proplet("p2") as p2:
            await p2.result(await p2.started(), 1)
            assert (await world.ended(task["id"]))["attempt"] == 2
        assert p1.starts.empty()


async def test_denials_without_end_are_the_end_of_the_task_also_across_a_restart(world, monkeypatch):
    monkeypatch.setattr(denials, "AGAIN_S", 0.01)
    monkeypatch.setattr(denials, "MOST_BY_ONE", 3)
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            task = await world.launch()
            for code in ("no_slot", "dataset_missing", "no_slot", "dataset_missing"):
                await p1.acknowledged(await p1.status(await p1.started(), "denied", code=code))
                await p1.alive()
        async with world.manager():
            await p1.register()
            await p1.status(await p1.started(), "denied", code="dataset_missing", reason="no mnist")
            ended = await world.ended(task["id"])
            assert (ended["status"], ended["code"], ended["attempt"]) == ("failed", "dataset_missing", 5)
            assert ended["error"] == "p1 denied: dataset_missing: no mnist"


async def test_a_pinned_task_is_asked_again_where_it_is_meant_for(world, monkeypatch):
    monkeypatch.setattr(denials, "AGAIN_S", 0.3)
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2"):
        task = await world.launch(proplet_id="p1")
        denied_at = asyncio.get_running_loop().time()
        await p1.status(await p1.started(), "denied", code="dataset_missing")
        await p1.result(await p1.started(), 1)
        assert asyncio.get_running_loop().time() - denied_at >= 0.3
        assert (await world.ended(task["id"]))["status"] == "completed"


def test_whose_policy_refuses_is_not_asked_again():
    refused = [denied(n, f"p{n}", code="capability_refused") for n in range(1, 9)]
    assert avoided(refused[:1], None, 1e9) == {"p1": float("inf")}
    assert denials.by_policy([*refused[:2], denied(9, "p9")], None) == {"p1", "p2"}


async def test_what_a_policy_refuses_goes_to_the_next_and_ends_when_nobody_is_left(world):
    asked = {"limits": {"memory_bytes": 1 << 40}}
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch(**asked)
        shown = await world.until(lambda shown: shown.get("proplet_id"), f"/tasks/{task['id']}")
        first, second = (p1, p2) if shown["proplet_id"] == "p1" else (p2, p1)
        await first.status(await first.started(), "denied", code="limit_over_ceiling", reason="at most 512 MiB")
        start = await second.started()
        assert start.limits.memory_bytes == 1 << 40
        await second.status(start, "denied", code="limit_over_ceiling", reason="at most 1 GiB")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"], ended["attempt"]) == ("failed", "limit_over_ceiling", 2)
        assert ended["error"] == f"{second.id} denied: limit_over_ceiling: at most 1 GiB"


async def test_a_pinned_task_that_a_policy_refuses_has_failed(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2"):
        task = await world.launch(proplet_id="p1", capabilities={"env": ["SITE"]})
        await p1.status(await p1.started(), "denied", code="capability_refused", reason="env SITE")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"], ended["attempt"]) == ("failed", "capability_refused", 1)


def test_who_would_not_hear_of_limits_is_not_given_a_task_that_has_them():
    legacy = placement.Candidate("old", legacy=True)
    assert placement.choose(placement.Requirements(), [legacy]) == "old"
    assert placement.choose(placement.Requirements(bounded=True), [legacy]) is None
    assert placement.explain(placement.Requirements(bounded=True), [legacy]) == (
        "the only proplet knows no limits, isolation or capabilities"
    )


@pytest.mark.parametrize(
    ("said", "bounded"),
    [
        ({}, False),
        ({"limits": {}, "isolation": "", "deterministic": False, "seed": 0, "capabilities": {"env": []}}, False),
        ({"limits": {"wall_s": 1}}, True),
        ({"capabilities": {"clock": False}}, True),
    ],
)
def test_who_says_what_holds_anyway_asks_for_nothing(said, bounded):
    spec = TaskCreate.model_validate({"name": "t", **said})
    task = Task("t", 1, spec, spec_text(spec), TaskState.PENDING, 1.0, 1.0)
    assert requirements_of(task, None).bounded is bounded
