"""SuperMQ's routes that provisioning needs: users, domains, channels and clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from provision.supermq_http import Address, checked, exchange, unexpected, wait_for
from swashplate.errors import UnauthorizedError

PORTS = {"users": 9002, "domains": 9003, "channels": 9005, "clients": 9006}
"""Service → the port it has unless a URL says otherwise."""

_PAGE = 100
"""The most that SuperMQ lists at once."""


class SuperMQ:
    """The four services as one administrator sees them. Every method raises a ``SwashplateError`` with a sentence."""

    def __init__(self, addresses: Mapping[str, Address]) -> None:
        self._addresses = addresses
        self._token = ""

    def wait(self, seconds: float, say: Callable[[str], None]) -> None:
        """Wait until each service answers, at most ``seconds`` for each; raises ``UnavailableError`` naming the one."""
        for address in self._addresses.values():
            wait_for(address, seconds, say)

    def log_in(self, user: str, password: str) -> None:
        address = self._addresses["users"]
        status, answer = exchange(
            address, "POST", "/users/tokens/issue", {"username": user, "password": password}, token=""
        )
        if status in {400, 401, 403}:
            raise UnauthorizedError(
                f"{address} refuses user {user!r} with this password",
                hint="give --user and --password, or set SMQ_USER and SMQ_PASSWORD",
            )
        token = checked(address, "POST /users/tokens/issue", status, answer, {200, 201}).get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token or not token:
            raise unexpected(address, "POST /users/tokens/issue", "it has no access_token")
        self._token = token

    def domains(self) -> list[dict[str, Any]]:
        return self._all("domains", "/domains", "domains")

    def create_domain(self, name: str, route: str) -> dict[str, Any] | None:
        """The new domain; None when the route is taken."""
        status, answer = self._exchange("domains", "POST", "/domains", {"name": name, "route": route})
        if status == 409 or (status == 400 and "route" in json.dumps(answer).lower()):
            return None
        return self._record("domains", "POST /domains", status, answer)

    def clients(self, domain: str) -> list[dict[str, Any]]:
        return self._all("clients", f"/{quote(domain, safe='')}/clients", "clients")

    def client(self, domain: str, client: str) -> dict[str, Any]:
        path = f"/{quote(domain, safe='')}/clients/{quote(client, safe='')}"
        return self._record("clients", f"GET {path}", *self._exchange("clients", "GET", path))

    def create_client(
        self, domain: str, name: str, tags: Sequence[str], metadata: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """The new client, with its secret; None when this SuperMQ wants names to be unique and has that one."""
        path = f"/{quote(domain, safe='')}/clients"
        body = {"name": name, "tags": list(tags), "status": "enabled", "metadata": dict(metadata)}
        status, answer = self._exchange("clients", "POST", path, body)
        return None if status == 409 else self._record("clients", f"POST {path}", status, answer)

    def set_secret(self, domain: str, client: str, secret: str) -> None:
        path = f"/{quote(domain, safe='')}/clients/{quote(client, safe='')}/secret"
        status, answer = self._exchange("clients", "PATCH", path, {"secret": secret})
        checked(self._addresses["clients"], f"PATCH {path}", status, answer, {200})

    def channels(self, domain: str) -> list[dict[str, Any]]:
        return self._all("channels", f"/{quote(domain, safe='')}/channels", "channels")

    def create_channel(self, domain: str, name: str) -> dict[str, Any] | None:
        """The new channel; None when its name is taken."""
        path = f"/{quote(domain, safe='')}/channels"
        status, answer = self._exchange("channels", "POST", path, {"name": name, "status": "enabled"})
        return None if status == 409 else self._record("channels", f"POST {path}", status, answer)

    def connect(self, domain: str, clients: Sequence[str], channel: str, types: Sequence[str]) -> None:
        """Let ``clients`` use the channel.

        SuperMQ refuses a request as a whole when one of its connections exists: then each is asked for by itself.
        """
        path = f"/{quote(domain, safe='')}/channels/connect"
        body = {"client_ids": list(clients), "channel_ids": [channel], "types": list(types)}
        status, answer = self._exchange("channels", "POST", path, body)
        if status != 409:
            checked(self._addresses["channels"], f"POST {path}", status, answer, {200, 201})
        elif len(clients) * len(types) > 1:
            for client in clients:
                for kind in types:
                    self.connect(domain, [client], channel, [kind])

    def _exchange(self, service: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return exchange(self._addresses[service], method, path, body, token=self._token)

    def _record(self, service: str, request: str, status: int, answer: Any) -> dict[str, Any]:
        address = self._addresses[service]
        found = checked(address, request, status, answer, {200, 201})
        if not _is_record(found):
            raise unexpected(address, request, "it has no id")
        return found

    def _all(self, service: str, path: str, what: str) -> list[dict[str, Any]]:
        """Every record, enabled or not, page by page."""
        address, found = self._addresses[service], dict[str, dict[str, Any]]()
        request, offset = f"GET {path}", 0
        while True:
            page = f"{path}?offset={offset}&limit={_PAGE}&status=all"
            answer = checked(address, request, *self._exchange(service, "GET", page), {200})
            records = answer.get(what)
            if records is None:  # how Go writes an empty list
                records = []
            if not isinstance(records, list) or not all(map(_is_record, records)):
                raise unexpected(address, request, f"{what} is no list of records with an id")
            new = {record["id"]: record for record in records if record["id"] not in found}
            found.update(new)
            offset += len(records)
            total = answer.get("total")
            # A page that brings nothing new ends it too: an answer without a true total must not keep us for ever.
            if not new or (isinstance(total, int) and offset >= total):
                return [record for record in found.values() if record.get("status") != "deleted"]


def _is_record(found: object) -> bool:
    """An object with an id that can stand in a URL, a topic and an env file."""
    if not isinstance(found, dict):
        return False
    id_ = found.get("id")
    return isinstance(id_, str) and id_.isascii() and id_.isprintable() and id_ != ""
