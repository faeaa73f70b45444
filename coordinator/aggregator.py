"""The aggregator, a process of its own: updates in, their average out. It keeps nothing.

``python -m coordinator.aggregator``
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from pydantic_core import from_json

from coordinator import aggregation, models
from coordinator.offload import offload
from coordinator.settings import BODY_LIMIT, AggregatorSettings
from swashplate import logging, service
from swashplate.access import Access
from swashplate.errors import InvalidRequestError
from swashplate.http import HttpService, Route, read_json, strict_json, text_of

log = logging.get("aggregator")


EXAMPLE = {"w": [0.5, -0.25, 0], "b": 0.125}
SCHEMA = {
    "type": "object",
    "required": ["updates"],
    "properties": {
        "updates": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["num_samples", "update"],
                "properties": {
                    "num_samples": {"type": "integer", "minimum": 1, "maximum": 1 << 53},
                    "update": {"type": "object", "description": "The participant's whole new model."},
                },
            },
        }
    },
}


def aggregate(content: bytes) -> bytes:
    """The canonical JSON of the average of ``{"updates": […]}``; raises ``InvalidRequestError``."""
    text = text_of(content)
    try:
        body = from_json(text)
    except ValueError as error:
        raise InvalidRequestError(f"body is not valid JSON: {error}", code="malformed_json") from error
    if not isinstance(body, dict):
        raise InvalidRequestError("body must be an object", hint='send {"updates": […]}')
    found = models.encode(aggregation.fedavg(aggregation.contributions(body.get("updates"))))
    strict_json.check(text)
    return found


async def _aggregate(request: web.Request) -> web.Response:
    sent = await read_json(request)
    content = await offload(len(sent), aggregate, sent)
    return web.Response(body=content, content_type="application/json")


def http_service(body_limit: int = BODY_LIMIT, access: Access | None = None) -> HttpService:
    route = Route(
        "POST",
        "/aggregate",
        _aggregate,
        "Average updates, weighted by samples",
        description="Federated averaging: each tensor is the mean over the updates, weighted by ``num_samples``.",
        body_schema=SCHEMA,
        body_example={"updates": [{"num_samples": 12, "update": EXAMPLE}]},
        example=EXAMPLE,
    )
    return HttpService("aggregator", [route], body_limit=body_limit, access=access)


async def serve(settings: AggregatorSettings, stop: asyncio.Event) -> None:
    access = settings.access(settings.http_host)
    async with http_service(settings.body_limit, access).serving(
        settings.http_host, settings.port, setting=settings.names("port")[0]
    ):
        await stop.wait()


def main() -> None:
    service.run(AggregatorSettings, serve, name="aggregator")


if __name__ == "__main__":
    main()
