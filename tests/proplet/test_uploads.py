"""Large results reach the manager whole and once, whatever happens in between; what nobody wants any more leaves no file."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiohttp import web

from proplet.work import outbox, uploads
from swashplate.http import HttpService, Route, answer
from tests.proplet.conftest import PATIENCE, Heard
from tests.support.ports import free_port
from tests.support.wat import prints_many

MANY = 300_000
CONTENT = json.dumps("a" * MANY).encode()
AWAY = "not uploaded, trying again"


class Receiver(Heard):
    """Where the manager takes large results; it answers as ``answers`` say, then that it has them."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.answers: list[tuple[int, dict]] = []
        self.taken: list[tuple[dict, str, bytes]] = []
        """Query, token and body of each upload."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def there(self):
        routes = [Route("PUT", "/blobs/{digest}", self._take, "A large result", status=204)]
        async with HttpService("manager", routes).serving("127.0.0.1", self.port):
            yield

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.taken.append((dict(request.query), request.headers.get("X-Attempt-Token", ""), body))
        await self.tell()
        if self.answers:
            status, said = self.answers.pop(0)
            return answer(said, status=status)
        return web.Response(status=204)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(uploads, "AGAIN_S", 0.02)
    monkeypatch.setattr(outbox, "KEEP_AGAIN_S", 0.02)


@pytest.fixture
async def receiver(world):
    found = Receiver()
    announce = json.dumps({"heartbeat_s": 10, "urls": {"manager": found.url}}).encode()
    await world.manager.bus.publish("m/d/c/c/control/manager/announce", announce, retain=True)
    return found


@pytest.fixture
def big(world):
    return world.start(prints_many(MANY), latent=True, timeout_s=None)


async def called(world, start) -> str:
    return await world.manager.invoke(start.id, tokens={"results": "secret"})


def files(world) -> list[str]:
    return [path.name for path in (world.tmp_path / "state" / "results").rglob("*") if path.is_file()]


async def until_gone(world) -> None:
    async with asyncio.timeout(PATIENCE):
        while files(world):
            await asyncio.sleep(0.01)


def answers_of(world, call: str):
    return [said for said in world.manager.invoke_results if said.invocation_id == call]


async def test_the_large_result_of_a_call_is_uploaded_and_then_told_with_its_report(world, receiver, big):
    async with receiver.there(), world.proplet():
        await world.manager.ready(big)
        call = await called(world, big)
        said = await world.manager.answer(call)
        await until_gone(world)
    [(query, token, body)] = receiver.taken
    assert query == {"task_id": big.id, "attempt": "1", "invocation_id": call, "proplet_id": "proplet-1"}
    assert (token, body) == ("secret", CONTENT)
    assert (said.error, said.results, said.results_size) == (None, None, len(CONTENT))
    assert (said.report.used["output_bytes"], said.report.isolation) == (MANY, "warm")


async def test_a_failed_call_tells_what_it_used_and_how_its_log_ended(world, receiver, guests):
    guest = guests["prints"]("last words\n", to=2, then="(unreachable)")
    start = world.start(guest, latent=True, timeout_s=None, limits={"memory_bytes": 1 << 20})
    async with world.proplet():
        await world.manager.ready(start)
        said = await world.manager.called(start.id)
    assert (said.code, said.report.log_tail) == ("trap:unreachable", "last words\n")
    assert said.report.limits["memory_bytes"] == 1 << 20
    assert said.report.used["log_bytes"] == len("last words\n")


async def test_an_upload_in_trouble_is_tried_again_and_told_once(world, quick, receiver, big):
    receiver.answers = [(503, {"error": "not now", "code": "unavailable"}), (500, {"error": "oh", "code": "internal"})]
    async with receiver.there(), world.proplet():
        await world.manager.ready(big)
        call = await called(world, big)
        assert (await world.manager.answer(call)).error is None
        await world.manager.called(big.id, tokens={"results": "secret"})
    assert [body for _, _, body in receiver.taken] == [CONTENT] * 4
    assert len(answers_of(world, call)) == 1


async def test_a_refused_upload_fails_the_call_with_the_reason(world, receiver, big):
    receiver.answers = [(413, {"error": "over the limit", "code": "result_too_large"})]
    async with receiver.there(), world.proplet():
        await world.manager.ready(big)
        said = await world.manager.answer(await called(world, big))
        assert said.code == "result_too_large"
        assert "over the limit" in said.error
        await until_gone(world)


async def test_a_file_that_vanished_before_it_was_taken_is_worth_another_attempt(world, quick, receiver, big, logged):
    async with world.proplet():  # and the manager is away
        await world.manager.ready(big)
        call = await called(world, big)
        await logged.until(AWAY)
        shutil.rmtree(world.tmp_path / "state" / "results")
        said = await world.manager.answer(call)
    assert (said.code, said.retryable) == ("result_lost", True)


async def test_a_restart_between_result_and_upload_loses_nothing_and_runs_nothing_twice(
    world, quick, receiver, big, logged
):
    """The end of the deployment, with which the manager ends its calls, waits for what they gave."""
    async with world.proplet():
        await world.manager.ready(big)
        call = await called(world, big)
        await logged.until(AWAY)
    assert answers_of(world, call) == []
    order = world.manager.results, world.manager.invoke_results
    async with world.proplet():
        await world.manager.until(lambda: world.manager.alives[-1].invocations == [call])
        assert world.manager.alives[-1].running[0].task_id == big.id
        await logged.until(AWAY)
        assert order == ([], [])
        async with receiver.there():
            said = await world.manager.answer(call)
            assert (said.error, said.results_size, said.report.used["output_bytes"]) == (None, len(CONTENT), MANY)
            lost = await world.manager.result(big.id)
            assert lost.code == "proplet_restarted"
            await until_gone(world)
    assert [body for _, _, body in receiver.taken] == [CONTENT]
    assert len(answers_of(world, call)) == 1
    assert sum(line["event"].startswith("Executing task") for line in logged) == 1


async def test_a_stop_gives_up_the_upload_of_a_call_and_its_file(world, quick, receiver, big, logged):
    async with world.proplet():
        await world.manager.ready(big)
        call = await called(world, big)
        await logged.until(AWAY)
        await world.manager.stop(big.id)
        assert (await world.manager.answer(call)).code == "stopped"
        assert (await world.manager.result(big.id)).code == "stopped"
        assert files(world) == []


async def test_a_url_that_never_answers_fails_the_call_while_the_manager_lives(
    world, quick, receiver, big, monkeypatch
):
    monkeypatch.setattr(uploads, "AWAY_S", 0.1)
    async with world.proplet():
        await world.manager.ready(big)
        said = await world.manager.answer(await called(world, big))
        assert said.code == "result_too_large"
        assert "MANAGER_ADVERTISED_URL" in said.error


@contextmanager
def no_thread_free():
    """Nobody gets a thread of this loop meanwhile."""
    free = threading.Event()
    loop = asyncio.get_running_loop()
    held = [loop.run_in_executor(None, free.wait) for _ in range(64)]
    try:
        yield
    finally:
        free.set()
        del held


async def test_a_result_of_a_task_that_is_stopped_while_it_is_written_leaves_no_file(world, receiver, logged):
    start = world.start(prints_many(MANY), tokens={"results": "secret"})
    async with receiver.there(), world.proplet():
        await world.manager.outcome(start)  # the next run needs no thread but for its result
        again = start.model_copy(update={"attempt": 2})
        with no_thread_free():
            await world.manager.start(again)
            async with asyncio.timeout(PATIENCE):
                while not files(world):
                    await asyncio.sleep(0.01)
            await world.manager.stop(start.id)
            await world.manager.until(lambda: [r for r in world.manager.results if r.code == "stopped"])
        await until_gone(world)
        assert [query["attempt"] for query, _, _ in receiver.taken] == ["1"]
