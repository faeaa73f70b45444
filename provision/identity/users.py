"""Port 9002: tokens for the administrator, who is the only user there is."""

from __future__ import annotations

import hmac

from aiohttp import web

from provision.identity.bodies import IssuedTokens, Login
from provision.identity.tokens import Tokens
from swashplate.errors import UnauthorizedError
from swashplate.http import Route, answer, read_body


class UsersApi:
    def __init__(self, tokens: Tokens, user: str, password: str) -> None:
        self._tokens = tokens
        self._login = f"{user}\0{password}".encode()

    async def issue(self, request: web.Request) -> web.Response:
        sent = await read_body(request, Login)
        login = f"{sent.username or sent.identity}\0{sent.password or sent.secret}"
        if not hmac.compare_digest(login.encode(), self._login):
            raise UnauthorizedError("wrong user or password", code="wrong_password")
        return answer(self._tokens.issue(), status=201)

    async def refresh(self, request: web.Request) -> web.Response:
        self._tokens.check(request, "refresh")
        return answer(self._tokens.issue(), status=201)

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/users/tokens/issue",
                self.issue,
                "A token for a user and password",
                body=Login,
                body_example={"username": "admin", "password": "12345678"},
                answer=IssuedTokens,
                status=201,
                errors=(401,),
            ),
            Route(
                "POST",
                "/users/tokens/refresh",
                self.refresh,
                "New tokens for a refresh token",
                description="The refresh token takes the place of the access token in ``Authorization``.",
                answer=IssuedTokens,
                status=201,
                errors=(401,),
                bearer=True,
            ),
        ]
