"""Port 9003: domains."""

from __future__ import annotations

from aiohttp import web

from provision.credentials import new_id
from provision.identity.api import DOMAIN, PAGE, page
from provision.identity.bodies import DomainPage, NewDomain, ShownDomain, shown
from provision.identity.records import Domain, now
from provision.identity.store import Store
from provision.identity.tokens import Tokens
from swashplate.http import Route, answer, read_body


class DomainsApi:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def listed(self, request: web.Request) -> web.Response:
        return page(request, "domains", self._store.records.domains.values())

    async def read(self, request: web.Request) -> web.Response:
        return answer(shown(self._store.records.domain(request.match_info["domain"])))

    async def create(self, request: web.Request) -> web.Response:
        sent = await read_body(request, NewDomain)
        made = Domain(
            id=sent.id or new_id(),
            name=sent.name,
            route=sent.route,
            tags=tuple(sent.tags),
            metadata=sent.metadata,
            created_at=now(),
        )
        await self._store.change(lambda records: records.add_domain(made))
        return answer(shown(made), status=201)

    def routes(self, tokens: Tokens) -> list[Route]:
        need = tokens.required
        return [
            Route(
                "GET",
                "/domains",
                need(self.listed),
                "The domains",
                parameters=PAGE,
                answer=DomainPage,
                errors=(401,),
                bearer=True,
            ),
            Route(
                "POST",
                "/domains",
                need(self.create),
                "Make a domain",
                body=NewDomain,
                body_example={"name": "fl-demo", "route": "fl-demo"},
                answer=ShownDomain,
                status=201,
                errors=(401, 409),
                bearer=True,
            ),
            Route(
                "GET",
                "/domains/{domain}",
                need(self.read),
                "A domain",
                parameters=(DOMAIN,),
                answer=ShownDomain,
                errors=(401, 404),
                bearer=True,
            ),
        ]
