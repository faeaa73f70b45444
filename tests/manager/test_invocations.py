"""Latent tasks through the manager's real HTTP, bus and database: deployed, called, lost, and called again."""

import asyncio

import pytest

from manager.latent import invocation_archive, invocations, invoke_sender
from manager.state.records import AttemptKey, CallKey
from manager.state.states import InvocationState
from swashplate.errors import ConflictError
from swashplate.messages import Granted, InvokeRequest, InvokeResult, RunReport


async def latent(world, **fields):
    return await world.launch(latent=True, **fields)


async def call(world, task, *inputs, **more):
    """As a request under way."""
    body = {"inputs": list(inputs), **more}
    return asyncio.create_task(world.call("POST", f"/tasks/{task['id']}/invoke", body))


async def submit(world, task, *inputs, **more):
    status, body = await world.call("POST", f"/tasks/{task['id']}/invoke", {"inputs": inputs, "async": True, **more})
    assert status == 202, body
    return f"/tasks/{task['id']}/invocations/{body['invocation_id']}"


async def ended(world, path):
    return await world.until(lambda shown: shown["status"] in {"completed", "failed"}, path)


async def test_a_latent_task_is_running_once_it_is_ready_and_has_no_deadline(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world, timeout_s=1)
        start = await p1.started()
        assert (start.latent, start.timeout_s) == (True, None)
        await p1.acknowledged(await p1.status(start, "ready"))
        shown = (await world.call("GET", f"/tasks/{task['id']}"))[1]
        assert (shown["status"], shown["stage"]) == ("running", "ready")
        _, found = await world.call("GET", f"/tasks/{task['id']}/attempts")
        assert [each["status"] for each in found["attempts"]] == ["ready"]


