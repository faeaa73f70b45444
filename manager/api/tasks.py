"""The manager's HTTP surface: tasks as its users see them."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from manager.api.ids import TASK_ID, Id
from manager.api.large_results import answer_large
from manager.api.views import (
    NEVER,
    AttemptList,
    Results,
    Started,
    Stopped,
    TaskPage,
    TaskView,
    attempt_json,
    changes_of,
    task_json,
)
from manager.large_results import LargeResults
from manager.state import results
from manager.state.records import AttemptKey, Task
from manager.state.states import TaskState
from manager.state.store import MOST_LISTED_RESULT
from manager.task_archive import TaskArchive
from manager.tasks import CHANGEABLE, TaskService
from manager.work.attempts import Attempts
from manager.work.dispatch import Dispatch
from swashplate.blobs import BlobStore
from swashplate.errors import InvalidRequestError
from swashplate.http import (
    FILE_LIMIT,
    OFFSET,
    Choice,
    JsonObject,
    Route,
    Seconds,
    Text,
    answer,
    limit_of,
    read_body,
    read_upload,
)
from swashplate.messages import TaskCreate
from swashplate.messages.tasks import WASM_MAGIC

STATUS = Choice(
    name="status", text="Only tasks of this status.", choices=tuple(state.name.lower() for state in TaskState)
)
NAME = Text(name="name", text="Only tasks of exactly this name.", longest=256)
METADATA = JsonObject(
    name="metadata", text="Only tasks whose metadata has each of these keys with this value.", example={"site": "north"}
)
JOB = Id(name="job_id", text="Only tasks of this job.")
WORKFLOW = Id(name="workflow_id", text="Only tasks of this workflow.")
LIMIT = limit_of(100)
WAIT = Seconds(name="wait", text="Answer when the task has ended, or after so many seconds.", high=300)
KEY = Text(
    name="Idempotency-Key",
    text="The same request under the same key makes one task, however often it is sent.",
    place="header",
    shortest=1,
    longest=256,
    pattern="[!-~]+( +[!-~]+)*",
)
DIGEST = Text(name="digest", text="As the task shows it.", place="path", longest=71, pattern="sha256:[0-9a-f]{64}")
TaskChanges = changes_of(CHANGEABLE)
EXAMPLE = {
    "name": "add",
    "image_url": "localhost:5000/add:latest",
    "inputs": ["2", "40"],
    "limits": {"memory_bytes": 67108864, "cpu_s": 2},
    "capabilities": {"env": ["SITE"]},
    "start": True,
}
TASK = {
    "id": "0b8f6b0e-3c3b-4a3e-8f3b-5f3a1f0c9d11",
    "name": "add",
    "kind": "standard",
    "state": 3,
    "status": "completed",
    "cli_args": None,
    "daemon": False,
    "encrypted": False,
    "priority": 50,
    "timeout_s": 300,
    "retries": 0,
    "run": 1,
    "attempt": 1,
    "start_time": "2026-01-01T12:00:00.000000Z",
    "finish_time": "2026-01-01T12:00:00.200000Z",
    "created_at": "2026-01-01T12:00:00.000000Z",
    "updated_at": "2026-01-01T12:00:00.200000Z",
    "next_run": NEVER,
    "image_url": "localhost:5000/add:latest",
    "inputs": ["2", "40"],
    "proplet_id": "4f1e5a0c-6f5e-4f6e-9a57-0c9fbb8f7f10",
    "results": "42",
}
REPORT = {
    "isolation": "warm",
    "limits": {"memory_bytes": 67108864, "cpu_s": 2.0, "wall_s": 86400.0},
    "used": {"memory_bytes": 1114112, "cpu_s": 0.004, "wall_s": 0.005},
    "capabilities": {"asked": ["env SITE"], "granted": ["env SITE"], "refused": []},
    "log_tail": "2 rows read\n",
}
ATTEMPT = {
    "attempt": 1,
    "run": 1,
    "proplet_id": TASK["proplet_id"],
    "status": "completed",
    "created_at": TASK["created_at"],
    "offered_at": TASK["start_time"],
    "accepted_at": TASK["start_time"],
    "finish_time": TASK["finish_time"],
    "results": "42",
    "report": REPORT,
}
UPLOAD = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}


def is_wasm(name: str, first: bytes) -> None:
    """Raises ``InvalidRequestError`` for what is not a WASM binary, by its name and its first bytes."""
    if not name.endswith(".wasm"):
        raise InvalidRequestError("field file: its name must end in .wasm", code="not_wasm")
    if not first.startswith(WASM_MAGIC):
        raise InvalidRequestError(
            "field file: not a WASM binary: it does not start with the bytes 00 61 73 6d", code="not_wasm"
        )


class Api:
    """The task routes."""

    def __init__(
        self,
        tasks: TaskService,
        archive: TaskArchive,
        attempts: Attempts,
        dispatch: Dispatch,
        blobs: BlobStore,
        large: LargeResults,
    ) -> None:
        self._tasks = tasks
        self._archive = archive
        self._attempts = attempts
        self._dispatch = dispatch
        self._blobs = blobs
        self._large = large

    def routes(self) -> list[Route]:
        one = (TASK_ID,)
        return [
            Route(
                "POST",
                "/tasks",
                self._create,
                "Create a task, and start it when the body says so",
                description="A repetition under the same ``Idempotency-Key`` is answered 200 with the task of the first. With"
                " ``job_id`` or ``workflow_id`` it is added to that one, which the first task makes, and ``depends_on`` holds"
                " ids or names of its tasks."
                " One that runs takes it into this run, unless it could never run there; one that has ended takes none.",
                parameters=(KEY,),
                body=TaskCreate,
                body_example=EXAMPLE,
                limit=FILE_LIMIT,
                answer=TaskView,
                example=TASK,
                status=201,
                also={200: TaskView},
                errors=(404, 409, 503),
                headers={"Location": "The task's path."},
            ),
            Route(
                "GET",
                "/tasks",
                self._list,
                "Tasks, newest first",
                description=f"Results of more than {MOST_LISTED_RESULT} bytes are left out; ``results_omitted`` is true"
                " then, and ``GET /tasks/{task_id}/results`` has them.",
                parameters=(OFFSET, LIMIT, STATUS, NAME, METADATA, JOB, WORKFLOW),
                answer=TaskPage,
                example={"offset": 0, "limit": 100, "total": 1, "tasks": [TASK]},
                errors=(503,),
            ),
            Route(
                "GET",
                "/tasks/{task_id}",
                self._get,
                "One task",
                description="Results that were too large for a message are left out; ``results_omitted`` is true then, and"
                " ``GET /tasks/{task_id}/results`` has them.",
                parameters=(TASK_ID, WAIT),
                answer=TaskView,
                example=TASK,
                errors=(404, 503),
            ),
            Route(
                "PUT",
                "/tasks/{task_id}",
                self._update,
                "Change what the body names",
                description="What it does not name stays as it is. While the task is active its name, metadata, priority,"
                " schedule, timezone, is_recurring and missed_run can be changed, and nothing else. Clearing the schedule"
                " clears is_recurring, unless the body names it.",
                parameters=one,
                body=TaskChanges,
                body_example={"priority": 80, "metadata": {"site": "north"}},
                limit=FILE_LIMIT,
                answer=TaskView,
                example=TASK,
                errors=(404, 409, 503),
            ),
            Route(
                "DELETE",
                "/tasks/{task_id}",
                self._delete,
                "Delete it, with all its attempts",
                parameters=one,
                status=204,
                errors=(404, 409, 503),
            ),
            Route(
                "PUT",
                "/tasks/{task_id}/upload",
                self._upload,
                "Give it a binary",
                description="A form with the field ``file``, whose name ends in ``.wasm``. It takes the place of ``file``"
                " and ``image_url``.",
                parameters=one,
                takes="multipart/form-data",
                body_schema=UPLOAD,
                limit=FILE_LIMIT,
                answer=TaskView,
                example=TASK,
                errors=(404, 409, 503),
            ),
            Route(
                "POST",
                "/tasks/{task_id}/start",
                self._start,
                "Start it (again)",
                parameters=one,
                answer=Started,
                example={"started": True, "run": 1, "attempt": 1},
                errors=(404, 409, 503),
            ),
            Route(
                "POST",
                "/tasks/{task_id}/stop",
                self._stop,
                "Stop it",
                description="It ends as interrupted, within two seconds.",
                parameters=one,
                answer=Stopped,
                example={"stopped": True},
                errors=(404, 409, 503),
            ),
            Route(
                "GET",
                "/tasks/{task_id}/results",
                self._results,
                "What it produced",
                parameters=one,
                answer=Results,
                example={"results": "42", "status": "completed", "report": REPORT},
                errors=(404, 503),
            ),
            Route(
                "GET",
                "/tasks/{task_id}/attempts",
                self._attempts_of,
                "Every run of it",
                parameters=one,
                answer=AttemptList,
                example={"total": 1, "attempts": [ATTEMPT]},
                errors=(404, 503),
            ),
            Route(
                "GET",
                "/blobs/{digest}",
                self._blob,
                "The bytes of an uploaded file",
                parameters=(DIGEST,),
                gives="application/wasm",
                also={206: None, 304: None},
                errors=(404, 416),
            ),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        spec = await read_body(request, TaskCreate)
        task, new = await self._tasks.create(spec, key=KEY.of(request) or None)
        return answer(self.shown(task), status=201 if new else 200, headers={"Location": f"/tasks/{task.id}"})

    def shown(self, task: Task) -> dict[str, Any]:
        """With what only the present knows: what its proplet does with it, or why it waits."""
        if not task.state.active:
            return task_json(task, self._blobs)
        stage = self._attempts.stage(AttemptKey(task.id, task.attempt))
        waiting = self._dispatch.waiting_for(task)
        return (
            task_json(task, self._blobs)
            | ({"stage": stage} if stage else {})
            | ({"waiting": waiting} if waiting else {})
        )

    async def _list(self, request: web.Request) -> web.Response:
        offset, limit = OFFSET.of(request), LIMIT.of(request)
        status, groups = STATUS.of(request), {JOB.of(request), WORKFLOW.of(request)} - {""}
        filters = {
            "state": int(TaskState[status.upper()]) if status else None,
            "name": NAME.of(request) or None,
            "metadata": METADATA.of(request),
            "group_id": groups.pop() if len(groups) == 1 else None,
        }
        if groups:  # of two groups at once there is no task
            return answer({"offset": offset, "limit": limit, "total": 0, "tasks": []})
        filters = {name: value for name, value in filters.items() if value is not None}
        total, page = await self._archive.list(offset, limit, filters)
        shown = [self.shown(task) for task in page]
        return answer({"offset": offset, "limit": limit, "total": total, "tasks": shown})

    async def _get(self, request: web.Request) -> web.Response:
        return answer(self.shown(await self._archive.ended(TASK_ID.of(request), WAIT.of(request))))

    async def _update(self, request: web.Request) -> web.Response:
        changes = await read_body(request, TaskChanges)
        named = changes.model_dump(mode="json", exclude_unset=True)
        task = await self._tasks.update(TASK_ID.of(request), named)
        return answer(self.shown(task))

    async def _delete(self, request: web.Request) -> web.Response:
        await self._tasks.delete(TASK_ID.of(request))
        return web.Response(status=204)

    async def _upload(self, request: web.Request) -> web.Response:
        task_id = TASK_ID.of(request)
        await self._archive.get(task_id)  # before the file is taken
        with self._blobs.writer() as writer:
            received = await read_upload(request, writer, check=is_wasm)
            task = await self._tasks.upload(task_id, writer, received.size)
        return answer(self.shown(task))

    async def _start(self, request: web.Request) -> web.Response:
        task = await self._tasks.start(TASK_ID.of(request))
        return answer({"started": True, "run": task.run, "attempt": task.attempt})

    async def _stop(self, request: web.Request) -> web.Response:
        await self._tasks.stop(TASK_ID.of(request))
        return answer({"stopped": True})

    async def _results(self, request: web.Request) -> web.StreamResponse:
        task = await self._archive.get(TASK_ID.of(request))
        last = None if task.spec.broadcast else await self._archive.attempt(AttemptKey(task.id, task.attempt))
        rest = {
            "status": task.state.name.lower(),
            **({"error": task.error, "code": task.code} if task.error else {}),
            **({"report": json.loads(last.report)} if last is not None and last.report else {}),
        }
        if task.result and not results.is_whole(task.result):
            return await answer_large(request, self._large, task.result, rest)
        return answer({"results": json.loads(task.result) if task.result else None, **rest})

    async def _attempts_of(self, request: web.Request) -> web.Response:
        found = await self._archive.attempts(TASK_ID.of(request))
        shown = [attempt_json(each, "" if each.state.ended else self._attempts.stage(each.key)) for each in found]
        return answer({"total": len(found), "attempts": shown})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        digest = DIGEST.of(request)
        self._blobs.size(digest)
        return web.FileResponse(self._blobs.path(digest), headers={"Content-Type": "application/wasm"})
