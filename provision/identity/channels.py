"""Port 9005: channels, and who is connected to them."""

from __future__ import annotations

from aiohttp import web

from provision.credentials import new_id
from provision.identity.api import DOMAIN, PAGE, page
from provision.identity.bodies import ChannelPage, Connections, NewChannel, ShownChannel, shown
from provision.identity.records import Channel, now
from provision.identity.store import Store
from provision.identity.tokens import Tokens
from swashplate.http import Route, Text, answer, read_body

CONNECTIONS = {"client_ids": ["CLIENT"], "channel_ids": ["CHANNEL"], "types": ["publish", "subscribe"]}


class ChannelsApi:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def listed(self, request: web.Request) -> web.Response:
        records = self._store.records
        return page(request, "channels", records.channels_of(records.domain(request.match_info["domain"]).id))

    async def read(self, request: web.Request) -> web.Response:
        found = self._store.records.channel(request.match_info["domain"], request.match_info["channel"])
        return answer(shown(found))

    async def create(self, request: web.Request) -> web.Response:
        sent = await read_body(request, NewChannel)
        made = Channel(
            id=sent.id or new_id(),
            domain_id=request.match_info["domain"],
            name=sent.name,
            route=sent.route,
            tags=tuple(sent.tags),
            metadata=sent.metadata,
            status=sent.status,
            created_at=now(),
        )
        await self._store.change(lambda records: records.add_channel(made))
        return answer(shown(made), status=201)

    async def connect(self, request: web.Request) -> web.Response:
        sent = await read_body(request, Connections)
        domain = request.match_info["domain"]
        await self._store.change(lambda records: records.connect(domain, sent.client_ids, sent.channel_ids, sent.types))
        return answer(sent, status=201)

    async def disconnect(self, request: web.Request) -> web.Response:
        sent = await read_body(request, Connections)
        domain = request.match_info["domain"]
        await self._store.change(
            lambda records: records.disconnect(domain, sent.client_ids, sent.channel_ids, sent.types)
        )
        return web.Response(status=204)

    def routes(self, tokens: Tokens) -> list[Route]:
        need = tokens.required
        one = Text(name="channel", text="The channel's id.", place="path")
        return [
            Route(
                "GET",
                "/{domain}/channels",
                need(self.listed),
                "The channels",
                parameters=(DOMAIN, *PAGE),
                answer=ChannelPage,
                errors=(401, 404),
                tag="channels",
                bearer=True,
            ),
            Route(
                "POST",
                "/{domain}/channels",
                need(self.create),
                "Make a channel",
                parameters=(DOMAIN,),
                body=NewChannel,
                body_example={"name": "fl"},
                answer=ShownChannel,
                status=201,
                errors=(401, 404, 409),
                tag="channels",
                bearer=True,
            ),
            Route(
                "POST",
                "/{domain}/channels/connect",
                need(self.connect),
                "Let each of these clients publish or subscribe on each of these channels",
                parameters=(DOMAIN,),
                body=Connections,
                body_example=CONNECTIONS,
                answer=Connections,
                status=201,
                errors=(401, 404),
                tag="connections",
                bearer=True,
            ),
            Route(
                "POST",
                "/{domain}/channels/disconnect",
                need(self.disconnect),
                "Take those rights away again",
                parameters=(DOMAIN,),
                body=Connections,
                body_example=CONNECTIONS,
                status=204,
                errors=(401, 404),
                tag="connections",
                bearer=True,
            ),
            Route(
                "GET",
                "/{domain}/channels/{channel}",
                need(self.read),
                "A channel",
                parameters=(DOMAIN, one),
                answer=ShownChannel,
                errors=(401, 404),
                tag="channels",
                bearer=True,
            ),
        ]
