"""Whatever the manager is asked, it answers as its own description says, and never with a failure of its own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp

from tests.http_fuzz.coordinating import coordinating
from tests.http_fuzz.harness import MANY, OWN, fuzz, in_a_thread, judge
from tests.manager.conftest import NAMES, World

UPLOAD = "PUT /tasks/{task_id}/upload"
"""A file named .wasm that begins as WASM does is not made by chance."""
CALLS = "/invoke$"
"""Answers with 502 to 504 what a guest or its proplet does, and waits for it."""
START = "POST /tasks/{task_id}/start"
"""By the time it is asked for, others have pinned the tasks to proplets that there are not, and deleted the one there was."""


def test_the_manager(tmp_path, examples):
    """With a proplet that accepts and completes all it is given."""
    tasks: list[str] = []
    invocations: list[str] = []
    groups: list[str] = []
    learning = tmp_path / "learning"
    learning.mkdir()

    @asynccontextmanager
    async def serving():
        async with aiohttp.ClientSession() as session, coordinating(session, learning) as coordinator_url:
            world = World(tmp_path, session)
            world.coordinator_url = coordinator_url
            await world.proxy.bus.subscribe(NAMES.resolve_request, world.proxy.answer)
            async with world.proxy.bus, world.manager(), world.proplet("p-1") as proplet:
                working = asyncio.create_task(work(proplet))
                for n in range(120):
                    task = await world.launch(metadata={"n": n}, start=n % 2 == 0, daemon=n % 4 == 0)
                    tasks.append(task["id"])
                latent = (await world.launch(latent=True))["id"]
                tasks.append(latent)
                called = await world.call("POST", f"/tasks/{latent}/invoke", {"async": True})
                invocations.append(called[1]["invocation_id"])
                for n in range(12):
                    for many, one in (("jobs", "job_id"), ("workflows", "workflow_id")):
                        body = {
                            "name": "g",
                            "tasks": [{"name": "t", "image_url": "registry/image:1"}],
                            "start": n % 2 == 0,
                        }
                        groups.append((await world.call("POST", f"/{many}", body))[1][one])
                calling = asyncio.create_task(answer(proplet))
                yield world.url
                working.cancel()
                calling.cancel()

    async def work(proplet) -> None:
        while True:
            start = await proplet.starts.get()
            await proplet.status(start, "ready" if start.latent else "accepted")
            if not start.daemon and not start.latent:
                await proplet.result(start, results="42")

    async def answer(proplet) -> None:
        while True:
            await proplet.invoke_result(await proplet.invokes.get(), "42")

    with in_a_thread(serving()) as url:
        known = {
            "path.task_id": tasks,
            "path.proplet_id": ["p-1"],
            "path.invocation_id": invocations,
            "path.group_id": groups,
            "path.round_id": ["r-1"],
            "query.round_id": ["r-1"],
        }
        never = {"GET /tasks/{task_id}/invocations/{invocation_id}"}
        never |= {
            "POST /fl/update",
            "POST /fl/experiments",
            "POST /fl/update_cbor",
            "GET /blobs/{digest}",
            "PUT /blobs/{digest}",
            UPLOAD,
            START,
        }
        exclude = f"{OWN}|{CALLS}"
        if examples <= MANY:
            exclude += "|^/fl/(experiments|update)$"  # which the coordinator was asked
        report = fuzz(url, examples=examples, exclude=exclude, known=known, brief=("^/(jobs|workflows)$",))
        # An image reference that is made up is refused at once, and most bodies have one.
        judge(report, share=0.15, without_success=never, most=8)
