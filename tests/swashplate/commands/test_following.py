"""What a command that follows a task tells on stderr."""

from __future__ import annotations

import asyncio

from swashplate.client import Client, Report
from swashplate.commands import following
from tests.manager.test_groups import IMAGE
from tests.swashplate.client.support import proplet


async def test_a_quiet_one_tells_once_why_it_waits(world, monkeypatch, capsys):
    monkeypatch.setattr(following, "SILENT_S", 0.02)
    told = ""
    async with world.manager(), proplet(world), Client(world.url) as client:
        task = await client.create({"name": "t", "image_url": IMAGE, "selector": {"gpu": "true"}}, start=True)
        follow = asyncio.create_task(following.follow(client, task, quiet=True))
        async with asyncio.timeout(10):
            while not told:
                told += capsys.readouterr().err
                await asyncio.sleep(0.01)
        await client.tasks.stop(task.id)
        ended = await follow
        told += capsys.readouterr().err
    assert ended.status == "interrupted"
    assert told.count("\n") == 1
    assert f"task {task.id[:8]} t: scheduled - " in told


async def test_that_its_proplet_compiles_is_told_and_the_end_once(world, monkeypatch, capsys):
    monkeypatch.setattr(following, "SILENT_S", 0.02)
    async with world.manager(), proplet(world) as p1, Client(world.url) as client:
        task = await client.create({"name": "t", "image_url": IMAGE}, start=True)
        follows = [asyncio.create_task(following.follow(client, task, quiet=quiet)) for quiet in (True, False)]
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        await p1.status(start, "progress", stage="compiling")
        told = ""
        async with asyncio.timeout(10):
            while told.count("compiling on p1") < 2:
                told += capsys.readouterr().err
                await asyncio.sleep(0.01)
        await p1.acknowledged(await p1.result(start, error="it is a bomb", code="compile_limit"))
        for follow in follows:
            ended = await follow
            following.conclude(ended, began=0, report=Report(log_tail="last words"), quiet=follow is follows[0])
    told += capsys.readouterr().err
    assert told.count("compiling") == 2
    assert "t: failed" not in told
    assert [told.count(words) for words in ("failed after", "it is a bomb [compile_limit]", "last words")] == [2, 2, 1]
