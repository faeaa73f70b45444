"""Inputs kept between tasks are there when a task links them."""

from __future__ import annotations

import asyncio
import gc

import pytest
from aiohttp import web

from proplet.supply.input_cache import InputCache
from swashplate.client import HttpClient
from swashplate.errors import NotFoundError, UnavailableError
from swashplate.http import HttpService, Route, answer
from tests.support.ports import free_port

CONTENT = {"data": [{"x": [0.5] * 20, "y": 1}]}
ROOM_FOR_ONE = 200


class Source:
    """Serves the same JSON under every name but ``missing`` and ``away``; holds the answer that nothing changed while told to."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.served: list[tuple[str, int]] = []
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name == "missing":
            raise NotFoundError("no such input")
        if name == "away":
            self.served.append((name, 503))
            raise UnavailableError("not now")
        status = 304 if request.headers.get("If-None-Match") else 200
        self.served.append((name, status))
        if status == 304:
            self.asked.set()
            await self.may_answer.wait()
            return web.Response(status=304)
        response = answer(CONTENT)
        response.headers["ETag"] = '"1"'
        return response


@pytest.fixture
async def source():
    source = Source()
    service = HttpService("source", [Route("GET", "/{name}", source.get, "An input")])
    async with asyncio.timeout(20), service.serving("127.0.0.1", int(source.url.rpartition(":")[2])):
        yield source


@pytest.fixture
async def cache(tmp_path):
    async with HttpClient() as http:
        yield InputCache(http, tmp_path / "cache", ROOM_FOR_ONE)


async def test_what_was_dropped_while_the_server_was_asked_is_fetched_again(cache, source):
    a, b = f"{source.url}/a", f"{source.url}/b"
    await cache.get(a)
    source.may_answer.clear()
    asking = asyncio.ensure_future(cache.get(a))
    await source.asked.wait()
    dropped = (await cache.get(b)).path
    source.may_answer.set()
    assert (await asking).path.exists()
    assert (await cache.get(a)).path.exists()
    assert not dropped.exists()
    assert source.served == [("a", 200), ("a", 304), ("b", 200), ("a", 200), ("a", 304)]


@pytest.mark.parametrize("immutable", [True, False])
async def test_what_somebody_removed_is_fetched_again(cache, source, immutable):
    kept = await cache.get(f"{source.url}/a", immutable=immutable)
    kept.path.unlink()
    kept.path.parent.rmdir()
    assert (await cache.get(f"{source.url}/a", immutable=immutable)).path.exists()


async def test_nothing_is_kept_of_what_failed_or_was_dropped(cache, source):
    for name in ("missing", "a", "b", "c"):
        try:
            await cache.get(f"{source.url}/{name}")
        except NotFoundError:
            assert name == "missing"
    gc.collect()
    assert len(cache._locks) == 0
    assert list(cache._kept) == [f"{source.url}/c"]


async def test_tasks_that_wait_for_the_same_server_wait_at_the_same_time(cache, source):
    tasks = [cache.get(f"{source.url}/away", patience=0.5) for _ in range(6)]
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(failure, UnavailableError) for failure in failures)
    # One after the other, pauses of 0.1 s or more, for half a second; who is late asks once. In turn it would be 3 times 6.
    assert len(source.served) <= 6 + 5
