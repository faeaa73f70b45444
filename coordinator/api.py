"""The coordinator's HTTP operations."""

from __future__ import annotations

from aiohttp import web

from coordinator import updates
from coordinator.messages import NextRound, RoundPage, RoundView
from coordinator.offload import offload
from coordinator.rounds import Rounds
from swashplate.http import FILE_LIMIT, OFFSET, Route, Seconds, Text, answer, limit_of, read_body, read_json
from swashplate.messages import (
    TOKEN_HEADER,
    ExperimentAnswer,
    ExperimentConfig,
    ParticipantTask,
    ParticipantTaskAnswer,
    RoundStatus,
    Update,
    UpdateAnswer,
)
from swashplate.messages.learning import EXPERIMENT_EXAMPLE, UPDATE_EXAMPLE

LONGEST_WAIT = 300
LIMIT = limit_of(100)
WAIT = Seconds(name="wait", text="Answer when the round is over, or after so many seconds.", high=LONGEST_WAIT)
ROUND_ID = Text(name="round_id", text="The round.", required=True, shortest=1, longest=256, example="round-1")
PROPLET_ID = Text(name="proplet_id", text="The participant.", longest=256)
TOKEN = Text(name=TOKEN_HEADER, text="The token that the participant's task was started with.", place="header")
STATUS = {
    "round_id": "round-1",
    "completed": True,
    "num_updates": 1,
    "k_of_n": 1,
    "status": "completed",
    "model_version": 1,
    "model_uri": "fl/models/global_model_v1",
}


class CoordinatorApi:
    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    async def configure(self, request: web.Request) -> web.Response:
        told, new = await self._rounds.configure(await read_body(request, ExperimentConfig))
        return answer(told, status=201 if new else 200)

    async def update(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        update = await offload(len(body), updates.read, body)
        return answer(await self._rounds.accept(update, body, TOKEN.of(request)))

    async def update_cbor(self, _: web.Request) -> web.Response:
        sentence = "CBOR updates are not taken"
        body = {"error": sentence, "code": "unsupported_media_type", "hint": "POST the update as JSON to /update"}
        return answer(body, status=415)

    async def task(self, request: web.Request) -> web.Response:
        round_id = ROUND_ID.of(request)
        config, base = await self._rounds.config(round_id)
        task = ParticipantTask(
            round_id=round_id,
            model_ref=base.uri,
            config={"proplet_id": PROPLET_ID.of(request)},
            hyperparams=config.hyperparams,
        )
        return answer(ParticipantTaskAnswer(task=task))

    async def complete(self, request: web.Request) -> web.Response:
        return answer(await self._rounds.status(request.match_info["round_id"], wait=WAIT.of(request)))

    async def view(self, request: web.Request) -> web.Response:
        return answer(await self._rounds.view(request.match_info["round_id"]))

    async def page(self, request: web.Request) -> web.Response:
        return answer(await self._rounds.page(offset=OFFSET.of(request), limit=LIMIT.of(request)))

    async def next_round(self, _: web.Request) -> web.Response:
        return answer(await self._rounds.next_round())

    def routes(self) -> list[Route]:
        path = Text(name="round_id", text="The round.", place="path", longest=256, example="round-1")
        return [
            Route(
                "POST",
                "/experiments",
                self.configure,
                "Start a round",
                description="Launches one task per participant. The same request again starts nothing and is answered 200;"
                " another one with the same ``round_id`` is a conflict.",
                body=ExperimentConfig,
                body_example=EXPERIMENT_EXAMPLE,
                answer=ExperimentAnswer,
                status=201,
                also={200: ExperimentAnswer},
                errors=(404, 409, 503),
                tag="rounds",
            ),
            Route(
                "POST",
                "/update",
                self.update,
                "Hand in a participant's update",
                description="It is stored when this is answered. The same update again is a ``duplicate``; one that comes"
                " after the round is over is ``ignored``.",
                parameters=(TOKEN,),
                body=Update,
                body_example=UPDATE_EXAMPLE,
                limit=FILE_LIMIT,
                answer=UpdateAnswer,
                example={"status": "accepted"},
                errors=(403, 404, 409, 503),
                open=True,
                tag="updates",
            ),
            Route(
                "POST",
                "/update_cbor",
                self.update_cbor,
                "Not taken: updates are JSON",
                status=415,
                tag="updates",
            ),
            Route(
                "GET",
                "/task",
                self.task,
                "What a participant of a round is to do",
                parameters=(ROUND_ID, PROPLET_ID),
                answer=ParticipantTaskAnswer,
                errors=(404,),
                tag="rounds",
            ),
            Route(
                "GET",
                "/rounds",
                self.page,
                "Every round, newest first",
                answer=RoundPage,
                parameters=(OFFSET, LIMIT),
            ),
            Route(
                "GET",
                "/rounds/next",
                self.next_round,
                "The newest model that a round made",
                answer=NextRound,
                example={"next_round_available": False, "message": "No completed rounds yet"},
            ),
            Route(
                "GET",
                "/rounds/{round_id}",
                self.view,
                "Everything about a round",
                parameters=(path,),
                answer=RoundView,
                errors=(404,),
            ),
            Route(
                "GET",
                "/rounds/{round_id}/complete",
                self.complete,
                "Is the round over, and is its model readable?",
                answer=RoundStatus,
                parameters=(path, WAIT),
                example=STATUS,
                errors=(404,),
            ),
        ]
