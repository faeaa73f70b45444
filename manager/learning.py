"""The learning façade: the manager's only room that knows of rounds. It forwards, logs, and tells how tasks ended.

The coordinator owns rounds; it launches its tasks through the task API like anybody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from aiohttp import web

from manager.fleet.legacy import update_of
from manager.state.ledger import Ledger
from manager.state.records import Task, Untold
from manager.state.states import TaskState
from swashplate import logging, topics
from swashplate.bus import Bus, BusError, Received
from swashplate.client import HttpClient
from swashplate.errors import SwashplateError, UnavailableError, from_validation
from swashplate.http import FILE_LIMIT, Route, Seconds, Text, answer, read_body, read_json
from swashplate.messages import (
    TOKEN_HEADER,
    ExperimentAnswer,
    ExperimentConfig,
    Message,
    ParticipantTaskAnswer,
    RoundStart,
    RoundStatus,
    RoundTask,
    TaskCreate,
    Update,
    UpdateAnswer,
)
from swashplate.messages.learning import EXPERIMENT_EXAMPLE, UPDATE_EXAMPLE
from swashplate.service import Tasks

log = logging.get("learning")

AGAIN_S, AGAIN_MOST_S = 0.5, 30.0
"""Between two tries to tell the coordinator how a task ended. There is no last one: a proplet was told that its result is
kept."""

SERVER_ERROR = 500

WAIT = Seconds(name="wait", text="Answer when the round is over, or after so many seconds.", high=300)
ROUND_ID = Text(name="round_id", text="The round.", required=True, shortest=1, longest=256, example="round-1")
PROPLET_ID = Text(name="proplet_id", text="The participant.", longest=256)
TOKEN = Text(
    name=TOKEN_HEADER,
    text="The token that the participant's task was started with.",
    place="header",
    pattern="[!-~]*",
)


class RoundCompletion(Message):
    """What the coordinator says, in the wrapper of the existing API."""

    status: RoundStatus


_STATUS = {
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.INTERRUPTED: "interrupted",
}


class Learning:
    def __init__(
        self,
        bus: Bus,
        bare_bus: Bus,
        client: HttpClient,
        names: topics.Topics,
        coordinator_url: str,
        ledger: Ledger,
    ) -> None:
        self._ledger = ledger
        self._telling: dict[str, int] = {}
        """By task: the run whose end is being told."""
        self._bus = bus
        self._bare_bus = bare_bus
        self._client = client
        self._topics = names
        self._url = coordinator_url.rstrip("/")
        self._work = Tasks(log)

    async def open(self) -> None:
        """Listen for round starts under the base and bare; a broker may refuse the bare topic without disturbing us."""
        await self._bus.subscribe(self._topics.round_start, self._round_start)
        await self._bare_bus.subscribe(topics.ROUND_START, self._round_start)

    async def close(self) -> None:
        await self._work.close()

    def routes(self) -> list[Route]:
        round_id = Text(name="round_id", text="The round.", place="path", longest=256, example="round-1")
        return [
            Route(
                "POST",
                "/fl/experiments",
                self._experiments,
                "Configure a round and launch one task per participant",
                description="The same request again starts nothing and is answered the same.",
                body=ExperimentConfig,
                body_example=EXPERIMENT_EXAMPLE,
                answer=ExperimentAnswer,
                errors=(404, 409, 503),
                tag="learning",
            ),
            Route(
                "GET",
                "/fl/rounds/{round_id}/complete",
                self._complete,
                "Is the round over?",
                parameters=(round_id, WAIT),
                answer=RoundCompletion,
                errors=(404, 503),
                tag="learning",
            ),
            Route(
                "GET",
                "/fl/task",
                self._task,
                "What a participant of a round is to do",
                parameters=(ROUND_ID, PROPLET_ID),
                answer=ParticipantTaskAnswer,
                errors=(404, 503),
                tag="learning",
            ),
            Route(
                "POST",
                "/fl/update",
                self._update,
                "Hand in an update",
                description="Its proof is the token of the participant's attempt, not the token of this service.",
                parameters=(TOKEN,),
                body=Update,
                body_example=UPDATE_EXAMPLE,
                limit=FILE_LIMIT,
                answer=UpdateAnswer,
                example={"status": "accepted"},
                errors=(403, 404, 409, 503),
                open=True,
                tag="learning",
            ),
            Route(
                "POST",
                "/fl/update_cbor",
                self._update_cbor,
                "Not taken: updates are JSON",
                status=415,
                tag="learning",
            ),
        ]

    async def _experiments(self, request: web.Request) -> web.Response:
        return answer(await self.configure(await read_body(request, ExperimentConfig)))

    async def configure(self, config: ExperimentConfig) -> ExperimentAnswer:
        """Raises the coordinator's own errors, or ``UnavailableError`` naming it when it does not answer."""
        body = await self._forward("POST", "/experiments", config.encode())
        configured = ExperimentAnswer.decode(body)
        log.info(
            "Configured experiment with FL Coordinator",
            round_id=config.round_id,
            experiment_id=config.experiment_id,
            launched=len(configured.launched),
            skipped=len(configured.skipped),
        )
        return configured

    async def _complete(self, request: web.Request) -> web.Response:
        round_id = topics.level(request.match_info["round_id"], "round id")
        wait = WAIT.of(request)
        query = f"?wait={wait:g}" if wait else ""
        body = await self._forward("GET", f"/rounds/{quote(round_id)}/complete{query}", timeout=wait + 10)
        return web.Response(body=b'{"status":' + body.strip() + b"}\n", content_type="application/json")

    async def _task(self, request: web.Request) -> web.Response:
        query = urlencode({"round_id": ROUND_ID.of(request), "proplet_id": PROPLET_ID.of(request)})
        body = await self._forward("GET", f"/task?{query}")
        return web.Response(body=body, content_type="application/json")

    async def _update_cbor(self, _: web.Request) -> web.Response:
        hint = "POST the update as JSON to /fl/update"
        body = {"error": "CBOR updates are not taken", "code": "unsupported_media_type", "hint": hint}
        return answer(body, status=415)

    async def _update(self, request: web.Request) -> web.Response:
        token = TOKEN.of(request)
        headers = {TOKEN_HEADER: token} if token else {}
        body = await self._forward("POST", "/update", await read_json(request), headers=headers)
        return web.Response(body=body, content_type="application/json")

    async def _forward(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> bytes:
        try:
            _, content = await self._client.request(
                method, self._url + path, body=body, headers=headers, timeout=timeout
            )
        except UnavailableError as error:
            raise UnavailableError(
                f"the coordinator at {self._url} cannot do this now: {error.sentence}",
                code="coordinator_unavailable",
                hint=error.hint or "is the coordinator running? MANAGER_COORDINATOR_URL says where it is looked for",
            ) from error
        return content

    async def _round_start(self, message: Received) -> None:
        """A round asked for over MQTT. Seen twice it starts once: the coordinator knows the round by its id."""
        try:
            config = RoundStart.decode(message.payload).as_config()
        except ValueError as error:
            raise from_validation(error, "round start") from error  # type: ignore[arg-type]
        self._work.start(self._start_round(config), f"round {config.round_id}")

    async def _start_round(self, config: ExperimentConfig) -> None:
        deadline = time.monotonic() + config.timeout_s
        delay = 0.5
        while True:
            try:
                await self.configure(config)
                return
            except UnavailableError as error:
                if time.monotonic() + delay > deadline:
                    log.error("round not started", round_id=config.round_id, error=error.sentence)
                    return
                log.warning("coordinator unavailable, trying again", round_id=config.round_id, error=error.sentence)
            except SwashplateError as error:
                log.error("round not started", round_id=config.round_id, error=error.sentence, code=error.code)
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

    @staticmethod
    def task_refused(spec: TaskCreate, error: SwashplateError) -> None:
        if spec.kind != "federated" or spec.proplet_id is None:
            return
        where = {"proplet_id": spec.proplet_id, "round_id": spec.env.get("ROUND_ID")}
        if error.code == "proplet_not_found":
            log.warning("skipping participant: proplet not found", error="not found", hint=error.hint, **where)
        elif error.code == "proplet_not_alive":
            log.warning("skipping participant: proplet not alive", error="not alive", **where)

    def task_started(self, task: Task) -> None:
        if task.spec.kind == "federated":
            log.info(
                "launched task for FL round participant",
                round_id=task.spec.env.get("ROUND_ID"),
                proplet_id=task.spec.proplet_id or task.proplet_id,
                task_id=task.id,
            )

    def owe(self, task: Task) -> None:
        """Remember, with the end itself, that it is to be told."""
        if _participation(task) is not None:
            self._ledger.put(Untold(task.id))

    def task_ended(self, task: Task) -> None:
        participation = _participation(task)
        if participation is not None:
            self._telling[task.id] = task.run
            self._work.start(self._tell(*participation, task), f"tell the end of {task.id}")

    async def _tell(self, round_id: str, proplet_id: str, task: Task) -> None:
        update = update_of(task) if task.state is TaskState.COMPLETED else None
        if update is not None:
            task = await self._hand_in(task, update)
        said = RoundTask(
            round_id=round_id,
            proplet_id=proplet_id,
            task_id=task.id,
            status=_STATUS[task.state],  # type: ignore[arg-type]
            digest=task.digest or "",
            code=task.code or "",
            error=task.error or "",
        )
        delays = _delays()
        while True:
            try:
                await self._bus.publish(self._topics.round_task(round_id, proplet_id), said.encode())
                break
            except BusError as error:
                log.warning("end not told, trying again", task_id=task.id, error=error.sentence)
            await asyncio.sleep(next(delays))
        if self._telling.get(task.id) == task.run:  # else it was started again meanwhile
            del self._telling[task.id]
            self._ledger.erase(Untold(task.id))

    async def _hand_in(self, task: Task, update: bytes) -> Task:
        """Bring an update that came inside the task's result to the coordinator, which counts it once, however often it
        gets it. Answers the task, failed when the coordinator refuses the update.
        """
        headers = {TOKEN_HEADER: task.spec.tokens.get("update", "")}
        delays = _delays()
        while True:
            try:
                await self._forward("POST", "/update", update, headers=headers)
            except SwashplateError as error:
                if error.status >= SERVER_ERROR:
                    log.warning("update not handed in, trying again", task_id=task.id, error=error.sentence)
                    await asyncio.sleep(next(delays))
                    continue
                log.error("update refused", task_id=task.id, error=error.sentence, code=error.code)
                reason = f"update refused: {error.sentence}"
                return task.changed(state=TaskState.FAILED, error=reason, code=error.code)
            else:
                return task


def _participation(task: Task) -> tuple[str, str] | None:
    """The round and the participant whose task it is; None when it is no task of a round."""
    round_id = task.spec.env.get("ROUND_ID")
    participant = task.spec.proplet_id or task.proplet_id
    return (round_id, participant) if task.spec.kind == "federated" and round_id and participant else None


def _delays() -> Iterator[float]:
    delay = AGAIN_S
    while True:
        yield delay
        delay = min(delay * 2, AGAIN_MOST_S)
