"""Scripted clients: they ask for what the plan says, and ask again, as users do, while nobody answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from swashplate.errors import ConflictError, InvalidRequestError, NotFoundError, SwashplateError
from swashplate.messages import InvokeRequest, JobCreate, TaskCreate, WorkflowCreate
from tests.simulation.invariants import uncalled, unwritten

AGAIN_S = 0.5
ANSWER_S = 5.0
GIVE_UP_S = 90.0
STOPPED_WITHIN_S = 2.0


@dataclass
class Asked:
    """What one client knows of its task. A start that was tried may have counted or not, a confirmed one has."""

    key: str
    spec: TaskCreate
    id: str | None = None
    created: asyncio.Event = field(default_factory=asyncio.Event)
    starts_confirmed: int = 0
    starts_tried: int = 0
    deleting: bool = False
    deleted: bool = False
    scheduled: tuple[float, float] | None = None
    """From when to when it was certainly scheduled, in the loop's time."""
    open: int = 0


class Clients:
    def __init__(self, world) -> None:
        self.world = world
        self.asked: dict[str, Asked] = {}
        self.groups = GroupClients(self)
        self.invocations: list[Any] = []
        """Those that were confirmed."""
        self._calls = 0
        self._work: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        return any(asked.open for asked in self.asked.values()) or self.groups.busy

    def create(self, key: str, fields: dict[str, Any]) -> None:
        asked = Asked(key, TaskCreate(name=key, image_url="registry/image:1", **fields))
        self.asked[key] = asked
        self.begin(asked, self._create(asked))

    def start(self, key: str) -> None:
        asked = self.asked[key]
        self.begin(asked, self._start(asked))

    def stop(self, key: str) -> None:
        asked = self.asked[key]
        self.begin(asked, self._stop(asked))

    def delete(self, key: str) -> None:
        asked = self.asked[key]
        self.begin(asked, self._delete(asked))

    def priority(self, key: str, priority: int) -> None:
        asked = self.asked[key]
        self.begin(asked, self._priority(asked, priority))

    def invoke(self, key: str, does: str, timeout_s: float) -> None:
        asked = self.asked[key]
        self.begin(asked, self._invoke(asked, does, timeout_s))

    def cordon(self, proplet: str, *, cordoned: bool, draining: bool) -> None:
        operator = self.asked.setdefault("operator", Asked("operator", TaskCreate(name="none")))
        how = {"cordoned": cordoned, "draining": draining}
        self.begin(operator, self._cordon(operator, proplet, how))

    def unschedule(self) -> None:
        for asked in self.asked.values():
            if asked.spec.schedule:
                self.begin(asked, self._unschedule(asked))

    async def _unschedule(self, asked: Asked) -> None:
        await asked.created.wait()
        if asked.id is None or asked.deleted:
            return
        if asked.scheduled is not None:
            asked.scheduled = asked.scheduled[0], self.world.loop.time()
        await self.answered(
            asked, "unschedule", lambda m: m.tasks.update(asked.id, {"schedule": "", "is_recurring": False})
        )

    def stop_standing(self) -> None:
        for asked in self.asked.values():
            if asked.spec.daemon or asked.spec.latent:
                self.begin(asked, self._stop(asked))

    def begin(self, asked: Asked, work) -> None:
        asked.open += 1

        async def counted() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001  # whatever it is, no client may meet it
                self.world.faults.append(f"a client of {asked.key} met {error!r}")
            asked.open -= 1

        task = self.world.loop.create_task(counted())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _create(self, asked: Asked) -> None:
        if asked.spec.start:
            asked.starts_tried += 1  # the key makes a repeated request the same one
        made = await self.answered(asked, "create", lambda m: m.tasks.create(asked.spec, key=asked.key))
        if made is not None:
            task, _new = made
            asked.id = task.id
            self._confirmed(task)
            if asked.spec.schedule:
                asked.scheduled = self.world.loop.time(), float("inf")
            if asked.spec.start:
                asked.starts_confirmed += 1
        asked.created.set()

    def _confirmed(self, task) -> None:
        if (fault := unwritten(self.world, task.id, task.run)) is not None:
            self.world.faults.append(fault)

    async def _start(self, asked: Asked) -> None:
        await asked.created.wait()
        if asked.id is None:
            return

        def start(manager):
            asked.starts_tried += 1
            return manager.tasks.start(asked.id)

        started = await self.answered(asked, "start", start)
        if started is not None:
            self._confirmed(started)
            asked.starts_confirmed += 1

    async def _stop(self, asked: Asked) -> None:
        await asked.created.wait()
        if asked.id is None:
            return
        await self.answered(asked, "stop", lambda m: m.tasks.stop(asked.id))
        await asyncio.sleep(0)
        manager = self.world.manager
        task = None if manager is None or not manager.ready.is_set() else manager.ledger.task(asked.id)
        if task is None or not task.stopping or not task.state.active:
            return
        await asyncio.sleep(STOPPED_WITHIN_S)
        if self.world.manager is not manager:
            return  # it is what the next life begins with
        later = manager.ledger.task(asked.id)
        if later is not None and later.run == task.run and later.state.active:
            self.world.faults.append(f"{asked.key} is {later.state.name} {STOPPED_WITHIN_S} s after its stop")
        if self.world.plan.prompt and (left := self.world.running(asked.id, until=task.attempt)):
            self.world.faults.append(f"{asked.key}: {left} runs {STOPPED_WITHIN_S} s after its stop")

    async def _invoke(self, asked: Asked, does: str, timeout_s: float) -> None:
        await asked.created.wait()
        if asked.id is None:
            return

        def invoke(manager):
            # A name of its own for each request: what may have been heard, and is asked again, is another call.
            self._calls += 1
            call = f"call-{self._calls}"
            request = InvokeRequest(env={"CALL": call, "DOES": does}, timeout_s=timeout_s)
            return manager.made.invocations.invoke(asked.id, request)

        invocation = await self.answered(asked, "invoke", invoke)
        if invocation is not None:
            self.invocations.append(invocation)
            if (fault := uncalled(self.world, invocation)) is not None:
                self.world.faults.append(fault)

    async def _cordon(self, asked: Asked, proplet: str, how: dict[str, bool]) -> None:
        await self.answered(asked, f"cordon {proplet} {how}", lambda m: m.made.drains.change(proplet, **how))

    async def _delete(self, asked: Asked) -> None:
        await asked.created.wait()
        if asked.id is None:
            return
        asked.deleting = True
        if await self.answered(asked, "delete", lambda m: done(m.tasks.delete(asked.id))):
            asked.deleted = True

    async def _priority(self, asked: Asked, priority: int) -> None:
        await asked.created.wait()
        if asked.id is not None:
            await self.answered(asked, "priority", lambda m: m.tasks.update(asked.id, {"priority": priority}))

    async def answered(self, asked: Asked, what: str, call):
        """What the manager answers, asked again until it does; None when it says no for good."""
        loop = self.world.loop
        until = loop.time() + GIVE_UP_S
        while loop.time() < until:
            manager = self.world.manager
            if manager is not None and manager.ready.is_set():
                answer = manager.process.start(call(manager), name=f"{what} {asked.key}")
                answer.add_done_callback(_retrieved)
                await asyncio.wait([answer], timeout=ANSWER_S)
                if answer.done() and not answer.cancelled():
                    error = answer.exception()
                    self.world.happened("answer")
                    if error is None:
                        self.world.tell(f"client: {what} {asked.key}: yes")
                        return answer.result()
                    self.world.tell(f"client: {what} {asked.key}: {error}")
                    if not isinstance(error, SwashplateError):
                        raise error
                    if isinstance(error, NotFoundError) and (asked.deleting or what.startswith("cordon")):
                        return None
                    if isinstance(error, InvalidRequestError) and asked.deleting:
                        return None  # it joins a group that was made anew, without what it depends on
                    if isinstance(error, ConflictError) and error.code != "proplet_not_alive":
                        return None
            await asyncio.sleep(AGAIN_S)
        return None


