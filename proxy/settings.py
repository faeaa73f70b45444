"""The settings of the proxy and of the embedded registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from swashplate.access import NO_TOKEN, HttpSettings, Token
from swashplate.mqtt_settings import MqttSettings
from swashplate.settings import Seconds, named_after, setting

MIB = 1 << 20
GIB = 1 << 30

Bytes = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


class ProxySettings(MqttSettings, HttpSettings):
    """How the proxy reaches its broker, its registries and the manager."""

    model_config = named_after("PROXY")
    section = "proxy"

    log_level: str = setting("info", "PROXY_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error.")
    http_host: str = setting("127.0.0.1", "PROXY_HTTP_HOST", help="Where /health is served.")
    http_port: Port = setting(9191, "PROXY_HTTP_PORT", help="The port of /health.")

    state_dir: Path = setting(
        Path(".swashplate/proxy"), "PROXY_STATE_DIR", help="The cache of binaries and the client id."
    )
    cache_bytes: Bytes = setting(2 * GIB, "PROXY_CACHE_BYTES", help="The cache drops what was used longest ago above.")
    max_binary_bytes: Bytes = setting(256 * MIB, "PROXY_MAX_BINARY_BYTES", help="A larger binary is refused.")
    chunk_size: Annotated[int, Field(ge=1, le=4 * MIB)] = setting(
        512_000, "PROXY_CHUNK_SIZE", help="Bytes of a binary in one MQTT message."
    )
    fetch_timeout: Seconds = setting(600.0, "PROXY_FETCH_TIMEOUT", help="How long one binary may take to arrive.")
    registry_patience: Annotated[Seconds, Field(ge=0)] = setting(
        5.0,
        "PROXY_REGISTRY_PATIENCE",
        help="How long a registry that does not answer is asked again before an attempt fails.",
    )
    manager_url: str = setting(
        "http://127.0.0.1:7070", "PROXY_MANAGER_URL", help="The manager, which holds the uploaded binaries."
    )

    manager_token: Token = setting(
        NO_TOKEN, "MANAGER_HTTP_READ_TOKEN", "MANAGER_HTTP_TOKEN", help="The manager's token, when it demands one."
    )

    oci_registry_url: str = setting("", "OCI_REGISTRY_URL", help="Where `swashplate oci-registry` serves.")
    oci_registry_token: Token = setting(
        NO_TOKEN, "OCI_REGISTRY_HTTP_READ_TOKEN", "OCI_REGISTRY_HTTP_TOKEN", help="Its token, when it demands one."
    )

    registry_url: str = setting(
        "",
        "PROXY_REGISTRY_URL",
        help="The registry that the credentials are for, such as ghcr.io; with http:// it is spoken to without TLS.",
    )
    authenticate: bool = setting(False, "PROXY_AUTHENTICATE", help="Use the credentials at PROXY_REGISTRY_URL.")
    registry_username: str = setting("", "PROXY_REGISTRY_USERNAME", help="The user at PROXY_REGISTRY_URL.")
    registry_password: str = setting("", "PROXY_REGISTRY_PASSWORD", help="That user's password or access token.")
    registry_token: str = setting(
        "", "PROXY_REGISTRY_TOKEN", help="A bearer token, used when user and password are not both set."
    )
    registry_token_services: str = setting(
        "",
        "PROXY_REGISTRY_TOKEN_SERVICES",
        help="Hosts besides the registry's own that may be sent the password for a token, comma-separated;"
        " with http:// also without TLS.",
    )
    registry_aliases: str = setting(
        "",
        "PROXY_REGISTRY_ALIASES",
        "SWASHPLATE_REGISTRY_ALIASES",
        help="Other addresses of registries: local-registry:5000=http://127.0.0.1:5000,…",
    )
    plain_http: str = setting("", "PROXY_PLAIN_HTTP", help="Registries without TLS, as host:port, comma-separated.")


class RegistrySettings(HttpSettings):
    """How the embedded OCI registry serves one machine."""

    model_config = named_after("OCI_REGISTRY")

    log_level: str = setting(
        "info", "OCI_REGISTRY_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    host: str = setting("127.0.0.1", "OCI_REGISTRY_HOST", help="Where the registry is served.")
    port: Port = setting(5000, "OCI_REGISTRY_PORT", help="The registry's port.")
    folder: Path = setting(
        Path(".swashplate/oci-registry"), "OCI_REGISTRY_DIR", help="Where layers, manifests and tags are kept."
    )
    max_blob_bytes: Bytes = setting(4 * GIB, "OCI_REGISTRY_MAX_BLOB_BYTES", help="A larger layer is refused.")
