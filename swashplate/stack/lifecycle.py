"""The whole stack on one machine: provisioned, started, waited for, and stopped again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swashplate import ports
from swashplate.client import HttpClient
from swashplate.errors import ConfigurationError
from swashplate.files import write_whole
from swashplate.folders import is_held, state_folder
from swashplate.stack import control
from swashplate.stack.description import STATE_FILE
from swashplate.stack.environment import read_env, settings_of, unheeded
from swashplate.stack.layout import Layout
from swashplate.stack.readiness import Readiness
from swashplate.stack.services import ALL_PORTS, HOST, Options, broker_program
from swashplate.stack.supervisor import Child, Supervisor, ending
from swashplate.stack.transitions import Plan, Transitions
from swashplate.words import counted


@dataclass
class Running:
    """A stack that is up: where everything is."""

    options: Options
    urls: dict[str, str]
    broker: str
    proplets: dict[str, str]
    """Proplet name → client id."""
    logs: Path
    policies: dict[str, str] = field(default_factory=dict)
    """Proplet name → its policy file, empty when it has none."""
    children: list[Child] = field(default_factory=list)

    def follow(self, plan: Plan) -> None:
        self.options, self.urls = plan.options, plan.layout.urls
        self.broker, self.proplets = plan.layout.broker, plan.layout.proplets
        self.policies = plan.layout.policies

    def described(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "state_dir": str(self.options.state_dir),
            "env_file": str(self.options.env_file),
            "broker": self.broker,
            "urls": self.urls,
            "proplets": self.proplets,
            "policies": self.policies,
            "logs": str(self.logs),
        }


def free_offset() -> int:
    """0 when every default port is free, else the first offset at which all are."""
    for offset in range(0, 20_000, 100):
        if all(ports.is_free(port + offset) for port in ALL_PORTS):
            return offset
    raise ConfigurationError("no port offset leaves every port free", code="port_taken")


async def _provision(options: Options, *, own_broker: bool) -> dict[str, str]:
    """Run the provisioning as its own process; answers the lines of the env file."""
    command = [sys.executable, "-P", "-m", "provision", "local", "--json"]
    command += ["--env-file", str(options.env_file), "--proplets", str(options.proplets)]
    if own_broker:
        command += ["--state-dir", str(options.state_dir), "--broker", options.broker]
        command += ["--broker-host", HOST, "--broker-port", str(options.port("broker"))]
    own = {name: value for name, value in read_env(options.env_file).items() if name.startswith("IDENTITY_")}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**own, **os.environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    if process.returncode:
        reason = complaint.decode(errors="replace").strip().removeprefix("error: ") or ending(process.returncode)
        raise ConfigurationError(f"provisioning failed: {reason}", code="provisioning_failed")
    return read_env(options.env_file)


@asynccontextmanager
async def up(options: Options, notify: Callable[[str], None]) -> AsyncIterator[Running]:
    """Start everything, wait until it works, and stop it again when the context ends.

    Meanwhile ``control`` requests are answered. Raises ``ConfigurationError`` (a taken port, a folder in use, no broker) or
    ``UnavailableError`` (a process that does not become ready), after stopping what had been started.
    """
    options = replace(options, state_dir=options.state_dir.resolve(), env_file=options.env_file.resolve())
    if is_held(options.state_dir):
        raise ConfigurationError(
            f"a stack runs in {options.state_dir} already",
            code="already_running",
            hint="swashplate up -d takes over a changed env file, swashplate down stops the stack; "
            "a second one needs --state-dir, --env-file and --port-offset of its own",
        )
    with state_folder(options.state_dir) as state:
        (state / STATE_FILE).unlink(missing_ok=True)
        before = Layout(options, read_env(options.env_file), os.environ)
        for port, service in before.ports.items():
            if not ports.is_free(port):
                raise ports.taken(port, service=service)
        running = Running(options, {}, "", {}, before.logs)

        async def prepare(asked: Options) -> Plan:
            own_broker = Layout(asked, read_env(asked.env_file), os.environ, second_port="").own_broker
            if own_broker:
                broker_program(asked.broker)  # before anything is written
            values = await _provision(asked, own_broker=own_broker)
            layout = Layout(asked, values, os.environ, second_port=before.second_port)
            return Plan(asked, layout, layout.children())

        def written(plan: Plan) -> None:
            running.follow(plan)
            write_whole(state / STATE_FILE, json.dumps(running.described(), indent=2).encode() + b"\n")

        supervisor = Supervisor(notify)
        running.children = supervisor.children
        transitions = Transitions(supervisor, prepare, written)
        try:
            async with control.serving(state, transitions.handle):
                async with transitions.one_at_a_time:
                    notify("provisioning credentials")
                    plan = await prepare(options)
                    _tell_of_shell(plan, notify)
                    await _start(plan, supervisor, notify)
                    transitions.begin(plan)
                    written(plan)
                yield running
        finally:
            (state / STATE_FILE).unlink(missing_ok=True)
            notify("stopping")
            await supervisor.close()


def _tell_of_shell(plan: Plan, notify: Callable[[str], None]) -> None:
    """Which settings of this shell the stack has, and which it has not."""
    shell = settings_of(os.environ)
    ignored = unheeded(shell, (child.env for child in plan.children))
    taken = sorted(name for name in shell if name not in ignored)
    if taken:
        notify(f"from this shell, whatever {plan.options.env_file} says: {', '.join(taken)}")
    if ignored:
        notify(f"not from this shell: {', '.join(ignored)}; up decides, or {plan.options.env_file}")


async def _start(plan: Plan, supervisor: Supervisor, notify: Callable[[str], None]) -> None:
    async with HttpClient(timeout=5, tokens=plan.layout.manager_access) as client:
        ready = Readiness(supervisor.children, client)
        for child in plan.children:
            if child.name == "broker":
                notify("starting the broker")
                await supervisor.start(child)
                await ready.wait(child)
        services = sum(child.name not in {"broker", *plan.layout.proplets} for child in plan.children)
        notify(f"starting {counted(services, 'service')} and {counted(plan.options.proplets, 'proplet')}")
        for child in plan.children:
            await supervisor.start(child)
        for child in plan.children:
            if child.ready_url:
                await ready.wait(child)
        notify("waiting for the proplets")
        await ready.proplets_alive(plan.layout.manager_url, set(plan.layout.proplets.values()))
