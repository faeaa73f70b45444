"""The logs of tasks, as they come."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from manager.api.ids import TASK_ID
from manager.task_logs import TaskLogs
from swashplate.http import Route, Seconds, Whole, answer
from swashplate.messages import Message

ATTEMPT = Whole(name="attempt", text="Of this attempt; 0 is the latest.", high=(1 << 31) - 1)
FROM = Whole(name="offset", text="What follows this: 0, or ``next_offset`` of the answer before.")
WAIT = Seconds(name="wait", text="Answer when there is more or it has ended, or after so many seconds.", high=300)


class LogPart(Message):
    """A piece of what a guest wrote to stderr. Offsets count the bytes that it wrote, of which some may be missing."""

    attempt: int = Field(description="0 while there is none.")
    proplet_id: str | None
    offset: int = Field(description="Where `text` begins.")
    next_offset: int = Field(description="What to ask for next.")
    text: str = Field(description="Bytes that are no UTF-8 are replaced.")
    dropped: int = Field(
        description="Bytes that are known to be missing before `text`: over the rate that is sent, lost on the way, or"
        " removed."
    )
    ended: bool = Field(
        description="The attempt has ended. What it wrote is over once `next_offset` is the offset asked for."
    )


EXAMPLE = {
    "attempt": 1,
    "proplet_id": "4f1e5a0c-6f5e-4f6e-9a57-0c9fbb8f7f10",
    "offset": 0,
    "next_offset": 12,
    "text": "2 rows read\n",
    "dropped": 0,
    "ended": True,
}


class LogApi:
    def __init__(self, logs: TaskLogs) -> None:
        self._logs = logs

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/tasks/{task_id}/logs",
                self._read,
                "What its guest wrote to stderr",
                description="While it runs, too. Of each attempt the first 256 KiB and the last 384 to 768 KiB are kept. Of a"
                " broadcast each proplet has attempts of its own: `GET /tasks/{task_id}/attempts` lists them. What a proplet"
                " or the manager had not passed on when it was killed is missing.",
                parameters=(TASK_ID, ATTEMPT, FROM, WAIT),
                answer=LogPart,
                example=EXAMPLE,
                errors=(404, 503),
            ),
        ]

    async def _read(self, request: web.Request) -> web.Response:
        offset = FROM.of(request)
        shown = await self._logs.read(TASK_ID.of(request), ATTEMPT.of(request), offset, WAIT.of(request))
        return answer(
            {
                "attempt": shown.attempt,
                "proplet_id": shown.proplet_id,
                "offset": shown.found.offset,
                "next_offset": shown.found.end,
                "text": shown.found.text.decode(errors="replace"),
                "dropped": shown.found.offset - offset,
                "ended": shown.ended,
            }
        )
