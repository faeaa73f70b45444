"""The manager's HTTP surface: tasks as its users see them."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from aiohttp import BodyPartReader, web
from pydantic import RootModel

from manager.attempts import Attempts
from manager.dispatch import Dispatch
from manager.records import Attempt, AttemptKey, Task
from manager.shown import timestamp
from manager.states import TaskState
from manager.tasks import TaskService
from swashplate.blobs import BlobStore
from swashplate.errors import InvalidRequestError
from swashplate.http import Route, answer, query_int, query_seconds, read_body
from swashplate.messages import TaskCreate


def redacted(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:10]}<REDACTED>{text[-10:]}"


def task_json(task: Task) -> dict[str, Any]:
    """A task as the API shows it. Tokens never leave; ``state`` is the contract's number, ``status`` its name."""
    spec = task.spec
    shown: dict[str, Any] = {
        "id": task.id,
        "name": spec.name,
        "kind": spec.kind,
        "state": int(task.state),
        "status": task.state.name.lower(),
        "cli_args": spec.cli_args,
        "daemon": spec.daemon,
        "encrypted": spec.encrypted,
        "priority": spec.priority,
        "timeout_s": spec.timeout_s,
        "retries": spec.retries,
        "run": task.run,
        "attempt": task.attempt,
        "start_time": timestamp(task.started_at),
        "finish_time": timestamp(task.finished_at),
        "created_at": timestamp(task.created_at),
        "updated_at": timestamp(task.updated_at),
        "next_run": timestamp(task.next_run),
    }
    optional = {
        "mode": spec.mode,
        "image_url": spec.image_url,
        "file": redacted(base64.b64encode(spec.file.encode()).decode()) if spec.file else "",
        "digest": task.digest,
        "inputs": spec.inputs,
        "env": spec.env,
        "latent": spec.latent,
        "concurrency": spec.concurrency,
        "broadcast": spec.broadcast,
        "restart": spec.restart if spec.daemon else "",
        "kbs_resource_path": spec.kbs_resource_path,
        "hal_storage_path": spec.hal_storage_path,
        "monitoring_profile": spec.monitoring_profile and spec.monitoring_profile.model_dump(),
        "dataset": spec.dataset,
        "selector": spec.selector,
        "memory_bytes": spec.memory_bytes,
        "wasm_features": spec.wasm_features,
        "metadata": spec.metadata,
        "depends_on": spec.depends_on,
        "run_if": spec.run_if,
        "workflow_id": spec.workflow_id,
        "job_id": spec.job_id,
        "schedule": spec.schedule,
        "timezone": spec.timezone if spec.schedule else "",
        "is_recurring": spec.is_recurring,
        "missed_run": spec.missed_run if spec.schedule else "",
        "proplet_id": task.proplet_id or spec.proplet_id,
        "results": json.loads(task.result) if task.result else None,
        "error": task.error,
        "code": task.code,
    }
    return {**shown, **{name: value for name, value in optional.items() if value}}


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "run": attempt.run,
        "proplet_id": attempt.proplet_id,
        "status": str(attempt.state),
        "created_at": timestamp(attempt.created_at),
        "offered_at": timestamp(attempt.offered_at),
        "accepted_at": timestamp(attempt.accepted_at),
        "finish_time": timestamp(attempt.finished_at),
        **({"results": json.loads(attempt.result)} if attempt.result else {}),
        **({"error": attempt.error, "code": attempt.code} if attempt.error else {}),
    }


def query_state(request: web.Request) -> TaskState:
    asked = request.query["status"]
    try:
        return TaskState[asked.upper()]
    except KeyError:
        known = ", ".join(state.name.lower() for state in TaskState)
        raise InvalidRequestError(f"query parameter status must be one of {known}, got {asked!r}") from None


class TaskChanges(RootModel[dict[str, Any]]):
    """Some of a task's fields."""


