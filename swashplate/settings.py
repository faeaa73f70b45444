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
from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from swashplate.errors import ConfigurationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|h)"


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(f"(?:{_DURATION_PART})+", text):
        return sum(float(count) * _UNITS[unit] for count, unit in re.findall(_DURATION_PART, text))
    try:
        return float(text)
    except ValueError as error:
        raise ValueError("expected a duration such as 30s or 30") from error


Seconds = Annotated[float, BeforeValidator(_seconds), Field(allow_inf_nan=False)]
"""A duration: ``30s``, ``500ms``, ``1m30s`` or plain seconds."""

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def setting(default: Any, *names: str, help: str) -> Any:  # noqa: A002  # it is what people read as help
    """Declare a setting: its default, its names in order of precedence, and one sentence for people."""
    return Field(default=default, validation_alias=AliasChoices(*names), description=help)


_TWO_DIALECTS = {
    "domain_id": ("TENANT_ID", "DOMAIN_ID"),
    "client_id": ("ENTITY_ID", "CLIENT_ID"),
    "client_key": ("API_KEY", "CLIENT_KEY"),
}


def named_after(role: str, *, bare: str = "-") -> ConfigDict:
    """For a class whose inherited settings have no names of their own: ``mqtt_qos`` is ``MANAGER_MQTT_QOS`` there.

    Fields that begin with ``bare`` go without the role.
    """

    def names(field: str) -> AliasChoices:
        prefix = "" if field.startswith(bare) else f"{role}_"
        return AliasChoices(*(prefix + name for name in _TWO_DIALECTS.get(field, (field.upper(),))))

    return ConfigDict(alias_generator=AliasGenerator(validation_alias=names))


class MissingIdentityError(ConfigurationError):
    """The ids and the key are not there yet: provisioning may still bring them."""


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
        """Raises ``ConfigurationError`` naming the setting, or ``MissingIdentityError`` when nothing else is wrong."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {k: v for k, v in environ.items() if v.strip()}
        try:
            cls._complete_identity(values, config or Path(environ.get("SWASHPLATE_CONFIG_FILE") or "config.toml"))
        except MissingIdentityError:
            cls._validated({cls.names(entry[0])[0]: "-" for entry in cls.identity} | values)
            raise
        return cls._validated(values)

    @classmethod
    def _validated(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = cls._name_of(str(first["loc"][0]))
            reason = str(first["msg"]).removeprefix("Value error, ")
            if name in cls._secrets():
                raise ConfigurationError(f"setting {name}: {reason}") from None
            raise ConfigurationError(f"setting {name}: {reason}, got {first['input']!r}") from error

    @classmethod
    def _secrets(cls) -> set[str]:
        """The names of settings whose values are not shown."""
        fields = [name for name, field in cls.model_fields.items() if field.annotation is SecretStr]
        return {name for field in fields for name in cls.names(field)}

    @classmethod
    def names(cls, field: str) -> list[str]:
        """In order of precedence; the last is the one that guides and provisioning use."""
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
            missing = ", ".join(cls.names(field)[-1] for field in wanted)
            raise MissingIdentityError(
                f"failed to load TOML configuration: stat {config}: no such file or directory",
                hint=f"provision, and start this again with {missing} in its environment; or write section [{cls.section}]"
                f" of {config}, which is looked for again",
            ) from error
        except (OSError, tomli.TOMLDecodeError) as error:
            raise ConfigurationError(f"failed to load TOML configuration: {config}: {error}") from error
        for field, *keys in cls.identity:
            if field not in wanted:
                continue
            value = next((section[key] for key in keys if section.get(key)), None)
            if not isinstance(value, str):
                raise MissingIdentityError(
                    f"{config} lacks {keys[-1]} in section [{cls.section}]",
                    hint=f"add it, the file is read again; or start this with {cls.names(field)[-1]} in its environment",
                )
            values[cls.names(field)[0]] = value


MQTT_IDENTITY = (
    ("domain_id", "tenant_id", "domain_id"),
    ("channel_id", "channel_id", "channel_id"),
    ("client_id", "entity_id", "client_id"),
    ("client_key", "api_key", "client_key"),
)


def refuse_open_bind(host: str, insecure: bool, name: str, *, token_setting: str = "") -> None:
    """An HTTP service without authentication stays on loopback unless the operator says otherwise."""
    if host not in LOOPBACK and not insecure:
        first = f"set {token_setting}, or " if token_setting else ""
        raise ConfigurationError(
            f"refusing to serve HTTP without authentication on {host}",
            hint=f"{first}bind to localhost, or set {name}_HTTP_INSECURE=true when the network in front of it is trusted",
        )
