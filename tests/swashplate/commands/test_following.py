"""What a command that follows a task tells on stderr."""

from __future__ import annotations

import asyncio

from swashplate.client import Client
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
