import errno
import io
import json
from dataclasses import replace

import aiohttp
import pytest
import structlog
from aiohttp import web

from swashplate.client import HttpClient
from swashplate.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError
from swashplate.http import MIB, HttpService, Route, Whole, answer, read_body
from swashplate.http.bodies import MOST_VALUES
from swashplate.logging import get
from swashplate.messages import ExperimentConfig
from tests.support.ports import free_port

LIMIT = Whole(name="limit", text="How many", default=100, low=1, high=100)


async def echo(request: web.Request) -> web.Response:
    return answer(await read_body(request, ExperimentConfig))


async def conflict(_: web.Request) -> web.Response:
    raise ConflictError("no", code="taken", hint="try another")


async def broken(_: web.Request) -> web.Response:
    raise RuntimeError("a secret")


async def full(_: web.Request) -> web.Response:
    raise OSError(errno.ENOSPC, "No space left on device", "/where/it/is")


async def numbers(request: web.Request) -> web.Response:
    return answer({"n": LIMIT.of(request)})


async def down() -> None:
    raise UnavailableError("the broker is away")


async def unavailable(_: web.Request) -> web.Response:
    get("work").info("looking")
    raise UnavailableError("the broker is away")


async def streamed(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"some bytes")
    return response


ROUTES = [
    Route("GET", "/unavailable", unavailable, "Unavailable", errors=(503,)),
    Route("GET", "/streamed", streamed, "Streamed", gives="application/octet-stream"),
    Route(
        "POST", "/echo", echo, "Echo", body=ExperimentConfig, answer=ExperimentConfig, body_example={"round_id": "r"}
    ),
    Route("GET", "/conflict", conflict, "Conflict", errors=(409,)),
    Route("GET", "/broken", broken, "Broken"),
    Route("GET", "/full", full, "Full", errors=(503,)),
    Route("GET", "/numbers/{id}", numbers, "Numbers", parameters=(LIMIT,)),
]
BODY = {"round_id": "r", "model_ref": "fl/models/m_v0", "participants": ["p"], "task_wasm_image": "i"}


@pytest.fixture
async def url():
    service = HttpService("test", ROUTES, body_limit=10_000)
    port = free_port()
    async with service.serving("127.0.0.1", port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as opened:
        yield opened


async def post(session, url, data, content_type="application/json"):
    async with session.post(f"{url}/echo", data=data, headers={"Content-Type": content_type}) as response:
        return response.status, json.loads(await response.text())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k_of_n": "3"}, "k_of_n"),
        ({"k_of_n": 2}, "k_of_n"),
        ({"k_of_n": 0}, "k_of_n"),
        ({"participants": []}, "participants"),
        ({"participants": ["p", "p"]}, "participants"),
        ({"participants": "p"}, "participants"),
        ({"participants": ["a/b"]}, "participants.0"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"round_id": 7}, "round_id"),
        ({"hyperparams": [1]}, "hyperparams"),
        ({"k_of_m": 1}, "k_of_m"),
    ],
)
async def test_a_wrong_field_is_a_400_that_names_it(url, session, change, named):
    status, body = await post(session, url, json.dumps({**BODY, **change}))
    assert status == 400
    assert named in body["error"]


@pytest.mark.parametrize("data", ["", "{", "[]", "null", '{"round_id": "\\ud800"}', "\x00", '{"lr": NaN}'])
async def test_what_is_not_the_json_we_want_is_a_400(url, session, data):
    status, body = await post(session, url, data)
    assert status == 400
    assert body["error"]


async def test_numbers_must_be_finite(url, session):
    status, body = await post(session, url, json.dumps({**BODY, "hyperparams": {"lr": float("inf")}}))
    assert status == 400
    assert "hyperparams" in body["error"]


async def test_bytes_that_are_not_utf8_are_a_400(url, session):
    assert (await post(session, url, b"\xff\xfe"))[0] == 400


async def test_a_body_over_the_limit_is_a_413(url, session):
    status, body = await post(session, url, b" " * 10_001)
    assert status == 413
    assert body["code"] == "too_large"


async def test_a_route_may_have_a_limit_of_its_own_and_both_are_described(session):
    routes = [replace(ROUTES[2], path=path, limit=limit) for path, limit in (("/echo", 0), ("/large", 20_000))]
    service, port = HttpService("test", routes, body_limit=10_000), free_port()
    async with service.serving("127.0.0.1", port):
        for path, limit in (("echo", 10_000), ("large", 20_000)):
            for size, expected in ((limit, 200), (limit + 1, 413)):
                sent = pieces(json.dumps(BODY).encode().ljust(size))
                headers = {"Content-Type": "application/json"}
                async with session.post(f"http://127.0.0.1:{port}/{path}", data=sent, headers=headers) as response:
                    assert response.status == expected
            refusal = service.document["paths"][f"/{path}"]["post"]["responses"]["413"]
            assert f"over the limit of {limit} bytes" in refusal["content"]["application/json"]["example"]["error"]


