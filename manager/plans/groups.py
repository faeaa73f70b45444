"""Jobs and workflows as their users see them: created with their tasks, added to, started, stopped, deleted."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext

from sqlalchemy import Connection

from manager.plans.dag import Mode, resolve
from manager.plans.declarations import declared, node_of, placed, task_key
from manager.plans.group_archive import Whole, not_found, read_whole
from manager.plans.progress import Progress
from manager.specs import group_id
from manager.state import store
from manager.state.ledger import Ledger
from manager.state.records import Group, GroupState, Task
from manager.state.states import TaskState
from manager.tasks import TaskService
from swashplate.database import Database
from swashplate.errors import ConflictError, NotFoundError, SwashplateError
from swashplate.ids import canonical
from swashplate.messages import JobCreate, TaskCreate, WorkflowCreate
from swashplate.messages.groups import MOST_TASKS


class Groups:
    """``kind`` is ``job`` or ``workflow`` everywhere; an id of the other kind is not found."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        tasks: TaskService,
        progress: Progress,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._tasks = tasks
        self._progress = progress
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        tasks.members = self

    # Creating.

    async def create(self, body: JobCreate | WorkflowCreate, *, key: str | None = None) -> tuple[Whole, bool]:
        """The whole and whether it is new: the same ``key`` with the same body gives the first one's again.

        It becomes durable as a whole, with ``body.start`` together with the first attempts.
        """
        kind = "job" if isinstance(body, JobCreate) else "workflow"
        specs, group_id = declared(body, kind)
        named = key is not None or group_id is not None or any(task.id for task in body.tasks)
        # Two that name the same would both find that there is none yet.
        async with self._one_at_a_time if named else nullcontext():
            mark = b"" if key is None else await asyncio.to_thread(_mark, body)
            if key is not None and (known := await self._known(kind, key, mark)) is not None:
                return known, False
            await self._refuse_taken(kind, group_id, [task.id for task in body.tasks if task.id])
            self._ledger.check()
            group_id = group_id or str(uuid.uuid4())
            async with self._made([placed(spec, kind, group_id) for spec in specs]) as made:
                group, tasks = self._formed(body, kind, group_id, made)
                if key is not None:
                    tasks[0] = tasks[0].changed(idempotency_key=task_key(kind, key), fingerprint=mark)
                if body.start:
                    self._refuse_unstartable(tasks)
                    self._progress.begin(group, tasks)
                else:
                    self._ledger.put(group, *tasks)
                now = Whole(self._ledger.group(group_id) or group, [self._ledger.task(t.id) or t for t in tasks])
                await self._ledger.durable(group_id)
        return now, True

    def _formed(self, body: JobCreate | WorkflowCreate, kind: str, group_id: str, made: Sequence[Task]) -> Whole:
        now = self._clock()
        mode = body.execution_mode if isinstance(body, JobCreate) else "workflow"
        group = Group(group_id, kind, body.name, mode, GroupState.PENDING, now, now)
        return Whole(group, [task.changed(group_id=group_id, position=i) for i, task in enumerate(made)])

    async def _known(self, kind: str, key: str, mark: bytes) -> Whole | None:
        if any(task.idempotency_key == task_key(kind, key) for task in self._ledger.unwritten_tasks()):
            await self._ledger.durable()

        def read(db: Connection) -> Whole | None:
            first = store.task_by_key(db, task_key(kind, key))
            if first is None or first.group_id is None:
                return None
            if first.fingerprint != mark:
                raise ConflictError(
                    f"idempotency key {key!r} was used for another request",
                    code="idempotency_conflict",
                    hint=f"it made {kind} {first.group_id}",
                )
            return read_whole(db, kind, first.group_id)

        return await self._database.run(read)

    async def _refuse_taken(self, kind: str, group_id: str | None, ids: Sequence[str]) -> None:
        def read(db: Connection) -> tuple[Group | None, list[Task]]:
            return (store.get_group(db, group_id) if group_id else None), (store.tasks_with(db, ids) if ids else [])

        if group_id is None and not ids:
            return
        group, tasks = await self._database.run(read)
        if group is not None or (group_id is not None and self._ledger.group(group_id) is not None):
            raise ConflictError(f"there is a {kind} {group_id} already", code="group_exists")
        taken = [task.id for task in tasks] + [each for each in ids if self._ledger.task(each) is not None]
        if taken:
            raise ConflictError(f"there is a task {taken[0]} already", code="task_exists", hint="leave the ids out")

    @asynccontextmanager
    async def _made(self, specs: Sequence[tuple[TaskCreate, str]]) -> AsyncIterator[list[Task]]:
        """New tasks, whose files stay while the context lasts at least."""
        made: list[Task] = []
        try:
            for position, (spec, task_id) in enumerate(specs):
                try:
                    made.append(await self._tasks.made(spec, task_id=task_id))
                except SwashplateError as error:
                    raise type(error)(
                        f"task {position} ({spec.name!r}): {error.sentence}", code=error.code, hint=error.hint
                    ) from error
            yield made
        except BaseException:
            await self._tasks.settled(made, made=False)
            raise
        await self._tasks.settled(made, made=True)

    # Changing.

    async def join(self, task: Task) -> Task:
        """Add a task that is made to the job or workflow that its spec names, for this run of it when it runs.

        The first one that names it makes it: the existing API knows groups by their tasks alone.
        """
        kind = "job" if task.spec.job_id else "workflow"
        named = canonical(task.spec.job_id or task.spec.workflow_id)
        whole = await self._found(kind, named)
        if whole is not None:
            return await self._join(task, kind, whole)
        async with self._one_at_a_time:
            group_id(named, f"{kind}_id")
            return await self._join(task, kind, await self._found(kind, named) or self._empty(kind, named))

    def _empty(self, kind: str, group_id: str) -> Whole:
        now = self._clock()
        mode = (Mode.WORKFLOW if kind == "workflow" else Mode.PARALLEL).value
        return Whole(Group(group_id, kind, "", mode, GroupState.PENDING, now, now), [])

    async def _join(self, task: Task, kind: str, whole: Whole) -> Task:
        (group, others), named = whole, whole.group.id
        if group.state not in {GroupState.PENDING, GroupState.RUNNING}:
            raise ConflictError(
                f"{kind} {named} has ended",
                code="group_ended",
                hint=f"make the task in a new {kind}; one that has ended can only run again as it was",
            )
        if len(others) >= MOST_TASKS:
            raise ConflictError(f"{kind} {named} has {MOST_TASKS} tasks already", code="group_full")
        nodes = [node_of(each.id, each.spec) for each in (*others, task)]
        parents = resolve(nodes, Mode(group.mode))[task.id]
        spec = task.spec.model_copy(update={"depends_on": list(parents), f"{kind}_id": named})
        place = max((each.position for each in others), default=-1) + 1
        task = task.specified(spec).changed(group_id=named, position=place)
        group = group.changed(updated_at=self._clock())
        if group.state is GroupState.RUNNING:
            self._refuse_unstartable([task])
            self._progress.join(group, others, task)
        else:
            self._ledger.put(task, group)
        return await self._ledger.confirmed(self._ledger.task(task.id) or task)

    async def respecified(self, task: Task, spec: TaskCreate) -> Task:
        """The task as it is now, which may be given this spec without waiting for anything else.

        Raises ``InvalidRequestError`` when others of its group would wait for ever.
        """
        group, tasks = await self._ledger.fetch_group(task.group_id or "")
        resolve([node_of(each.id, spec if each.id == task.id else each.spec) for each in tasks], Mode(group.mode))
        self._progress.forget(group.id)
        return next(each for each in tasks if each.id == task.id)

    # Starting and stopping.

    async def start(self, kind: str, group_id: str) -> Group:
        """All of it, again when it has ended; in one that runs, what waits for nobody and was not started yet."""
        group, tasks = await self._fetch(kind, group_id)
        self._refuse_unstartable(tasks)
        if group.state is not GroupState.RUNNING:
            self._progress.begin(group, tasks)
        elif any(task.state is TaskState.PENDING and not task.spec.depends_on for task in tasks):
            self._progress.begin_rest(group, {task.id for task in tasks})
        else:
            raise ConflictError(f"{kind} {group_id} runs already", code="group_active")
        await self._ledger.durable(group_id)
        return group

    async def start_task(self, task_id: str) -> Task:
        """One that depends on nobody, by itself: its children follow it."""
        task = await self._ledger.fetch(task_id)
        group, tasks = await self._ledger.fetch_group(task.group_id or "")
        self._ledger.check()
        task = next(each for each in tasks if each.id == task_id)
        if task.state.active:
            raise ConflictError(f"task {task_id} is {task.state.name.lower()} already", code="task_active")
        if task.state.ended:
            raise ConflictError(
                f"task {task_id} has ended with its {group.kind}", code="task_in_group", hint=f"start the {group.kind}"
            )
        waits = [each.spec.name for each in tasks if each.id in task.spec.depends_on]
        if waits:
            raise ConflictError(
                f"task {task_id} waits for {', '.join(waits)}",
                code="unmet_dependencies",
                hint=f"start the {group.kind}, or what the task waits for",
            )
        if group.mode == "sequential" and group.state is GroupState.RUNNING:
            raise ConflictError(f"task {task_id} waits for its turn", code="unmet_dependencies")
        task = self._progress.begin_with(group, task)
        return await self._ledger.confirmed(task)

    async def stop(self, kind: str, group_id: str) -> Group:
        """Answered once it is durable that all of it is to stop."""
        group, _ = await self._fetch(kind, group_id)
        if group.state is not GroupState.RUNNING:
            raise ConflictError(
                f"{kind} {group_id} is {group.state.name.lower()}, not running", code="group_not_active"
            )
        self._progress.halt(group)
        await self._ledger.durable(group_id)
        return group

    async def delete(self, kind: str, group_id: str) -> None:
        """With all its tasks and their attempts."""
        group, tasks = await self._fetch(kind, group_id)
        if group.state is GroupState.RUNNING:
            raise ConflictError(f"{kind} {group_id} runs", code="group_active", hint="stop it first")
        self._ledger.erase(*tasks, group)
        await self._ledger.durable(group_id)
        await self._tasks.erased(tasks)

    async def _fetch(self, kind: str, group_id: str) -> Whole:
        """As it is now; to be acted upon without waiting for anything else."""
        whole = await self._found(kind, group_id)
        if whole is None:
            raise not_found(kind, group_id)
        return whole

    async def _found(self, kind: str, group_id: str) -> Whole | None:
        """As ``_fetch``; None when nothing has this id."""
        try:
            group, tasks = await self._ledger.fetch_group(group_id)
        except NotFoundError:
            return None
        if group.kind != kind:
            raise not_found(kind, group_id)
        self._ledger.check()
        return Whole(group, tasks)

    def _refuse_unstartable(self, tasks: Sequence[Task]) -> None:
        """Raises when something of it could never run, or not begin now."""
        for task in tasks:
            if not task.spec.image_url and not task.spec.file:
                raise ConflictError(
                    f"task {task.spec.name!r} has no binary",
                    code="no_binary",
                    hint=f"name an image_url, or upload a file for {task.id}",
                )
            if not task.spec.depends_on:
                self._tasks.targets(task, patient=True)


def _mark(body: JobCreate | WorkflowCreate) -> bytes:
    """What makes two requests under one key the same. The files in it may have megabytes."""
    return hashlib.sha256(body.model_dump_json(exclude_defaults=True).encode()).digest()
