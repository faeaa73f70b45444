"""Tasks that are deployed once and called many times."""

from __future__ import annotations

import asyncio
import time

import pytest

from swashplate.messages import AttemptRef
from tests.proplet.test_delivery import refused_by_the_disk
from tests.proplet.test_sandbox import COMPONENT

ENDLESS = '(module (func (export "again") (loop $again (br $again))))'
FOREVER = {"latent": True, "timeout_s": None}


@pytest.fixture
def adding(world, guests):
    return world.start(guests["add"], name="add", inputs=["1", "2"], **FOREVER)


async def test_a_latent_task_says_that_it_is_ready_and_is_called_with_new_inputs(world, proplet, adding):
    await world.manager.ready(adding)
    assert world.manager.statuses[-1].stage == "ready"
    answer = await world.manager.called(adding.id, inputs=["40", "2"])
    assert (answer.results, answer.error, answer.task_id, answer.attempt) == ("42", None, adding.id, 1)
    assert (await world.manager.called(adding.id)).results == "3"


async def test_a_command_is_called_with_merged_environment_and_inputs(world, proplet):
    environ = """(module
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $environ (i32.const 64) (i32.const 1024)))
        (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (i32.load (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"""
    start = world.start(environ, env={"A": "task", "B": "task"}, **FOREVER)
    await world.manager.ready(start)
    printed = (await world.manager.called(start.id, env={"B": "call", "C": "call"})).results
    env = dict(pair.split("=", 1) for pair in printed.strip("\0").split("\0"))
    assert {name: env[name] for name in "ABC"} == {"A": "task", "B": "call", "C": "call"}
    assert env["TASK_ID"] == start.id


async def test_a_component_is_called_too(world, proplet):
    start = world.start(COMPONENT.format(body="i32.const 0", name="wasi:cli/run@0.2.0"), **FOREVER)
    await world.manager.ready(start)
    assert [(await world.manager.called(start.id)).error for _ in range(2)] == [None, None]


async def test_a_deployment_holds_no_slot_and_is_reported_as_running(world, proplet, guests, adding):
    await world.manager.ready(adding)
    assert (await world.manager.outcome(world.start(guests["prints"]("beside")))).results == "beside"
    here = [AttemptRef(task_id=adding.id, attempt=1)]
    await world.manager.until(
        lambda: (world.manager.alives[-1].running, world.manager.alives[-1].free_slots) == (here, 1)
    )


async def test_the_binary_is_compiled_before_it_is_ready(world, proplet, adding, logged):
    await world.manager.ready(adding)
    assert sum(line["event"].startswith("Compiled the module") for line in logged) == 1
    await world.manager.called(adding.id)
    assert sum(line["event"].startswith("Compiled the module") for line in logged) == 1
    times = []
    for _ in range(5):
        began = time.perf_counter()
        await world.manager.called(adding.id)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1


async def test_what_cannot_run_is_no_deployment(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["add"], name="subtract", **FOREVER))
    assert result.code == "export_not_found"
    result = await world.manager.outcome(world.start(b"\0asm\x01\0\0\0rubbish", **FOREVER))
    assert result.code == "guest_invalid"
    assert world.manager.statuses == [] or {s.status for s in world.manager.statuses} == {"accepted"}


async def test_a_call_of_what_is_not_deployed_is_answered_at_once(world, proplet):
    answer = await world.manager.called("nowhere")
    assert (answer.code, answer.retryable) == ("not_deployed", True)


async def test_calls_of_one_task_run_as_many_at_a_time_as_it_allows(world, adding, logged):
    endless = world.start(ENDLESS, name="again", concurrency=1, **FOREVER)
    async with world.proplet(PROPLET_SLOTS="3"):
        await world.manager.ready(endless)
        await world.manager.ready(adding)
        first, second = [await world.manager.invoke(endless.id) for _ in range(2)]
        await world.manager.until(lambda: world.manager.alives[-1].invocations == sorted([first, second]))
        assert (await world.manager.called(adding.id)).results == "3"
        assert sum(line["event"].startswith(f"Executing task {endless.id}") for line in logged) == 1