async def pieces(body):
    """Without a length."""
    for at in range(0, len(body), 4096):
        yield body[at : at + 4096]


async def test_a_body_of_very_many_values_is_a_413_and_never_built(session):
    route = replace(ROUTES[2], limit=MIB)
    service, port = HttpService("test", [route]), free_port()
    body = b'{"hyperparams":{"a":[' + b"[]," * (MOST_VALUES + 1) + b"0]}}"
    async with service.serving("127.0.0.1", port):
        status, answered = await post(session, f"http://127.0.0.1:{port}", io.BytesIO(body))
    assert (status, answered["code"]) == (413, "too_many_values")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_in_the_encoding_it_claims_is_a_400(url, session, encoding):
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with session.post(
        f"{url}/echo", data=b"{}", headers=headers, skip_auto_headers=["Content-Encoding"]
    ) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "kind", ["application/jsonx", "application/json; charset=utf-16", "text/plain; application/json"]
)
async def test_only_json_in_utf8_is_json(url, session, kind):
    assert (await post(session, url, json.dumps(BODY), kind))[0] == 400


async def test_a_form_post_is_refused_so_that_a_web_page_cannot_reach_us(url, session):
    status, body = await post(session, url, json.dumps(BODY), "text/plain")
    assert status == 400
    assert "application/json" in body["hint"]


async def test_an_error_carries_code_and_hint_to_our_own_client(url):
    async with HttpClient() as client:
        with pytest.raises(ConflictError) as caught:
            await client.get_json(f"{url}/conflict")
    assert (caught.value.code, caught.value.hint) == ("taken", "try another")


async def test_an_unexpected_failure_tells_nothing(url, session):
    async with session.get(f"{url}/broken") as response:
        assert response.status == 500
        assert "secret" not in await response.text()


async def test_unknown_routes_and_methods_have_the_same_shape(url, session):
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/echo", 405)):
        async with session.request(method, url + path) as response:
            assert response.status == status
            assert (await response.json())["code"]


@pytest.mark.parametrize("given", ["a-request-7", "Root=1-67891233-abcdef012345678912345678", "x" * 128])
@pytest.mark.parametrize("path", ["/conflict", "/streamed", "/nowhere", "/health"])
async def test_a_request_keeps_its_id(url, session, path, given):
    async with session.get(url + path, headers={"X-Request-Id": given}) as response:
        assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "id\twith a tab", "<script>", "-x"])
async def test_a_request_without_a_usable_id_gets_one(url, session, given):
    headers = {} if given is None else {"X-Request-Id": given}
    async with session.get(f"{url}/streamed", headers=headers) as response:
        found = response.headers["X-Request-Id"]
    assert len(found) == 32
    assert found.isalnum()


async def test_a_failure_of_ours_names_the_request_and_so_does_every_line_of_the_log(url, session):
    contextvars = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[contextvars]) as logs:
        for path, status in (("/broken", 500), ("/unavailable", 503)):
            async with session.get(url + path, headers={"X-Request-Id": f"r{path[1:]}"}) as response:
                assert response.status == status
                assert (await response.json())["request_id"] == f"r{path[1:]}"
    lines = [line for line in logs if line["event"] != "serving HTTP"]
    assert {"request handler failed", "looking", "request failed", "request"} <= {line["event"] for line in lines}
    assert {line["request_id"] for line in lines} == {"rbroken", "runavailable"}


async def test_a_failure_of_the_caller_does_not_name_the_request(url, session):
    async with session.get(f"{url}/conflict") as response:
        assert "request_id" not in await response.json()


async def test_health_that_fails_names_the_request(session):
    service, port = HttpService("test", [], checks={"broker": down}), free_port()
    async with service.serving("127.0.0.1", port), session.get(f"http://127.0.0.1:{port}/health") as response:
        assert (await response.json())["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/health", "/numbers/1", "/metrics", "/docs", "/openapi.json", "/streamed"])
async def test_what_can_be_read_can_be_asked_for_its_headers_alone(url, session, path):
    async with session.head(url + path) as head, session.get(url + path) as got:
        assert (head.status, await head.read()) == (200, b"")
        assert head.content_type == got.content_type


async def test_head_of_what_is_not_there_is_a_404_without_a_body(url, session):
    async with session.head(f"{url}/nowhere") as response:
        assert (response.status, await response.read()) == (404, b"")


@pytest.mark.parametrize(("path", "allowed"), [("/echo", "OPTIONS, POST"), ("/numbers/1", "GET, HEAD, OPTIONS")])
async def test_options_lists_the_methods(url, session, path, allowed):
    async with session.options(url + path) as response:
        assert (response.status, response.headers["Allow"]) == (204, allowed)
    async with session.request("PURGE", url + path) as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(",")) == set(allowed.split(", ")) - {"OPTIONS"}


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", ["/health", "/echo", "/nowhere", "/openapi.json"])
async def test_no_web_page_is_ever_let_in(url, session, method, path):
    headers = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    async with session.request(method, url + path, headers=headers) as response:
        assert [name for name in response.headers if name.lower().startswith("access-control")] == []


