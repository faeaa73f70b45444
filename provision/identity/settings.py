"""The settings of the identity service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from provision.brokers import Kind
from swashplate.settings import Seconds, Settings, setting

DEFAULT_PASSWORD = "12345678"  # noqa: S105  # everybody knows it, which is why it is for this machine only

Port = Annotated[int, Field(ge=1, le=65535)]


class IdentitySettings(Settings):
    """``python -m provision.identity``."""

    log_level: str = setting(
        "info", "IDENTITY_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "IDENTITY_HTTP_HOST", help="The address that the four ports are bound on.")
    http_insecure: bool = setting(
        False,
        "IDENTITY_HTTP_INSECURE",
        help="Serve beyond loopback although the administrator's password is the default.",
    )
    users_port: Port = setting(9002, "IDENTITY_USERS_PORT", help="The port of users and tokens.")
    domains_port: Port = setting(9003, "IDENTITY_DOMAINS_PORT", help="The port of domains.")
    channels_port: Port = setting(9005, "IDENTITY_CHANNELS_PORT", help="The port of channels and connections.")
    clients_port: Port = setting(9006, "IDENTITY_CLIENTS_PORT", help="The port of clients.")
    admin_user: str = setting("admin", "IDENTITY_ADMIN_USER", help="Who may provision.")
    admin_password: str = setting(DEFAULT_PASSWORD, "IDENTITY_ADMIN_PASSWORD", help="The administrator's password.")
    token_ttl: Annotated[Seconds, Field(gt=0)] = setting(
        3600.0, "IDENTITY_TOKEN_TTL", help="How long an access token is good for."
    )
    state_dir: Path = setting(
        Path(".swashplate/identity"), "IDENTITY_STATE_DIR", help="Where domains, channels and clients are kept."
    )
    broker: Kind = setting(
        Kind.MOSQUITTO, "IDENTITY_BROKER", help="Whose files are written: embedded (nats-server) or mosquitto."
    )
    broker_dir: Path = setting(
        Path(".swashplate/broker"), "IDENTITY_BROKER_DIR", help="The folder of the broker's configuration and data."
    )
    broker_pid_file: Path | None = setting(
        None, "IDENTITY_BROKER_PID_FILE", help="Where the broker writes its pid; with it, it is told to read its files."
    )
    broker_log: Path | None = setting(
        None, "IDENTITY_BROKER_LOG", help="The broker's log; with it, a broker that refuses its files is noticed."
    )
    mqtt_host: str = setting("127.0.0.1", "IDENTITY_MQTT_HOST", help="The address that the broker binds.")
    mqtt_port: Port = setting(1883, "IDENTITY_MQTT_PORT", help="The port that the broker binds.")
    legacy: bool = setting(False, "IDENTITY_LEGACY", help="Also grant the topics that Propeller's components share.")
    faults: str = setting(
        "", "IDENTITY_FAULTS", help="For tests, on loopback only: what goes wrong at which request, such as `hang@3`."
    )
