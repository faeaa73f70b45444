"""The routes for proplets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import ConfigDict, Field

from manager.drains import Drains
from manager.histories import Histories
from manager.load import Load
from manager.proplets import Proplet, Proplets
from manager.sdf import description
from manager.views import Time, timestamp
from swashplate.http import OFFSET, Choice, Route, Text, answer, limit_of
from swashplate.messages import Capabilities, Message

LIMIT = limit_of(10_000)
STATUS = Choice(name="status", text="Only those that live, or that do not.", choices=("active", "inactive"))
CHANGES = {"cordon": (True, False), "drain": (True, True), "uncordon": (False, False)}
"""What each makes of ``cordoned`` and ``draining``."""
SUMMARIES = {
    "cordon": "Give it nothing new",
    "drain": "Cordon it, and move what has no end of its own elsewhere",
    "uncordon": "Use it again",
}


PROPLET_ID = Text(
    name="proplet_id", text="The proplet.", place="path", longest=256, example="4f1e5a0c-6f5e-4f6e-9a57-0c9fbb8f7f10"
)
TASK_ID = Text(name="task_id", text="The task.", place="path", longest=256)


class PropletView(Message):
    """A proplet. ``free_slots`` is what is left of the ``slots`` among its capabilities."""

    id: str
    name: str
    namespace: str
    task_count: int = Field(ge=0, description="Attempts that it has, or that are on their way to it.")
    alive: bool
    legacy: bool = Field(description="It knows the existing contract's shared topics only.")
    cordoned: bool
    draining: bool
    free_slots: int
    last_alive_at: str = Time
    running: int
    metadata: dict[str, Any]
    capabilities: Capabilities


class PropletPage(Message):
    offset: int
    limit: int
    total: int
    proplets: list[PropletView]


class PropletChange(Message):
    id: str
    cordoned: bool
    draining: bool
    task_count: int


class Sdf(Message):
    """A document of the Semantic Definition Format."""

    model_config = ConfigDict(extra="allow")

    info: dict[str, Any]


class MetricsPage(Message):
    offset: int
    limit: int
    total: int
    metrics: list[dict[str, Any]]


class HistoryPage(Message):
    offset: int
    limit: int
    total: int
    history: list[str]


class PropletApi:
    def __init__(self, proplets: Proplets, load: Load, drains: Drains, histories: Histories) -> None:
        self._proplets = proplets
        self._load = load
        self._drains = drains
        self._histories = histories

    def routes(self) -> list[Route]:
        one = "/proplets/{proplet_id}"
        page, named = (OFFSET, LIMIT), (PROPLET_ID,)
        return [
            Route("GET", "/proplets", self._list, "The proplets", parameters=(*page, STATUS), answer=PropletPage),
            Route("GET", one, self._get, "One proplet", parameters=named, answer=PropletView, errors=(404,)),
            Route(
                "DELETE",
                one,
                self._delete,
                "Forget one that has no task and is offline or cordoned",
                parameters=named,
                status=204,
                errors=(404, 409, 503),
            ),
            *(
                Route(
                    "POST",
                    f"{one}/{word}",
                    self._change,
                    summary,
                    parameters=named,
                    answer=PropletChange,
                    errors=(404, 503),
                )
                for word, summary in SUMMARIES.items()
            ),
            Route(
                "GET",
                f"{one}/sdf",
                self._sdf,
                "Its description as an SDF document",
                parameters=named,
                answer=Sdf,
                errors=(404,),
            ),
            Route(
                "GET",
                f"{one}/metrics",
                self._metrics,
                "What it measured of its machine, newest first",
                parameters=(*named, *page),
                answer=MetricsPage,
                errors=(503,),
            ),
            Route(
                "GET",
                f"{one}/alive-history",
                self._history,
                "When it reported, newest first",
                parameters=(*named, *page),
                answer=HistoryPage,
                errors=(404,),
            ),
            Route(
                "GET",
                "/tasks/{task_id}/metrics",
                self._task_metrics,
                "What was measured while it ran, newest first",
                parameters=(TASK_ID, *page),
                answer=MetricsPage,
                errors=(503,),
            ),
        ]

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
        return _page(request, "metrics", await self._histories.task(request.match_info["task_id"]))

    async def _history(self, request: web.Request) -> web.Response:
        return _page(request, "history", list(reversed(self._one(request).history)), timestamp)


def _page(request: web.Request, name: str, found: Sequence[Any], shown: Any = lambda each: each) -> web.Response:
    offset, limit = OFFSET.of(request), LIMIT.of(request)
    page = [shown(each) for each in found[offset : offset + limit]]
    return answer({"offset": offset, "limit": limit, "total": len(found), name: page})
