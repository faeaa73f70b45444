"""The model registry, a process of its own: every version of every model, immutable and named by digest.

``/models/…`` is the line ``global_model``; any line is at ``/lines/{line}/models/…``. ``python -m coordinator.registry``
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from pydantic_core import from_json
from sqlalchemy import URL

from coordinator import models
from coordinator.messages import (
    Lineage,
    Lines,
    ModelDescription,
    ModelUse,
    NewModel,
    RoundModel,
    StoredModel,
    StoredRoundModel,
    Versions,
)
from coordinator.model_store import FILE, ModelStore
from coordinator.offload import offload
from coordinator.settings import RegistrySettings
from swashplate import logging, service
from swashplate.access import Access
from swashplate.errors import InvalidRequestError
from swashplate.http import FILE_LIMIT, HttpService, Route, Text, answer, parse, read_body, read_json
from swashplate.model_ref import DEFAULT_LINE, ModelRef
from swashplate.topics import level

log = logging.get("model-registry")


class RegistryApi:
    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def lines(self, _: web.Request) -> web.Response:
        return answer({"lines": await self._store.lines()})

    async def versions(self, request: web.Request) -> web.Response:
        return answer({"versions": await self._store.versions(_line(request))})

    async def read(self, request: web.Request) -> web.Response:
        model = await self._store.read(_ref(request))
        tag = f'"{model.digest}"'
        headers = {"ETag": tag, "X-Model-Digest": model.digest}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=model.body, content_type="application/json", headers=headers)

    async def lineage(self, request: web.Request) -> web.Response:
        model = await self._store.read(_ref(request))
        created = datetime.fromtimestamp(model.created_at, UTC).isoformat()
        return answer(
            Lineage(
                line=model.ref.line,
                version=model.ref.version,
                digest=model.digest,
                created_at=created,
                parent=model.parent,
                round_id=model.round_id,
                details=dict(model.details),
            )
        )

    async def describe(self, request: web.Request) -> web.Response:
        model, final = await self._store.describe(_ref(request))
        shapes = await offload(len(model.body), _shapes, model.body)
        return answer(
            ModelDescription(
                line=model.ref.line, version=model.ref.version, digest=model.digest, shapes=shapes, final=final
            )
        )

    async def post(self, request: web.Request) -> web.Response:
        line = _line(request)
        content = await read_json(request)
        version, body = await offload(len(content), _new_model, content)
        await self._store.put(ModelRef(line, version), body)
        log.info("model stored", line=line, version=version)
        return answer({"version": version, "status": "stored"}, status=201)

    async def use(self, request: web.Request) -> web.Response:
        round_id = level(request.match_info["round_id"], "round id")
        used = await read_body(request, ModelUse)
        await self._store.use(_ref(request), used.digest, round_id)
        return answer(used)

    async def put_round(self, request: web.Request) -> web.Response:
        line = _line(request)
        round_id = level(request.match_info["round_id"], "round id")
        content = await read_json(request)
        sent, body = await offload(len(content), _round_model, content)
        model, created = await self._store.add_round(
            line, round_id, body, parent=sent.parent_version, details=sent.lineage
        )
        log.info("model stored", line=line, version=model.ref.version, round_id=round_id)
        stored = StoredRoundModel(version=model.ref.version, uri=model.ref.uri, digest=model.digest)
        return answer(stored, status=201 if created else 200)


def _line(request: web.Request) -> str:
    line = request.match_info.get("line", DEFAULT_LINE)
    if ModelRef.parse(f"{line}_v0").line != line:
        raise InvalidRequestError(f"{line!r} is not the name of a model line", code="invalid_model_ref")
    return line


def _ref(request: web.Request) -> ModelRef:
    version = request.match_info["version"]
    if not (version.isascii() and version.isdigit() and len(version) <= 9):
        raise InvalidRequestError("Invalid version", code="invalid_version", hint="a version is a whole number from 0")
    return ModelRef(_line(request), int(version))


def _new_model(content: bytes) -> tuple[int, bytes]:
    sent = parse(content, NewModel)
    return sent.version, models.encode(models.parse(sent.model))


def _round_model(content: bytes) -> tuple[RoundModel, bytes]:
    sent = parse(content, RoundModel)
    return sent, models.encode(models.parse(sent.model))


def _shapes(body: bytes) -> models.Shapes:
    return models.shapes(models.parse(from_json(body)))


LINE = Text(name="line", text="The line.", place="path", longest=256, example=DEFAULT_LINE)
VERSION = Text(name="version", text="Which one, from 0.", place="path", longest=9, pattern="[0-9]{1,9}", example="0")
ROUND_ID = Text(name="round_id", text="The round.", place="path", longest=256, example="round-1")
HAVE = Text(name="If-None-Match", text="The ETag of what you have.", place="header")
MODEL = {"w": [0, 0, 0], "b": 0}
TAG = {"ETag": "The model's digest, quoted.", "X-Model-Digest": "The model's digest."}
DIGEST = "sha256:" + "0" * 64


def _routes(api: RegistryApi, prefix: str, line: tuple[Text, ...], tag: str) -> list[Route]:
    """The routes of a line, or of the one that needs no name."""
    one = (*line, VERSION)
    return [
        Route(
            "GET",
            prefix,
            api.versions,
            "The versions of a line",
            parameters=line,
            answer=Versions,
            errors=(404,),
            example={"versions": [0, 1]},
            tag=tag,
        ),
        Route(
            "POST",
            prefix,
            api.post,
            "Store a model as version 0 or as the next version",
            description="Version 0 may be replaced until a round has started from it; every other one never changes.",
            parameters=line,
            body=NewModel,
            body_example={"version": 0, "model": MODEL},
            limit=FILE_LIMIT,
            answer=StoredModel,
            status=201,
            errors=(404, 409),
            example={"version": 0, "status": "stored"},
            tag=tag,
        ),
        Route(
            "GET",
            prefix + "/{version}",
            api.read,
            "The model itself",
            parameters=(*one, HAVE),
            also={304: None},
            errors=(404,),
            example=MODEL,
            headers=TAG,
            tag=tag,
        ),
        Route(
            "GET",
            prefix + "/{version}/lineage",
            api.lineage,
            "Where a model came from",
            parameters=one,
            answer=Lineage,
            errors=(404,),
            tag=tag,
        ),
        Route(
            "GET",
            prefix + "/{version}/description",
            api.describe,
            "A model's digest and shapes, and whether it can still change",
            parameters=one,
            answer=ModelDescription,
            errors=(404,),
            tag=tag,
        ),
    ]


def http_service(store: ModelStore, access: Access | None = None) -> HttpService:
    api = RegistryApi(store)
    routes = [
        Route("GET", "/lines", api.lines, "Every model line", answer=Lines, example={"lines": ["global_model"]}),
        *_routes(api, "/models", (), "models"),
        *_routes(api, "/lines/{line}/models", (LINE,), "lines"),
        Route(
            "PUT",
            "/lines/{line}/models/{version}/uses/{round_id}",
            api.use,
            "A round starts from this model, which never changes from now on",
            parameters=(LINE, VERSION, ROUND_ID),
            body=ModelUse,
            body_example={"digest": DIGEST},
            answer=ModelUse,
            errors=(404, 409),
        ),
        Route(
            "PUT",
            "/lines/{line}/rounds/{round_id}/model",
            api.put_round,
            "Store what a round made as the next version, once per round",
            description="Answers 200 when it is stored already.",
            parameters=(LINE, ROUND_ID),
            body=RoundModel,
            body_example={"model": MODEL, "parent_version": 0, "lineage": {"updates": 3}},
            limit=FILE_LIMIT,
            answer=StoredRoundModel,
            status=201,
            also={200: StoredRoundModel},
            errors=(404, 409),
        ),
    ]
    return HttpService("model_registry", routes, checks={"database": store.check}, access=access)


@asynccontextmanager
async def serving(
    host: str, port: int, folder: Path, access: Access | None = None, *, database: URL | None = None
) -> AsyncIterator[ModelStore]:
    """The model registry over ``folder``, until the context ends."""
    async with (
        ModelStore(folder, database) as store,
        http_service(store, access).serving(host, port, setting="REGISTRY_PORT"),
    ):
        yield store


async def serve(settings: RegistrySettings, stop: asyncio.Event) -> None:
    access = settings.access(settings.http_host)
    with service.state_folder(settings.models_dir) as folder:
        database = settings.database_or(folder / FILE)
        async with serving(settings.http_host, settings.port, folder, access, database=database):
            await stop.wait()


def main() -> None:
    service.run(RegistrySettings, serve, name="model-registry")


if __name__ == "__main__":
    main()
