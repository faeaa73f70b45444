"""``python -m proplet.data_store``: the local data store, which serves a site's datasets to the proplets beside it."""

from __future__ import annotations

import asyncio

from aiohttp import web
from pydantic import ValidationError

from proplet import dataset_seed
from proplet.datasets import Datasets, DatasetUpload
from proplet.settings import DataStoreSettings
from swashplate import logging, service
from swashplate.errors import NotFoundError, from_validation
from swashplate.http import HttpService, Route, answer, read_text

log = logging.get("data_store")

PIECE = 1 << 20


class DataStoreApi:
    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/datasets", self._list, "The names of the datasets"),
            Route("GET", "/datasets/{id}", self._get, "One dataset", errors=(400, 404)),
            Route("POST", "/datasets/{id}", self._post, "Store a dataset", body=DatasetUpload, status=201),
        ]

    async def _list(self, _: web.Request) -> web.Response:
        names = await asyncio.to_thread(self._datasets.names)
        return answer({"datasets": names, "clients": names, "count": len(names)})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        try:
            dataset = await asyncio.to_thread(self._datasets.get, name)
        except NotFoundError:
            log.warning("Dataset missing", proplet_id=name)
            raise
        headers = {"ETag": dataset.etag, "X-Dataset-Rows": str(dataset.rows)}
        if dataset.etag in (tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")):
            log.info("Dataset served", proplet_id=name, size=dataset.rows, unchanged=True)
            return web.Response(status=304, headers=headers)
        with dataset.path.open("rb") as file:
            first = file.read(PIECE)
            log.info("Dataset served", proplet_id=name, size=dataset.rows)
            if len(first) < PIECE:
                return web.Response(body=first, content_type="application/json", headers=headers)
            response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
            await response.prepare(request)
            while first:
                await response.write(first)
                first = await asyncio.to_thread(file.read, PIECE)
            await response.write_eof()
            return response

    async def _post(self, request: web.Request) -> web.Response:
        name, text = request.match_info["id"], await read_text(request)
        self._datasets.has(name)  # refuses a bad name before the body is looked at
        size = await asyncio.to_thread(self._store, name, text)
        log.info("Dataset stored", proplet_id=name, size=size)
        return answer({"proplet_id": name, "size": size, "status": "stored"}, status=201)

    def _store(self, name: str, text: str) -> int:
        try:
            upload = DatasetUpload.model_validate_json(text)
        except ValidationError as error:
            raise from_validation(error) from error
        return self._datasets.put(name, upload.data, upload.schema_name).rows


def seed(datasets: Datasets, names: list[str]) -> None:
    """Give each of ``names`` the demo dataset unless it has one. Raises ``InvalidRequestError`` for a bad name."""
    for name in names:
        if datasets.has(name):
            log.info("Dataset already exists, skipping", proplet_id=name)
        else:
            log.info("Dataset seeded", proplet_id=name, size=datasets.put(name, dataset_seed.rows(name)).rows)


async def serve(settings: DataStoreSettings, stop: asyncio.Event) -> None:
    access = settings.access(settings.http_host)
    datasets = Datasets(settings.folder)
    seed(datasets, settings.seeded())
    http = HttpService("data_store", DataStoreApi(datasets).routes(), access=access)
    async with http.serving(settings.http_host, settings.http_port, setting=settings.names("http_port")[0]):
        await stop.wait()


def main() -> None:
    service.run(DataStoreSettings, serve, name="data-store")


if __name__ == "__main__":
    main()
