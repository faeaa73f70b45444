"""The bodies of requests and answers, in SuperMQ's words. Unknown fields are let pass, as SuperMQ does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from provision.identity.records import Channel, Client, ConnectionType, Domain, Status


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain unprintable characters")
    return text


Text = Annotated[str, Field(max_length=1024), AfterValidator(_printable)]
Ids = Annotated[list[str], Field(min_length=1, max_length=1000)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Login(_Body):
    """``identity`` and ``secret`` are what earlier versions of SuperMQ call them."""

    username: str = ""
    password: str = ""
    identity: str = ""
    secret: str = ""


class NewDomain(_Body):
    name: Annotated[Text, Field(min_length=1)]
    route: Annotated[Text, Field(min_length=1)]
    id: str = ""
    tags: list[Text] = []
    metadata: dict[str, Any] = {}


class NewChannel(_Body):
    name: Text = ""
    route: Text = ""
    id: str = ""
    tags: list[Text] = []
    metadata: dict[str, Any] = {}
    status: Status = "enabled"


class NewCredentials(_Body):
    secret: str = ""


class NewClient(_Body):
    name: Text = ""
    id: str = ""
    credentials: NewCredentials = NewCredentials()
    tags: list[Text] = []
    metadata: dict[str, Any] = {}
    status: Status = "enabled"


class NewSecret(_Body):
    secret: Annotated[str, Field(min_length=1)]


class Connections(_Body):
    client_ids: Ids
    channel_ids: Ids
    types: Annotated[list[ConnectionType], Field(min_length=1)]


class IssuedTokens(_Body):
    access_token: str
    refresh_token: str
    access_type: Literal["Bearer"]


class _Shown(BaseModel):
    id: str
    name: str
    tags: list[str]
    metadata: dict[str, Any]
    status: Status
    created_at: str
    updated_at: str


class ShownDomain(_Shown):
    route: str


class ShownChannel(_Shown):
    domain_id: str
    route: str


class ShownClient(_Shown):
    """``credentials`` are empty but in the answer to the request that made them."""

    domain_id: str
    credentials: NewCredentials


class _Page(BaseModel):
    total: int
    offset: int
    limit: int


class DomainPage(_Page):
    domains: list[ShownDomain]


class ChannelPage(_Page):
    channels: list[ShownChannel]


class ClientPage(_Page):
    clients: list[ShownClient]


def shown(record: Domain | Channel | Client) -> dict[str, Any]:
    """What everybody who may ask is told: never a key."""
    found = record.model_dump(mode="json", exclude={"key"})
    if isinstance(record, Client):
        found["credentials"] = {}
    return found