async def test_calls_have_a_deadline_also_while_they_wait(world, proplet):
    endless = world.start(ENDLESS, name="again", **FOREVER)
    await world.manager.ready(endless)
    first = await world.manager.invoke(endless.id)
    answer = await world.manager.called(endless.id, timeout_s=0.3)
    assert (answer.code, answer.error) == ("timeout", "timed out after 0.3 s")
    assert first not in [r.invocation_id for r in world.manager.invoke_results]


async def test_calls_that_wait_are_answered_in_their_order(world, proplet, adding):
    await world.manager.ready(adding)
    asked = [await world.manager.invoke(adding.id, inputs=[str(number), "0"]) for number in range(20)]
    await world.manager.until(lambda: len(world.manager.invoke_results) == 20)
    assert [r.invocation_id for r in world.manager.invoke_results] == asked
    assert [r.results for r in world.manager.invoke_results] == [str(number) for number in range(20)]


async def test_the_reports_list_the_calls(world, proplet):
    endless = world.start(ENDLESS, name="again", **FOREVER)
    await world.manager.ready(endless)
    called = await world.manager.invoke(endless.id, timeout_s=60.0)
    await world.manager.until(lambda: world.manager.alives[-1].invocations == [called])
    assert world.manager.alives[-1].free_slots == 0


async def test_the_same_call_twice_runs_once(world, proplet, adding, logged):
    await world.manager.ready(adding)
    answer = await world.manager.called(adding.id)
    await world.manager.invoke(adding.id, invocation_id=answer.invocation_id)
    await world.manager.until(lambda: len(world.manager.invoke_results) == 2)
    assert world.manager.invoke_results[0] == world.manager.invoke_results[1]
    assert sum(line["event"].startswith("Executing task") for line in logged) == 1


async def test_a_stop_ends_the_deployment_and_its_calls(world, proplet):
    endless = world.start(ENDLESS, name="again", **FOREVER)
    await world.manager.ready(endless)
    running = await world.manager.invoke(endless.id)
    waiting = await world.manager.invoke(endless.id)
    await world.manager.until(lambda: world.manager.alives[-1].invocations == sorted([running, waiting]))
    async with asyncio.timeout(2):
        await world.manager.stop(endless.id, 1)
        assert (await world.manager.result(endless.id)).code == "stopped"
        assert {(await world.manager.answer(each)).code for each in (running, waiting)} == {"stopped"}
    assert (await world.manager.called(endless.id)).code == "not_deployed"


async def test_a_newer_deployment_ends_the_older_and_its_calls(world, proplet):
    older = world.start(ENDLESS, name="again", **FOREVER)
    await world.manager.ready(older)
    called = await world.manager.invoke(older.id)
    await world.manager.start(older.model_copy(update={"attempt": 2}))
    assert (await world.manager.answer(called)).code == "superseded"
    result = await world.manager.result(older.id)
    assert (result.attempt, result.code) == (1, "superseded")
    await world.manager.until(lambda: [s for s in world.manager.statuses if (s.attempt, s.status) == (2, "ready")])


async def test_after_a_restart_the_deployment_and_its_calls_have_failed(world):
    endless = world.start(ENDLESS, name="again", **FOREVER)
    async with world.proplet():
        await world.manager.ready(endless)
        called = await world.manager.invoke(endless.id)
        await world.manager.until(lambda: world.manager.alives[-1].invocations == [called])
    assert world.manager.results == []
    async with world.proplet():
        result, answer = await world.manager.result(endless.id), await world.manager.answer(called)
        assert (result.code, result.retryable) == ("proplet_restarted", True)
        assert (answer.code, answer.retryable) == ("proplet_restarted", True)
        await world.manager.invoke(endless.id, invocation_id=called)
        await world.manager.until(lambda: len(world.manager.invoke_results) == 2)
        assert world.manager.invoke_results[1] == answer


