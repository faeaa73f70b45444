"""The asynchronous client against a real manager, whose broker and proplets are in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from swashplate.client import Client, Task, UnreachableError
from swashplate.client.answers import BadAnswerError
from swashplate.client.waiting import NotEndedError
from swashplate.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
)
from swashplate.messages import TaskCreate
from tests.support.ports import free_port
from tests.support.wat import HELLO
from tests.swashplate.client.support import one_lost_answer, proplet

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hello.wasm"


async def test_a_file_runs_and_its_end_comes_back_typed(world, tmp_path):
    file = tmp_path / "hello.wasm"
    file.write_bytes(HELLO)
    async with world.manager(), proplet(world) as worker, Client(world.url) as client:
        running = asyncio.create_task(client.run(file, [2, "40"], invoke="add", env={"A": "1"}, priority=7))
        start = await worker.started()
        assert (start.inputs, start.cli_args, start.env) == (["2", "40"], ["--invoke", "add"], {"A": "1"})
        await worker.status(start, "accepted")
        await worker.result(start, "42")
        task = await running
    assert (task.name, task.status, task.results, task.priority) == ("hello", "completed", "42", 7)
    assert task.succeeded
    assert task.finish_time >= task.created_at
    assert task.next_run is None  # the year 1 of the API
    assert task.document["state"] == 3
    with pytest.raises(ValueError, match="frozen"):
        task.name = "other"


async def test_a_file_too_large_for_a_create_is_uploaded_before_the_start(world):
    async with world.manager(), proplet(world) as worker, Client(world.url) as client:
        client.inline_bytes = 1
        task = await client.launch(EXAMPLE, name="large")
        start = await worker.started()
        assert (start.id, start.digest, task.run) == (task.id, task.digest, 1)
    async with world.manager(), Client(world.url) as client:
        made = await client.create({"name": "inline"}, file=EXAMPLE)
        assert (made.digest, made.status) == (task.digest, "pending")


async def test_an_update_changes_what_it_names_and_a_deleted_task_is_gone(world):
    async with world.manager(), Client(world.url) as client:
        task = await client.tasks.create(TaskCreate(name="t", image_url="r/i:1", inputs=["1"], priority=7))
        changed = await client.tasks.update(task.id, {"inputs": ["2"]})
        assert (changed.inputs, changed.priority, changed.name) == (["2"], 7, "t")
        with pytest.raises(InvalidRequestError) as caught:
            await client.tasks.upload(task.id, b"text")
        assert caught.value.code == "not_wasm"
        await client.tasks.delete(task.id)
        with pytest.raises(NotFoundError):
            await client.tasks.get(task.id)


async def test_a_create_whose_answer_was_lost_makes_one_task(world):
    async with world.manager(), one_lost_answer(world.url) as (url, lost):
        async with Client(url) as client:
            made = await client.tasks.create({"name": "once", "image_url": "registry/image:1"})
        async with Client(world.url) as client:
            known = await client.tasks.list()
    assert lost
    assert [task.id for task in known.items] == [made.id]


async def test_a_start_whose_answer_was_lost_is_not_repeated_behind_the_callers_back(world):
    async with world.manager(), proplet(world):
        async with Client(world.url) as client:
            task = await client.tasks.create({"name": "t", "image_url": "registry/image:1"})
        async with one_lost_answer(world.url) as (url, lost), Client(url) as client:
            with pytest.raises(UnreachableError) as caught:
                await client.tasks.start(task.id)
            assert caught.value.sent
            assert lost
            assert (await client.tasks.get(task.id)).attempt == 1


async def test_a_wait_goes_on_over_a_restart_of_the_manager(world):
    async with Client(world.url, retry_s=0) as client:
        async with world.manager(), proplet(world) as worker:
            task = await client.launch("registry/image:1")
            waiting = asyncio.create_task(client.tasks.wait(task.id))
            start = await worker.started()
            await worker.status(start, "accepted")
            await world.until(lambda t: t["status"] == "running", f"/tasks/{task.id}")
        assert not waiting.done()
        async with world.manager(), proplet(world) as worker:
            await worker.result(start, "late")
            assert (await waiting).results == "late"


async def test_a_wait_ends_when_its_time_or_the_patience_with_the_manager_is_over(world):
    async with Client(world.url, retry_s=0) as client:
        async with world.manager():
            task = await client.tasks.create({"name": "t", "image_url": "registry/image:1"})
            with pytest.raises(NotEndedError) as caught:
                await client.tasks.wait(task.id, timeout=0.05)
            assert caught.value.sentence == f"task {task.id} is pending after 0.05 s"
            waiting = asyncio.create_task(client.tasks.wait(task.id, away_s=0.2))
            await asyncio.sleep(0)
            await client.tasks.get(task.id)
        with pytest.raises(UnreachableError):
            await waiting


async def test_all_tasks_come_once_though_others_are_created_meanwhile(world):
    async with world.manager(), Client(world.url) as client:
        made = {(await client.tasks.create(TaskCreate(name=f"t{n}", image_url="r/i:1"))).id for n in range(130)}
        seen = []
        async for task in client.tasks.every():
            if not seen:
                await client.tasks.create({"name": "new", "image_url": "r/i:1"})
            seen.append(task.id)
    assert len(seen) == len(set(seen))
    assert set(seen) == made


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda c: c.tasks.get("nope"), NotFoundError, "task_not_found"),
        (lambda c: c.tasks.create({"name": ""}), InvalidRequestError, "invalid_request"),
        (lambda c: c.tasks.create({"name": "x", "file": "AAAA"}), InvalidRequestError, "not_wasm"),
        (lambda c: c.tasks.get(""), InvalidRequestError, "invalid_request"),
        (lambda c: c.proplets.get("nobody/../x"), NotFoundError, "proplet_not_found"),
    ],
)
async def test_the_managers_errors_are_ours_with_code_and_hint(world, call, kind, code):
    async with world.manager(), Client(world.url) as client:
        with pytest.raises(kind) as caught:
            await call(client)
    assert caught.value.code == code


async def test_stopping_what_does_not_run_is_a_conflict(world):
    async with world.manager(), Client(world.url) as client:
        task = await client.tasks.create({"name": "t", "image_url": "r/i:1"})
        with pytest.raises(ConflictError):
            await client.tasks.stop(task.id)


async def test_a_manager_that_was_never_there_is_told_at_once_and_one_that_was_is_waited_for(world):
    async with Client(world.url, retry_s=60) as client:
        with pytest.raises(UnreachableError) as caught:
            async with asyncio.timeout(10):
                await client.tasks.list()
        assert caught.value.sentence == f"no answer from the manager at {world.url}: Connection refused"
        assert caught.value.hint
        async with world.manager():
            await client.health()
        listing = asyncio.create_task(client.tasks.list())
        await asyncio.sleep(0)
        async with world.manager():
            assert (await listing).total == 0


@asynccontextmanager
async def answering(text: str, status: int = 200):
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("text", ["<html>", '{"tasks": 1}', "[]", '{"tasks": [{"name": "no id"}]}'])
async def test_what_is_no_manager_is_told_so(text):
    async with answering(text) as url, Client(url) as client:
        with pytest.raises(BadAnswerError) as caught:
            await client.tasks.list()
    assert caught.value.hint == "is the URL that of a manager?"


async def test_a_refused_token_is_no_reason_to_try_again():
    said = '{"error": "the token is missing", "code": "unauthorized"}'
    async with answering(said, 401) as url, Client(url) as client:
        with pytest.raises(UnauthorizedError) as caught:
            await client.tasks.wait("t")
    assert "MANAGER_HTTP_TOKEN" in caught.value.hint


def test_answers_of_a_propeller_manager_and_of_a_newer_one_are_understood():
    task = Task.read(
        {
            "id": "t",
            "name": "n",
            "state": 5,
            "cli_args": None,
            "start_time": "0001-01-01T00:00:00Z",
            "created_at": "2026-01-02T03:04:05.123456789+01:00",
            "brand_new": {"a": 1},
        }
    )
    assert (task.status, task.ended, task.cli_args, task.start_time) == ("skipped", True, [], None)
    assert task.created_at.isoformat() == "2026-01-02T03:04:05.123456+01:00"
    assert task.document["brand_new"] == {"a": 1}
