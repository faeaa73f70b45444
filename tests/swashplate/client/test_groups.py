"""Jobs and workflows through the client, at a real manager."""

from __future__ import annotations

import asyncio

import pytest

from swashplate.client import Client, Workflow
from swashplate.errors import InvalidRequestError, NotFoundError
from tests.swashplate.client.support import one_lost_answer, proplet

IMAGE = "registry/image:1"
CHAIN = [{"name": "first", "image_url": IMAGE}, {"name": "second", "image_url": IMAGE, "depends_on": ["first"]}]


async def test_a_workflow_is_watched_from_its_start_to_its_end(world):
    async with world.manager(), proplet(world) as worker, Client(world.url) as client:
        made = await client.workflows.create(CHAIN, name="chain")
        assert (made.status, [task.name for task in made.tasks]) == ("pending", ["first", "second"])
        await client.workflows.start(made.id)

        async def watch() -> list[Workflow]:
            return [now async for now in client.workflows.watch(made.id)]

        watching = asyncio.create_task(watch())
        for result in ("1", "2"):
            await worker.result(await worker.started(), result)
        seen = await watching
        ended = await client.workflows.wait(made.id)
    assert (ended.status, ended.name) == ("completed", "chain")
    assert ended.succeeded
    assert [task.results for task in seen[-1].tasks] == ["1", "2"]
    assert seen[-1].document == ended.document


async def test_a_sequential_job_runs_one_after_another_and_its_failure_is_its_state(world):
    async with world.manager(), proplet(world) as worker, Client(world.url) as client:
        tasks = [{"name": name, "image_url": IMAGE} for name in ("a", "b")]
        job = await client.jobs.create("j", tasks, execution_mode="sequential", start=True)
        await worker.result(await worker.started(), error="broken", code="trap:unreachable")
        ended = await client.jobs.wait(job.id)
        assert [each.id for each in (await client.jobs.list()).items] == [job.id]
        await client.jobs.delete(job.id)
        with pytest.raises(NotFoundError):
            await client.jobs.get(job.id)
    assert (ended.status, ended.execution_mode) == ("failed", "sequential")
    assert [task.status for task in ended.tasks] == ["failed", "skipped"]


async def test_a_stopped_workflow_ends_and_what_had_not_begun_never_does(world):
    async with world.manager(), proplet(world) as worker, Client(world.url) as client:
        made = await client.workflows.create(CHAIN, start=True)
        start = await worker.started()
        await worker.status(start, "accepted")
        await client.workflows.stop(made.id)
        await worker.result(start, error="stopped", code="stopped")
        ended = await client.workflows.wait(made.id)
    assert ended.tasks[0].status == "interrupted"
    assert not ended.succeeded
    assert worker.starts.empty()


@pytest.mark.parametrize("kind", ["workflows", "jobs"])
async def test_a_create_whose_answer_was_lost_makes_one(world, kind):
    async with world.manager():
        async with one_lost_answer(world.url) as (url, lost), Client(url) as client:
            made = await (client.workflows.create(CHAIN) if kind == "workflows" else client.jobs.create("j", CHAIN))
        async with Client(world.url) as client:
            known = await getattr(client, kind).list()
    assert lost
    assert [each.id for each in known.items] == [made.id]


async def test_what_the_manager_refuses_is_told_and_nothing_is_made(world):
    async with world.manager(), Client(world.url) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.workflows.create([{"name": "a", "image_url": IMAGE, "depends_on": ["nobody"]}])
        assert "nobody" in caught.value.sentence
        assert (await client.workflows.list()).total == 0
        assert (await client.tasks.list()).total == 0
