"""The routes to call a latent task, and to look at its calls."""

from __future__ import annotations

import json
from typing import Any, Literal

from aiohttp import web
from pydantic import Field

from manager.api.ids import TASK_ID, Id
from manager.api.large_results import answer_large
from manager.api.tasks import REPORT
from manager.api.views import Time, timestamp
from manager.large_results import LargeResults
from manager.latent.invocation_archive import InvocationArchive
from manager.latent.invocations import Invocations
from manager.state import results
from manager.state.records import Invocation
from manager.state.states import InvocationState
from swashplate.http import OFFSET, Route, Seconds, answer, limit_of, read_body
from swashplate.messages import InvokeRequest, Message, RunReport

LIMIT = limit_of(100)
INVOCATION_ID = Id(name="invocation_id", text="The invocation.", place="path")
WAIT = Seconds(name="wait", text="Answer when it has ended, or after so many seconds.", high=300)
STATUS_OF = {"not_ready": 503, "busy": 503, "timeout": 504, "task_not_active": 409}
"""HTTP's status for an invocation that failed with this code while its caller waited; 502 for whatever its proplet says."""


class InvocationView(Message):
    """One call of a latent task. ``results``, or ``error`` and ``code``, are there once it has ended, and the ``report`` once
    its proplet has told.
    """

    invocation_id: str
    task_id: str
    proplet_id: str = Field(default="", description="Where it runs or ran last.")
    status: Literal["queued", "running", "completed", "failed"]
    created_at: str = Time
    finish_time: str = Time
    results: Any = None
    results_omitted: bool = Field(
        default=False, description="In a list: it has results, which were too large for a message."
    )
    error: str = ""
    code: str = ""
    report: RunReport | None = Field(default=None, description="How the run went; left out of a list.")


class InvocationPage(Message):
    offset: int
    limit: int
    total: int = Field(description="How many there are without offset and limit.")
    invocations: list[InvocationView]


class Invoked(Message):
    invoked: Literal[True]
    results: Any
    invocation_id: str
    report: RunReport | None = Field(default=None, description="How the run went, as far as its proplet has told.")


def invocation_json(invocation: Invocation) -> dict[str, Any]:
    whole = results.is_whole(invocation.result)
    return {
        "invocation_id": invocation.id,
        "task_id": invocation.task_id,
        **({"proplet_id": invocation.proplet_id} if invocation.proplet_id else {}),
        "status": str(invocation.state),
        "created_at": timestamp(invocation.created_at),
        "finish_time": timestamp(invocation.finished_at),
        **({"results": json.loads(invocation.result)} if invocation.result and whole else {}),
        **({} if whole else {"results_omitted": True}),
        **({"error": invocation.error, "code": invocation.code} if invocation.error else {}),
        **_report(invocation),
    }


def _report(invocation: Invocation) -> dict[str, Any]:
    return {"report": json.loads(invocation.report)} if invocation.report else {}


class InvocationApi:
    def __init__(self, invocations: Invocations, archive: InvocationArchive, large: LargeResults) -> None:
        self._invocations = invocations
        self._archive = archive
        self._large = large

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/tasks/{task_id}/invoke",
                self._invoke,
                "Call a latent task",
                description="Waits for the result, at most ``timeout_s`` seconds, unless the body says ``async``. A failure"
                " names the invocation, too, and has the report of its run. A call runs at most once, unless its task has"
                " retries.",
                parameters=(TASK_ID,),
                body=InvokeRequest,
                body_required=False,
                body_example={"inputs": ["2", "40"], "timeout_s": 30},
                answer=Invoked,
                also={202: InvocationView},
                headers={"Location": "With 202: the invocation's path."},
                errors=(404, 409, 502, 503, 504),
                example={
                    "invoked": True,
                    "results": "42",
                    "invocation_id": "9f0c6ad4-1d0c-4d0e-8a3e-6a4b5f1c2d3e",
                    "report": REPORT,
                },
                tag="tasks",
            ),
            Route(
                "GET",
                "/tasks/{task_id}/invocations",
                self._list,
                "Its invocations, newest first",
                parameters=(TASK_ID, OFFSET, LIMIT),
                answer=InvocationPage,
                errors=(404, 503),
                tag="tasks",
            ),
            Route(
                "GET",
                "/tasks/{task_id}/invocations/{invocation_id}",
                self._get,
                "One invocation",
                parameters=(TASK_ID, INVOCATION_ID, WAIT),
                answer=InvocationView,
                errors=(404, 503),
                tag="tasks",
            ),
        ]

    async def _invoke(self, request: web.Request) -> web.StreamResponse:
        asked = await read_body(request, InvokeRequest) if request.body_exists else InvokeRequest()
        invocation = await self._invocations.invoke(TASK_ID.of(request), asked)
        if asked.later:
            location = f"/tasks/{invocation.task_id}/invocations/{invocation.id}"
            return answer(invocation_json(invocation), status=202, headers={"Location": location})
        ended = await self._invocations.wait(invocation)
        if ended.state is InvocationState.COMPLETED:
            rest = {"invoked": True, "invocation_id": ended.id, **_report(ended)}
            if ended.result and not results.is_whole(ended.result):
                return await answer_large(request, self._large, ended.result, rest)
            return answer({"results": json.loads(ended.result) if ended.result else None, **rest})
        if not ended.state.ended:  # the database cannot write: what is known is not durable
            hint = f"GET /tasks/{ended.task_id}/invocations/{ended.id} tells when it has ended"
            failed = {"error": "its result is not recorded yet", "code": "unavailable", "hint": hint}
            return answer({**failed, "invocation_id": ended.id}, status=503)
        failed = {"error": ended.error or "", "code": ended.code or "failed"}
        return answer(
            {**failed, "invocation_id": ended.id, **_report(ended)}, status=STATUS_OF.get(failed["code"], 502)
        )

    async def _list(self, request: web.Request) -> web.Response:
        offset, limit = OFFSET.of(request), LIMIT.of(request)
        total, page = await self._archive.list(TASK_ID.of(request), offset, limit)
        shown = [invocation_json(each) for each in page]
        return answer({"offset": offset, "limit": limit, "total": total, "invocations": shown})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        found = await self._archive.get(TASK_ID.of(request), INVOCATION_ID.of(request), WAIT.of(request))
        shown = invocation_json(found)
        if shown.pop("results_omitted", False):
            assert found.result is not None
            return await answer_large(request, self._large, found.result, shown)
        return answer(shown)
