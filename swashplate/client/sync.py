"""The manager's API for programs without asyncio: the same methods, which return when they are done.

The requests run on an event loop in a thread of their own, so that this works in a notebook, too, whose loop runs already.
Each method is the one of the asynchronous client, made blocking; a test holds both to the same names.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from swashplate.client.client import Client
from swashplate.client.groups import Jobs, Workflows
from swashplate.client.learning import Learning
from swashplate.client.proplets import Proplets
from swashplate.client.tasks import Tasks

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="swashplate-client", daemon=True)
        self._thread.start()

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C ends the request, too
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Blocking(Generic[R]):
    """A part of the client whose methods block. ``part`` is the asynchronous one."""

    def __init__(self, part: R, loop: _Loop) -> None:
        self._part = part
        self._loop = loop


def blocking(
    method: Callable[Concatenate[R, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[R], P], T]:
    def call(self: Blocking[R], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.result(method(self._part, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def stepwise(
    method: Callable[Concatenate[R, P], AsyncIterator[T]],
) -> Callable[Concatenate[Blocking[R], P], Iterator[T]]:
    def call(self: Blocking[R], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        steps = method(self._part, *args, **kwargs)

        async def step() -> T:
            return await anext(steps)

        while True:
            try:
                found = self._loop.result(step())
            except StopAsyncIteration:
                return
            yield found

    functools.update_wrapper(call, method)
    return call


class SyncTasks(Blocking[Tasks]):
    create = blocking(Tasks.create)
    get = blocking(Tasks.get)
    list = blocking(Tasks.list)
    every = stepwise(Tasks.every)
    update = blocking(Tasks.update)
    delete = blocking(Tasks.delete)
    upload = blocking(Tasks.upload)
    start = blocking(Tasks.start)
    stop = blocking(Tasks.stop)
    results = blocking(Tasks.results)
    whole = blocking(Tasks.whole)
    log = blocking(Tasks.log)
    logs = stepwise(Tasks.logs)
    attempts = blocking(Tasks.attempts)
    metrics = blocking(Tasks.metrics)
    watch = stepwise(Tasks.watch)
    wait = blocking(Tasks.wait)
    ready = blocking(Tasks.ready)
    invoke = blocking(Tasks.invoke)
    submit = blocking(Tasks.submit)
    invocation = blocking(Tasks.invocation)
    invocations = blocking(Tasks.invocations)
    wait_invocation = blocking(Tasks.wait_invocation)


class SyncJobs(Blocking[Jobs]):
    create = blocking(Jobs.create)
    get = blocking(Jobs.get)
    list = blocking(Jobs.list)
    every = stepwise(Jobs.every)
    start = blocking(Jobs.start)
    stop = blocking(Jobs.stop)
    delete = blocking(Jobs.delete)
    watch = stepwise(Jobs.watch)
    wait = blocking(Jobs.wait)


class SyncWorkflows(Blocking[Workflows]):
    create = blocking(Workflows.create)
    get = blocking(Workflows.get)
    list = blocking(Workflows.list)
    every = stepwise(Workflows.every)
    start = blocking(Workflows.start)
    stop = blocking(Workflows.stop)
    delete = blocking(Workflows.delete)
    watch = stepwise(Workflows.watch)
    wait = blocking(Workflows.wait)


class SyncProplets(Blocking[Proplets]):
    get = blocking(Proplets.get)
    list = blocking(Proplets.list)
    every = stepwise(Proplets.every)
    delete = blocking(Proplets.delete)
    cordon = blocking(Proplets.cordon)
    drain = blocking(Proplets.drain)
    uncordon = blocking(Proplets.uncordon)
    metrics = blocking(Proplets.metrics)
    alive_history = blocking(Proplets.alive_history)
    sdf = blocking(Proplets.sdf)


class SyncLearning(Blocking[Learning]):
    configure = blocking(Learning.configure)
    round = blocking(Learning.round)
    wait = blocking(Learning.wait)


class SyncClient(Blocking[Client]):
    """``with SyncClient() as manager: task = manager.run("add.wasm", [2, 40], invoke="add")``; otherwise like ``Client``."""

    def __init__(self, url: str = "", *, token: str | None = None, timeout: float = 30, retry_s: float = 10) -> None:
        client = Client(url, token=token, timeout=timeout, retry_s=retry_s)
        loop = _Loop()
        super().__init__(client, loop)
        self.url = client.url
        self.tasks = SyncTasks(client.tasks, loop)
        self.jobs = SyncJobs(client.jobs, loop)
        self.workflows = SyncWorkflows(client.workflows, loop)
        self.proplets = SyncProplets(client.proplets, loop)
        self.learning = SyncLearning(client.learning, loop)

    health = blocking(Client.health)
    launch = blocking(Client.launch)
    create = blocking(Client.create)
    run = blocking(Client.run)

    def __enter__(self) -> Self:
        self._loop.result(self._part.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.result(self._part.__aexit__(None, None, None))
        self._loop.close()
