"""The identity set: one domain, one channel, and a client with an id and a key for every process that speaks MQTT.

Everything here is pure; the names of the variables are the ones a Propeller ``.env`` file uses.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from swashplate.errors import ConfigurationError, InvalidRequestError
from swashplate.topics import Topics, level

_DOMAIN_KEYS = ("MANAGER_DOMAIN_ID", "PROPLET_DOMAIN_ID", "PROXY_DOMAIN_ID")
_CHANNEL_KEYS = ("MANAGER_CHANNEL_ID", "PROPLET_CHANNEL_ID", "PROXY_CHANNEL_ID")
_ALWAYS = frozenset({
    *_DOMAIN_KEYS, *_CHANNEL_KEYS,
    *(f"{who}_CLIENT_{part}" for who in ("MANAGER", "PROPLET", "COORDINATOR", "PROXY") for part in ("ID", "KEY")),
})  # fmt: skip
_PROPLET_KEY = re.compile(r"PROPLET_([2-9]|[1-9][0-9]+)_CLIENT_(?:ID|KEY)")

_NEWER_NAMES = {"TENANT_ID": "DOMAIN_ID", "ENTITY_ID": "CLIENT_ID", "API_KEY": "CLIENT_KEY"}
_NEWER_KEY = re.compile(r"((?:MANAGER|PROPLET(?:_[0-9]+)?|COORDINATOR|PROXY))_(TENANT_ID|ENTITY_ID|API_KEY)")

# Levels with a meaning of their own where a proplet's id stands: a proplet with such an id would be granted, say, the
# proxy's replies to the manager.
RESERVED = frozenset({
    "alive", "announce", "blobs", "create", "invoke", "invoke_results", "manager", "metrics", "proplet", "registry",
    "results", "server", "start", "stop", "task_metrics",
})  # fmt: skip


@dataclass(frozen=True)
class Client:
    """``role`` is manager, proplet, proxy or coordinator; ``name`` tells the proplets apart."""

    name: str
    role: str
    id: str
    key: str = field(repr=False)

    @property
    def id_key(self) -> str:
        """The variable that carries the id."""
        return f"{env_prefix(self.name)}_CLIENT_ID"

    @property
    def key_key(self) -> str:
        """The variable that carries the key."""
        return f"{env_prefix(self.name)}_CLIENT_KEY"


@dataclass(frozen=True)
class Credentials:
    domain_id: str
    channel_id: str
    clients: tuple[Client, ...]

    @property
    def topics(self) -> Topics:
        return Topics(self.domain_id, self.channel_id)

    @property
    def proplets(self) -> tuple[Client, ...]:
        return tuple(c for c in self.clients if c.role == "proplet")

    def client(self, name: str) -> Client:
        return next(c for c in self.clients if c.name == name)

    def by_id(self) -> list[list[Client]]:
        """Services that run as one client stand together."""
        groups: dict[str, list[Client]] = {}
        for client in self.clients:
            groups.setdefault(client.id, []).append(client)
        return list(groups.values())

    def as_env(self) -> dict[str, str]:
        """Every variable of the set, in the order in which a new file lists them."""
        env = dict.fromkeys(_DOMAIN_KEYS, self.domain_id) | dict.fromkeys(_CHANNEL_KEYS, self.channel_id)
        for client in self.clients:
            env |= {client.id_key: client.id, client.key_key: client.key}
        return env


def table(credentials: Credentials, *, show_keys: bool) -> list[str]:
    """Lines for people: what, its id, the variable of the id, and the key if ``show_keys``."""
    rows = [("domain", credentials.domain_id, _DOMAIN_KEYS[0], "")]
    rows += [("channel", credentials.channel_id, _CHANNEL_KEYS[0], "")]
    rows += [(c.name, c.id, c.id_key, c.key if show_keys else "") for c in credentials.clients]
    name, value, variable = (max(len(row[column]) for row in rows) for column in range(3))
    return [f"{row[0]:{name}}  {row[1]:{value}}  {row[2]:{variable}}  {row[3]}".rstrip() for row in rows]


def env_prefix(name: str) -> str:
    """``proplet-1`` is ``PROPLET``, ``proplet-2`` is ``PROPLET_2``, ``fl-coordinator`` is ``COORDINATOR``."""
    if name == "proplet-1":
        return "PROPLET"
    return name.removeprefix("fl-").upper().replace("-", "_")


def members(proplets: Iterable[int]) -> list[tuple[str, str]]:
    """Name and role of everybody who takes part, with the proplets of these numbers."""
    return [
        ("manager", "manager"),
        *((f"proplet-{number}", "proplet") for number in proplets),
        ("fl-coordinator", "coordinator"),
        ("proxy", "proxy"),
    ]


def is_ours(key: str) -> bool:
    """Is it a variable that provisioning writes?"""
    return key in _ALWAYS or _PROPLET_KEY.fullmatch(key) is not None


def new_id() -> str:
    return str(uuid.uuid4())


def new_key() -> str:
    """256 random bits in hexadecimal.

    The alphabet is deliberate: no ``=`` that ``cut -d=`` would stop at, no leading ``-`` that a command line would take
    for an option, nothing a shell or an env file would need quotes for.
    """
    return secrets.token_hex(32)


def complete(
    values: Mapping[str, str],
    proplets: int,
    *,
    make_id: Callable[[], str] = new_id,
    make_key: Callable[[], str] = new_key,
) -> Credentials:
    """Return the set that ``values`` describe, with new ids and keys for what they lack.

    Nothing that ``values`` carry is changed or dropped: with more than ``proplets`` proplets in them, all are kept.
    Raises ``ConfigurationError``, naming the variables, for values that contradict each other or cannot be an id or key.
    """
    if proplets < 1:
        raise ConfigurationError(f"at least one proplet is needed, not {proplets}")
    values = in_one_dialect(values)
    domain = _agreed(values, _DOMAIN_KEYS) or make_id()
    channel = _agreed(values, _CHANNEL_KEYS) or make_id()
    numbers = sorted({*range(1, proplets + 1), *_proplet_numbers(values)})
    clients = tuple(_client(values, name, role, make_id, make_key) for name, role in members(numbers))
    _refuse_clashes(clients)
    return Credentials(domain, channel, clients)


def in_one_dialect(values: Mapping[str, str]) -> dict[str, str]:
    """Under the names that we write. The newer names of the same things count where ours are not set."""
    found = dict(values)
    for key, value in values.items():
        newer = _NEWER_KEY.fullmatch(key)
        if newer is None or not value:
            continue
        ours = f"{newer[1]}_{_NEWER_NAMES[newer[2]]}"
        if found.get(ours) and found[ours] != value:
            raise ConfigurationError(
                f"{key} and {ours} name the same thing and have different values", hint="remove the wrong one"
            )
        found[ours] = value
    return found


def newer_names(values: Mapping[str, str]) -> dict[str, str]:
    """Those of ``values`` that have the newer names. We never write these, and a service prefers them to ours."""
    return {key: value for key, value in values.items() if _NEWER_KEY.fullmatch(key)}


def _proplet_numbers(values: Mapping[str, str]) -> set[int]:
    return {int(found[1]) for key, value in values.items() if value and (found := _PROPLET_KEY.fullmatch(key))}


def _agreed(values: Mapping[str, str], keys: Iterable[str]) -> str | None:
    """The one value that all of ``keys`` which have one have."""
    have = {key: values[key] for key in keys if values.get(key)}
    if len(set(have.values())) > 1:
        listed = ", ".join(f"{key}={value}" for key, value in have.items())
        raise ConfigurationError(
            f"these variables must have one value: {listed}",
            hint="correct them, or remove the wrong ones and provision again",
        )
    for key, value in have.items():
        _check_id(key, value)
    return next(iter(have.values()), None)


def _client(
    values: Mapping[str, str], name: str, role: str, make_id: Callable[[], str], make_key: Callable[[], str]
) -> Client:
    prefix = env_prefix(name)
    client = Client(
        name,
        role,
        values.get(f"{prefix}_CLIENT_ID") or make_id(),
        values.get(f"{prefix}_CLIENT_KEY") or make_key(),
    )
    _check_id(client.id_key, client.id)
    if any(c.isspace() or not c.isprintable() for c in client.key):
        raise ConfigurationError(f"{client.key_key} must not contain spaces or unprintable characters")
    if role == "proplet" and client.id in RESERVED:
        raise ConfigurationError(f"{client.id_key}: {client.id!r} is a word of the topics and cannot be a proplet's id")
    return client


def _check_id(key: str, value: str) -> None:
    try:
        level(value, key)
    except InvalidRequestError as error:
        raise ConfigurationError(error.sentence, hint="is this a placeholder that was never filled in?") from error
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{key} is not valid UTF-8") from error


def _refuse_clashes(clients: Iterable[Client]) -> None:
    """Two services may run as one client, as when a test lets the proxy use the manager's; two proplets may not."""
    seen: dict[str, Client] = {}
    for client in clients:
        other = seen.setdefault(client.id, client)
        if other is client:
            continue
        if other.role == client.role == "proplet":
            raise ConfigurationError(f"{other.id_key} and {client.id_key} are the same id; each proplet needs its own")
        if other.key != client.key:
            raise ConfigurationError(
                f"{other.id_key} and {client.id_key} are the same id with different keys",
                hint=f"give {client.name} its own id, or the same key in {other.key_key} and {client.key_key}",
            )
