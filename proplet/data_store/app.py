"""The local data store, which serves a site's datasets to the proplets beside it."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from proplet.data_store import demo
from proplet.data_store.datasets import Datasets, DatasetUpload
from proplet.settings import DataStoreSettings
from swashplate import logging, service
from swashplate.errors import NotFoundError
from swashplate.http import FILE_LIMIT, HttpService, Route, Text, answer, parse, read_json
from swashplate.messages import Message

log = logging.get("data_store")

PIECE = 1 << 20


ROW = {"x": [0.5, 1.5, -0.25], "y": 1}


class DatasetNames(Message):
    """``clients`` are the same names, as Propeller's data store calls them."""

    datasets: list[str]
    clients: list[str]
    count: int


class DatasetStored(Message):
    proplet_id: str
    size: int
    status: str = "stored"


class DataStoreApi:
    def __init__(self, datasets: Datasets, *, limit: int = FILE_LIMIT) -> None:
        """``limit``: bytes of a dataset as JSON."""
        self._datasets = datasets
        self._limit = limit

    def routes(self) -> list[Route]:
        one = Text(name="id", text="The dataset; by default a proplet asks for its own id.", place="path", longest=200)
        have = Text(name="If-None-Match", text="The ETag of what you have.", place="header")
        return [
            Route("GET", "/datasets", self._list, "The names of the datasets", answer=DatasetNames),
            Route(
                "GET",
                "/datasets/{id}",
                self._get,
                "One dataset",
                parameters=(one, have),
                also={304: None},
                errors=(404,),
                headers={
                    "ETag": "The content's sha256, quoted.",
                    "X-Dataset-Rows": "How many samples it has, when that is known.",
                },
                example={"schema": "fl-demo-dataset-v1", "proplet_id": "site-1", "data": [ROW], "size": 1},
            ),
            Route(
                "POST",
                "/datasets/{id}",
                self._post,
                "Store a dataset",
                description="It replaces the one of the same id, whole, once this is answered.",
                parameters=(one,),
                body=DatasetUpload,
                body_example={"data": [ROW]},
                limit=self._limit,
                answer=DatasetStored,
                status=201,
            ),
        ]

    async def _list(self, _: web.Request) -> web.Response:
        names = await asyncio.to_thread(self._datasets.names)
        return answer(DatasetNames(datasets=names, clients=names, count=len(names)))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        try:
            dataset = await asyncio.to_thread(self._datasets.get, name)
        except NotFoundError:
            log.warning("Dataset missing", proplet_id=name)
            raise
        headers = {"ETag": dataset.etag}
        if dataset.rows is not None:
            headers["X-Dataset-Rows"] = str(dataset.rows)
        if dataset.etag in (tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")):
            log.info("Dataset served", proplet_id=name, size=dataset.rows, unchanged=True)
            return web.Response(status=304, headers=headers)
        with dataset.path.open("rb") as file:
            first = file.read(PIECE)
            log.info("Dataset served", proplet_id=name, size=dataset.rows)
            if len(first) < PIECE:
                return web.Response(body=first, content_type="application/json", headers=headers)
            response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
            response.content_length = os.fstat(file.fileno()).st_size
            await response.prepare(request)
            while first:
                await response.write(first)
                first = await asyncio.to_thread(file.read, PIECE)
            await response.write_eof()
            return response

    async def _post(self, request: web.Request) -> web.Response:
        name, body = request.match_info["id"], await read_json(request)
        self._datasets.has(name)  # refuses a bad name before the body is looked at
        size = await asyncio.to_thread(self._store, name, body)
        log.info("Dataset stored", proplet_id=name, size=size)
        return answer(DatasetStored(proplet_id=name, size=size), status=201)

    def _store(self, name: str, body: bytes) -> int:
        upload = parse(body, DatasetUpload)
        self._datasets.put(name, upload.data, upload.schema_name)
        return len(upload.data)


def seed(datasets: Datasets, names: list[str]) -> None:
    """Give each of ``names`` the demo dataset unless it has one. Raises ``InvalidRequestError`` for a bad name."""
    for name in names:
        if datasets.has(name):
            log.info("Dataset already exists, skipping", proplet_id=name)
        else:
            log.info("Dataset seeded", proplet_id=name, size=datasets.put(name, demo.rows(name)).rows)


async def serve(settings: DataStoreSettings, stop: asyncio.Event) -> None:
    access = settings.access(settings.http_host)
    datasets = Datasets(settings.folder)
    seed(datasets, settings.seeded())
    http = HttpService("data_store", DataStoreApi(datasets).routes(), access=access)
    async with http.serving(settings.http_host, settings.http_port, setting=settings.names("http_port")[0]):
        await stop.wait()


def main() -> None:
    service.run(DataStoreSettings, serve, name="data-store")
