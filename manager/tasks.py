"""Tasks as their users see them: created, started, looked at."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid

from sqlalchemy import Connection

from manager import placement, states, store
from manager.attempts import Attempts, next_attempt_of
from manager.proplets import Proplets
from manager.states import TaskEvent, TaskState
from manager.store import Attempt, Task
from swashplate import logging
from swashplate.blobs import BlobStore
from swashplate.database import Database
from swashplate.errors import ConflictError, InvalidRequestError, NotFoundError, SwashplateError, UnavailableError
from swashplate.messages import TaskCreate

log = logging.get("tasks")


def fingerprint(spec: TaskCreate) -> bytes:
    """What makes two requests under one idempotency key the same: everything but how long to wait."""
    text = spec.model_dump_json(exclude={"timeout_s"})
    return hashlib.sha256(text.encode()).digest()


class TaskService:
    def __init__(self, database: Database, proplets: Proplets, attempts: Attempts, blobs: BlobStore) -> None:
        self._database = database
        self._proplets = proplets
        self._attempts = attempts
        self._blobs = blobs

    async def create(self, spec: TaskCreate, *, key: str | None = None) -> tuple[Task, bool]:
        """The task and whether it is new: the same ``key`` with the same request gives the first one's task again.

        With ``spec.start`` the task and its first attempt become durable together.
        """
        now = time.time()
        task = Task(
            id=str(uuid.uuid4()),
            state=TaskState.PENDING,
            spec=spec,
            attempt=0,
            created_at=now,
            updated_at=now,
            idempotency_key=key,
            fingerprint=fingerprint(spec),
        )
        if spec.file:
            task = await asyncio.to_thread(self._keep_file, task)
        started: Attempt | None = None
        misplaced: SwashplateError | None = None
        if spec.start:
            try:
                task, started = self._begin(task, self._place(spec), now)
            except SwashplateError as error:
                misplaced = error

        def add(db: Connection) -> Task | None:
            known = store.task_by_key(db, key) if key is not None else None
            if known is not None:
                return self._same(known, spec)
            if misplaced is not None:
                raise misplaced
            store.add_task(db, task)
            if started is not None:
                store.add_attempt(db, started)
            return None

        try:
            known = await self._database.run(add)
        except SwashplateError as error:
            for observer in self._attempts.observers:
                observer.task_refused(spec, error)
            raise
        if known is not None:
            return known, False
        if started is not None:
            self._launched(task, started)
        return task, True

    @staticmethod
    def _same(known: Task, spec: TaskCreate) -> Task:
        if known.fingerprint != fingerprint(spec):
            raise ConflictError(
                f"idempotency key {known.idempotency_key!r} was used for another request",
                code="idempotency_conflict",
                hint=f"it made task {known.id}",
            )
        return known

    def _keep_file(self, task: Task) -> Task:
        """An uploaded file becomes a blob; only its digest travels."""
        try:
            content = task.spec.file_bytes()
        except ValueError as error:
            raise InvalidRequestError(f"body: field file: {error}", code="not_wasm") from error
        digest = self._blobs.put(content)
        return task.changed(spec=task.spec.model_copy(update={"file": digest}), digest=digest, size=len(content))

    async def start(self, task_id: str) -> Task:
        """Begin a new attempt; answered once it is durable."""
        now = time.time()
        place = self._place((await self.get(task_id)).spec)

        def begin(db: Connection) -> tuple[Task, Attempt]:
            task = self._found(db, task_id)
            if (task.state, TaskEvent.START) not in states.TASK:
                raise ConflictError(f"task {task_id} is {task.state.name.lower()} already", code="task_active")
            # A tag may have moved since; only an uploaded file keeps its digest.
            if not task.spec.file:
                task = task.changed(digest=None, size=None)
            task, attempt = self._begin(task, place, now)
            store.save_task(db, task)
            store.add_attempt(db, attempt)
            return task, attempt

        task, attempt = await self._database.run(begin)
        self._launched(task, attempt)
        return task

    async def stop(self, task_id: str) -> None:
        """Answered once the proplet is told; the task is interrupted when its proplet says so."""

        def running(db: Connection) -> Attempt:
            task = self._found(db, task_id)
            attempt = store.get_attempt(db, task_id, task.attempt)
            if attempt is None or attempt.state.ended:
                raise ConflictError(f"task {task_id} is {task.state.name.lower()}, not running", code="task_not_active")
            return attempt

        await self._attempts.stop(await self._database.run(running))

    @staticmethod
    def _begin(task: Task, proplet_id: str, now: float) -> tuple[Task, Attempt]:
        attempt = next_attempt_of(task, proplet_id, now)
        begun = task.changed(
            state=states.next_task(task.state, TaskEvent.START),
            attempt=attempt.number,
            proplet_id=attempt.proplet_id,
            updated_at=now,
            started_at=None,
            finished_at=None,
            result=None,
            error=None,
            code=None,
        )
        return begun, attempt

    def _place(self, spec: TaskCreate) -> str:
        if spec.proplet_id is not None:
            proplet = self._proplets.get(spec.proplet_id)
            if not self._proplets.alive(proplet):
                raise ConflictError(
                    f"proplet {proplet.id} is not alive", code="proplet_not_alive", hint="start it, or try again later"
                )
        else:
            candidates = [
                placement.Candidate(
                    proplet_id=proplet.id,
                    slots=proplet.capabilities.slots,
                    active=self._attempts.active(proplet.id),
                    last_placed=proplet.last_placed,
                    datasets=frozenset(proplet.capabilities.datasets),
                )
                for proplet in self._proplets.list()
                if self._proplets.alive(proplet)
            ]
            chosen = placement.choose(placement.Requirements(dataset=spec.dataset), candidates)
            if chosen is None:
                raise UnavailableError("no proplet is alive", code="no_proplet", hint="GET /proplets shows them")
            proplet = self._proplets.get(chosen)
        proplet.last_placed = time.time()
        return proplet.id

    def _launched(self, task: Task, attempt: Attempt) -> None:
        log.info("task started", task_id=task.id, name=task.spec.name, proplet_id=attempt.proplet_id)
        self._attempts.pursue(task, attempt)
        for observer in self._attempts.observers:
            observer.task_started(task)

    @staticmethod
    def _found(db: Connection, task_id: str) -> Task:
        task = store.get_task(db, task_id)
        if task is None:
            raise NotFoundError(f"there is no task {task_id}", code="task_not_found")
        return task

    async def get(self, task_id: str) -> Task:
        return await self._database.run(lambda db: self._found(db, task_id))

    async def attempts(self, task_id: str) -> list[Attempt]:
        def read(db: Connection) -> list[Attempt]:
            self._found(db, task_id)
            return store.attempts_of(db, task_id)

        return await self._database.run(read)

    async def list(self, offset: int, limit: int) -> tuple[int, list[Task]]:
        return await self._database.run(lambda db: store.list_tasks(db, offset, limit))
