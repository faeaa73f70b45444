"""Results that are too large for a message: taken from proplets, and served without being held in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from manager.api.ids import Id
from manager.large_results import PIECE, LargeResults
from manager.state import results
from manager.state.records import AttemptKey, CallKey, ResultKey
from swashplate.errors import TooLargeError
from swashplate.http import Route, Text, Whole
from swashplate.messages import TOKEN_HEADER

DIGEST = Text(
    name="digest", text="Of what is uploaded.", place="path", longest=71, pattern="sha256:[0-9a-f]{64}", required=True
)
TASK = Id(name="task_id", text="The task whose result it is.", required=True, shortest=1)
ATTEMPT = Whole(name="attempt", text="Its attempt.", required=True, low=1, high=(1 << 31) - 1)
PROPLET = Text(name="proplet_id", text="The proplet that has the attempt.", required=True, shortest=1, longest=256)
TURN = Text(
    name="invocation_id",
    text="Of a call of a latent task: as its proplet was given it.",
    longest=64,
    pattern=r"[0-9a-f-]{36}(\.[0-9]+)?",
)
TOKEN = Text(name=TOKEN_HEADER, text="The token that the attempt or call came with.", place="header", pattern="[!-~]*")


class LargeResultApi:
    def __init__(self, results: LargeResults) -> None:
        self._results = results

    def routes(self) -> list[Route]:
        return [
            Route(
                "PUT",
                "/blobs/{digest}",
                self._take,
                "Upload a result that is too large for a message",
                description="For the proplet that has the attempt, or the call, before it tells the result with this digest."
                " It is durable when this is answered; the same again changes nothing.",
                parameters=(DIGEST, TASK, ATTEMPT, TURN, PROPLET, TOKEN),
                body_schema={"description": "Any JSON value."},
                body_example={"weights": [0.5, 0.25]},
                limit=self._results.limit,
                status=204,
                errors=(403, 409),
                open=True,
            ),
        ]

    async def _take(self, request: web.Request) -> web.Response:
        digest, proplet_id = DIGEST.of(request), PROPLET.of(request)
        task_id, number, turn = TASK.of(request), ATTEMPT.of(request), TURN.of(request)
        key: ResultKey = CallKey(task_id, number, turn) if turn else AttemptKey(task_id, number)
        self._results.check(key, proplet_id, TOKEN.of(request))
        self._check_size(request.content_length or 0)
        with await self._results.writer(key) as writer:
            async for piece in request.content.iter_chunked(PIECE):
                self._check_size(writer.size + len(piece))
                await asyncio.to_thread(writer.write, piece)
            await self._results.keep(key, proplet_id, writer, digest)
        return web.Response(status=204)

    def _check_size(self, size: int) -> None:
        if size > self._results.limit:
            raise TooLargeError(
                f"the result is over the limit of {self._results.limit} bytes",
                code="result_too_large",
                hint="MANAGER_RESULT_LIMIT at the manager is the limit",
            )


async def answer_large(
    request: web.Request, large: LargeResults, stored: str, rest: Mapping[str, Any]
) -> web.StreamResponse:
    """``results`` beside ``rest``, as one JSON object."""
    before, after = b'{"results":', b"," + json.dumps(rest, separators=(",", ":"))[1:].encode() + b"\n"
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    response.content_length = len(before) + results.size(stored) + len(after)
    await response.prepare(request)
    await response.write(before)
    async for piece in large.bytes_of(stored):
        await response.write(piece)
    await response.write(after)
    return response
