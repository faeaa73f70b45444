"""What the identity service knows, and every change of it: pure, so that a change happens wholly or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from provision.brokers import HashedKey
from provision.credentials import RESERVED
from swashplate.errors import ConflictError, InvalidRequestError, NotFoundError
from swashplate.topics import level

Status = Literal["enabled", "disabled"]
ConnectionType = Literal["publish", "subscribe"]
ROLES = ("manager", "proplet", "proxy", "coordinator")

_ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")


def now() -> str:
    """The time that a record bears."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str
    name: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}
    status: Status = "enabled"
    created_at: str = ""
    updated_at: str = ""

    def changed(self, **fields: Any) -> Self:
        return self.model_copy(update=fields)


class Domain(_Record):
    route: str


class Channel(_Record):
    domain_id: str
    route: str = ""


class Client(_Record):
    domain_id: str
    key: HashedKey


class Connection(BaseModel):
    """That a client may publish or subscribe on a channel."""

    model_config = ConfigDict(frozen=True)

    client_id: str
    channel_id: str
    types: tuple[ConnectionType, ...]


Found = TypeVar("Found", Domain, Channel, Client)


class Records(BaseModel):
    """Every record by its id. The methods that change something return nothing half-done: they check before."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    domains: dict[str, Domain] = {}
    channels: dict[str, Channel] = {}
    clients: dict[str, Client] = {}
    connections: dict[str, Connection] = {}

    def copied(self) -> Records:
        """A draft that can be changed without changing this; the records themselves never change."""
        return Records.model_construct(
            domains=dict(self.domains),
            channels=dict(self.channels),
            clients=dict(self.clients),
            connections=dict(self.connections),
        )

    def domain(self, domain_id: str) -> Domain:
        return _known(self.domains, domain_id, "domain")

    def channel(self, domain_id: str, channel_id: str) -> Channel:
        return _inside(self.domain(domain_id), _known(self.channels, channel_id, "channel"), "channel")

    def client(self, domain_id: str, client_id: str) -> Client:
        return _inside(self.domain(domain_id), _known(self.clients, client_id, "client"), "client")

    def channels_of(self, domain_id: str) -> list[Channel]:
        return [each for each in self.channels.values() if each.domain_id == domain_id]

    def clients_of(self, domain_id: str) -> list[Client]:
        return [each for each in self.clients.values() if each.domain_id == domain_id]

    def add_domain(self, domain: Domain) -> None:
        _check_id(self.domains, domain.id, "domain")
        _check_route(domain.route, (each.route for each in self.domains.values()))
        self.domains[domain.id] = domain

    def add_channel(self, channel: Channel) -> None:
        self.domain(channel.domain_id)
        _check_id(self.channels, channel.id, "channel")
        if channel.route:
            _check_route(channel.route, (each.route for each in self.channels_of(channel.domain_id)))
        self.channels[channel.id] = channel

    def add_client(self, client: Client) -> None:
        self.domain(client.domain_id)
        _check_id(self.clients, client.id, "client")
        if ":" in client.id:
            raise InvalidRequestError(f"client id must not contain ':': {client.id!r}", code="invalid_id")
        if "proplet" in roles(client) and client.id in RESERVED:
            raise InvalidRequestError(
                f"{client.id!r} is a word of the topics and cannot be a proplet's id", code="invalid_id"
            )
        self.clients[client.id] = client

    def replace_client(self, client: Client) -> None:
        self.client(client.domain_id, client.id)
        self.clients[client.id] = client

    def remove_domain(self, domain_id: str) -> None:
        for client in self.clients_of(domain_id):
            self.remove_client(domain_id, client.id)
        for channel in self.channels_of(domain_id):
            self.remove_channel(domain_id, channel.id)
        del self.domains[domain_id]

    def remove_channel(self, domain_id: str, channel_id: str) -> None:
        self.channel(domain_id, channel_id)
        del self.channels[channel_id]
        self._forget(lambda each: each.channel_id == channel_id)

    def remove_client(self, domain_id: str, client_id: str) -> None:
        self.client(domain_id, client_id)
        del self.clients[client_id]
        self._forget(lambda each: each.client_id == client_id)

    def connect(
        self, domain_id: str, client_ids: Iterable[str], channel_ids: Iterable[str], types: Iterable[ConnectionType]
    ) -> None:
        for key in self._pairs(domain_id, client_ids, channel_ids):
            client_id, channel_id = key.split()
            have = self.connections[key].types if key in self.connections else ()
            both = tuple(sorted({*have, *types}))
            self.connections[key] = Connection(client_id=client_id, channel_id=channel_id, types=both)

    def disconnect(
        self, domain_id: str, client_ids: Iterable[str], channel_ids: Iterable[str], types: Iterable[ConnectionType]
    ) -> None:
        gone = set(types)
        for key in self._pairs(domain_id, client_ids, channel_ids):
            connection = self.connections.pop(key, None)
            if connection is None:
                continue
            left = tuple(each for each in connection.types if each not in gone)
            if left:
                self.connections[key] = connection.model_copy(update={"types": left})

    def _pairs(self, domain_id: str, client_ids: Iterable[str], channel_ids: Iterable[str]) -> list[str]:
        clients = [self.client(domain_id, each).id for each in client_ids]
        channels = [self.channel(domain_id, each).id for each in channel_ids]
        return [f"{client} {channel}" for client in clients for channel in channels]

    def _forget(self, gone: Any) -> None:
        for key in [key for key, each in self.connections.items() if gone(each)]:
            del self.connections[key]


def roles(client: Client) -> tuple[str, ...]:
    """The roles whose rights a client has: ``metadata.role``, one or several, else what its name says, else none.

    Raises ``InvalidRequestError`` for a role that there is not, and for a list of none: a client would get the rights of
    one that nothing is known of, which are wider.
    """
    said = client.metadata.get("role")
    if said is not None:
        listed = (said if isinstance(said, list | tuple) else [said]) or [None]
        for role in listed:
            if role not in ROLES:
                raise InvalidRequestError(f"metadata.role must be one of {', '.join(ROLES)}, got {role!r}")
        return tuple(listed)
    name = client.name
    if name == "proplet" or name.startswith("proplet-"):
        return ("proplet",)
    return {"manager": ("manager",), "proxy": ("proxy",), "fl-coordinator": ("coordinator",)}.get(name, ())


def _known(found: Mapping[str, Found], key: str, what: str) -> Found:
    if key not in found:
        raise NotFoundError(f"there is no {what} {key!r}", code=f"{what}_not_found")
    return found[key]


def _inside(domain: Domain, found: Found, what: str) -> Found:
    if isinstance(found, Domain) or found.domain_id != domain.id:
        raise NotFoundError(f"there is no {what} {found.id!r} in domain {domain.id!r}", code=f"{what}_not_found")
    return found


def _check_id(taken: Mapping[str, object], new: str, what: str) -> None:
    level(new, f"{what} id")
    if new in taken:
        raise ConflictError(f"there is a {what} with the id {new!r}", code="id_taken")


def _check_route(route: str, taken: Iterable[str]) -> None:
    if not _ROUTE.fullmatch(route):
        raise InvalidRequestError(f"route must be letters, digits, '-' and '_', got {route!r}")
    if route in taken:
        raise ConflictError(f"the route {route!r} is taken", code="route_taken")