@dataclass
class AskedGroup(Asked):
    kind: str = "workflow"
    body: JobCreate | WorkflowCreate | None = None
    joined: list[str] = field(default_factory=list)
    """The ids of tasks that were added, and confirmed."""


class GroupClients:
    """The same for jobs and workflows."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self.asked: dict[str, AskedGroup] = {}

    @property
    def busy(self) -> bool:
        return any(asked.open for asked in self.asked.values())

    def create(self, key: str, how: dict[str, Any]) -> None:
        mode = how["mode"]
        body = {
            "name": key,
            "tasks": [task | {"image_url": "registry/image:1"} for task in how["tasks"]],
            "start": how["start"],
        }
        asked = AskedGroup(key, TaskCreate(name=key), kind="workflow" if mode == "workflow" else "job")
        made = WorkflowCreate if mode == "workflow" else JobCreate
        asked.body = made.model_validate(body if mode == "workflow" else body | {"execution_mode": mode})
        self.asked[key] = asked
        self._clients.begin(asked, self._create(asked))

    async def _create(self, asked: AskedGroup) -> None:
        made = await self._clients.answered(asked, "create", lambda m: m.made.groups.create(asked.body, key=asked.key))
        if made is not None:
            asked.id = made[0].group.id
        asked.created.set()

    def join(self, key: str, task: dict[str, Any]) -> None:
        self._clients.begin(self.asked[key], self._joined(self.asked[key], task))

    async def _joined(self, asked: AskedGroup, task: dict[str, Any]) -> None:
        await asked.created.wait()
        if asked.id is None:
            return
        spec = TaskCreate(image_url="registry/image:1", **{**task, f"{asked.kind}_id": asked.id})
        key = f"{asked.key}-{spec.name}"
        made = await self._clients.answered(asked, f"join {spec.name} to", lambda m: m.tasks.create(spec, key=key))
        if made is not None:
            asked.joined.append(made[0].id)

    def start(self, key: str) -> None:
        self._change(key, "start")

    def stop(self, key: str) -> None:
        self._change(key, "stop")

    def delete(self, key: str) -> None:
        self._change(key, "delete")

    def _change(self, key: str, what: str) -> None:
        self._clients.begin(self.asked[key], self._changed(self.asked[key], what))

    async def _changed(self, asked: AskedGroup, what: str) -> None:
        await asked.created.wait()
        if asked.id is None:
            return
        if what == "delete":
            asked.deleting = True
        yes = await self._clients.answered(
            asked, what, lambda m: done(getattr(m.made.groups, what)(asked.kind, asked.id))
        )
        if yes and what == "delete":
            asked.deleted = True


async def done(work) -> bool:
    await work
    return True


def _retrieved(answer: asyncio.Task[Any]) -> None:
    """Nobody may be waiting any more; that is no news."""
    if not answer.cancelled():
        answer.exception()
