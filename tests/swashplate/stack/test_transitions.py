"""Changes of a running stack: what they wait for, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from swashplate.errors import UnavailableError
from swashplate.http import HttpService, Route, answer
from swashplate.stack import transitions
from swashplate.stack.control import Request
from swashplate.stack.layout import Layout
from swashplate.stack.services import HOST, PORTS, Options
from swashplate.stack.supervisor import Child, Supervisor
from swashplate.stack.transitions import Plan, Transitions
from tests.support.ports import free_port

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
async def stack(tmp_path: Path):
    """A stack whose manager says that nobody is alive: a service, and a proplet that runs and does not register."""

    async def nobody(_):
        return answer({"proplets": []})

    options = Options(tmp_path, tmp_path / ".env", proplets=1, port_offset=free_port() - PORTS["manager"])
    layout = Layout(options, {"PROPLET_CLIENT_ID": "p-1"}, {})
    proplet = Child("proplet-1", SLEEPER, dict(os.environ), tmp_path / "proplet-1.log", address="p-1")

    def plan(setting: str) -> Plan:
        env = {**os.environ, "SETTING": setting}
        return Plan(options, layout, [Child("service", SLEEPER, env, tmp_path / "service.log"), proplet])

    async def prepare(_: Options) -> Plan:
        return plan("changed")

    supervisor = Supervisor(lambda _: None)
    found = Transitions(supervisor, prepare, lambda _: None)
    found.begin(plan("first"))
    manager = HttpService("manager", [Route("GET", "/proplets", nobody, "Nobody")])
    async with manager.serving(HOST, options.port("manager")):
        for child in plan("first").children:
            await supervisor.start(child)
        yield found
        await supervisor.close()


async def test_a_proplet_that_was_not_changed_and_does_not_come_back_ends_the_wait(stack, monkeypatch):
    monkeypatch.setattr(transitions, "READY_WITHIN_S", 0.3)
    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="proplet-1 does not become ready: it did not register"):
            await stack.handle(Request(do="apply"), lambda _: None)


async def test_states_are_told_while_a_change_is_under_way(stack):
    recreated = asyncio.Event()
    applying = asyncio.create_task(stack.handle(Request(do="apply"), lambda _: recreated.set()))
    async with asyncio.timeout(10):
        await recreated.wait()
        told = await stack.handle(Request(do="states"), lambda _: None)
    assert told["services"] == {"service": "running", "proplet-1": "running"}
    applying.cancel()
    await asyncio.gather(applying, return_exceptions=True)