async def test_a_call_is_answered_with_what_the_guest_gave(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        start = await p1.deployed()
        waiting = await call(world, task, 2, "40", env={"A": "b"}, timeout_s=60)
        invoke = await p1.invoked()
        assert (invoke.task_id, invoke.attempt, invoke.inputs, invoke.env) == (task["id"], 1, ["2", "40"], {"A": "b"})
        assert 59 < invoke.timeout_s <= 60
        await p1.acknowledged(await p1.invoke_result(invoke, "42"))
        assert await waiting == (200, {"invoked": True, "results": "42", "invocation_id": invoke.invocation_id})
        assert start.attempt == 1


async def test_a_call_needs_no_body(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()

        async def bare():
            async with world.session.post(f"{world.url}/tasks/{task['id']}/invoke") as response:
                return response.status, await response.json()

        waiting = asyncio.create_task(bare())
        invoke = await p1.invoked()
        assert (invoke.inputs, invoke.env) == ([], {})
        await p1.invoke_result(invoke)
        assert (await waiting)[0] == 200


async def test_a_failed_call_is_an_error_with_the_guests_words_and_its_invocation(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        waiting = await call(world, task)
        invoke = await p1.invoked()
        await p1.invoke_result(invoke, error="division by zero", code="trap:integer_divide_by_zero")
        status, body = await waiting
        assert (status, body["error"], body["code"]) == (502, "division by zero", "trap:integer_divide_by_zero")
        assert body["invocation_id"] == invoke.invocation_id


async def test_an_answer_has_the_report_of_the_call_and_a_list_does_not(world):
    report = RunReport(
        limits={"cpu_s": 2.0}, used={"cpu_s": 0.5}, log_tail="almost\n", capabilities=Granted(asked=["env A"])
    )
    said = {"isolation": "warm", "limits": {"cpu_s": 2.0}, "used": {"cpu_s": 0.5}, "log_tail": "almost\n"}
    said["capabilities"] = {"asked": ["env A"]}
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        waiting = await call(world, task)
        await p1.invoke_result(await p1.invoked(), "42", report=report)
        assert (await waiting)[1]["report"] == said
        waiting = await call(world, task)
        await p1.invoke_result(await p1.invoked(), error="too much", code="cpu_limit", report=report)
        status, body = await waiting
        assert (status, body["code"], body["report"]) == (502, "cpu_limit", said)
        path = f"/tasks/{task['id']}/invocations"
        assert (await world.call("GET", f"{path}/{body['invocation_id']}"))[1]["report"] == said
        assert ["report" in each for each in (await world.call("GET", path))[1]["invocations"]] == [False, False]


async def test_a_call_whose_large_result_was_never_uploaded_has_failed(world):
    digest = "sha256:" + "cd" * 32
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        waiting = await call(world, task)
        invoke = await p1.invoked()
        assert set(invoke.tokens) == {"results"}
        await p1.acknowledged(await p1.invoke_result(invoke, results_digest=digest, results_size=300_000))
        status, body = await waiting
        assert (status, body["code"]) == (502, "result_missing")


async def test_who_lost_a_call_may_not_upload_its_result_any_more(world):
    async with world.manager() as manager, world.proplet("p1") as p1:
        task = await latent(world, retries=1)
        start = await p1.deployed()
        await submit(world, task)
        invoke = await p1.invoked()
        key, token = CallKey(task["id"], 1, invoke.invocation_id), invoke.tokens["results"]
        manager.large.check(key, "p1", token)
        await p1.acknowledged(await p1.result(start, error="gone", code="proplet_restarted", retryable=True))
        assert manager.ledger.invocation(invoke.invocation_id).state is InvocationState.QUEUED
        with pytest.raises(ConflictError):
            manager.large.check(key, "p1", token)


async def test_a_call_for_later_can_be_looked_at_and_waited_for(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        path = await submit(world, task, 1)
        invoke = await p1.invoked()
        shown = await world.until(lambda shown: shown["status"] == "running", path)
        assert (shown["proplet_id"], shown["task_id"]) == ("p1", task["id"])
        waiting = asyncio.create_task(world.call("GET", f"{path}?wait=30"))
        await p1.invoke_result(invoke, {"x": 1})
        status, shown = await waiting
        assert (status, shown["status"], shown["results"]) == (200, "completed", {"x": 1})
        status, page = await world.call("GET", f"/tasks/{task['id']}/invocations")
        assert (page["total"], page["invocations"]) == (1, [shown])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"inputs": [{}]}, "inputs"),
        ({"inputs": ["a\0"]}, "NUL"),
        ({"env": {"A=B": "c"}}, "A=B"),
        ({"timeout_s": 301}, "timeout_s"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"async": "yes"}, "async"),
        ({"inputs": ["x" * 200_000]}, "bytes"),
    ],
)
async def test_a_wrong_call_is_a_400_and_no_invocation(world, body, named):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        status, found = await world.call("POST", f"/tasks/{task['id']}/invoke", body)
        assert status == 400
        assert named in found["error"]
        assert (await world.call("GET", f"/tasks/{task['id']}/invocations"))[1]["total"] == 0


async def test_only_a_latent_task_that_runs_can_be_called(world):
    async with world.manager(), world.proplet("p1") as p1:
        plain = await world.launch()
        await p1.result(await p1.started(), 1)
        status, body = await world.call("POST", f"/tasks/{plain['id']}/invoke", {})
        assert (status, body["code"]) == (409, "not_latent")
        _, created = await world.call("POST", "/tasks", {"name": "t", "image_url": "registry/image:1", "latent": True})
        status, body = await world.call("POST", f"/tasks/{created['id']}/invoke", {})
        assert (status, body["code"]) == (409, "task_not_active")
        assert (await world.call("POST", "/tasks/x/invoke", {}))[0] == 404
        assert (await world.call("GET", "/tasks/x/invocations"))[0] == 404
        assert (await world.call("GET", f"/tasks/{created['id']}/invocations/x"))[0] == 404


