"""The settings of the three processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from swashplate.mqtt_settings import MqttSettings
from swashplate.settings import Settings, named_after, setting


def _ports(value: object) -> object:
    if isinstance(value, str):
        return tuple(int(part) for part in value.split(",") if part.strip())
    return value


BODY_LIMIT = 256 << 20
"""Bytes. The aggregator holds a round's updates in memory at once, several times this while it parses them."""

Port = Annotated[int, Field(ge=1, le=65535)]
Ports = Annotated[tuple[Port, ...], BeforeValidator(_ports)]


class CoordinatorSettings(MqttSettings):
    """``python -m coordinator``. Its MQTT settings carry no role's name."""

    model_config = named_after("COORDINATOR", bare="mqtt_")
    section: ClassVar[str] = "coordinator"

    log_level: str = setting(
        "info", "COORDINATOR_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "COORDINATOR_HTTP_HOST", help="The address the coordinator's HTTP binds.")
    http_insecure: bool = setting(
        False, "COORDINATOR_HTTP_INSECURE", help="Serve HTTP beyond loopback although it has no authentication."
    )
    port: Port = setting(8080, "COORDINATOR_PORT", help="The port of the coordinator's HTTP.")
    extra_ports: Ports = setting(
        (), "COORDINATOR_EXTRA_PORTS", help="Further ports, separated by commas, that are served when they are free."
    )
    state_dir: Path = setting(
        Path(".swashplate/coordinator"), "COORDINATOR_STATE_DIR", help="Where rounds and updates are kept."
    )
    model_registry_url: str = setting("http://localhost:8081", "MODEL_REGISTRY_URL", help="The model registry.")
    aggregator_url: str = setting("http://localhost:8082", "AGGREGATOR_URL", help="The aggregator.")
    manager_url: str = setting(
        "http://localhost:7070", "MANAGER_URL", help="The manager, whose tasks a round is made of."
    )
    mqtt_address: str = setting(
        "tcp://localhost:1883", "MQTT_BROKER", help="The MQTT broker: tcp://host:port, or ssl://host:port."
    )
    domain_id: str = setting(
        "",
        "COORDINATOR_TENANT_ID",
        "COORDINATOR_DOMAIN_ID",
        "MANAGER_TENANT_ID",
        "MANAGER_DOMAIN_ID",
        help="The domain (tenant) whose topics are used.",
    )
    channel_id: str = setting(
        "", "COORDINATOR_CHANNEL_ID", "MANAGER_CHANNEL_ID", help="The channel whose topics are used."
    )
    client_id: str = setting(
        "",
        "MQTT_ENTITY_ID",
        "MQTT_CLIENT_ID",
        "COORDINATOR_ENTITY_ID",
        "COORDINATOR_CLIENT_ID",
        help="The coordinator's identity at the broker.",
    )
    username: str = setting("", "MQTT_USERNAME", help="The user at the broker; by default the identity.")
    client_key: str = setting(
        "", "MQTT_PASSWORD", "COORDINATOR_API_KEY", "COORDINATOR_CLIENT_KEY", help="The key of that identity."
    )

    def mqtt_user(self) -> str:
        return self.username or self.client_id


class RegistrySettings(Settings):
    """``python -m coordinator.registry``."""

    log_level: str = setting(
        "info", "REGISTRY_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "REGISTRY_HTTP_HOST", help="The address the model registry binds.")
    http_insecure: bool = setting(
        False, "REGISTRY_HTTP_INSECURE", help="Serve HTTP beyond loopback although it has no authentication."
    )
    port: Port = setting(8081, "REGISTRY_PORT", help="The port of the model registry.")
    models_dir: Path = setting(Path(".swashplate/models"), "MODELS_DIR", help="Where models are kept.")


class AggregatorSettings(Settings):
    """``python -m coordinator.aggregator``."""

    log_level: str = setting(
        "info", "AGGREGATOR_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "AGGREGATOR_HTTP_HOST", help="The address the aggregator binds.")
    http_insecure: bool = setting(
        False, "AGGREGATOR_HTTP_INSECURE", help="Serve HTTP beyond loopback although it has no authentication."
    )
    port: Port = setting(8082, "AGGREGATOR_PORT", help="The port of the aggregator.")
    body_limit: Annotated[int, Field(ge=1)] = setting(
        BODY_LIMIT, "AGGREGATOR_BODY_LIMIT", help="Bytes that the updates of a round may have together, as JSON."
    )
