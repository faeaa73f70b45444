"""Tokens: who is let in to which service, and that a token goes nowhere else."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
import structlog
from aiohttp import web

from coordinator import aggregator
from coordinator import registry as model_registry
from coordinator.app import serve as coordinator_serve
from coordinator.settings import AggregatorSettings, CoordinatorSettings
from coordinator.settings import RegistrySettings as ModelRegistrySettings
from manager.app import serve as manager_serve
from manager.settings import ManagerSettings
from proplet.app import serve as proplet_serve
from proplet.data_store import app as data_store
from proplet.settings import DataStoreSettings, PropletSettings
from provision.identity.app import serve as identity_serve
from provision.identity.settings import IdentitySettings
from proxy import registry as oci_registry
from proxy.app import serve as proxy_serve
from proxy.settings import ProxySettings
from proxy.settings import RegistrySettings as OciRegistrySettings
from swashplate.access import Access
from swashplate.client import HttpClient, TokenRefusedError
from swashplate.errors import ConfigurationError, SwashplateError
from swashplate.http import HttpService, Route, answer
from tests.support.ports import free_port

FULL, READ = "full-token-0123456789", "read-token-0123456789"
SERVICES = [
    (ManagerSettings, "MANAGER"),
    (CoordinatorSettings, "COORDINATOR"),
    (ModelRegistrySettings, "MODEL_REGISTRY"),
    (AggregatorSettings, "AGGREGATOR"),
    (DataStoreSettings, "DATA_STORE"),
    (PropletSettings, "PROPLET"),
    (ProxySettings, "PROXY"),
    (OciRegistrySettings, "OCI_REGISTRY"),
]


async def echo(request: web.Request) -> web.Response:
    return answer({"authorization": request.headers.get("Authorization", "")})


ROUTES = [
    Route("GET", "/thing", echo, "Read"),
    Route("POST", "/thing", echo, "Write"),
    Route("POST", "/proven", echo, "Brings its own proof", open=True),
]


@asynccontextmanager
async def service(access: Access | None, routes=ROUTES):
    port = free_port()
    async with HttpService("test", routes, access=access).serving("127.0.0.1", port):
        yield f"http://127.0.0.1:{port}"


def bearer(token: str) -> str:
    return f"Bearer {token}"


def basic(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def status(url: str, method: str, path: str, authorization: str = "") -> int:
    headers = {"Authorization": authorization} if authorization else {}
    async with aiohttp.ClientSession() as session, session.request(method, url + path, headers=headers) as response:
        return response.status


async def test_without_tokens_nobody_is_asked():
    async with service(Access()) as url:
        assert await status(url, "POST", "/thing") == 200


@pytest.mark.parametrize(
    ("authorization", "read", "write"),
    [
        ("", 401, 401),
        (bearer(FULL), 200, 200),
        (bearer(READ), 200, 401),
        (f"bearer  {FULL} ", 200, 200),
        (bearer("wrong"), 401, 401),
        (bearer(FULL + "x"), 401, 401),
        (bearer("ä"), 401, 401),
        (basic(FULL), 401, 401),
        (FULL, 401, 401),
    ],
)
async def test_each_token_opens_what_it_is_for(authorization, read, write):
    async with service(Access(FULL, READ, "X_HTTP_TOKEN")) as url:
        assert await status(url, "GET", "/thing", authorization) == read
        assert await status(url, "POST", "/thing", authorization) == write


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (basic(FULL), 200),
        (basic(FULL, ""), 200),
        (bearer(FULL), 200),
        (basic(READ), 401),
        ("Basic !", 401),
        (basic(""), 401),
    ],
)
async def test_where_oci_clients_call_a_token_is_also_the_password_of_any_user(authorization, expected):
    async with service(Access(FULL, READ, "X_HTTP_TOKEN", basic=True)) as url:
        assert await status(url, "POST", "/thing", authorization) == expected


async def test_health_is_open_and_everything_else_that_a_service_tells_is_not():
    async with service(Access(FULL, READ, "X_HTTP_TOKEN")) as url:
        assert await status(url, "GET", "/health") == 200
        for path in ("/metrics", "/openapi.json", "/docs", "/nothing"):
            assert await status(url, "GET", path) == 401
        assert await status(url, "GET", "/metrics", bearer(READ)) == 200


async def test_a_route_with_a_proof_of_its_own_needs_no_token():
    async with service(Access(FULL, READ, "X_HTTP_TOKEN")) as url:
        assert await status(url, "POST", "/proven") == 200


@pytest.mark.parametrize(("basic_too", "scheme"), [(False, "Bearer"), (True, "Basic")])
async def test_a_refusal_has_our_shape_and_says_how_to_ask(basic_too, scheme):
    access = Access(FULL, "", "X_HTTP_TOKEN", basic=basic_too)
    async with (
        service(access) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/thing") as response,
    ):
        body = await response.json()
        assert response.headers["WWW-Authenticate"].startswith(f"{scheme} realm=")
    assert (body["code"], "X_HTTP_TOKEN" in body["hint"]) == ("unauthorized", True)


async def test_a_token_is_shown_neither_in_the_description_nor_in_the_log_nor_in_a_representation():
    access = Access(FULL, READ, "X_HTTP_TOKEN")
    with structlog.testing.capture_logs() as logs:
        async with service(access) as url, HttpClient(tokens={url: FULL}) as client:
            described = await client.get_json(f"{url}/openapi.json")
            await status(url, "POST", "/thing", bearer(READ))
            await status(url, "POST", "/thing", bearer("wrong-token-of-somebody"))
    settings = ManagerSettings.model_validate({"MANAGER_HTTP_TOKEN": FULL, "MANAGER_CLIENT_KEY": "the key"})
    shown = json.dumps(described) + repr(logs) + repr(access) + repr(settings) + str(settings)
    assert FULL not in shown
    assert READ not in shown
    assert "wrong-token" not in shown
    assert "the key" not in shown
    assert described["paths"]["/thing"]["post"]["security"] == [{"token": []}]
    assert "security" not in described["paths"]["/proven"]["post"]


# The settings.


@pytest.mark.parametrize(("kind", "name"), SERVICES)
def test_beyond_loopback_every_service_needs_a_token_or_a_word(kind, name):
    identity = {f"{name}_{key}": "x" for key in ("DOMAIN_ID", "CHANNEL_ID", "CLIENT_ID", "CLIENT_KEY")}
    with pytest.raises(
        ConfigurationError, match=r"refusing to serve HTTP without authentication on 0\.0\.0\.0"
    ) as caught:
        kind.load(identity).access("0.0.0.0")
    assert f"{name}_HTTP_TOKEN" in caught.value.hint
    assert f"{name}_HTTP_INSECURE=true" in caught.value.hint
    assert kind.load({**identity, f"{name}_HTTP_INSECURE": "true"}).access("0.0.0.0").token == ""
    both = {f"{name}_HTTP_TOKEN": FULL, f"{name}_HTTP_READ_TOKEN": READ}
    access = kind.load({**identity, **both}).access("0.0.0.0")
    assert (access.token, access.read_token) == (FULL, READ)
    assert kind.load(identity).access("127.0.0.1").token == ""


def test_the_word_that_opens_a_service_does_not_take_its_token_away():
    settings = AggregatorSettings.load({"AGGREGATOR_HTTP_TOKEN": FULL, "AGGREGATOR_HTTP_INSECURE": "true"})
    assert settings.access("0.0.0.0").token == FULL


@pytest.mark.parametrize("token", ["short", "with a space inside it", "ümlaut-0123456789"])
def test_a_token_that_cannot_be_is_refused_without_being_shown(token):
    with pytest.raises(ConfigurationError, match="setting AGGREGATOR_HTTP_TOKEN: a token") as caught:
        AggregatorSettings.load({"AGGREGATOR_HTTP_TOKEN": token})
    assert token not in caught.value.sentence


def test_a_token_for_reading_alone_is_refused():
    with pytest.raises(ConfigurationError, match=r"AGGREGATOR_HTTP_READ_TOKEN.*AGGREGATOR_HTTP_TOKEN is not"):
        AggregatorSettings.load({"AGGREGATOR_HTTP_READ_TOKEN": READ}).access("127.0.0.1")


# The client.


async def test_the_client_shows_a_token_to_its_own_service_only():
    async with service(Access(FULL, "", "X")) as url, service(None) as other, HttpClient() as client:
        client.trust(f"{url}/", FULL)
        assert (await client.get_json(f"{url}/thing"))["authorization"] == bearer(FULL)
        assert (await client.get_json(f"{other}/thing"))["authorization"] == ""
        same_host_by_name = other.replace("127.0.0.1", "localhost")
        assert (await client.get_json(f"{same_host_by_name}/thing"))["authorization"] == ""


async def test_a_base_url_with_a_path_is_not_a_prefix_of_another_name():
    async with service(None, [Route("GET", "/{rest:.*}", echo, "Anything")]) as url, HttpClient() as client:
        client.trust(f"{url}/a", FULL)
        assert (await client.get_json(f"{url}/a/b"))["authorization"] == bearer(FULL)
        assert (await client.get_json(f"{url}/ab"))["authorization"] == ""


async def test_the_client_takes_no_token_to_where_it_is_redirected():
    seen: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return answer({})

    async with service(None, [Route("GET", "/there", elsewhere, "There")]) as target:

        async def redirect(_: web.Request) -> web.Response:
            raise web.HTTPFound(f"{target}/there")

        async with service(None, [Route("GET", "/here", redirect, "Here")]) as url, HttpClient() as client:
            client.trust(url, FULL)
            with pytest.raises(SwashplateError, match="Found"):
                await client.get_json(f"{url}/here")
    assert seen == []


async def test_a_peer_that_wants_another_token_is_our_operators_trouble_and_passes():
    async with service(Access(FULL, "", "X_HTTP_TOKEN")) as url, HttpClient(tokens={url: READ}) as client:
        with pytest.raises(TokenRefusedError, match="refuses us") as caught:
            await client.get_json(f"{url}/thing")
        assert (caught.value.status, caught.value.retryable) == (503, True)
        assert "X_HTTP_TOKEN" in caught.value.hint
        client.trust(url, FULL)
        assert await client.get_json(f"{url}/thing")


# The processes.


async def _refused(serve, settings) -> ConfigurationError:
    """How a service ends that is to serve where everybody can reach it."""
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(ConfigurationError, match="refusing to serve") as caught:
        await serve(settings, stop)
    return caught.value


@pytest.mark.parametrize(
    ("serve", "kind", "name", "host"),
    [
        (manager_serve, ManagerSettings, "MANAGER", "MANAGER_HTTP_HOST"),
        (coordinator_serve, CoordinatorSettings, "COORDINATOR", "COORDINATOR_HTTP_HOST"),
        (model_registry.serve, ModelRegistrySettings, "MODEL_REGISTRY", "REGISTRY_HTTP_HOST"),
        (aggregator.serve, AggregatorSettings, "AGGREGATOR", "AGGREGATOR_HTTP_HOST"),
        (data_store.serve, DataStoreSettings, "DATA_STORE", "DATA_STORE_HTTP_HOST"),
        (proxy_serve, ProxySettings, "PROXY", "PROXY_HTTP_HOST"),
        (oci_registry.serve, OciRegistrySettings, "OCI_REGISTRY", "OCI_REGISTRY_HOST"),
        (proplet_serve, PropletSettings, "PROPLET", "PROPLET_HTTP_HOST"),
    ],
)
async def test_no_process_serves_a_network_without_a_token(tmp_path, monkeypatch, serve, kind, name, host):
    monkeypatch.chdir(tmp_path)
    identity = {f"{name}_{key}": "x" for key in ("DOMAIN_ID", "CHANNEL_ID", "CLIENT_ID", "CLIENT_KEY")}
    settings = kind.load({**identity, host: "0.0.0.0"})
    error = await _refused(serve, settings)
    assert f"{name}_HTTP_TOKEN" in error.hint
    assert list(tmp_path.iterdir()) == []


async def test_the_identity_service_does_not_serve_a_network_with_its_default_password(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = await _refused(identity_serve, IdentitySettings.load({"IDENTITY_HTTP_HOST": "0.0.0.0"}))
    assert "IDENTITY_ADMIN_PASSWORD" in error.hint
