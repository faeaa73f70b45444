"""Brokers with and without the shared topics granted, our processes on them, and somebody who plays Propeller."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import wasmtime

from client_wasm.demo import GUEST
from provision.brokers import Kind
from provision.local import provision_local
from tests.peers.player import Player, Site
from tests.support.broker import Broker
from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.wat import HELLO, SPIN

FAILS = bytes(
    wasmtime.wat2wasm(
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        ' (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))'
    )
)
ADDS = bytes(
    wasmtime.wat2wasm(
        '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'
    )
)
EXECUTABLES = {"embedded": "nats_server", "mosquitto": "mosquitto"}
BROKERS = ("embedded", pytest.param("mosquitto", marks=pytest.mark.soak))
BINARIES = {"hello": HELLO, "spin": SPIN, "fails": FAILS, "adds": ADDS, "learns": GUEST.read_bytes()}


def provisioned(kind: str, executable: str, folder: Path, *, legacy: bool = True) -> Broker:
    """As a user provisions it: with the command."""
    env_file, state, port = folder / "env", folder / "state", free_port()
    command = [sys.executable, "-m", "provision", "local", "--env-file", str(env_file), "--proplets", "3"]
    command += ["--state-dir", str(state), "--broker", kind, "--broker-port", str(port)]
    subprocess.run([*command, *(["--legacy"] if legacy else [])], check=True, capture_output=True)
    credentials, changed = provision_local(env_file, 3)
    assert not changed
    return Broker(Kind(kind), executable, state / "broker", credentials, port)


class OurProplet:
    """The process ``python -m proplet``, as proplet-1 of this broker, at the services of a site."""

    def __init__(self, broker: Broker, folder: Path, site: Site | None) -> None:
        self.broker, self.id, self.folder = broker, broker.id("proplet-1"), folder
        client, topics = broker.credentials.client("proplet-1"), broker.credentials.topics
        self._log = folder / "proplet.log"
        self._env = {
            "PATH": "/usr/bin:/bin",
            "PROPLET_DOMAIN_ID": topics.domain,
            "PROPLET_CHANNEL_ID": topics.channel,
            "PROPLET_CLIENT_ID": client.id,
            "PROPLET_CLIENT_KEY": client.key,
            "PROPLET_MQTT_ADDRESS": f"tcp://127.0.0.1:{broker.port}",
            "PROPLET_STATE_DIR": str(folder / "proplet"),
            "PROPLET_LIVELINESS_INTERVAL": "1",
            "PROPLET_METRICS_PORT": "0",
        }
        if site is not None:
            self._env |= dict.fromkeys(("MODEL_REGISTRY_URL", "DATA_STORE_URL", "COORDINATOR_URL"), site.url)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proplet"],
                env=self._env,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


def manager_player(broker: Broker, proplet: OurProplet, site: Site | None) -> Player:
    """A Propeller manager, which reads everything below the base, and its proxy. It misses nothing while it is away."""
    base = broker.credentials.topics.base
    variables = {"base": base, "proplet": proplet.id, **BINARIES}
    clients = {
        "manager": broker.connect("manager", client_id="propeller", clean=False),
        "proxy": broker.connect("proxy"),
    }
    player = Player(clients, [f"{base}/#"], variables, proplet.log)
    player.site = site
    return player


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with contextlib.closing(Site()) as running:
        yield running


@pytest.fixture(scope="module", params=BROKERS)
def legacy_stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stack, Broker]]:
    """A whole stack of ours with one proplet, and its broker, which grants the shared topics."""
    executable = request.getfixturevalue(EXECUTABLES[request.param])
    folder = tmp_path_factory.mktemp("legacy")
    credentials, _ = provision_local(folder / "env", 3)
    with (folder / "env").open("a") as env_file:
        env_file.write("IDENTITY_LEGACY=true\n")
    with Stack(folder, proplets=1, broker=request.param) as stack, contextlib.ExitStack() as peers:
        broker = Broker(Kind(request.param), executable, stack.state / "broker", credentials, 1883 + stack.offset)
        peers.callback(broker.disconnect)
        stack.push(GUEST)
        for name in ("hello", "spin"):
            file = folder / f"{name}.wasm"
            file.write_bytes(BINARIES[name])
            stack.push(file, f"{name}:v1")
        yield stack, broker


@pytest.fixture
def proplet_player(legacy_stack: tuple[Stack, Broker]) -> Player:
    """A Propeller proplet, played as proplet-2; proplet-3 is a stranger."""
    stack, broker = legacy_stack
    base = broker.credentials.topics.base
    registry = stack.url("oci-registry").removeprefix("http://")
    variables = {
        "base": base,
        "proplet": broker.id("proplet-2"),
        "stranger": broker.id("proplet-3"),
        "modern": broker.id("proplet-1"),
        "ghost": broker.id("proxy"),
        "registry": registry,
        "manager": stack.url("manager"),
        "coordinator": stack.url("coordinator"),
        "models": stack.url("model-registry"),
        **BINARIES,
    }
    clients = {"proplet": broker.connect("proplet-2"), "stranger": broker.connect("proplet-3")}
    listens = [f"{base}/control/manager/{kind}" for kind in ("start", "stop", "invoke")]
    listens.append(f"{base}/registry/server")
    return Player(clients, listens, variables, lambda: stack.log("manager", "proxy", "coordinator"))
