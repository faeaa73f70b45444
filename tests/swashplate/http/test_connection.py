"""What comes over the socket and is not a well-formed request, or does not come at all."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from swashplate.http import HttpService, Patience, Route, answer, read_json
from tests.support.ports import free_port

SHORT = Patience(header=0.3, body=0.3, idle=0.6)


async def length(request: web.Request) -> web.Response:
    return answer({"length": len(await read_json(request))})


@asynccontextmanager
async def service(patience: Patience | None = None):
    port = free_port()
    routes = [Route("POST", "/length", length, "How long"), Route("GET", "/x", length, "A thing")]
    async with HttpService("test", routes, body_limit=10_000, patience=patience).serving("127.0.0.1", port):
        yield port


async def said(port: int, *pieces: bytes, end: bool = False) -> tuple[int, dict[str, str], dict]:
    """Send the pieces one by one; the answer's status, headers and JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end:
            writer.write_eof()
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)
    finally:
        writer.close()


JSON = b"Host: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"nonsense\r\n\r\n", "malformed_request"),
        (b"GET /x HTTP/9.9\r\nHost: x\r\n\r\n", "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello", "malformed_request"),
        (b"GET /x HTTP/1.1\r\nHost x\r\n\r\n", "malformed_request"),
        (b"GET /x HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", "header_too_large"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "header_too_large"),
        (b"POST /length HTTP/1.1\r\n" + JSON + b"Content-Length: -1\r\n\r\n{}", "malformed_request"),
        (
            b"POST /length HTTP/1.1\r\n" + JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            "malformed_request",
        ),
        (
            b"POST /length HTTP/1.1\r\n" + JSON + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            "malformed_request",
        ),
        (b"POST /length HTTP/1.1\r\n" + JSON + b"Expect: gold\r\nContent-Length: 2\r\n\r\n{}", "malformed_request"),
        (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", "malformed_request"),
        (b"GET /x?a=%00 HTTP/1.1\r\nHost: x\r\n\r\n", "malformed_request"),
    ],
)
async def test_what_is_not_http_is_refused_in_our_shape(request_bytes, code):
    async with service() as port:
        status, headers, body = await said(port, request_bytes)
    assert (status, body["code"]) == (400, code)
    assert headers["content-type"].startswith("application/json")
    assert len(headers["x-request-id"]) == 32
    assert "\n" not in body["error"]


async def test_garbage_between_chunks_is_a_400():
    head = b"POST /length HTTP/1.1\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    async with service() as port:
        status, _, body = await said(port, head, b"2\r\n{}\r\nzz\r\n")
    assert (status, body["code"]) in {(400, "malformed_body"), (400, "malformed_request")}


async def test_what_follows_a_body_must_be_a_request_again():
    request = b"POST /length HTTP/1.1\r\n" + JSON + b"Content-Length: 2\r\n\r\n{}garbage\r\n\r\n"
    async with service() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        async with asyncio.timeout(10):
            everything = (await reader.read()).decode()
        writer.close()
    assert "malformed_request" in everything
    assert everything.count("HTTP/1.") <= 2


async def test_a_body_shorter_than_it_says_is_never_taken():
    async with service(SHORT) as port:
        request = b"POST /length HTTP/1.1\r\n" + JSON + b"Content-Length: 9\r\n\r\n{}"
        status, _, body = await said(port, request)
        assert (status, body["code"]) == (408, "request_timeout")


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes():
    request = b"POST /length HTTP/1.1\r\n" + JSON + b"Content-Length: 10001\r\n\r\n"
    async with service() as port:
        status, _, body = await said(port, request)
    assert (status, body["code"]) == (413, "too_large")


async def test_a_client_that_waits_with_its_body_is_told_to_go_on():
    async with service() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /length HTTP/1.1\r\n" + JSON + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_header_that_does_not_end_is_given_up():
    async with service(SHORT) as port:
        status, headers, body = await said(port, b"GET /x HTTP/1.1\r\n", b"Host:")
    assert (status, body["code"], headers["connection"]) == (408, "request_timeout", "close")


async def test_a_body_that_drips_is_given_up_and_one_that_flows_is_not():
    async def send(port: int, piece: bytes, count: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        total = len(piece) * count
        writer.write(b"POST /length HTTP/1.1\r\n" + JSON + f"Content-Length: {total}\r\n\r\n".encode())

        async def pour() -> None:
            for _ in range(count):
                writer.write(piece)
                await asyncio.sleep(0.1)

        pouring = asyncio.create_task(pour())
        try:
            async with asyncio.timeout(10):
                return int((await reader.readline()).split()[1])
        finally:
            pouring.cancel()
            writer.close()

    async with service(SHORT) as port:
        dripping, flowing = await asyncio.gather(send(port, b" " * 10, 100), send(port, b" " * 1000, 9))
    assert (dripping, flowing) == (408, 200)


async def test_a_connection_that_asks_nothing_is_closed():
    async with service(SHORT) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_a_slow_handler_is_not_hurried():
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(3 * SHORT.header)
        return answer({})

    port = free_port()
    async with HttpService("test", [Route("GET", "/slow", slow, "Slow")], patience=SHORT).serving("127.0.0.1", port):
        status, _, _ = await said(port, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 200
