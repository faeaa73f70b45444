"""Port 9006: clients and their keys. A key is shown once, in the answer to the request that made it."""

from __future__ import annotations

from aiohttp import web

from provision.brokers import hashed
from provision.credentials import new_id, new_key
from provision.identity.api import DOMAIN, PAGE, page
from provision.identity.bodies import ClientPage, NewClient, NewSecret, ShownClient, shown
from provision.identity.records import Client, Records, Status, now
from provision.identity.store import Store
from provision.identity.tokens import Tokens
from swashplate import logging
from swashplate.errors import ConflictError
from swashplate.http import Handler, Route, Text, answer, read_body

log = logging.get("identity")


class ClientsApi:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def listed(self, request: web.Request) -> web.Response:
        records = self._store.records
        return page(request, "clients", records.clients_of(records.domain(request.match_info["domain"]).id))

    async def read(self, request: web.Request) -> web.Response:
        return answer(shown(self._store.records.client(*_named(request))))

    async def create(self, request: web.Request) -> web.Response:
        sent = await read_body(request, NewClient)
        key = sent.credentials.secret or new_key()
        made = Client(
            id=sent.id or new_id(),
            domain_id=request.match_info["domain"],
            name=sent.name,
            tags=tuple(sent.tags),
            metadata=sent.metadata,
            status=sent.status,
            created_at=now(),
            key=hashed(key),
        )
        await self._store.change(lambda records: records.add_client(made))
        log.info("client made", client_id=made.id, name=made.name)
        return answer({**shown(made), "credentials": {"secret": key}}, status=201)

    async def set_secret(self, request: web.Request) -> web.Response:
        sent = await read_body(request, NewSecret)
        key = hashed(sent.secret)

        def change(records: Records) -> Client:
            changed = records.client(*_named(request)).changed(key=key, updated_at=now())
            records.replace_client(changed)
            return changed

        changed = await self._store.change(change)
        log.info("client has a new key", client_id=changed.id, name=changed.name)
        return answer(shown(changed))

    def becoming(self, status: Status) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            def change(records: Records) -> Client:
                found = records.client(*_named(request))
                if found.status == status:
                    raise ConflictError(f"client {found.id!r} is {status} already", code="status_unchanged")
                changed = found.changed(status=status, updated_at=now())
                records.replace_client(changed)
                return changed

            changed = await self._store.change(change)
            log.info(f"client {status}", client_id=changed.id, name=changed.name)
            return answer(shown(changed))

        return handler

    async def remove(self, request: web.Request) -> web.Response:
        domain, client = _named(request)
        await self._store.change(lambda records: records.remove_client(domain, client))
        log.info("client removed", client_id=client)
        return web.Response(status=204)

    def routes(self, tokens: Tokens) -> list[Route]:
        need = tokens.required
        one = "/{domain}/clients/{client}"
        names = (DOMAIN, Text(name="client", text="The client's id.", place="path"))
        return [
            Route(
                "GET",
                "/{domain}/clients",
                need(self.listed),
                "The clients",
                parameters=(DOMAIN, *PAGE),
                answer=ClientPage,
                errors=(401, 404),
                tag="clients",
                bearer=True,
            ),
            Route(
                "POST",
                "/{domain}/clients",
                need(self.create),
                "Make a client; its key is in the answer, and nowhere else ever after",
                parameters=(DOMAIN,),
                body=NewClient,
                body_example={"name": "proplet-1", "tags": ["proplet"]},
                answer=ShownClient,
                status=201,
                errors=(401, 404, 409),
                tag="clients",
                bearer=True,
            ),
            Route(
                "GET",
                one,
                need(self.read),
                "A client, without its key",
                parameters=names,
                answer=ShownClient,
                errors=(401, 404),
                tag="clients",
                bearer=True,
            ),
            Route(
                "DELETE",
                one,
                need(self.remove),
                "Remove a client",
                parameters=names,
                status=204,
                errors=(401, 404),
                tag="clients",
                bearer=True,
            ),
            Route(
                "PATCH",
                f"{one}/secret",
                need(self.set_secret),
                "Give a client another key",
                parameters=names,
                body=NewSecret,
                body_example={"secret": "3f9d1c1e-5a53-4b44-8f6c-2b8f2f4f2f77"},
                answer=ShownClient,
                errors=(401, 404),
                tag="clients",
                bearer=True,
            ),
            Route(
                "POST",
                f"{one}/enable",
                need(self.becoming("enabled")),
                "Let a client in again",
                parameters=names,
                answer=ShownClient,
                errors=(401, 404, 409),
                tag="clients",
                bearer=True,
            ),
            Route(
                "POST",
                f"{one}/disable",
                need(self.becoming("disabled")),
                "Keep a client out",
                parameters=names,
                answer=ShownClient,
                errors=(401, 404, 409),
                tag="clients",
                bearer=True,
            ),
        ]


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["domain"], request.match_info["client"]
