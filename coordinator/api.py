"""The coordinator's HTTP operations."""

from __future__ import annotations

from aiohttp import web

from coordinator.messages import NextRound, RoundPage, RoundStatus, RoundView, UpdateAnswer
from coordinator.offload import offload
from coordinator.rounds import Rounds
from swashplate.errors import InvalidRequestError
from swashplate.http import Route, answer, query_int, query_seconds, read_body, read_text
from swashplate.messages import ExperimentAnswer, ExperimentConfig, Update

TOKEN_HEADER = "X-Attempt-Token"  # noqa: S105  # the name of a header
LONGEST_WAIT = 300


class CoordinatorApi:
    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    async def configure(self, request: web.Request) -> web.Response:
        told, new = await self._rounds.configure(await read_body(request, ExperimentConfig))
        return answer(told, status=201 if new else 200)

    async def update(self, request: web.Request) -> web.Response:
        text = await read_text(request)
        update = await offload(len(text), Update.decode, text)
        token = request.headers.get(TOKEN_HEADER, "")
        return answer(await self._rounds.accept(update, token, size=len(text)))

    async def update_cbor(self, _: web.Request) -> web.Response:
        sentence = "CBOR updates are not taken"
        body = {"error": sentence, "code": "unsupported_media_type", "hint": "POST the update as JSON to /update"}
        return answer(body, status=415)

    async def task(self, request: web.Request) -> web.Response:
        round_id, proplet_id = request.query.get("round_id", ""), request.query.get("proplet_id", "")
        if not round_id:
            raise InvalidRequestError("query parameter round_id is required")
        config, base = await self._rounds.config(round_id)
        task = {
            "round_id": round_id,
            "model_ref": base.uri,
            "config": {"proplet_id": proplet_id},
            "hyperparams": config.hyperparams,
        }
        return answer({"task": task})

    async def complete(self, request: web.Request) -> web.Response:
        wait = query_seconds(request, "wait", high=LONGEST_WAIT)
        return answer(await self._rounds.status(request.match_info["round_id"], wait=wait))

    async def view(self, request: web.Request) -> web.Response:
        return answer(await self._rounds.view(request.match_info["round_id"]))

    async def page(self, request: web.Request) -> web.Response:
        offset = query_int(request, "offset", 0)
        limit = query_int(request, "limit", 100, low=1, high=100)
        return answer(await self._rounds.page(offset=offset, limit=limit))

    async def next_round(self, _: web.Request) -> web.Response:
        return answer(await self._rounds.next_round())

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/experiments",
                self.configure,
                "Start a round; the same request again starts nothing",
                body=ExperimentConfig,
                answer=ExperimentAnswer,
                status=201,
                errors=(404, 409, 503),
            ),
            Route(
                "POST",
                "/update",
                self.update,
                f"A participant's update, with its token in {TOKEN_HEADER}",
                body=Update,
                answer=UpdateAnswer,
                errors=(403, 404, 409),
                open=True,
            ),
            Route("POST", "/update_cbor", self.update_cbor, "Not taken: updates are JSON", status=415),
            Route(
                "GET",
                "/task",
                self.task,
                "What a participant of a round is to do",
                query={"round_id": "the round", "proplet_id": "the participant"},
                errors=(400, 404),
            ),
            Route(
                "GET",
                "/rounds",
                self.page,
                "Every round, newest first",
                answer=RoundPage,
                query={"offset": "how many to skip", "limit": "how many to show, at most 100"},
                errors=(400,),
            ),
            Route("GET", "/rounds/next", self.next_round, "The newest model that a round made", answer=NextRound),
            Route("GET", "/rounds/{round_id}", self.view, "Everything about a round", answer=RoundView, errors=(404,)),
            Route(
                "GET",
                "/rounds/{round_id}/complete",
                self.complete,
                "Is the round over, and is its model readable?",
                answer=RoundStatus,
                query={"wait": f"seconds to wait for the round's end, at most {LONGEST_WAIT}"},
                errors=(400, 404),
            ),
        ]