async def test_a_method_that_nobody_knows_makes_no_series_of_its_own(url, session):
    for method in ("PURGE", "MKCOL"):
        async with session.request(method, f"{url}/echo") as response:
            assert response.status == 405
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    assert 'method="other"' in text
    assert "PURGE" not in text


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ('{"round_id":"r","round_id":"s",%s}', "field round_id: the key is given twice"),
        ('{"round_id":"r","hyperparams":{"lr":1,"lr":2},%s}', "field hyperparams.lr: the key is given twice"),
        ('{"round_id":"r","hyperparams":{"lr":1e999},%s}', "field hyperparams: numbers must be finite"),
        ('{"round_id":"r","hyperparams":{"lr":NaN},%s}', "field hyperparams: numbers must be finite"),
        ('{"round_id":"r","hyperparams":{"n":18446744073709551616},%s}', "field hyperparams: whole numbers must fit"),
        ('{"round_id":"r","hyperparams":{"n":"a\\u0000"},%s}', "field hyperparams.n: a text must not contain NUL"),
        ('{"round_id":"r","hyperparams":{"n":"\\ud800"},%s}', "hex escape"),
        ('{"round_id":"r","hyperparams":{"n":' + "[" * 70 + "]" * 70 + "},%s}", "nested deeper than 64 levels"),
    ],
)
async def test_json_that_can_be_read_in_two_ways_is_a_400(url, session, data, named):
    rest = '"model_ref":"fl/models/m_v0","participants":["p"],"task_wasm_image":"i"'
    status, body = await post(session, url, data % rest)
    assert status == 400
    assert named in body["error"]


@pytest.mark.parametrize("limit", ["0", "101", "x", "-1", ""])
async def test_query_numbers_are_checked(url, session, limit):
    async with session.get(f"{url}/numbers/1?limit={limit}") as response:
        assert response.status == 400
        assert "limit" in (await response.json())["error"]


async def test_the_description_has_every_route_and_its_errors(url, session):
    async with session.get(f"{url}/openapi.json") as response:
        document = await response.json()
    assert document["openapi"] == "3.1.0"
    own = {"/health", "/metrics", "/openapi.json", "/docs"}
    assert set(document["paths"]) == {route.path for route in ROUTES} | own
    assert set(document["paths"]["/echo"]["post"]["responses"]) == {"200", "400", "408", "413"}
    assert "ExperimentConfig" in document["components"]["schemas"]
    async with session.get(f"{url}/docs") as response:
        assert "/numbers/{id}" in await response.text()


async def test_metrics_count_requests(url, session):
    async with session.get(f"{url}/nowhere"):
        pass
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    assert 'test_http_requests_total{method="GET",route="unknown",status="404"} 1.0' in text


async def test_health_names_what_is_down(session):
    service = HttpService("test", [], checks={"broker": down})
    port = free_port()
    async with service.serving("127.0.0.1", port), session.get(f"http://127.0.0.1:{port}/health") as response:
        assert response.status == 503
        assert "the broker is away" in (await response.json())["error"]


async def test_a_taken_port_names_itself_and_its_holder():
    first, second = HttpService("one", []), HttpService("two", [])
    port = free_port()
    async with first.serving("127.0.0.1", port):
        with pytest.raises(
            ConfigurationError, match=rf"two cannot listen: port {port} is taken by .*pid \d+"
        ) as caught:
            async with second.serving("127.0.0.1", port, setting="TWO_PORT"):
                pass
    assert "TWO_PORT" in caught.value.hint


async def test_a_peer_that_is_not_there_is_unavailable_and_named():
    port = free_port()
    async with HttpClient() as client:
        with pytest.raises(UnavailableError) as caught:
            await client.get_json(f"http://127.0.0.1:{port}/x")
    assert caught.value.sentence == f"GET http://127.0.0.1:{port}/x failed: Connection refused"


async def test_an_answer_in_a_foreign_shape_is_still_an_error(url):
    async def gone(_: web.Request) -> web.Response:
        return web.Response(status=404, text="Dataset not found")

    service = HttpService("test", [Route("GET", "/gone", gone, "Gone")])
    port = free_port()
    async with service.serving("127.0.0.1", port), HttpClient() as client:
        with pytest.raises(NotFoundError, match="Dataset not found"):
            await client.get_json(f"http://127.0.0.1:{port}/gone")


async def test_a_full_disk_is_an_outage_and_no_bug(url, session):
    async with session.get(f"{url}/full") as response:
        assert response.status == 503
        body = await response.json()
    assert (body["error"], body["code"]) == ("the service's disk is full", "disk_full")
