"""What users do with tasks: create, change, start, stop, delete them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from manager import specs
from manager.binaries import Binaries
from manager.fleet.proplets import Proplets
from manager.repetitions import Repetitions, fingerprint
from manager.state import states
from manager.state.ledger import Ledger
from manager.state.records import Task, spec_text
from manager.state.states import TaskEvent, TaskState
from manager.work.attempts import Attempts
from manager.work.load import Load
from swashplate.blobs import BlobWriter
from swashplate.database import Database
from swashplate.errors import ConflictError, SwashplateError, from_validation
from swashplate.messages import TaskCreate

CHANGEABLE = frozenset(TaskCreate.model_fields) - {"start", "tokens", "kind", "depends_on", "workflow_id", "job_id"}
"""What an update may name; the rest belongs to how the task was made."""
CHANGEABLE_WHILE_ACTIVE = frozenset(
    {"name", "metadata", "priority", "schedule", "timezone", "is_recurring", "missed_run"}
)
"""What does not concern the run that is under way."""

_ORDER = frozenset({"daemon", "latent", "run_if"})
"""What other tasks of a job or a workflow may depend on."""


class Members(Protocol):
    """Who knows the jobs and workflows that tasks belong to."""

    async def join(self, task: Task) -> Task:
        """Put a task that is made, as one of the job or workflow that its spec names; it is answered when it is durable."""

    async def respecified(self, task: Task, spec: TaskCreate) -> Task:
        """``task`` as it is now; raises ``InvalidRequestError`` when the others do not allow it this spec."""

    async def start_task(self, task_id: str) -> Task: ...


class TaskService:
    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        proplets: Proplets,
        load: Load,
        attempts: Attempts,
        binaries: Binaries,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._proplets = proplets
        self._load = load
        self._attempts = attempts
        self._binaries = binaries
        self._clock = clock
        self._repetitions = Repetitions(database, ledger)
        self.on_specified: Callable[[Task], Task] = lambda task: task
        """Called with a task whose spec is new or has changed, before it is put."""
        self.on_erased: list[Callable[[Task], Any]] = []
        self.members: Members

    # Creating and changing.

    async def create(self, spec: TaskCreate, *, key: str | None = None) -> tuple[Task, bool]:
        """The task and whether it is new: the same ``key`` with the same request gives the first one's task again.

        With ``spec.start`` the task and its first attempt become durable together.
        """
        specs.group_kind(spec)
        if key is None:
            return await self._create(spec, None), True
        async with self._repetitions.of(key):
            known = await self._repetitions.known(key, spec)
            return (known, False) if known is not None else (await self._create(spec, key), True)

    async def _create(self, spec: TaskCreate, key: str | None) -> Task:
        self._ledger.check()
        task = await self.made(spec, key)
        created = False
        try:
            task = await self._created(task)
            created = True
        finally:
            await self.settled([task], made=created)
        return task

    async def _created(self, task: Task) -> Task:
        spec = task.spec
        if specs.group_kind(spec):
            return await self.members.join(task)
        if spec.start:
            try:
                targets = self.targets(task)
            except SwashplateError as error:
                self._attempts.followers.refused(spec, error)
                raise
            task = self._attempts.begin(task, targets)
        else:
            self._ledger.put(task)
        return await self._ledger.confirmed(task)

    async def made(self, spec: TaskCreate, key: str | None = None, task_id: str | None = None) -> Task:
        """A new task that nobody knows of yet. Its file is stored, and stays until ``settled`` at least."""
        specs.check(spec, spec.model_fields_set)
        now = self._clock()
        digest, size = None, None
        if spec.file:
            digest, size = await self._binaries.keep(spec.file)
            spec = spec.model_copy(update={"file": digest})
        task = Task(
            id=task_id or str(uuid.uuid4()),
            seq=self._ledger.next_seq(),
            spec=spec,
            spec_text=spec_text(spec),
            state=TaskState.PENDING,
            created_at=now,
            updated_at=now,
            digest=digest,
            size=size,
            idempotency_key=key,
            fingerprint=fingerprint(spec) if key is not None else None,
        )
        try:
            return self.on_specified(task)
        except SwashplateError:
            await self.settled([task], made=False)
            raise

    async def settled(self, tasks: Sequence[Task], *, made: bool) -> None:
        """Tasks that were ``made`` are durable, or will never be: then their files go."""
        files = [task.spec.file for task in tasks if task.spec.file]
        self._binaries.release(files)
        if not made:
            await self._binaries.remove_unused(files)

    async def update(self, task_id: str, changes: Mapping[str, Any]) -> Task:
        """Change what is named, and nothing else. Fields that cannot be changed are ignored, as the existing API does."""
        named = {name: value for name, value in changes.items() if name in CHANGEABLE and value is not None}
        if named.get("schedule") == "":
            named.setdefault("is_recurring", False)
        if named.get("file"):
            digest, size = await self._binaries.keep(named["file"])
            try:
                return await self._update(task_id, named | {"file": digest, "image_url": ""}, digest, size)
            finally:
                self._binaries.release([digest])
                await self._binaries.remove_unused([digest])
        if named.get("image_url"):
            named["file"] = ""
        return await self._update(task_id, named, None, None)

    async def _update(self, task_id: str, named: Mapping[str, Any], digest: str | None, size: int | None) -> Task:
        task = await self._ledger.fetch(task_id)
        self._ledger.check()
        frozen = set(named) - CHANGEABLE_WHILE_ACTIVE
        if task.state.active and frozen:
            raise ConflictError(
                f"task {task_id} is {task.state.name.lower()}: {', '.join(sorted(frozen))} cannot be changed now",
                code="task_active",
                hint="stop it first, or wait for its end",
            )
        try:
            spec = TaskCreate.model_validate_json(json.dumps({**task.spec.model_dump(mode="json"), **named}))
        except ValidationError as error:
            raise from_validation(error) from error
        specs.check(spec, named.keys())
        if task.group_id is not None and _ORDER & named.keys():
            now = await self.members.respecified(task, spec)
            if now is not task:  # it has changed meanwhile
                return await self._update(task_id, named, digest, size)
        changed = task.specified(spec).changed(updated_at=self._clock())
        if {"file", "image_url"} & named.keys():
            changed = changed.changed(digest=digest, size=size)
        if (spec.schedule, spec.timezone) != (task.spec.schedule, task.spec.timezone):
            # Otherwise it stays what it was: a run that is just due would be left out.
            changed = self.on_specified(changed)
        self._ledger.put(changed)
        if task.state.active and "priority" in named:
            self._attempts.reprioritise(changed)
        confirmed = await self._ledger.confirmed(changed)
        await self._binaries.remove_unused({task.spec.file} - {spec.file})
        return confirmed

    async def upload(self, task_id: str, content: BlobWriter, size: int) -> Task:
        """Replace what runs by this binary, of ``size`` bytes. What is refused is not kept."""
        self._may_change(await self._ledger.fetch(task_id))
        digest = await self._binaries.keep_written(content)
        try:
            return await self._uploaded(task_id, digest, size)
        finally:
            self._binaries.release([digest])
            await self._binaries.remove_unused([digest])

    async def _uploaded(self, task_id: str, digest: str, size: int) -> Task:
        task = await self._ledger.fetch(task_id)
        self._may_change(task)
        spec = task.spec.model_copy(update={"file": digest, "image_url": ""})
        changed = task.specified(spec).changed(digest=digest, size=size, updated_at=self._clock())
        self._ledger.put(changed)
        await self._ledger.durable(task_id)
        await self._binaries.remove_unused({task.spec.file} - {digest})
        return changed

    def _may_change(self, task: Task) -> None:
        self._ledger.check()
        if task.state.active:
            raise ConflictError(
                f"task {task.id} is {task.state.name.lower()}", code="task_active", hint="stop it first"
            )

    async def delete(self, task_id: str) -> None:
        """With all its attempts, and with its binary when no other task has it."""
        task = await self._ledger.fetch(task_id)
        self._may_change(task)
        if task.group_id is not None:
            raise ConflictError(
                f"task {task_id} belongs to {task.group_id}", code="task_in_group", hint="delete the job or workflow"
            )
        self._ledger.erase(task)
        await self._ledger.durable(task_id)
        await self.erased([task])

    async def erased(self, tasks: Sequence[Task]) -> None:
        """These are no more: nor are their binaries, unless another task has them."""
        for task in tasks:
            self.forget(task)
        await self._binaries.remove_unused({task.spec.file for task in tasks})

    def forget(self, task: Task) -> None:
        """Whoever keeps something of this task, which is no more, has nothing left of it."""
        for callback in self.on_erased:
            callback(task)

    # Starting and stopping.

    async def start(self, task_id: str) -> Task:
        """Begin a new run; answered once it is durable."""
        task = await self._ledger.fetch(task_id)
        return await (self._start_alone if task.group_id is None else self.members.start_task)(task_id)

    async def _start_alone(self, task_id: str) -> Task:
        task = await self._ledger.fetch(task_id)
        self._ledger.check()
        if (task.state, TaskEvent.START) not in states.TASK:
            raise ConflictError(f"task {task_id} is {task.state.name.lower()} already", code="task_active")
        task = self._attempts.begin(task, self.targets(task))
        return await self._ledger.confirmed(task)

    def launch(self, task: Task) -> Task:
        """Begin a run that nobody waits for: what cannot be placed yet waits. Raises what makes it impossible."""
        return self._attempts.begin(task, self.targets(task, patient=True))

    async def stop(self, task_id: str) -> None:
        """Answered once it is durable that it is to stop; it ends as interrupted within two seconds."""
        task = await self._ledger.fetch(task_id)
        self._ledger.check()
        if not task.state.active:
            raise ConflictError(
                f"task {task_id} is {task.state.name.lower()}, not running",
                code="task_not_active",
                hint=f'PUT /tasks/{task_id} with "schedule": "" ends its schedule' if task.spec.schedule else None,
            )
        self._attempts.stop(task)
        await self._ledger.durable(task_id)

    def targets(self, task: Task, *, patient: bool = False) -> list[str | None]:
        """Which proplets a run is for; None stands for whichever placement chooses. A ``patient`` run may wait for one."""
        spec = task.spec
        if not spec.image_url and not spec.file:
            raise ConflictError(
                f"task {task.id} has no binary", code="no_binary", hint="name an image_url, or upload a file"
            )
        if spec.broadcast:
            return list[str | None](self._load.takers(task))
        if spec.proplet_id is not None and not patient:
            proplet = self._proplets.get(spec.proplet_id)
            if not self._proplets.alive(proplet):
                raise ConflictError(
                    f"proplet {proplet.id} is not alive", code="proplet_not_alive", hint="start it, or try again later"
                )
        return [spec.proplet_id]
