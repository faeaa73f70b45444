"""The whole stack on one machine: provisioned, started, waited for, and stopped again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swashplate import ports
from swashplate.client import HttpClient
from swashplate.errors import ConfigurationError, NotFoundError, SwashplateError, UnavailableError
from swashplate.files import write_whole
from swashplate.layout import HOST, PORTS, Layout, Options, nats_server, read_env
from swashplate.service import is_held, state_folder
from swashplate.supervisor import Child, Supervisor, ending

STATE_FILE = "stack.json"
READY_WITHIN_S = 60.0


@dataclass
class Running:
    """A stack that is up: where everything is."""

    options: Options
    urls: dict[str, str]
    broker: str
    proplets: dict[str, str]
    """Proplet name → client id."""
    logs: Path
    children: list[Child] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "state_dir": str(self.options.state_dir),
            "env_file": str(self.options.env_file),
            "broker": self.broker,
            "urls": self.urls,
            "proplets": self.proplets,
            "logs": str(self.logs),
        }


def free_offset() -> int:
    """0 when every default port is free, else the first offset at which all are."""
    for offset in range(0, 20_000, 100):
        if all(ports.is_free(port + offset) for port in PORTS.values()):
            return offset
    raise ConfigurationError("no port offset leaves every port free", code="port_taken")


async def _provision(options: Options, broker_config: Path | None) -> dict[str, str]:
    """Run the provisioning as its own process; answers the lines of the env file."""
    command = [sys.executable, "-m", "provision", "local", "--json"]
    command += ["--env-file", str(options.env_file), "--proplets", str(options.proplets)]
    if broker_config is not None:
        command += ["--broker-config", str(broker_config), "--broker-host", HOST]
        command += ["--broker-port", str(options.port("broker"))]
        command += ["--broker-store", str(broker_config.parent / "store")]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    if process.returncode:
        reason = complaint.decode(errors="replace").strip().removeprefix("error: ") or ending(process.returncode)
        raise ConfigurationError(f"provisioning failed: {reason}", code="provisioning_failed")
    return read_env(options.env_file)


async def _port_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


class _Readiness:
    """Waits until everything works; a child that keeps dying, or the time, ends the wait with its reason."""

    def __init__(self, children: list[Child], client: HttpClient) -> None:
        self._children = children
        self._client = client
        self._deadline = time.monotonic() + READY_WITHIN_S

    async def wait(self, child: Child) -> None:
        reason = "no answer"
        while True:
            self._give_up_when_hopeless(child, reason)
            if child.ready_url:
                try:
                    await self._client.get_json(child.ready_url, timeout=5)
                    return
                except SwashplateError as error:
                    reason = error.sentence
            elif await _port_open(child.ready_port):
                return
            await asyncio.sleep(0.05)

    async def proplets_alive(self, manager_url: str, wanted: set[str]) -> None:
        while True:
            missing = wanted
            with contextlib.suppress(UnavailableError):
                known = await self._client.get_json(f"{manager_url}/proplets?status=active&limit=10000")
                missing = wanted - {proplet["id"] for proplet in known["proplets"]}
            if not missing:
                return
            for child in self._children:
                if child.address in missing:
                    self._give_up_when_hopeless(child, "it did not register with the manager")
            await asyncio.sleep(0.05)

    def _give_up_when_hopeless(self, child: Child, reason: str) -> None:
        if child.restarts >= 3 or time.monotonic() > self._deadline:
            said = child.last_log_line()
            raise UnavailableError(
                f"{child.name} does not become ready: {reason}" + (f"; its log ends with: {said}" if said else ""),
                code="not_ready",
                hint=f"log: {child.log_file}",
            )


@asynccontextmanager
async def up(options: Options, notify: Callable[[str], None]) -> AsyncIterator[Running]:
    """Start everything, wait until it works, and stop it again when the context ends.

    Raises ``ConfigurationError`` (a taken port, a folder in use, no broker) or ``UnavailableError`` (a process that does
    not become ready), after stopping what had been started.
    """
    options = Options(options.state_dir.resolve(), options.env_file.resolve(), options.proplets, options.port_offset)
    with state_folder(options.state_dir) as state:
        (state / STATE_FILE).unlink(missing_ok=True)
        before = Layout(options, read_env(options.env_file), os.environ)
        needed = [name for name in PORTS if name != "broker" or before.embedded_broker]
        for name in needed:
            if not ports.is_free(options.port(name)):
                raise ports.taken(options.port(name), service=name)
        config = state / "broker" / "nats.conf" if before.embedded_broker else None
        if config is not None:
            nats_server()
            config.parent.mkdir(exist_ok=True, mode=0o700)
        notify("provisioning credentials")
        layout = Layout(options, await _provision(options, config), os.environ)
        supervisor = Supervisor(notify)
        running = Running(options, layout.urls, layout.broker, layout.proplets, layout.logs, supervisor.children)
        try:
            manager_url = f"http://{HOST}:{options.port('manager')}"
            async with HttpClient(timeout=5, tokens={manager_url: layout.manager_token}) as client:
                ready = _Readiness(supervisor.children, client)
                if config is not None:
                    notify("starting the broker")
                    broker = layout.broker_child(config)
                    await supervisor.start(broker)
                    await ready.wait(broker)
                notify(f"starting {len(PORTS) - 1} services and {options.proplets} proplets")
                for child in layout.children():
                    await supervisor.start(child)
                for child in list(supervisor.children):
                    if child.ready_url:
                        await ready.wait(child)
                notify("waiting for the proplets")
                await ready.proplets_alive(manager_url, set(layout.proplets.values()))
            write_whole(state / STATE_FILE, json.dumps(running.described(), indent=2).encode() + b"\n")
            yield running
        finally:
            (state / STATE_FILE).unlink(missing_ok=True)
            notify("stopping")
            await supervisor.close()


def described(state_dir: Path) -> dict[str, Any]:
    """What a running stack wrote about itself. Raises ``NotFoundError`` when none runs there."""
    if is_held(state_dir):  # what a killed one left behind does not count
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((state_dir / STATE_FILE).read_text())
            return found
    raise NotFoundError(f"no stack is running in {state_dir}", code="not_running", hint="start one with: swashplate up")
