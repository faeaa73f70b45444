"""Where everything of a stack on one machine is: its processes, their ports, settings and folders. Starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from swashplate import ports
from swashplate.stack.environment import Environment
from swashplate.stack.services import (
    ALL_PORTS,
    COORDINATOR_SECOND_PORT,
    HOST,
    IDENTITY_PORTS,
    OWN_BROKER_PORTS,
    PORTS,
    PROPLET_METRICS_PORT,
    Options,
    broker_program,
)
from swashplate.stack.supervisor import Child

BROKER_ADDRESSES = ("MANAGER_MQTT_ADDRESS", "PROPLET_MQTT_ADDRESS", "PROXY_MQTT_ADDRESS", "MQTT_BROKER")


class Layout:
    """Turns the options and the provisioned credentials into children."""

    def __init__(
        self, options: Options, values: Mapping[str, str], environ: Mapping[str, str], *, second_port: str | None = None
    ) -> None:
        self._options = options
        # Decided once: as long as the coordinator listens there, the port is not free.
        second = COORDINATOR_SECOND_PORT + options.port_offset
        self.second_port = second_port if second_port is not None else str(second) if ports.is_free(second) else ""
        self._env = Environment(values, environ)
        self._state = options.state_dir
        self.logs = options.state_dir / "logs"
        local = f"tcp://{HOST}:{options.port('broker')}"
        self._addresses = {name: self._env.get(name) or local for name in BROKER_ADDRESSES}

    @property
    def own_broker(self) -> bool:
        """Is the broker ours to run, and with it who may use it?"""
        return not any(self._env.get(name) for name in BROKER_ADDRESSES)

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
        return {f"proplet-{n}": self._env.proplet(n)["PROPLET_CLIENT_ID"] for n in range(1, self._options.proplets + 1)}

    @property
    def policies(self) -> dict[str, str]:
        """Proplet name → its policy file, empty when it has none."""
        return {f"proplet-{n}": self._policy(n) for n in range(1, self._options.proplets + 1)}

    def _policy(self, number: int) -> str:
        said = {**self._env.own("PROPLET"), **self._env.proplet(number)}.get("PROPLET_POLICY", "")
        return str(self._options.policy or (said and Path(said).absolute()))

    @property
    def manager_url(self) -> str:
        return f"http://{HOST}:{self._options.port('manager')}"

    @property
    def manager_access(self) -> dict[str, str]:
        """The manager's URL → what reading from it takes; an empty token when it demands none."""
        return {self.manager_url: self._env.token_for_reading("MANAGER")}

    def _service(self, name: str, module: str, env: Mapping[str, str]) -> Child:
        port = self._options.port(name)
        return Child(
            name=name,
            command=[sys.executable, "-P", "-m", module],
            env={**self._env.common, **self._env.tokens(name), **env},
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
            env=self._env.common,
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
                **self._env.own("IDENTITY"),
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
                {
                    **self._env.own("MODEL_REGISTRY_DATABASE"),
                    "REGISTRY_PORT": str(options.port("model-registry")),
                    "MODELS_DIR": str(state / "model-registry"),
                },
            ),
            self._service("aggregator", "coordinator.aggregator", {"AGGREGATOR_PORT": str(options.port("aggregator"))}),
            self._service(
                "data-store",
                "proplet.data_store",
                {
                    "DATA_STORE_PORT": str(options.port("data-store")),
                    "DATA_DIR": str(state / "data-store" / "datasets"),
                    "FL_DATASET_PARTICIPANTS": self._env.get("FL_DATASET_PARTICIPANTS")
                    or ",".join(self.proplets.values()),
                },
            ),
            self._service(
                "manager",
                "manager",
                {
                    **self._env.own("MANAGER"),
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
                    **self._env.own("COORDINATOR"),
                    **self._env.own("MQTT"),
                    "COORDINATOR_DOMAIN_ID": self._env.get("MANAGER_DOMAIN_ID"),
                    "COORDINATOR_CHANNEL_ID": self._env.get("MANAGER_CHANNEL_ID"),
                    "COORDINATOR_PORT": str(options.port("coordinator")),
                    "COORDINATOR_EXTRA_PORTS": self.second_port,
                    "COORDINATOR_STATE_DIR": str(state / "coordinator"),
                    "MODEL_REGISTRY_URL": urls["model-registry"],
                    "AGGREGATOR_URL": urls["aggregator"],
                    "MANAGER_URL": urls["manager"],
                    "MQTT_BROKER": self._addresses["MQTT_BROKER"],
                    "MQTT_CLIENT_ID": self._env.get("COORDINATOR_CLIENT_ID"),
                    "MQTT_PASSWORD": self._env.get("COORDINATOR_CLIENT_KEY"),
                },
            ),
            self._service(
                "proxy",
                "proxy",
                {
                    **self._env.own("PROXY"),
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
        own = self._env.proplet(number)
        env = {
            **self._env.own("PROPLET"),
            **self._env.tokens("proplet"),
            "PROPLET_NAME": name,
            **own,
            **({"PROPLET_POLICY": policy} if (policy := self._policy(number)) else {}),
            "PROPLET_MQTT_ADDRESS": self._addresses["PROPLET_MQTT_ADDRESS"],
            "PROPLET_METRICS_PORT": str(PROPLET_METRICS_PORT + self._options.port_offset),
            "PROPLET_STATE_DIR": str(self._state / name),
            "DATA_STORE_URL": urls["data-store"],
            "MODEL_REGISTRY_URL": urls["model-registry"],
            "COORDINATOR_URL": urls["coordinator"],
            "MANAGER_URL": urls["manager"],
        }
        return Child(
            name=name,
            command=[sys.executable, "-P", "-m", "proplet"],
            env={**self._env.common, **env},
            log_file=self.logs / f"{name}.log",
            address=own["PROPLET_CLIENT_ID"],
        )
