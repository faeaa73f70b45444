"""What the manager gets to hear about a task that it starts."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from swashplate.messages import AttemptRef


async def test_the_stdout_of_a_command_is_its_result(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["prints"]("hello\n")))
    assert (result.results, result.error, result.attempt) == ("hello\n", None, 1)


async def test_a_task_that_takes_its_time_is_accepted_first(world, proplet, guests):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    assert (await world.manager.status(start.id)).status == "accepted"
    assert world.manager.results == []


async def test_a_task_that_ends_at_once_says_only_how(world, proplet, guests):
    warm = world.start(guests["add"], name="add", inputs=["1", "1"])
    await world.manager.outcome(warm)
    world.manager.statuses.clear()
    for _ in range(5):
        await world.manager.outcome(world.start(guests["add"], name="add", inputs=["1", "1"]))
    assert world.manager.statuses == []


async def test_a_function_is_called_with_typed_inputs(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["add"], name="add", inputs=["-2", "44"]))
    assert result.results == "42"


async def test_invoke_in_the_command_line_names_the_function(world, proplet, guests):
    start = world.start(guests["add"], name="anything", cli_args=["--invoke", "add"], inputs=["1", "2"])
    assert (await world.manager.outcome(start)).results == "3"


async def test_a_missing_export_is_an_error_that_lists_the_exports(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["add"], name="subtract"))
    assert result.code == "export_not_found"
    assert "add" in result.error
    assert not result.retryable


async def test_wrong_inputs_are_an_error_of_their_own(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["add"], name="add", inputs=["1", "9999999999"]))
    assert result.code == "invalid_inputs"


async def test_an_exit_code_fails_the_task_and_shows_the_last_lines(world, proplet, guests):
    guest = guests["prints"]("no such file\n", to=2, then="(call $exit (i32.const 3))")
    result = await world.manager.outcome(world.start(guest))
    assert result.code == "guest_exit"
    assert result.error == "process exited with status 3: no such file"


@pytest.mark.parametrize("status", [125, 126, 200, 256, -1])
async def test_any_exit_code_is_told(world, proplet, guests, status):
    guest = guests["prints"]("", then=f"(call $exit (i32.const {status}))")
    await world.manager.outcome(world.start(guest))
    before = proplet.pool.processes()
    result = await world.manager.outcome(world.start(guest))
    assert (result.code, result.error) == ("guest_exit", f"process exited with status {status}")
    assert proplet.pool.processes() == before


async def test_a_start_that_takes_parameters_is_an_error_that_names_them(world, proplet):
    result = await world.manager.outcome(world.start('(module (func (export "_start") (param i32 f64)))'))
    assert (result.code, result.error) == ("guest_link", "_start must take no parameters, it takes (i32, f64)")


async def test_a_start_that_is_no_function_is_an_error_that_says_so(world, proplet):
    result = await world.manager.outcome(world.start('(module (global (export "_start") i32 (i32.const 1)))'))
    assert result.code == "export_not_found"
    assert result.error.endswith("; _start is not a function")


async def test_exit_code_zero_is_success(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["prints"]("fine", then="(call $exit (i32.const 0))")))
    assert (result.results, result.error) == ("fine", None)


async def test_a_trap_fails_the_task_and_the_next_one_runs(world, proplet, guests):
    trap = await world.manager.outcome(world.start('(module (func (export "_start") unreachable))'))
    assert trap.code == "trap:unreachable"
    assert "unreachable" in trap.error
    assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"


async def test_the_same_start_twice_runs_once(world, proplet, guests, logged):
    start = world.start(guests["prints"]("once"))
    await world.manager.start(start)
    await world.manager.outcome(start)
    await world.manager.start(start)
    await world.manager.until(lambda: len(world.manager.results) == 2)
    assert {r.id for r in world.manager.results} == {world.manager.results[0].id}
    assert sum("Executing task" in line["event"] for line in logged) == 1


async def test_a_start_for_another_proplet_is_ignored(world, proplet, guests):
    strange = world.start(guests["prints"]("mine?"), proplet_id="proplet-2")
    await world.manager.start(strange)
    elsewhere = world.start(guests["prints"]("not heard"))
    await world.manager.start(elsewhere, topic_of="proplet-2")
    own = world.start(guests["prints"]("own"))
    await world.manager.outcome(own)
    assert {r.task_id for r in world.manager.results} == {own.id}
    assert {s.task_id for s in world.manager.statuses} <= {own.id}


async def test_a_malformed_start_is_denied_with_the_reason(world, proplet):
    topic = "m/d/c/c/control/manager/proplet-1/start"
    await world.manager.bus.publish(topic, b'{"id":"t1","attempt":1,"proplet_id":"proplet-1","name":"x"}')
    status = await world.manager.status("t1")
    assert (status.status, status.code) == ("denied", "invalid_start")
    assert "digest" in status.reason


async def test_what_is_no_start_at_all_is_only_logged(world, proplet, guests, logged):
    topic = "m/d/c/c/control/manager/proplet-1/start"
    for payload in (b"\xff", b"[]", b"{}", b'{"id": 3, "attempt": "x"}', b'{"id": {}, "attempt": 1}'):
        await world.manager.bus.publish(topic, payload)
    await world.manager.outcome(world.start(guests["prints"]("still alive")))
    assert sum(line["event"] == "start refused" for line in logged) == 5


async def test_nul_in_an_input_is_refused(world, proplet, guests):
    start = world.start(guests["prints"](""), inputs=["a\0b"])
    await world.manager.start(start)
    assert (await world.manager.status(start.id)).code == "invalid_start"


async def test_a_start_beyond_slots_and_queue_is_denied(world, guests):
    async with world.proplet(PROPLET_QUEUE="1"):
        running, waiting, refused = (world.start(guests["loops"]) for _ in range(3))
        for start in (running, waiting, refused):
            await world.manager.start(start)
        status = await world.manager.status(refused.id)
        assert (status.status, status.code) == ("denied", "no_slot")
        assert (await world.manager.status(waiting.id)).status == "accepted"


async def test_without_a_queue_a_second_start_is_denied_at_once(world, guests):
    async with world.proplet(PROPLET_SLOTS="1", PROPLET_QUEUE="0"):
        running, refused = world.start(guests["loops"]), world.start(guests["add"], name="add")
        await world.manager.start(running)
        await world.manager.start(refused)
        status = await world.manager.status(refused.id)
        assert (status.status, status.code, status.reason) == (
            "denied",
            "no_slot",
            "1 task here already, running or waiting",
        )
        assert not any(each.task_id == running.id for each in world.manager.results)


async def test_a_slot_is_free_when_the_manager_hears_of_the_result(world, guests):
    async with world.proplet(PROPLET_SLOTS="1", PROPLET_QUEUE="0"):
        for number in range(20):
            start = world.start(guests["add"], name="add", inputs=[str(number), "1"])
            assert (await world.manager.outcome(start)).results == str(number + 1)


async def test_a_queued_task_runs_when_the_slot_is_free(world, proplet, guests, logged):
    first, second = world.start(guests["loops"]), world.start(guests["prints"]("my turn"))
    await world.manager.start(first)
    await logged.until("looping")
    await world.manager.start(second)
    await world.manager.status(second.id)
    await world.manager.stop(first.id)
    assert (await world.manager.result(second.id)).results == "my turn"


async def test_two_slots_run_two_tasks_at_once(world, guests):
    async with world.proplet(PROPLET_SLOTS="2"):
        await world.manager.start(world.start(guests["loops"]))
        assert (await world.manager.outcome(world.start(guests["prints"]("beside")))).results == "beside"


async def test_stop_kills_the_guest_and_is_reported_within_a_second(world, proplet, guests, logged):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await logged.until("looping")
    async with asyncio.timeout(1):
        await world.manager.stop(start.id)
        result = await world.manager.result(start.id)
    assert (result.error, result.code, result.retryable) == ("stopped", "stopped", False)


async def test_an_unknown_stop_changes_nothing(world, proplet, guests):
    await world.manager.stop("unknown")
    assert (await world.manager.outcome(world.start(guests["prints"]("ok")))).results == "ok"


async def test_the_timeout_kills_an_endless_loop(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["loops"], timeout_s=0.6987))
    assert (result.error, result.code, result.retryable) == ("timed out after 0.7 s", "timeout", False)
    assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"


async def test_the_timeout_covers_the_time_in_the_queue(world, proplet, guests, logged):
    await world.manager.start(world.start(guests["loops"]))
    await logged.until("looping")
    result = await world.manager.outcome(world.start(guests["prints"](""), timeout_s=0.2))
    assert result.code == "timeout"


async def test_the_timeout_covers_the_fetch(world, proplet, guests):
    world.proxy.silent = True
    assert (await world.manager.outcome(world.start(guests["prints"](""), timeout_s=0.2))).code == "timeout"


async def test_a_later_attempt_ends_an_earlier_one_that_still_runs(world, proplet, guests):
    earlier = world.start(guests["loops"])
    await world.manager.start(earlier)
    await world.manager.status(earlier.id)
    later = world.start(guests["prints"]("again"), id=earlier.id, attempt=2)
    await world.manager.start(later)
    await world.manager.until(lambda: len(world.manager.results) == 2)
    by_attempt = {r.attempt: r for r in world.manager.results}
    assert by_attempt[1].code == "superseded"
    assert by_attempt[2].results == "again"


async def test_a_stop_that_comes_with_the_start_is_reported(world, proplet, guests):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await world.manager.stop(start.id)
    assert (await world.manager.result(start.id)).code == "stopped"
    assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"
    await world.manager.until(lambda: world.manager.alives[-1].running == [])


async def test_attempts_that_come_together_are_all_reported(world, proplet, guests):
    earlier = world.start(guests["loops"])
    later = world.start(guests["prints"]("again"), id=earlier.id, attempt=2)
    await world.manager.start(earlier)
    await world.manager.start(later)
    await world.manager.until(lambda: len(world.manager.results) == 2)
    assert {r.attempt: r.code for r in world.manager.results} == {1: "superseded", 2: ""}


async def test_a_killed_worker_is_a_failure_that_may_be_tried_again(world, proplet, guests, logged):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await logged.until("looping")
    for worker in proplet.pool.processes():
        os.kill(worker, signal.SIGKILL)
    result = await world.manager.result(start.id)
    assert (result.code, result.retryable) == ("worker_died", True)
    assert "signal 9" in result.error
    assert (await world.manager.outcome(world.start(guests["prints"]("next")))).results == "next"


async def test_reports_name_what_runs_and_the_free_slots(world, proplet, guests):
    start = world.start(guests["loops"])
    await world.manager.until(lambda: world.manager.alives and world.manager.alives[-1].free_slots == 1)
    await world.manager.start(start)
    busy = AttemptRef(task_id=start.id, attempt=1)
    await world.manager.until(lambda: world.manager.alives[-1].running == [busy])
    assert world.manager.alives[-1].free_slots == 0
    await world.manager.stop(start.id)
    await world.manager.until(lambda: world.manager.alives[-1].running == [])
    assert world.manager.alives[-1].free_slots == 1


async def test_log_lines_carry_the_phrases_and_the_round(world, proplet, guests, logged):
    guest = guests["prints"]("DEBUG: Initial model\nsecond", to=2)
    start = world.start(guest, env={"ROUND_ID": "r-1769006783"})
    await world.manager.outcome(start)
    of_round = [line["event"] for line in logged if line.get("round_id") == "r-1769006783"]
    for phrase in (
        f"Executing task {start.id} in spawned task",
        "Requesting binary from registry: registry/guest:1",
        f"Assembled binary for app 'registry/guest:1', size: {start.size} bytes from 1 chunks",
        f"Starting Host runtime app: task_id={start.id}",
        "DEBUG: Initial model",
        "second",
        f"Task {start.id} completed successfully. Result: ",
    ):
        assert phrase in of_round
    stderr = [line for line in logged if line.get("stream") == "stderr"]
    assert [line["task_id"] for line in stderr] == [start.id, start.id]


async def test_a_failure_is_logged_as_an_error(world, proplet, guests, logged):
    start = world.start(guests["add"], name="subtract")
    result = await world.manager.outcome(start)
    failed = [line for line in logged if line["event"] == f"Task {start.id} failed: {result.error}"]
    assert [line["level"] for line in failed] == ["error"]
