"""Jobs and workflows over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from aiohttp import web
from pydantic import Field

from manager.api.ids import Id
from manager.api.tasks import KEY, LIMIT, WAIT
from manager.api.views import TaskView, Time, timestamp
from manager.plans.group_archive import MOST_TASKS_LISTED, GroupArchive, Listed, Whole
from manager.plans.groups import Groups
from manager.state.records import Group, GroupState, Task
from swashplate.http import FILE_LIMIT, OFFSET, Choice, Route, answer, read_body
from swashplate.messages import JobCreate, Message, WorkflowCreate

GROUP_STATUS = Choice(
    name="status", text="Only those in this state.", choices=tuple(state.name.lower() for state in GroupState)
)
TASKS_OMITTED = (
    f"In a list: `tasks` is empty since with them the page would have more than {MOST_TASKS_LISTED}. The newest have"
    " theirs; asked for by its id, each has."
)
Status = Literal["pending", "running", "completed", "failed"]


class _GroupView(Message):
    name: str
    state: int = Field(description="`status` as a number: 0 pending, 2 running, 3 completed, 4 failed.")
    status: Status
    start_time: str = Time
    finish_time: str = Time
    created_at: str = Time
    updated_at: str = Time
    tasks: list[TaskView] = Field(description="In the order in which they were given.")
    tasks_total: int = Field(ge=0, description="How many there are.")
    tasks_ended: int = Field(ge=0, description="How many of them have ended.")
    tasks_omitted: bool = Field(default=False, description=TASKS_OMITTED)


class WorkflowView(_GroupView):
    """A workflow. It runs until all its tasks have ended; a failure that a task with ``run_if: failure`` has dealt with does
    not make it fail.
    """

    workflow_id: str


class JobView(_GroupView):
    """A job. Its first failure stops what runs and skips the rest; it has failed when all of it has ended."""

    job_id: str
    execution_mode: Literal["parallel", "sequential", "configurable"]


class WorkflowPage(Message):
    offset: int
    limit: int
    total: int = Field(description="How many there are without offset and limit.")
    workflows: list[WorkflowView]


class JobPage(Message):
    offset: int
    limit: int
    total: int = Field(description="How many there are without offset and limit.")
    jobs: list[JobView]


class WorkflowDone(Message):
    message: str
    workflow_id: str


class JobDone(Message):
    message: str
    job_id: str


IMAGE = "localhost:5000/add:latest"
WORKFLOW_EXAMPLE = {
    "name": "nightly",
    "start": True,
    "tasks": [
        {"name": "fetch", "image_url": IMAGE},
        {"name": "train", "image_url": IMAGE, "depends_on": ["fetch"]},
        {"name": "repair", "image_url": IMAGE, "depends_on": ["train"], "run_if": "failure"},
    ],
}
JOB_EXAMPLE = {
    "name": "import",
    "execution_mode": "sequential",
    "start": True,
    "tasks": [{"name": "load", "image_url": IMAGE}, {"name": "check", "image_url": IMAGE}],
}


class GroupApi:
    """``shown`` is how a task is shown, with what only the present knows."""

    def __init__(self, groups: Groups, archive: GroupArchive, shown: Callable[[Task], dict[str, Any]]) -> None:
        self._groups = groups
        self._archive = archive
        self._shown = shown

    def routes(self) -> list[Route]:
        return [
            *_Routes(self._groups, self._archive, self._shown, "job").routes(
                JobCreate, JobView, JobPage, JobDone, JOB_EXAMPLE
            ),
            *_Routes(self._groups, self._archive, self._shown, "workflow").routes(
                WorkflowCreate, WorkflowView, WorkflowPage, WorkflowDone, WORKFLOW_EXAMPLE
            ),
        ]


class _Routes:
    """Those of one kind, ``job`` or ``workflow``."""

    def __init__(
        self, groups: Groups, archive: GroupArchive, shown: Callable[[Task], dict[str, Any]], kind: str
    ) -> None:
        self._groups = groups
        self._archive = archive
        self._shown = shown
        self._kind = kind
        self._many = f"{kind}s"
        self._id = Id(name="group_id", text=f"The {kind}.", place="path")

    def routes(
        self,
        body: type[JobCreate | WorkflowCreate],
        view: type[Message],
        page: type[Message],
        done: type[Message],
        example: dict[str, Any],
    ) -> list[Route]:
        kind, many, self._body = self._kind, self._many, body
        one = self._id
        path = f"/{many}/{{group_id}}"
        return [
            Route(
                "POST",
                f"/{many}",
                self._create,
                f"Create a {kind} with all its tasks, and start it when the body says so",
                description="``depends_on`` of a task holds names or ids of other tasks of the same body. A repetition"
                f" under the same ``Idempotency-Key`` is answered 200 with the {kind} of the first.",
                parameters=(KEY,),
                body=body,
                body_example=example,
                limit=FILE_LIMIT,
                answer=view,
                status=201,
                also={200: view},
                errors=(404, 409, 503),
                headers={"Location": f"The {kind}'s path."},
            ),
            Route(
                "GET",
                f"/{many}",
                self._list,
                f"{many.capitalize()}, newest first",
                description=f"With {MOST_TASKS_LISTED} tasks at most; of a {kind} whose tasks are left out"
                " ``tasks_omitted`` is true.",
                parameters=(OFFSET, LIMIT, GROUP_STATUS),
                answer=page,
                errors=(503,),
            ),
            Route("GET", path, self._get, f"One {kind}", parameters=(one, WAIT), answer=view, errors=(404, 503)),
            Route(
                "DELETE",
                path,
                self._delete,
                "Delete it, with all its tasks",
                parameters=(one,),
                status=204,
                errors=(404, 409, 503),
            ),
            Route(
                "POST",
                f"{path}/start",
                self._start,
                "Start it (again)",
                description="One that has ended runs again as a whole; every task keeps the attempts of its earlier runs.",
                parameters=(one,),
                answer=done,
                errors=(404, 409, 503),
            ),
            Route(
                "POST",
                f"{path}/stop",
                self._stop,
                "Stop it",
                description="What runs is stopped, what has not begun is skipped.",
                parameters=(one,),
                answer=done,
                errors=(404, 409, 503),
            ),
        ]

    def _whole(self, whole: Whole) -> dict[str, Any]:
        ended = sum(task.state.ended for task in whole.tasks)
        return self._json(Listed(whole.group, whole.tasks, len(whole.tasks), ended))

    def _json(self, listed: Listed) -> dict[str, Any]:
        group = listed.group
        mode = {"execution_mode": group.mode} if self._kind == "job" else {}
        return {
            f"{self._kind}_id": group.id,
            "name": group.name,
            **mode,
            "state": int(group.state),
            "status": group.state.name.lower(),
            "start_time": timestamp(group.started_at),
            "finish_time": timestamp(group.finished_at),
            "created_at": timestamp(group.created_at),
            "updated_at": timestamp(group.updated_at),
            "tasks": [self._shown(task) for task in listed.tasks or ()],
            "tasks_total": listed.total,
            "tasks_ended": listed.ended,
            **({"tasks_omitted": True} if listed.tasks is None else {}),
        }

    async def _create(self, request: web.Request) -> web.Response:
        body = await read_body(request, self._body)
        whole, new = await self._groups.create(body, key=KEY.of(request) or None)
        location = f"/{self._many}/{whole.group.id}"
        return answer(self._whole(whole), status=201 if new else 200, headers={"Location": location})

    async def _list(self, request: web.Request) -> web.Response:
        offset, limit, status = OFFSET.of(request), LIMIT.of(request), GROUP_STATUS.of(request)
        state = GroupState[status.upper()] if status else None
        total, page = await self._archive.list(self._kind, offset, limit, state)
        shown = [self._json(listed) for listed in page]
        return answer({"offset": offset, "limit": limit, "total": total, self._many: shown})

    async def _get(self, request: web.Request) -> web.Response:
        whole = await self._archive.get(self._kind, self._id.of(request), WAIT.of(request))
        return answer(self._whole(whole))

    async def _delete(self, request: web.Request) -> web.Response:
        await self._groups.delete(self._kind, self._id.of(request))
        return web.Response(status=204)

    async def _start(self, request: web.Request) -> web.Response:
        return self._done(await self._groups.start(self._kind, self._id.of(request)), "started")

    async def _stop(self, request: web.Request) -> web.Response:
        return self._done(await self._groups.stop(self._kind, self._id.of(request)), "stopped")

    def _done(self, group: Group, what: str) -> web.Response:
        return answer({"message": f"{self._kind} {what}", f"{self._kind}_id": group.id})