async def test_a_call_waits_until_the_task_is_ready(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        waiting = await call(world, task)
        await world.until(lambda page: page["total"] == 1, f"/tasks/{task['id']}/invocations")
        await p1.deployed()
        await p1.invoke_result(await p1.invoked(), "in time")
        assert (await waiting)[1]["results"] == "in time"


async def test_a_call_of_a_task_that_does_not_get_ready_says_why(world):
    async with world.manager():
        task = await latent(world, selector={"gpu": "true"})
        async with world.proplet("p1"):
            status, body = await (await call(world, task, timeout_s=0.2))
        assert (status, body["code"]) == (503, "not_ready")
        assert "the only proplet lacks label gpu=true" in body["error"]


async def test_concurrency_limits_the_calls_on_a_proplet_and_the_rest_wait_in_order(world):
    async with world.manager(), world.proplet("p1", slots=4) as p1:
        task = await latent(world, concurrency=2)
        await p1.deployed()
        paths = [await submit(world, task, number) for number in range(5)]
        running = [await p1.invoked(), await p1.invoked()]
        assert [invoke.inputs for invoke in running] == [["0"], ["1"]]
        for number in range(2, 5):
            await p1.acknowledged(await p1.invoke_result(running.pop(0), "ok"))
            running.append(await p1.invoked())
            assert running[-1].inputs == [str(number)]
            assert p1.invokes.empty()
        for invoke in running:
            await p1.invoke_result(invoke, "ok")
        assert [(await ended(world, path))["status"] for path in paths] == ["completed"] * 5


async def test_without_a_limit_the_slots_of_the_proplet_are_one(world):
    async with world.manager(), world.proplet("p1", slots=2) as p1:
        task = await latent(world)
        await p1.deployed()
        for number in range(3):
            await submit(world, task, number)
        first, second = await p1.invoked(), await p1.invoked()
        assert p1.invokes.empty()
        shown = (await world.call("GET", "/proplets/p1"))[1]
        assert shown["free_slots"] == 0
        await p1.acknowledged(await p1.invoke_result(first))
        await p1.acknowledged(await p1.invoke_result(second))
        await p1.acknowledged(await p1.invoke_result(await p1.invoked()))
        assert (await world.call("GET", "/proplets/p1"))[1]["free_slots"] == 2


async def test_a_broadcast_one_is_deployed_everywhere_and_the_least_busy_is_called(world):
    async with world.manager(), world.proplet("p1", slots=2) as p1, world.proplet("p2", slots=2) as p2:
        task = await latent(world, broadcast=True)
        await p1.deployed()
        await p2.deployed()
        for number in range(4):
            await submit(world, task, number)
        by = {p1: [await p1.invoked(), await p1.invoked()], p2: [await p2.invoked(), await p2.invoked()]}
        await p2.acknowledged(await p2.invoke_result(by[p2][0]))
        await submit(world, task, "next")
        assert (await p2.invoked()).inputs == ["next"]
        assert p1.invokes.empty()


async def test_a_call_is_sent_again_until_it_is_answered(world, monkeypatch):
    monkeypatch.setattr(invoke_sender, "AGAIN_S", 0.02)
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        path = await submit(world, task)
        first, second = await p1.invoked(), await p1.invoked()
        assert first.invocation_id == second.invocation_id
        for value in ("first", "second"):
            await p1.acknowledged(await p1.invoke_result(first, value))
        assert (await ended(world, path))["results"] == "first"


async def test_a_call_in_every_state_survives_the_manager(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await latent(world, concurrency=1)
            await p1.deployed()
            done, running, queued = [await submit(world, task, number) for number in range(3)]
            await p1.acknowledged(await p1.invoke_result(await p1.invoked(), "done"))
            first = await p1.invoked()
        async with world.manager():
            again = await p1.invoked()
            assert again.invocation_id == first.invocation_id
            assert (await world.call("GET", done))[1]["results"] == "done"
            await p1.register()
            await p1.acknowledged(await p1.invoke_result(again, "running"))
            last = await p1.invoked()
            assert last.inputs == ["2"]
            await p1.invoke_result(last, "queued")
            assert (await ended(world, running))["results"] == "running"
            assert (await ended(world, queued))["results"] == "queued"


async def test_a_result_published_while_the_manager_is_away_counts_after_its_restart(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await latent(world)
            await p1.deployed()
            path = await submit(world, task)
            invoke = await p1.invoked()
        message_id = await p1.invoke_result(invoke, "kept")
        async with world.manager():
            await p1.acknowledged(message_id)
            assert (await ended(world, path))["results"] == "kept"


async def test_a_call_that_cannot_be_stored_is_a_503_and_not_sent_before_it_is(world, monkeypatch):
    monkeypatch.setattr("manager.state.commits.ANSWER_S", 0.1)
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        with world.broken("invocations", "call"):
            status, body = await world.call("POST", f"/tasks/{task['id']}/invoke", {})
            assert (status, body["code"]) == (503, "database_unavailable")
            assert p1.invokes.empty()
        await p1.invoked()


async def test_a_proplet_that_has_not_deployed_it_costs_nothing(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        path = await submit(world, task)
        for _ in range(2):
            await p1.acknowledged(
                await p1.invoke_result(await p1.invoked(), error="not here", code="not_deployed", retryable=True)
            )
        await p1.invoke_result(await p1.invoked(), "at last")
        assert (await ended(world, path))["results"] == "at last"


async def test_a_refused_call_goes_to_another_proplet_that_is_ready(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await latent(world, broadcast=True)
        await p1.deployed()
        await p2.deployed()
        path = await submit(world, task)
        await p1.invoke_result(await p1.invoked(), error="not here", code="not_deployed", retryable=True)
        await p2.invoke_result(await p2.invoked(), "from p2")
        assert (await ended(world, path))["proplet_id"] == "p2"


async def test_a_proplet_that_has_refused_is_left_alone_for_a_while(world, monkeypatch):
    monkeypatch.setattr(invocations, "retry_delay", lambda _count, _most: 3600.0)
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        path = await submit(world, task)
        await p1.acknowledged(
            await p1.invoke_result(await p1.invoked(), error="not here", code="not_deployed", retryable=True)
        )
        await submit(world, task)
        assert (await world.call("GET", path))[1]["status"] == "queued"
        assert p1.invokes.empty()


@pytest.mark.parametrize(("retries", "status"), [(0, "failed"), (1, "completed")])
async def test_a_call_that_a_restart_of_its_proplet_cut_off_runs_once_unless_there_are_retries(world, retries, status):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world, retries=retries)
        start = await p1.deployed()
        path = await submit(world, task)
        cut_off = await p1.invoked()
        lost = {"error": "the proplet restarted", "code": "proplet_restarted", "retryable": True}
        await p1.result(start, **lost)
        again = await p1.deployed()
        assert again.attempt == 2
        await p1.acknowledged(await p1.invoke_result(cut_off, **lost))
        if retries:
            invoke = await p1.invoked()
            assert (invoke.invocation_id, invoke.attempt) == (f"{cut_off.invocation_id}.2", 2)
            await p1.invoke_result(invoke, "again")
        shown = await ended(world, path)
        assert shown["status"] == status
        assert shown.get("code") == (None if retries else "proplet_restarted")
        assert p1.invokes.empty()


async def test_after_a_restart_of_its_proplet_a_latent_task_is_deployed_and_called_again(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await latent(world)
            start = await p1.deployed()
        p1.instance = "second life"
        async with world.manager():
            await p1.register()
            await p1.result(start, error="the proplet restarted", code="proplet_restarted", retryable=True)
            again = await p1.deployed()
            assert (again.id, again.attempt) == (task["id"], 2)
            waiting = await call(world, task)
            await p1.invoke_result(await p1.invoked(), "alive")
            assert (await waiting)[1]["results"] == "alive"


async def test_a_call_waits_while_the_only_proplet_is_away(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        p1.bus.drop()
        await world.until(lambda shown: not shown["alive"], "/proplets/p1")
        path = await submit(world, task)
        assert (await world.call("GET", path))[1]["status"] == "queued"
        await p1.bus.reconnect()
        await p1.alive()
        await p1.invoke_result(await p1.invoked(), "back")
        assert (await ended(world, path))["results"] == "back"


async def test_a_call_without_a_result_in_time_fails(world, monkeypatch):
    monkeypatch.setattr(invocations, "LEASE_GRACE_S", 0.05)
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        waiting = await call(world, task, timeout_s=0.2)
        late = await p1.invoked()
        status, body = await waiting
        assert (status, body["code"]) == (504, "timeout")
        await p1.acknowledged(await p1.invoke_result(late, "late"))
        _, shown = await world.call("GET", f"/tasks/{task['id']}/invocations/{body['invocation_id']}")
        assert (shown["status"], shown["code"]) == ("failed", "timeout")


async def test_a_call_that_no_proplet_has_a_turn_for_in_time_says_so(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world, concurrency=1)
        await p1.deployed()
        await submit(world, task)
        await p1.invoked()
        status, body = await (await call(world, task, timeout_s=0.1))
        assert (status, body["code"]) == (503, "busy")


async def test_a_stop_ends_the_task_and_its_calls(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world, concurrency=1)
        await p1.deployed()
        running, queued = await submit(world, task), await submit(world, task)
        await p1.invoked()
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        status, body = await world.call("POST", f"/tasks/{task['id']}/invoke", {})
        assert (status, body["code"]) == (409, "task_not_active")
        await p1.stopped()
        assert (await world.ended(task["id"]))["status"] == "interrupted"
        assert (await ended(world, running))["code"] == "stopped"
        assert (await ended(world, queued))["code"] == "task_not_active"
        assert p1.invokes.empty()


async def test_only_the_proplet_that_was_called_may_answer(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await latent(world, proplet_id="p1")
        await p1.deployed()
        path = await submit(world, task)
        invoke = await p1.invoked()
        await p2.acknowledged(await p2.invoke_result(invoke, "forged"))
        forged = InvokeResult(
            id="f", invocation_id=invoke.invocation_id, task_id=task["id"], attempt=1, proplet_id="p1", results="forged"
        )
        await p2.say("invoke_results", forged)
        await p1.invoke_result(invoke, "true")
        assert (await ended(world, path))["results"] == "true"


async def test_the_newest_ended_calls_of_a_task_are_kept(world, monkeypatch):
    monkeypatch.setattr(invocation_archive, "KEPT", 3)
    monkeypatch.setattr(invocation_archive, "PRUNED_EVERY", 2)
    async with world.manager(), world.proplet("p1", slots=1) as p1:
        task = await latent(world)
        await p1.deployed()
        paths = []
        for number in range(8):
            paths.append(await submit(world, task, number))
            await p1.acknowledged(await p1.invoke_result(await p1.invoked(), number))
        page = await world.until(lambda page: page["total"] <= 4, f"/tasks/{task['id']}/invocations?limit=3")
        assert [each["results"] for each in page["invocations"]] == [7, 6, 5]
        assert (await world.call("GET", paths[0]))[0] == 404


async def test_a_deleted_task_takes_its_calls_along(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        path = await submit(world, task)
        await p1.invoke_result(await p1.invoked(), 1)
        await ended(world, path)
        await world.call("POST", f"/tasks/{task['id']}/stop")
        await p1.stopped()
        await world.ended(task["id"])
        assert (await world.call("DELETE", f"/tasks/{task['id']}"))[0] == 204
        assert (await world.call("GET", path))[0] == 404


def test_a_caller_that_has_no_inputs_may_say_null():
    request = InvokeRequest.decode('{"inputs": null, "env": null}')
    assert (request.inputs, request.env, request.later) == ([], {}, False)


async def test_a_repetition_is_another_call_to_the_proplet_that_ran_it_before(world):
    """Its journal would answer the same one with what it said before."""
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world, retries=1)
        await p1.deployed()
        path = await submit(world, task)
        first = await p1.invoked()
        failed = await p1.invoke_result(first, error="out of luck", code="internal", retryable=True)
        await p1.acknowledged(failed)
        second = await p1.invoked()
        assert second.invocation_id != first.invocation_id
        await p1.acknowledged(await p1.invoke_result(first, error="out of luck", code="internal", retryable=True))
        await p1.acknowledged(await p1.invoke_result(second, "42"))
        shown = await ended(world, path)
        assert (shown["status"], shown["results"]) == ("completed", "42")


async def test_the_last_call_that_ends_lets_go_of_the_slot_for_whatever_waits(world):
    """At once: the reports of an idle proplet change nothing, and need not come."""
    async with world.manager(), world.proplet("p1") as p1:
        task = await latent(world)
        await p1.deployed()
        path = await submit(world, task)
        invoke = await p1.invoked()
        other = await world.launch()
        await world.until(lambda shown: "no free slot" in shown.get("waiting", ""), f"/tasks/{other['id']}")
        await p1.acknowledged(await p1.invoke_result(invoke, "1"))
        assert (await ended(world, path))["status"] == "completed"
        assert (await p1.started()).id == other["id"]


async def test_a_deployment_that_is_ready_lets_go_of_the_slot_for_whatever_waits(world):
    async with world.manager(), world.proplet("p1") as p1:
        await latent(world)
        start = await p1.started()
        other = await world.launch()
        await world.until(lambda shown: "no free slot" in shown.get("waiting", ""), f"/tasks/{other['id']}")
        await p1.acknowledged(await p1.status(start, "ready"))
        assert (await p1.started()).id == other["id"]


async def test_a_deployment_that_ended_before_it_was_written_is_not_called(world):
    async with world.manager() as manager, world.proplet("p1") as p1:
        task = await latent(world, retries=1)
        first = await p1.started()
        with world.broken("attempts", "result"):
            await p1.status(first, "ready")
            said = await p1.result(first, error="it broke", code="worker_died", retryable=True)
            async with asyncio.timeout(10):
                while not manager.ledger.attempt(AttemptKey(task["id"], 1)).state.ended:
                    await asyncio.sleep(0.005)
        await p1.acknowledged(said)
        await submit(world, task)
        again = await p1.deployed()
        assert (again.attempt, (await p1.invoked()).attempt) == (2, 2)


async def test_an_upload_whose_token_is_no_text_is_refused(world):
    address = f"/blobs/sha256:{'0' * 64}?task_id=t&attempt=1&proplet_id=p1"
    async with world.manager():
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        head = f"PUT {address} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\nX-Attempt-Token: "
        writer.write(head.encode() + b"\xff\r\n\r\n1")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_large_result_of_a_task_that_can_have_no_file_is_refused_as_others_are(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(latent=True)
        await p1.deployed()
        status, asked = await world.call("POST", f"/tasks/{task['id']}/invoke", {"async": True})
        assert status == 202
        invoke = await p1.invoked()
        large = {"results_digest": "sha256:" + "0" * 64, "results_size": 1}
        other = invoke.model_copy(update={"task_id": "no\0file"})
        await p1.acknowledged(await p1.invoke_result(other, **large))
        await p1.acknowledged(await p1.invoke_result(invoke, "it ran"))
        path = f"/tasks/{task['id']}/invocations/{asked['invocation_id']}"
        assert (await world.call("GET", path))[1]["results"] == "it ran"
