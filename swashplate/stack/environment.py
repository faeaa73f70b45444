"""The settings of a stack, from its env file and from the environment, and what each process may see of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from swashplate import dotenv
from swashplate.errors import ConfigurationError

# What belongs to one role alone: nobody inherits another's key.
_ROLE_SETTING = re.compile(r"(MANAGER|COORDINATOR|PROXY|PROPLET(_[0-9]+)?|MQTT|IDENTITY|MODEL_REGISTRY_DATABASE)_")
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


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What of ``environ`` is meant for one role."""
    return {k: v for k, v in environ.items() if v and (_ROLE_SETTING.match(k) or _TOKEN.fullmatch(k))}


def unheeded(shell: Mapping[str, str], processes: Iterable[Mapping[str, str]]) -> list[str]:
    """The names of those settings of ``shell`` that no process is given as they are there."""
    given = {pair for env in processes for pair in env.items()}
    return sorted(name for name, value in shell.items() if (_unnumbered(name), value) not in given)


def _unnumbered(name: str) -> str:
    """What the second proplet is given of ``PROPLET_2_LABELS``: ``PROPLET_LABELS``."""
    return re.sub(r"^PROPLET_[0-9]+_", "PROPLET_", name)


def token_for_reading(values: Mapping[str, str], service: str) -> str:
    """The least token of ``service``, such as MANAGER, that can read; empty when it has none."""
    return values.get(f"{service}_HTTP_READ_TOKEN") or values.get(f"{service}_HTTP_TOKEN") or ""


def read_env(path: Path) -> dict[str, str]:
    """The last non-empty value of every key, by the rules of ``swashplate.dotenv``."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}")
        found = dotenv.values(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    return {key: value for key, value in found.items() if value}


class Environment:
    """``values`` is the env file, ``environ`` this process's own variables, which say more than the file.

    Only ids and keys come from the file alone, where the broker's users come from too: a shell may well have other ones
    exported, to name participants with.
    """

    def __init__(self, values: Mapping[str, str], environ: Mapping[str, str]) -> None:
        own = {k: v for k, v in environ.items() if not _IDENTITY.fullmatch(k)}
        self._values = {**own, **values}
        self._values |= {k: v for k, v in own.items() if _ROLE_SETTING.match(k) or _TOKEN.fullmatch(k)}
        levels = {k: v for k, v in values.items() if k.endswith("LOG_LEVEL") and not _ROLE_SETTING.match(k)}
        self.common = {**levels, **without_roles(environ)}
        """What every process gets."""

    def get(self, name: str) -> str:
        return self._values.get(name, "")

    def token_for_reading(self, service: str) -> str:
        return token_for_reading(self._values, service)

    def tokens(self, name: str) -> dict[str, str]:
        """The tokens that one process demands, and those that it needs of others: to read only, if there is such a one."""
        service = name.upper().replace("-", "_")
        own = (f"{service}_HTTP_TOKEN", f"{service}_HTTP_READ_TOKEN")
        others = (
            other if self._values.get(other) else other.replace("_READ_", "_")
            for other in _TOKENS_OF_OTHERS.get(name, ())
        )
        return {key: self._values[key] for key in (*own, *others) if self._values.get(key)}

    def own(self, role: str) -> dict[str, str]:
        """Every setting of one role; of the proplets, what they share."""
        found: dict[str, str] = {}
        for name, value in self._values.items():
            match = _ROLE_SETTING.match(name)
            if match and match[1] == role and value and not name.endswith(_NEWER_DIALECT):
                found[name] = value
        return found

    def proplet(self, number: int) -> dict[str, str]:
        """What one proplet has besides what all share: ``PROPLET_2_LABELS`` is ``PROPLET_LABELS`` of the second alone."""
        prefix = "PROPLET" if number == 1 else f"PROPLET_{number}"
        numbered = f"PROPLET_{number}"
        return {
            **{f"PROPLET{name.removeprefix(numbered)}": value for name, value in self.own(numbered).items()},
            "PROPLET_CLIENT_ID": self._values.get(f"{prefix}_CLIENT_ID", ""),
            "PROPLET_CLIENT_KEY": self._values.get(f"{prefix}_CLIENT_KEY", ""),
        }
