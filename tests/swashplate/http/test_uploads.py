"""A file in a form: streamed, checked by its first bytes, and never half taken."""

from __future__ import annotations

import io
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import InvalidRequestError
from swashplate.http import HttpService, Route, answer, read_upload
from tests.support.ports import free_port

WASM = b"\0asm" + bytes(range(256)) * 12_000
LIMIT = 4_000_000


def is_wasm(name: str, first: bytes) -> None:
    if not name.endswith(".wasm"):
        raise InvalidRequestError("field file: its name must end in .wasm")
    if not first.startswith(b"\0asm"):
        raise InvalidRequestError("field file: this is not WASM")


@asynccontextmanager
async def service(folder):
    store = BlobStore(folder)

    async def put(request: web.Request) -> web.Response:
        with store.writer() as writer:
            received = await read_upload(request, writer, limit=LIMIT, check=is_wasm)
            return answer({"name": received.filename, "size": received.size, "digest": writer.commit()})

    port = free_port()
    routes = [Route("PUT", "/upload", put, "Upload")]
    async with HttpService("test", routes).serving("127.0.0.1", port), aiohttp.ClientSession() as session:

        async def call(**options):
            async with session.put(f"http://127.0.0.1:{port}/upload", **options) as response:
                return response.status, await response.json()

        yield call, store


def form(content: bytes, *, field: str = "file", name: str | None = "add.wasm", also: dict[str, str] | None = None):
    made = aiohttp.FormData()
    for key, value in (also or {}).items():
        made.add_field(key, value)
    made.add_field(field, io.BytesIO(content), filename=name, content_type="application/wasm")
    return made


async def test_a_file_arrives_whole(tmp_path):
    async with service(tmp_path) as (call, store):
        status, body = await call(data=form(WASM, also={"note": "before the file"}))
    assert (status, body) == (200, {"name": "add.wasm", "size": len(WASM), "digest": sha256_digest(WASM)})
    assert store.read(body["digest"]) == WASM


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        ({"data": lambda: form(b"\x7fELF")}, 400, "not WASM"),
        ({"data": lambda: form(b"")}, 400, "not WASM"),
        ({"data": lambda: form(WASM, name="add.txt")}, 400, "end in .wasm"),
        ({"data": lambda: form(WASM, field="other")}, 400, "field file is missing"),
        ({"data": lambda: form(b"\0asm" + bytes(LIMIT))}, 413, "over the limit of 4000000 bytes"),
        ({"data": b"\0asm", "headers": {"Content-Type": "application/wasm"}}, 400, "form with a file"),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "cannot be read"),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "cannot be read"),
        (
            {
                "data": b'--a\r\nContent-Disposition: form-data; name="file"; filename="a.wasm"\r\n\r\n\0asm',
                "headers": {"Content-Type": "multipart/form-data; boundary=a"},
            },
            400,
            "",
        ),
    ],
)
async def test_what_is_refused_leaves_nothing(tmp_path, options, status, named):
    async with service(tmp_path) as (call, store):
        data = options["data"]
        found, body = await call(**{**options, "data": data() if callable(data) else data})
    assert found == status, body
    assert named in body["error"]
    assert list(store.folder.iterdir()) == []
