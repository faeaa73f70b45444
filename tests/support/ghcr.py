"""A registry with the manners of GitHub's: private by default, a token service, tokens with scopes, lower case only.

What it keeps, the embedded registry keeps; this room only decides who may have it.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy.registry import Registry
from proxy.registry_routes import routes as routes_of
from proxy.registry_store import RegistryStore
from swashplate.http import HttpService, Route
from tests.support.ports import free_port

READ, WRITE = "read:packages", "write:packages"


def _errors(status: int, code: str, message: str, **headers: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=headers)


@dataclass
class Ghcr:
    users: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    """User → its access token, and the scopes of that."""
    public: set[str] = field(default_factory=set)
    hides_with: int = 403
    """What a token without the right gets; GitHub is known to say 401, 403 and 404."""
    token_seconds: int = 300
    realm: str = ""
    """Where the challenges send people; its own token service when empty."""
    host: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(user, scope) of every token that was asked for."""
    requests: list[str] = field(default_factory=list)
    _tokens: dict[str, tuple[str, set[str], set[str]]] = field(default_factory=dict)

    def expire_tokens(self) -> None:
        self._tokens.clear()

    def _user_of(self, request: web.Request) -> str | None:
        """Empty for nobody; ``None`` for a wrong login."""
        header = request.headers.get("Authorization", "")
        if not header:
            return ""
        user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        return user if user in self.users and self.users[user][0] == password else None

    async def token(self, request: web.Request) -> web.StreamResponse:
        user, scope = self._user_of(request), request.query.get("scope", "")
        self.asked.append((user or "", scope))
        if user is None:
            return _errors(403, "DENIED", "denied")
        found = re.fullmatch(r"repository:([^:]+):(.+)", scope)
        repository, wanted = (found[1], set(found[2].split(","))) if found else ("", set())
        may = {"pull"} if repository in self.public else set()
        if user:
            scopes = self.users[user][1]
            if not scopes:
                return _errors(403, "DENIED", "permission_denied: The token provided does not match expected scopes.")
            if repository.partition("/")[0] == user:
                may |= ({"pull"} if READ in scopes else set()) | ({"push"} if WRITE in scopes else set())
        elif not may:
            return _errors(401, "UNAUTHORIZED", "authentication required")
        token = secrets.token_hex(8)
        self._tokens[token] = (repository, wanted, wanted & may)
        return web.json_response({"token": token, "expires_in": self.token_seconds})

    def _refusal(self, request: web.Request) -> web.Response | None:
        self.requests.append(f"{request.method} {request.path}")
        repository = re.sub(r"/(manifests|blobs|tags|referrers)/.*", "", request.path.removeprefix("/v2/"))
        if repository != repository.lower():
            return _errors(404, "NAME_INVALID", "repository name must be lowercase")
        action = "pull" if request.method in {"GET", "HEAD"} else "push"
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self._tokens:
            realm = self.realm or f"http://{self.host}/token"
            scope = f"repository:{repository}:{'pull' if action == 'pull' else 'pull,push'}"
            challenge = f'Bearer realm="{realm}",service="ghcr.io",scope="{scope}"'
            return _errors(401, "UNAUTHORIZED", "authentication required", **{"WWW-Authenticate": challenge})
        name, wanted, granted = self._tokens[token]
        if name != repository or action not in wanted:  # what it lacks is another token
            self._tokens.pop(token)
            return self._refusal(request)
        if action not in granted:
            said = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN"}[self.hides_with]
            return _errors(self.hides_with, said, said.lower())
        return None

    def _guarded(self, route: Route) -> Route:
        async def handle(request: web.Request) -> web.StreamResponse:
            return self._refusal(request) or await route.handler(request)

        return replace(route, handler=handle)

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[Ghcr]:
        registry = Registry(RegistryStore(folder), max_blob_bytes=64 << 20)
        port = free_port()
        self.host = f"127.0.0.1:{port}"
        routes: list[Any] = [Route("GET", "/token", self.token, "A token")]
        routes += [self._guarded(route) for route in routes_of(registry)]
        async with HttpService("ghcr", routes).serving("127.0.0.1", port):
            yield self
        registry.close()
