"""What can be changed about a running stack, one change at a time: services stopped, started, recreated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swashplate.client import HttpClient
from swashplate.errors import ConfigurationError, ConflictError, InvalidRequestError
from swashplate.stack.control import Request, Say
from swashplate.stack.environment import unheeded
from swashplate.stack.layout import Layout
from swashplate.stack.readiness import READY_WITHIN_S, Readiness
from swashplate.stack.rotation import put_aside
from swashplate.stack.services import Options, chosen
from swashplate.stack.supervisor import Child, Supervisor

STARTED_WITHIN_S = 20.0


@dataclass(frozen=True)
class Plan:
    """The options and what they come to: every process of the stack."""

    options: Options
    layout: Layout
    children: list[Child]


def same(one: Child, other: Child) -> bool:
    """Would a process of ``other`` be told anything that ``one`` was not?"""
    return one.command == other.command and one.env == other.env


class Transitions:
    """``prepare`` provisions and lays out anew; ``changed`` is called with every plan that has become true."""

    def __init__(
        self,
        supervisor: Supervisor,
        prepare: Callable[[Options], Awaitable[Plan]],
        changed: Callable[[Plan], None],
    ) -> None:
        self._supervisor = supervisor
        self._prepare = prepare
        self._changed = changed
        self._plan: Plan | None = None
        self.one_at_a_time = asyncio.Lock()

    def begin(self, plan: Plan) -> None:
        self._plan = plan

    async def handle(self, request: Request, say: Say) -> dict[str, Any]:
        """Do what was asked; raises ``NotFoundError`` for a service that there is not."""
        if request.do == "states" and self._plan is not None:  # also while a change is under way
            return self._states(self._named(self._plan, request.services))
        async with self.one_at_a_time:
            if self._plan is None:
                raise ConfigurationError("the stack did not start")
            if request.do == "apply":
                return await self._apply(self._plan, request.options, request.shell, say)
            children = self._named(self._plan, request.services)
            if request.do in {"stop", "restart"}:
                await self._stop(children, say)
            if request.do in {"start", "restart"}:
                await self._start(children, say, within=STARTED_WITHIN_S)
            return self._states(children)

    def _named(self, plan: Plan, services: Sequence[str]) -> list[Child]:
        """Those of the plan; one that is just being recreated is no child of the supervisor, and stopped."""
        running = {child.name: child for child in self._supervisor.children}
        named = chosen(services, [child.name for child in plan.children])
        return [running.get(child.name, child) for child in plan.children if child.name in named]

    def _states(self, children: Sequence[Child]) -> dict[str, Any]:
        return {
            "services": {child.name: self._supervisor.state(child) for child in children},
            "pids": {child.name: child.pid for child in children if child.pid is not None},
        }

    async def _stop(self, children: Sequence[Child], say: Say) -> None:
        async def stop(child: Child) -> None:
            if self._supervisor.state(child) != "stopped":
                await self._supervisor.stop(child)
                say(f"stopped {child.name}")

        await asyncio.gather(*(stop(child) for child in children))

    async def _start(self, children: Sequence[Child], say: Say, *, within: float) -> None:
        begun = [child for child in children if self._supervisor.state(child) == "stopped"]
        async with HttpClient(timeout=5) as client:
            ready = Readiness(begun, client, within)
            for child in begun:
                await self._supervisor.start(child)
            for child in begun:
                if child.ready_url or child.ready_port:
                    await ready.wait(child)
                say(f"started {child.name}")

    async def _apply(self, plan: Plan, given: dict[str, Any], shell: dict[str, str], say: Say) -> dict[str, Any]:
        for name, value in given.items():
            now = getattr(plan.options, name, None)
            if name not in {"proplets", "policy"} and str(now) != str(value):
                option = "--" + name.replace("_", "-")
                raise ConflictError(
                    f"the stack runs with {option} {now}, not {value}", hint="stop it first with: swashplate down"
                )
        proplets = given.get("proplets", plan.options.proplets)
        if not isinstance(proplets, int) or proplets < 1:
            raise InvalidRequestError(f"proplets is {proplets!r}, expected a whole number above 0")
        policy = Path(given["policy"]) if given.get("policy") else plan.options.policy
        new = await self._prepare(replace(plan.options, proplets=proplets, policy=policy))
        if ignored := unheeded(shell, (child.env for child in new.children)):
            say(f"not from this shell: {', '.join(ignored)}; a running stack goes by {plan.options.env_file}")
        running = {child.name: child for child in self._supervisor.children}
        wanted = {child.name: child for child in new.children}
        removed = [child for name, child in running.items() if name not in wanted]
        recreated = [child for name, child in running.items() if name in wanted and not same(child, wanted[name])]
        await asyncio.gather(*(self._supervisor.remove(child) for child in (*removed, *recreated)))
        down = {child.name: child for child in self._supervisor.children if self._supervisor.state(child) == "stopped"}
        # In the order of the plan: those that others depend on come first.
        starting = [
            down.get(child.name, child)
            for child in new.children
            if child.name in down or child.name not in {kept.name for kept in self._supervisor.children}
        ]
        for child in recreated:  # what a reader greps for is said by the one that runs, as with a new container
            put_aside(child.log_file)
        self._plan = new
        self._changed(new)
        for child in removed:
            say(f"removed {child.name}")
        for child in starting:
            await self._supervisor.start(child)
            say(f"{'recreated' if child.name in {old.name for old in recreated} else 'started'} {child.name}")
        if not starting and not removed:
            say("every service runs with these settings already")
        await self._until_ready(starting)
        return {
            "recreated": [child.name for child in recreated],
            "started": [child.name for child in starting if child.name not in {old.name for old in recreated}],
            "removed": [child.name for child in removed],
        }

    async def _until_ready(self, begun: Sequence[Child]) -> None:
        assert self._plan is not None
        async with HttpClient(timeout=5, tokens=self._plan.layout.manager_access) as client:
            # Of all: a proplet that was running all along and dies again and again must end the wait too.
            ready = Readiness(self._supervisor.children, client, READY_WITHIN_S)
            for child in begun:
                if child.ready_url or child.ready_port:
                    await ready.wait(child)
            if begun:
                await ready.proplets_alive(self._plan.layout.manager_url, set(self._plan.layout.proplets.values()))
