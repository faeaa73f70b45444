"""What can be set at the manager."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from swashplate.settings import MQTT_IDENTITY, Seconds, Settings, setting


class ManagerSettings(Settings):
    section: ClassVar[str] = "manager"
    identity: ClassVar[tuple[tuple[str, str, str], ...]] = MQTT_IDENTITY

    log_level: str = setting("info", "MANAGER_LOG_LEVEL", "LOG_LEVEL", help="debug, info, warn or error.")
    http_host: str = setting("127.0.0.1", "MANAGER_HTTP_HOST", help="The address that HTTP listens on.")
    http_port: int = setting(7070, "MANAGER_HTTP_PORT", help="The port that HTTP listens on.")
    http_insecure: bool = setting(
        False, "MANAGER_HTTP_INSECURE", help="Serve HTTP without authentication beyond loopback."
    )
    mqtt_address: str = setting("tcp://localhost:1883", "MANAGER_MQTT_ADDRESS", help="The MQTT broker.")
    mqtt_timeout: Seconds = setting(30.0, "MANAGER_MQTT_TIMEOUT", help="How long a publish may wait for the broker.")
    domain_id: str = setting("", "MANAGER_TENANT_ID", "MANAGER_DOMAIN_ID", help="The first id in every topic.")
    channel_id: str = setting("", "MANAGER_CHANNEL_ID", help="The second id in every topic.")
    client_id: str = setting("", "MANAGER_ENTITY_ID", "MANAGER_CLIENT_ID", help="The manager's MQTT user name.")
    client_key: str = setting("", "MANAGER_API_KEY", "MANAGER_CLIENT_KEY", help="The manager's MQTT password.")
    coordinator_url: str = setting(
        "http://localhost:8086", "MANAGER_COORDINATOR_URL", "COORDINATOR_URL", help="Where /fl requests are forwarded."
    )
    model_registry_url: str = setting(
        "",
        "MANAGER_MODEL_REGISTRY_URL",
        "MODEL_REGISTRY_URL",
        help="Announced to proplets that are not told another one.",
    )
    state_dir: Path = setting(
        Path(".swashplate/manager"), "MANAGER_STATE_DIR", help="Where the manager keeps its state."
    )
    heartbeat_s: Seconds = setting(
        5.0, "MANAGER_HEARTBEAT_S", help="How often every proplet reports; after three missed reports it is offline."
    )
    image_timeout: Seconds = setting(
        25.0, "MANAGER_IMAGE_TIMEOUT", help="How long the proxy may take to say what an image reference means."
    )
