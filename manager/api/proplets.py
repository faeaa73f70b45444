"""The routes for proplets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from manager.api.ids import TASK_ID
from manager.api.proplet_views import (
    AliveHistory,
    Cordoned,
    PropletPage,
    PropletSamples,
    PropletView,
    Sdf,
    TaskSamples,
)
from manager.api.views import timestamp
from manager.fleet.drains import Drains
from manager.fleet.histories import Histories
from manager.fleet.proplet import Proplet
from manager.fleet.proplets import Proplets
from manager.fleet.sdf import description
from manager.work.load import Load
from swashplate.http import OFFSET, Choice, Route, Text, answer, limit_of

LIMIT = limit_of(10_000)
PROPLET_ID = Text(name="proplet_id", text="The proplet.", place="path", longest=256)
STATUS = Choice(name="status", text="Only those that live, or that do not.", choices=("active", "inactive"))
CHANGES = {"cordon": (True, False), "drain": (True, True), "uncordon": (False, False)}
"""What each makes of ``cordoned`` and ``draining``."""


class PropletApi:
    def __init__(self, proplets: Proplets, load: Load, drains: Drains, histories: Histories) -> None:
        self._proplets = proplets
        self._load = load
        self._drains = drains
        self._histories = histories

    def routes(self) -> list[Route]:
        one, page = "/proplets/{proplet_id}", (OFFSET, LIMIT)
        return [
            Route(
                "GET",
                "/proplets",
                self._list,
                "The proplets",
                parameters=(*page, STATUS),
                answer=PropletPage,
                tag="proplets",
            ),
            Route(
                "GET",
                one,
                self._get,
                "One proplet",
                parameters=(PROPLET_ID,),
                answer=PropletView,
                errors=(404,),
                tag="proplets",
            ),
            Route(
                "DELETE",
                one,
                self._delete,
                "Forget it",
                description="It must have no task, and be offline or cordoned. One that reports again registers again.",
                parameters=(PROPLET_ID,),
                status=204,
                errors=(404, 409, 503),
                tag="proplets",
            ),
            self._change_route("cordon", "Give it nothing new", "What it has, it keeps."),
            self._change_route(
                "drain",
                "Cordon it, and move what has no end of its own elsewhere",
                "Answered at once; ``task_count`` falls to 0 as daemons and latent tasks go on elsewhere and the others"
                " end. What is meant for this proplet alone waits until it is uncordoned.",
            ),
            self._change_route("uncordon", "Use it again", ""),
            Route(
                "GET",
                f"{one}/sdf",
                self._sdf,
                "Its description as a thing",
                description="In the Semantic Definition Format (RFC 9880).",
                parameters=(PROPLET_ID,),
                answer=Sdf,
                errors=(404,),
                tag="proplets",
            ),
            Route(
                "GET",
                f"{one}/metrics",
                self._metrics,
                "What it measured of its machine, newest first",
                parameters=(PROPLET_ID, *page),
                answer=PropletSamples,
                errors=(404, 503),
                tag="proplets",
            ),
            Route(
                "GET",
                f"{one}/alive-history",
                self._history,
                "When it reported, newest first",
                parameters=(PROPLET_ID, *page),
                answer=AliveHistory,
                errors=(404,),
                tag="proplets",
            ),
            Route(
                "GET",
                "/tasks/{task_id}/metrics",
                self._task_metrics,
                "What was measured while it ran, newest first",
                parameters=(TASK_ID, *page),
                answer=TaskSamples,
                errors=(404, 503),
                tag="tasks",
            ),
        ]

    def _change_route(self, what: str, summary: str, text: str) -> Route:
        return Route(
            "POST",
            f"/proplets/{{proplet_id}}/{what}",
            self._change,
            summary,
            description=text,
            parameters=(PROPLET_ID,),
            answer=Cordoned,
            example={"id": "proplet-1", "cordoned": what != "uncordon", "draining": what == "drain", "task_count": 2},
            errors=(404, 503),
            tag="proplets",
        )

    def _shown(self, proplet: Proplet) -> dict[str, Any]:
        return {
            "id": proplet.id,
            "name": proplet.name,
            "namespace": proplet.namespace,
            "task_count": self._load.count(proplet.id),
            "alive": self._proplets.alive(proplet),
            "legacy": proplet.legacy,
            "cordoned": proplet.cordoned,
            "draining": proplet.draining,
            "free_slots": self._load.free_slots(proplet.id),
            "last_alive_at": timestamp(proplet.last_seen),
            "running": proplet.running,
            "metadata": proplet.metadata,
            "capabilities": proplet.capabilities.model_dump(mode="json"),
        }

    def _one(self, request: web.Request) -> Proplet:
        return self._proplets.get(request.match_info["proplet_id"])

    async def _list(self, request: web.Request) -> web.Response:
        status = STATUS.of(request)
        found = self._proplets.list()
        if status:
            found = [each for each in found if self._proplets.alive(each) == (status == "active")]
        return _page(request, "proplets", found, self._shown)

    async def _get(self, request: web.Request) -> web.Response:
        return answer(self._shown(self._one(request)))

    async def _delete(self, request: web.Request) -> web.Response:
        proplet_id = request.match_info["proplet_id"]
        await self._drains.delete(proplet_id)
        self._histories.forget_proplet(proplet_id)
        return web.Response(status=204)

    async def _change(self, request: web.Request) -> web.Response:
        cordoned, draining = CHANGES[request.path.rpartition("/")[2]]
        proplet = await self._drains.change(request.match_info["proplet_id"], cordoned=cordoned, draining=draining)
        shown = {"id": proplet.id, "cordoned": proplet.cordoned, "draining": proplet.draining}
        return answer({**shown, "task_count": self._load.count(proplet.id)})

    async def _sdf(self, request: web.Request) -> web.Response:
        return answer(description(self._one(request)))

    async def _metrics(self, request: web.Request) -> web.Response:
        return _page(request, "metrics", await self._histories.proplet(request.match_info["proplet_id"]))

    async def _task_metrics(self, request: web.Request) -> web.Response:
        return _page(request, "metrics", await self._histories.task(TASK_ID.of(request)))

    async def _history(self, request: web.Request) -> web.Response:
        return _page(request, "history", list(reversed(self._one(request).history)), timestamp)


def _page(request: web.Request, name: str, found: Sequence[Any], shown: Any = lambda each: each) -> web.Response:
    offset, limit = OFFSET.of(request), LIMIT.of(request)
    page = [shown(each) for each in found[offset : offset + limit]]
    return answer({"offset": offset, "limit": limit, "total": len(found), name: page})
