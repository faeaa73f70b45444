"""The blocking client: the asynchronous one's methods, each."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from swashplate.client import Client, SyncClient
from swashplate.client import sync as blocking
from swashplate.client.groups import Jobs, Workflows
from swashplate.client.learning import Learning
from swashplate.client.proplets import Proplets
from swashplate.client.tasks import Tasks
from swashplate.errors import NotFoundError


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(kind, callable)
        if not name.startswith("_") and name != "close"
    }


@pytest.mark.parametrize("kind", [Client, Tasks, Jobs, Workflows, Proplets, Learning])
def test_both_clients_have_the_same_methods_with_the_same_parameters(kind):
    assert public(getattr(blocking, f"Sync{kind.__name__}")) == public(kind)


async def test_it_works_without_an_event_loop_and_beside_one_that_runs(world):
    def work() -> int:
        with SyncClient(world.url) as client:
            made = {client.tasks.create({"name": f"t{n}", "image_url": "registry/image:1"}).id for n in range(3)}
            assert made <= {task.id for task in client.tasks.every()}
            with pytest.raises(NotFoundError):
                client.tasks.get("nope")
            return client.tasks.list().total

    async def as_in_a_notebook() -> int:
        return work()

    async with world.manager():
        assert await asyncio.to_thread(work) == 3
        assert await asyncio.to_thread(lambda: asyncio.run(as_in_a_notebook())) == 6
