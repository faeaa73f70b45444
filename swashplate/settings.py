"""Settings: declared once with names, default and help; read from the environment, then from ``config.toml``.

A setting can have several names (both dialects of the wire contract); the first one that is set and not empty wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tomli
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from swashplate.errors import ConfigurationError

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: object) -> object:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|m|h|)\s*", value)
        if not found:
            raise ValueError("expected a duration such as 30s or 30")
        return float(found[1]) * _UNITS[found[2]]
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration: ``30s``, ``500ms``, ``2m`` or plain seconds."""

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def setting(default: Any, *names: str, help: str) -> Any:  # noqa: A002  # it is what people read as help
    """Declare a setting: its default, its names in order of precedence, and one sentence for people."""
    return Field(default=default, validation_alias=AliasChoices(*names), description=help)


class Settings(BaseModel):
    """The settings of one process. Empty values count as not set."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    log_level: str = setting(
        "info",
        "LOG_LEVEL",
        help="What is logged: debug, info, warn or error. Roles also read their own, such as MANAGER_LOG_LEVEL.",
    )

    section: ClassVar[str] = ""
    """The section of ``config.toml`` that may hold this role's identity."""
    identity: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """``(field, env name, toml key, …)`` of what must come from the environment or from the section."""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, config: Path | None = None) -> Self:
        """Raises ``ConfigurationError`` naming the setting."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {k: v for k, v in environ.items() if v.strip()}
        cls._complete_identity(values, config or Path(environ.get("SWASHPLATE_CONFIG_FILE") or "config.toml"))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = cls._name_of(str(first["loc"][0]))
            reason = str(first["msg"]).removeprefix("Value error, ")
            raise ConfigurationError(f"setting {name}: {reason}, got {first['input']!r}") from error

    @classmethod
    def names(cls, field: str) -> list[str]:
        alias = cls.model_fields[field].validation_alias
        return [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else [field]

    @classmethod
    def _name_of(cls, location: str) -> str:
        return cls.names(location)[0] if location in cls.model_fields else location

    @classmethod
    def _complete_identity(cls, values: dict[str, Any], config: Path) -> None:
        wanted = [entry[0] for entry in cls.identity if not any(n in values for n in cls.names(entry[0]))]
        if not wanted:
            return
        try:
            with config.open("rb") as file:
                section = tomli.load(file).get(cls.section, {})
        except FileNotFoundError as error:
            missing = ", ".join(cls.names(field)[0] for field in wanted)
            raise ConfigurationError(
                f"failed to load TOML configuration: stat {config}: no such file or directory",
                hint=f"set {missing} in the environment, or write section [{cls.section}] of {config}",
            ) from error
        except (OSError, tomli.TOMLDecodeError) as error:
            raise ConfigurationError(f"failed to load TOML configuration: {config}: {error}") from error
        for field, *keys in cls.identity:
            if field not in wanted:
                continue
            value = next((section[key] for key in keys if section.get(key)), None)
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"{config} lacks {keys[-1]} in section [{cls.section}]",
                    hint=f"or set {cls.names(field)[0]} in the environment",
                )
            values[cls.names(field)[0]] = value


MQTT_IDENTITY = (
    ("domain_id", "tenant_id", "domain_id"),
    ("channel_id", "channel_id", "channel_id"),
    ("client_id", "entity_id", "client_id"),
    ("client_key", "api_key", "client_key"),
)


def refuse_open_bind(host: str, insecure: bool, name: str) -> None:
    """An HTTP service without authentication stays on loopback unless the operator says otherwise."""
    if host not in LOOPBACK and not insecure:
        raise ConfigurationError(
            f"refusing to serve HTTP without authentication on {host}",
            hint=f"bind to localhost, or set {name}_HTTP_INSECURE=true when the network in front of it is trusted",
        )
