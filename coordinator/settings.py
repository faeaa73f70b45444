"""The settings of the three processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from swashplate.access import NO_TOKEN, HttpSettings, Token
from swashplate.database_settings import DatabaseSettings
from swashplate.mqtt_settings import MqttSettings
from swashplate.settings import named_after, setting


def _ports(value: object) -> object:
    if isinstance(value, str):
        return tuple(int(part) for part in value.split(",") if part.strip())
    return value


BODY_LIMIT = 256 << 20
"""Bytes. The aggregator holds a round's updates in memory at once, several times this while it parses them."""

Port = Annotated[int, Field(ge=1, le=65535)]
Ports = Annotated[tuple[Port, ...], BeforeValidator(_ports)]


class CoordinatorSettings(MqttSettings, HttpSettings, DatabaseSettings):
    """``python -m coordinator``. Its MQTT settings carry no role's name."""

    model_config = named_after("COORDINATOR", bare="mqtt_")
    section: ClassVar[str] = "coordinator"

    log_level: str = setting(
        "info", "COORDINATOR_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "COORDINATOR_HTTP_HOST", help="The address the coordinator's HTTP binds.")
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
    model_registry_token: Token = setting(
        NO_TOKEN, "MODEL_REGISTRY_HTTP_TOKEN", help="The model registry's token, when it demands one."
    )
    aggregator_token: Token = setting(
        NO_TOKEN, "AGGREGATOR_HTTP_TOKEN", help="The aggregator's token, when it demands one."
    )
    manager_token: Token = setting(NO_TOKEN, "MANAGER_HTTP_TOKEN", help="The manager's token, when it demands one.")
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

    def tokens(self) -> dict[str, str]:
        """URL of a service → its token."""
        return {
            self.model_registry_url: self.model_registry_token.get_secret_value(),
            self.aggregator_url: self.aggregator_token.get_secret_value(),
            self.manager_url: self.manager_token.get_secret_value(),
        }

    def mqtt_user(self) -> str:
        return self.username or self.client_id


class RegistrySettings(HttpSettings, DatabaseSettings):
    """``python -m coordinator.registry``."""

    model_config = named_after("MODEL_REGISTRY")

    log_level: str = setting(
        "info", "REGISTRY_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "REGISTRY_HTTP_HOST", help="The address the model registry binds.")
    http_insecure: bool = setting(
        False,
        "MODEL_REGISTRY_HTTP_INSECURE",
        "REGISTRY_HTTP_INSECURE",
        help="Serve HTTP without a token beyond this machine: whoever reaches the port may do everything.",
    )
    port: Port = setting(8081, "REGISTRY_PORT", help="The port of the model registry.")
    models_dir: Path = setting(Path(".swashplate/models"), "MODELS_DIR", help="Where models are kept.")


class AggregatorSettings(HttpSettings):
    """``python -m coordinator.aggregator``."""

    model_config = named_after("AGGREGATOR")

    log_level: str = setting(
        "info", "AGGREGATOR_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "AGGREGATOR_HTTP_HOST", help="The address the aggregator binds.")
    port: Port = setting(8082, "AGGREGATOR_PORT", help="The port of the aggregator.")
    body_limit: Annotated[int, Field(ge=1)] = setting(
        BODY_LIMIT, "AGGREGATOR_BODY_LIMIT", help="Bytes that the updates of a round may have together, as JSON."
    )