class Api:
    """The task routes."""

    def __init__(
        self,
        tasks: TaskService,
        attempts: Attempts,
        dispatch: Dispatch,
        blobs: BlobStore,
    ) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._dispatch = dispatch
        self._blobs = blobs

    def routes(self) -> list[Route]:
        page = {"offset": "How many to leave out, default 0", "limit": "How many at most, default 100"}
        return [
            Route(
                "POST",
                "/tasks",
                self._create,
                "Create a task, and start it when the body says so",
                body=TaskCreate,
                status=201,
                errors=(404, 409, 503),
            ),
            Route("GET", "/tasks", self._list, "Tasks, newest first", query=page, errors=(400,)),
            Route("GET", "/tasks/{task_id}", self._get, "One task", errors=(404,)),
            Route("PUT", "/tasks/{task_id}", self._update, "Change what the body names", errors=(404, 409, 503)),
            Route("DELETE", "/tasks/{task_id}", self._delete, "Delete it", status=204, errors=(404, 409, 503)),
            Route("PUT", "/tasks/{task_id}/upload", self._upload, "Give it a binary", errors=(400, 404, 409, 413, 503)),
            Route("POST", "/tasks/{task_id}/start", self._start, "Start it (again)", errors=(404, 409, 503)),
            Route("POST", "/tasks/{task_id}/stop", self._stop, "Stop it", errors=(404, 409, 503)),
            Route("GET", "/tasks/{task_id}/results", self._results, "What it produced", errors=(404,)),
            Route("GET", "/tasks/{task_id}/attempts", self._attempts_of, "Every run of it", errors=(404,)),
            Route("GET", "/blobs/{digest}", self._blob, "The bytes of an uploaded file", errors=(400, 404)),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        spec = await read_body(request, TaskCreate)
        task, new = await self._tasks.create(spec, key=request.headers.get("Idempotency-Key"))
        return answer(self._shown(task), status=201 if new else 200, headers={"Location": f"/tasks/{task.id}"})

    def _shown(self, task: Task) -> dict[str, Any]:
        """With what only the present knows: what its proplet does with it, or why it waits."""
        if not task.state.active:
            return task_json(task)
        stage = self._attempts.stage(AttemptKey(task.id, task.attempt))
        waiting = self._dispatch.waiting_for(task)
        return task_json(task) | ({"stage": stage} if stage else {}) | ({"waiting": waiting} if waiting else {})

    async def _list(self, request: web.Request) -> web.Response:
        offset, limit = query_int(request, "offset", 0), query_int(request, "limit", 100, low=1, high=100)
        filters: dict[str, Any] = {}
        if "status" in request.query:
            filters["state"] = int(query_state(request))
        if "name" in request.query:
            filters["name"] = request.query["name"]
        total, page = await self._tasks.list(offset, limit, filters)
        shown = [self._shown(task) for task in page]
        return answer({"offset": offset, "limit": limit, "total": total, "tasks": shown})

    async def _get(self, request: web.Request) -> web.Response:
        wait = query_seconds(request, "wait", high=300)
        return answer(self._shown(await self._tasks.ended(request.match_info["task_id"], wait)))

    async def _update(self, request: web.Request) -> web.Response:
        changes = await read_body(request, TaskChanges)
        task = await self._tasks.update(request.match_info["task_id"], changes.root)
        return answer(self._shown(task))

    async def _delete(self, request: web.Request) -> web.Response:
        await self._tasks.delete(request.match_info["task_id"])
        return web.Response(status=204)

    async def _upload(self, request: web.Request) -> web.Response:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "file":
                if not (part.filename or "").endswith(".wasm"):
                    raise InvalidRequestError("field file: its name must end in .wasm", code="not_wasm")
                task = await self._tasks.upload(request.match_info["task_id"], bytes(await part.read()))
                return answer(self._shown(task))
        raise InvalidRequestError("the form has no field file")

    async def _start(self, request: web.Request) -> web.Response:
        task = await self._tasks.start(request.match_info["task_id"])
        return answer({"started": True, "run": task.run, "attempt": task.attempt})

    async def _stop(self, request: web.Request) -> web.Response:
        await self._tasks.stop(request.match_info["task_id"])
        return answer({"stopped": True})

    async def _results(self, request: web.Request) -> web.Response:
        task = await self._tasks.get(request.match_info["task_id"])
        found = {"results": json.loads(task.result) if task.result else None, "status": task.state.name.lower()}
        return answer({**found, **({"error": task.error, "code": task.code} if task.error else {})})

    async def _attempts_of(self, request: web.Request) -> web.Response:
        found = await self._tasks.attempts(request.match_info["task_id"])
        return answer({"total": len(found), "attempts": [attempt_json(attempt) for attempt in found]})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise InvalidRequestError(f"{digest!r} is not a digest", hint="sha256: and 64 hex digits")
        self._blobs.size(digest)
        return web.FileResponse(self._blobs.path(digest), headers={"Content-Type": "application/wasm"})