async def test_a_call_that_an_earlier_life_may_have_run_is_not_refused_as_one_that_never_ran(world, adding):
    async with world.proplet():
        await world.manager.ready(adding)
    for _ in range(2):
        async with world.proplet():
            answer = await world.manager.called(adding.id)
            assert (answer.code, answer.retryable) == ("proplet_restarted", True)


async def test_what_is_ready_is_known_after_a_restart(world, proplet, adding, logged):
    with refused_by_the_disk(world, "accepted"):
        await world.manager.start(adding)
        assert await logged.until("Compiled the module")
        assert await logged.until("not kept, trying again")
    await world.manager.until(lambda: world.manager.statuses[-1:] and world.manager.statuses[-1].status == "ready")
    assert [said.status for said in world.manager.statuses] == ["accepted", "ready"]


async def test_an_answer_survives_a_restart_until_it_is_acknowledged(world, adding):
    async with world.proplet():
        await world.manager.ready(adding)
        world.manager.acknowledges = False
        before = await world.manager.called(adding.id)
    world.manager.invoke_results.clear()
    world.manager.acknowledges = True
    async with world.proplet():
        assert await world.manager.answer(before.invocation_id) == before


async def test_a_failing_call_leaves_the_deployment_standing(world, proplet):
    guest = """(module (func (export "divide") (param i32 i32) (result i32)
      (i32.div_s (local.get 0) (local.get 1))))"""
    start = world.start(guest, name="divide", inputs=["6", "3"], **FOREVER)
    await world.manager.ready(start)
    assert (await world.manager.called(start.id, inputs=["1", "0"])).code == "trap:integer_divide_by_zero"
    assert (await world.manager.called(start.id, inputs=["1"])).code == "invalid_inputs"
    assert (await world.manager.called(start.id)).results == "2"


async def test_the_start_again_of_a_deployment_is_answered_with_ready(world, proplet, adding):
    await world.manager.ready(adding)
    world.manager.statuses.clear()
    await world.manager.ready(adding)
    assert (await world.manager.called(adding.id)).results == "3"


async def test_a_malformed_call_is_refused_with_the_reason(world, proplet, adding):
    await world.manager.ready(adding)
    topic = "m/d/c/c/control/manager/proplet-1/invoke"
    said = f'{{"invocation_id":"i","task_id":"{adding.id}","attempt":1,"proplet_id":"proplet-1","timeout_s":301}}'
    await world.manager.bus.publish(topic, said.encode())
    answer = await world.manager.answer("i")
    assert answer.code == "invalid_invocation"
    assert "timeout_s" in answer.error
    assert (await world.manager.called(adding.id, inputs=["a\0b"])).code == "invalid_invocation"


@pytest.mark.parametrize("fields", [{"daemon": True}, {"kind": "federated"}])
async def test_what_a_latent_task_cannot_also_be_is_refused(world, proplet, guests, fields):
    start = world.start(guests["add"], name="add", **FOREVER, **fields)
    await world.manager.start(start)
    status = await world.manager.status(start.id)
    assert (status.status, status.code) == ("denied", "invalid_start")


async def test_calls_beyond_what_may_wait_are_refused(world, proplet, monkeypatch):
    monkeypatch.setattr("proplet.work.attempts.MOST_INVOCATIONS", 2)
    endless = world.start(ENDLESS, name="again", **FOREVER)
    await world.manager.ready(endless)
    asked = [await world.manager.invoke(endless.id) for _ in range(3)]
    answer = await world.manager.answer(asked[-1])
    assert (answer.code, answer.retryable) == ("no_slot", True)
    assert [r.invocation_id for r in world.manager.invoke_results] == [asked[-1]]
