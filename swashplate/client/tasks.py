"""Tasks at the manager."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from swashplate.client.answers import Acknowledged, Attempt, Invocation, LogPart, Metric, Page, Results, Started, Task
from swashplate.client.transport import Transport, every, path_of, query_of
from swashplate.client.waiting import LONG_STEP_S, PAUSE_MOST_S, WATCHING_STEP_S, NotEndedError, changes, end_of
from swashplate.errors import InvalidRequestError, UnavailableError
from swashplate.messages import TaskCreate

PAGE = 100
AWAY_S = 60.0
SLACK_S = 15.0
"""How much longer than asked an answer may take."""
UPLOAD_S = 600.0
INVOKE_S = 30.0

Spec = TaskCreate | Mapping[str, Any]


def body_of(spec: Spec) -> dict[str, Any]:
    """What is sent for a task: of a ``TaskCreate`` the fields that were set, of a mapping everything as it is."""
    if isinstance(spec, TaskCreate):
        return spec.model_dump(mode="json", exclude_unset=True)
    return dict(spec)


def new_key() -> str:
    return uuid.uuid4().hex


def idempotent(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or new_key()}


def wasm_bytes(path: Path) -> bytes:
    """The content of a .wasm file. Raises ``InvalidRequestError`` when it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}", code="unreadable_file") from error
    if not content.startswith(b"\0asm"):
        raise InvalidRequestError(
            f"{path} is not a WASM binary: it does not start with the bytes 00 61 73 6d",
            code="not_wasm",
            hint="text (.wat) is compiled first, for example with wat2wasm" if path.suffix == ".wat" else None,
        )
    return content


