"""What can be set at the manager."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from manager.state.storage import StorageSettings
from manager.work.placement import Strategy
from swashplate.access import NO_TOKEN, HttpSettings, Token
from swashplate.mqtt_settings import MqttSettings
from swashplate.settings import Seconds, named_after, setting


class ManagerSettings(MqttSettings, HttpSettings, StorageSettings):
    model_config = named_after("MANAGER")
    section: ClassVar[str] = "manager"

    log_level: str = setting("info", "MANAGER_LOG_LEVEL", "LOG_LEVEL", help="debug, info, warn or error.")
    http_host: str = setting("127.0.0.1", "MANAGER_HTTP_HOST", help="The address that HTTP listens on.")
    http_port: int = setting(7070, "MANAGER_HTTP_PORT", help="The port that HTTP listens on.")
    coordinator_url: str = setting(
        "http://localhost:8086", "MANAGER_COORDINATOR_URL", "COORDINATOR_URL", help="Where /fl requests are forwarded."
    )
    coordinator_token: Token = setting(
        NO_TOKEN, "COORDINATOR_HTTP_TOKEN", help="The coordinator's token, when it demands one."
    )
    model_registry_url: str = setting(
        "",
        "MANAGER_MODEL_REGISTRY_URL",
        "MODEL_REGISTRY_URL",
        help="Announced to proplets that are not told another one.",
    )
    advertised_url: str = setting(
        "",
        "MANAGER_ADVERTISED_URL",
        help="Announced to proplets: where they upload results that are too large for a message. By default the address"
        " that HTTP listens on.",
    )
    result_limit: Annotated[int, Field(ge=1)] = setting(
        256 << 20, "MANAGER_RESULT_LIMIT", help="Bytes that one uploaded result may have."
    )
    log_bytes: Annotated[int, Field(ge=1)] = setting(
        256 << 20,
        "MANAGER_LOG_BYTES",
        help="Bytes that are kept of all tasks' logs; above it those written longest ago are removed.",
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
    placement: Strategy = setting(
        Strategy.LEAST_LOADED, "MANAGER_PLACEMENT", help="Who is given a task: least_loaded or round_robin."
    )
    lease: Seconds = setting(
        30.0,
        "MANAGER_LEASE",
        help="How long a proplet may be silent before its tasks are given to another one, where they may be.",
    )
    interrupt_on_exit: bool = setting(
        False,
        "MANAGER_INTERRUPT_ON_EXIT",
        help="Stop and interrupt what runs when the manager is asked to stop; otherwise it runs on under its lease.",
    )
    legacy_slots: Annotated[int, Field(ge=1, le=1024)] = setting(
        4,
        "MANAGER_LEGACY_SLOTS",
        help="How many tasks a Propeller proplet is given at a time; it would run any number.",
    )

    def url(self) -> str:
        """Where proplets reach this manager's HTTP; empty when only the operator can know."""
        if self.advertised_url or self.http_host in {"", "0.0.0.0", "::"}:  # noqa: S104
            return self.advertised_url.rstrip("/")
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port}"