class Tasks:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, spec: Spec, *, key: str | None = None) -> Task:
        """Create a task; with ``start`` in ``spec`` it is started too. ``key`` makes repeating it harmless; without, a fresh
        one is used, under which a request whose answer was lost is repeated.
        """
        return await self._transport.post(Task, "/tasks", body_of(spec), headers=idempotent(key), again=True)

    async def get(self, task_id: str, *, wait: float = 0) -> Task:
        """``wait``: answer when it has ended, or that many seconds are over."""
        path = path_of("tasks", task_id) + query_of(wait=f"{wait:g}" if wait else None)
        return await self._transport.get(Task, path, timeout=wait + SLACK_S)

    async def list(
        self,
        *,
        offset: int = 0,
        limit: int = PAGE,
        status: str = "",
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
        job_id: str = "",
        workflow_id: str = "",
    ) -> Page[Task]:
        """One page, newest first. ``limit`` is at most 100."""
        return await self._transport.page(
            Task,
            "tasks",
            "/tasks",
            offset=offset,
            limit=limit,
            status=status,
            name=name,
            metadata=json.dumps(dict(metadata)) if metadata else None,
            job_id=job_id,
            workflow_id=workflow_id,
        )

    async def every(self, /, **filters: Any) -> AsyncIterator[Task]:
        """All tasks that ``list`` with these filters has on all its pages."""

        async def page(offset: int) -> Page[Task]:
            return await self.list(offset=offset, **filters)

        async for task in every(page, lambda task: task.id):
            yield task

    async def update(self, task_id: str, fields: Mapping[str, Any]) -> Task:
        """Change only what ``fields`` names."""
        return Task.read(await self._transport.call("PUT", path_of("tasks", task_id), body=dict(fields)))

    async def delete(self, task_id: str) -> None:
        await self._transport.call("DELETE", path_of("tasks", task_id))

    async def upload(self, task_id: str, file: Path | str | bytes) -> Task:
        """Give a task its binary. Raises ``InvalidRequestError`` for what is no WASM binary."""
        path = Path("task.wasm") if isinstance(file, bytes) else Path(file)
        content = file if isinstance(file, bytes) else await asyncio.to_thread(wasm_bytes, path)

        def form() -> aiohttp.FormData:
            made = aiohttp.FormData()
            made.add_field("file", content, filename=path.with_suffix(".wasm").name, content_type="application/wasm")
            return made

        target = path_of("tasks", task_id) + "/upload"
        return Task.read(await self._transport.call("PUT", target, make_body=form, timeout=UPLOAD_S))

    async def start(self, task_id: str) -> Started:
        return await self._transport.post(Started, path_of("tasks", task_id) + "/start")

    async def stop(self, task_id: str) -> Acknowledged:
        return await self._transport.post(Acknowledged, path_of("tasks", task_id) + "/stop")

    async def results(self, task_id: str) -> Results:
        return await self._transport.get(Results, path_of("tasks", task_id) + "/results", timeout=UPLOAD_S)

    async def whole(self, task: Task) -> Task:
        """The task with its results, should they have been left out because they are large."""
        if not task.results_omitted:
            return task
        found = await self.results(task.id)
        return Task.read({**task.document, "results": found.results, "results_omitted": False})

    async def log(self, task_id: str, *, attempt: int = 0, offset: int = 0, wait: float = 0) -> LogPart:
        """What follows ``offset`` in the log of an attempt, by default the latest."""
        query = query_of(attempt=attempt, offset=offset, wait=f"{wait:g}" if wait else None)
        return await self._transport.get(LogPart, path_of("tasks", task_id) + "/logs" + query, timeout=wait + SLACK_S)

    async def logs(
        self, task_id: str, *, attempt: int = 0, offset: int = 0, follow: bool = True, away_s: float = AWAY_S
    ) -> AsyncIterator[LogPart]:
        """What the guest of an attempt, by default the latest, writes to stderr, as it comes and until the attempt has ended;
        without ``follow`` what there is; from ``offset`` on. A manager that is away for up to ``away_s`` seconds is asked again.
        """
        wait, away_since = 0.0, math.inf
        now = asyncio.get_running_loop().time
        while True:
            try:
                found = await self.log(task_id, attempt=attempt, offset=offset, wait=wait)
            except UnavailableError:
                away_since = min(away_since, now())
                if now() - away_since > away_s:
                    raise
                await asyncio.sleep(PAUSE_MOST_S)
                continue
            away_since = math.inf
            attempt = attempt or found.attempt
            if found.next_offset > offset:
                yield found
            elif found.ended or not follow:
                return
            offset, wait = found.next_offset, LONG_STEP_S if follow else 0.0

    async def attempts(self, task_id: str) -> Page[Attempt]:
        """Every attempt of every run, oldest first."""
        return await self._transport.page(Attempt, "attempts", path_of("tasks", task_id) + "/attempts")

    async def metrics(self, task_id: str, *, offset: int = 0, limit: int = PAGE) -> Page[Metric]:
        path = path_of("tasks", task_id) + "/metrics"
        return await self._transport.page(Metric, "metrics", path, offset=offset, limit=limit)

    def watch(self, task_id: str, *, timeout: float | None = None, away_s: float = AWAY_S) -> AsyncIterator[Task]:
        """The task now and whenever it has changed, until it has ended or ``timeout`` seconds are over."""

        async def look(wait: float) -> Task:
            task = await self.get(task_id, wait=wait)
            if task.latent and task.status == "running" and not task.stage:  # the attempts know whether it is ready
                ready = any(each.status == "ready" for each in (await self.attempts(task_id)).items)
                return Task.read({**task.document, "stage": "ready"}) if ready else task
            return task

        return changes(look, timeout=timeout, away_s=away_s, step_s=WATCHING_STEP_S)

    async def ready(self, task_id: str, *, timeout: float | None = None, away_s: float = AWAY_S) -> Task:
        """A daemon when it runs, a latent task when it can be invoked; either as well when it has ended. Raises as ``wait``."""
        async for task in self.watch(task_id, timeout=timeout, away_s=away_s):
            if task.settled:
                return task
        raise NotEndedError(f"task {task_id} is not ready after {timeout:g} s", hint="its field waiting says what for")

    async def wait(self, task_id: str, *, timeout: float | None = None, away_s: float = AWAY_S) -> Task:
        """The task when it has ended. Raises ``NotEndedError`` after ``timeout`` seconds, and ``UnavailableError`` when the
        manager was away for more than ``away_s`` seconds on end.
        """
        found = changes(lambda wait: self.get(task_id, wait=wait), timeout=timeout, away_s=away_s, step_s=LONG_STEP_S)
        return await end_of(found, f"task {task_id}", timeout)

    async def invoke(
        self,
        task_id: str,
        inputs: Sequence[str | float] = (),
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = INVOKE_S,
    ) -> Invocation:
        """Call a latent task and wait for its result, in one request; ``timeout`` is at most 300 s."""
        body = {"inputs": [str(each) for each in inputs], "env": dict(env or {}), "timeout_s": timeout}
        path = path_of("tasks", task_id) + "/invoke"
        return await self._transport.post(Invocation, path, body, timeout=timeout + UPLOAD_S, quiet_s=timeout + SLACK_S)

    async def submit(
        self,
        task_id: str,
        inputs: Sequence[str | float] = (),
        *,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Invocation:
        """Call a latent task without waiting; ``wait_invocation`` gives the result, also after the manager was restarted."""
        body: dict[str, Any] = {"inputs": [str(each) for each in inputs], "env": dict(env or {}), "async": True}
        if timeout is not None:
            body["timeout_s"] = timeout
        return await self._transport.post(Invocation, path_of("tasks", task_id) + "/invoke", body)

    async def invocation(self, task_id: str, invocation_id: str, *, wait: float = 0) -> Invocation:
        path = path_of("tasks", task_id, "invocations", invocation_id) + query_of(wait=f"{wait:g}" if wait else None)
        return await self._transport.get(Invocation, path, timeout=wait + UPLOAD_S, quiet_s=wait + SLACK_S)

    async def invocations(self, task_id: str, *, offset: int = 0, limit: int = PAGE) -> Page[Invocation]:
        path = path_of("tasks", task_id, "invocations")
        return await self._transport.page(Invocation, "invocations", path, offset=offset, limit=limit)

    async def wait_invocation(
        self, task_id: str, invocation_id: str, *, timeout: float | None = None, away_s: float = AWAY_S
    ) -> Invocation:
        """The invocation when it has ended; raises as ``wait`` does."""
        found = changes(
            lambda wait: self.invocation(task_id, invocation_id, wait=wait),
            timeout=timeout,
            away_s=away_s,
            step_s=LONG_STEP_S,
        )
        return await end_of(found, f"invocation {invocation_id}", timeout)
