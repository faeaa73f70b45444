"""The whole proxy on a broker in memory and a real registry: what the manager and the proplets get to hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from proxy.addresses import endpoints
from proxy.app import running
from proxy.auth import Credentials
from proxy.chunks import LOGGED_EVERY
from proxy.push import push
from proxy.settings import ProxySettings
from swashplate.blobs import sha256_digest
from swashplate.bus import MemoryBroker, MemoryBus
from swashplate.errors import ConfigurationError
from swashplate.messages import BlobInfo, BlobRequest, Resolve, Resolved, digest_hex
from swashplate.references import parse
from swashplate.topics import Topics, last_level
from tests.support.ports import free_port

TOPICS = Topics("domain", "channel")
BINARY = b"\0asm" + bytes(range(256)) * 100
DIGEST = sha256_digest(BINARY)
CHUNK = 1000
COUNT = -(-len(BINARY) // CHUNK)


class Peer:
    """A manager or a proplet: what it was told, and the chunks that it saw."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()
        self.chunks: dict[int, bytes] = {}
        self.published = 0
        self.news = asyncio.Event()

    async def hear(self, received) -> None:
        self.replies.put_nowait(received.payload)

    async def collect(self, received) -> None:
        self.published += 1
        self.chunks[int(last_level(received.topic))] = received.payload
        self.news.set()

    async def info(self) -> BlobInfo:
        async with asyncio.timeout(10):
            return BlobInfo.decode(await self.replies.get())

    async def resolved(self) -> Resolved:
        async with asyncio.timeout(10):
            return Resolved.decode(await self.replies.get())

    async def whole(self, count: int) -> bytes:
        async with asyncio.timeout(10):
            while len(self.chunks) < count:
                self.news.clear()
                await self.news.wait()
        return b"".join(self.chunks[i] for i in range(count))

    async def resolve(self, image: str, request_id: str = "r") -> Resolved:
        await self.bus.publish(TOPICS.resolve_request, Resolve(request_id=request_id, image=image).encode())
        return await self.resolved()

    async def ask(self, image: str, digest: str = DIGEST, indexes=(), request_id: str = "q") -> None:
        request = BlobRequest(request_id=request_id, digest=digest, image=image, indexes=list(indexes))
        await self.bus.publish(TOPICS.blob_request(self.bus.client_id), request.encode())


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.broker = MemoryBroker()
        self.folder = tmp_path / "proxy"
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def proxy(self, **environ: str) -> AsyncIterator[None]:
        self.folder.mkdir(exist_ok=True)
        identity = {"DOMAIN_ID": "domain", "CHANNEL_ID": "channel", "CLIENT_ID": "proxy", "CLIENT_KEY": "key"}
        settings = ProxySettings.load(
            {
                f"PROXY_{k}": v
                for k, v in ({"CHUNK_SIZE": str(CHUNK), "REGISTRY_PATIENCE": "300ms"} | identity | environ).items()
            }
        )
        async with running(settings, MemoryBus(self.broker, client_id="proxy"), self.folder):
            yield

    async def manager(self) -> Peer:
        peer = Peer(await self._stack.enter_async_context(MemoryBus(self.broker, client_id="manager")))
        await peer.bus.subscribe(TOPICS.resolve_reply, peer.hear)
        return peer

    async def proplet(self, name: str, digest: str = DIGEST) -> Peer:
        peer = Peer(await self._stack.enter_async_context(MemoryBus(self.broker, client_id=name)))
        await peer.bus.subscribe(TOPICS.blob_reply(name), peer.hear)
        await peer.bus.subscribe(TOPICS.chunks_of(digest_hex(digest)), peer.collect, qos=0)
        return peer

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    yield world
    await world.close()


@pytest.fixture
def logged():
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_an_image_is_resolved_to_its_binary(world, registry):
    await registry.push("app", "v1", BINARY)
    manager = await world.manager()
    async with world.proxy():
        resolved = await manager.resolve(f"{registry.host}/app:v1", "r-1")
    assert (resolved.request_id, resolved.image) == ("r-1", f"{registry.host}/app:v1")
    assert (resolved.digest, resolved.size, resolved.media_type) == (DIGEST, len(BINARY), "application/wasm")


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("{host}/app:missing", "image_not_found"),
        ("{host}/App:v1", "invalid_reference"),
        ("127.0.0.1:1/app:v1", "registry_unreachable"),
    ],
)
async def test_an_image_that_cannot_be_had_is_an_error_with_a_code(world, registry, image, code):
    manager = await world.manager()
    async with world.proxy():
        resolved = await manager.resolve(image.format(host=registry.host))
    assert (resolved.digest, resolved.code) == (None, code)
    assert resolved.retryable == (code == "registry_unreachable")
    assert resolved.error


async def test_the_chunks_that_a_proplet_asks_for_are_the_binary(world, registry):
    await registry.push("app", "v1", BINARY)
    proplet = await world.proplet("p1")
    async with world.proxy():
        await proplet.ask(f"{registry.host}/app:v1", request_id="q-1")
        info = await proplet.info()
        assert (info.request_id, info.digest, info.error) == ("q-1", DIGEST, "")
        assert (info.size, info.chunk_size, info.chunks) == (len(BINARY), CHUNK, COUNT)
        assert proplet.chunks == {}
        await proplet.ask(f"{registry.host}/app:v1", indexes=range(COUNT))
        await proplet.info()
        assert sha256_digest(await proplet.whole(COUNT)) == DIGEST


async def test_a_second_proplet_is_served_by_the_same_publishes(world, registry, logged):
    await registry.push("app", "v1", BINARY)
    image = f"{registry.host}/app:v1"
    first, second = await world.proplet("p1"), await world.proplet("p2")
    async with world.proxy():
        await asyncio.gather(first.ask(image, indexes=range(COUNT)), second.ask(image, indexes=range(COUNT)))
        assert sha256_digest(await first.whole(COUNT)) == sha256_digest(await second.whole(COUNT)) == DIGEST
        await first.info()
        await second.info()
    assert first.published == second.published == COUNT
    assert sum(line["event"] == "fetching container from registry" for line in logged) == 1


async def test_the_log_tells_the_story_in_the_words_of_the_guide(world, registry, logged):
    await registry.push("app", "v1", BINARY)
    image = f"{registry.host}/app:v1"
    proplet = await world.proplet("p1")
    async with world.proxy():
        await proplet.ask(image, indexes=range(COUNT))
        await proplet.whole(COUNT)
        async with asyncio.timeout(5):
            while not any(line["event"] == "successfully sent all chunks" for line in logged):
                await asyncio.sleep(0)
    said = [line["event"] for line in logged]
    for phrase in (
        "Received container request",
        "fetching container from registry",
        "successfully fetched container, sending chunks",
        "sent container chunk to MQTT stream",
        "successfully sent all chunks",
    ):
        assert phrase in said
    by_event = {line["event"]: line for line in logged}
    assert by_event["Received container request"]["app_name"] == image
    assert by_event["successfully sent all chunks"]["total_chunks"] == COUNT
    assert by_event["successfully sent all chunks"]["container"] == image
    chunks = [line for line in logged if line["event"] == "sent container chunk to MQTT stream"]
    assert [line["index"] for line in chunks] == list(range(COUNT))
    assert [line["index"] for line in chunks if line["log_level"] == "info"] == list(range(0, COUNT, LOGGED_EVERY))


async def test_what_is_no_wasm_is_refused_to_the_proplet_and_told_to_the_manager(world, registry, logged):
    archive = b"\x1f\x8b\x08" + bytes(500)
    digest = sha256_digest(archive)
    await registry.push("app", "v1", archive, "application/vnd.oci.image.layer.v1.tar+gzip")
    image = f"{registry.host}/app:v1"
    manager, proplet = await world.manager(), await world.proplet("p1", digest)
    async with world.proxy():
        await proplet.ask(image, digest, [0], "q-7")
        info = await proplet.info()
        assert (info.request_id, info.code, info.retryable) == ("q-7", "not_wasm", False)
        told = await manager.resolved()
        assert (told.request_id, told.image, told.code, told.digest) == ("q-7", image, "not_wasm", None)
    assert proplet.chunks == {}
    assert any(line["event"] == "failed to fetch container" and line["error"] for line in logged)


# Registries that are away, and what is said about those that refuse


async def test_a_registry_that_comes_back_within_the_patience_costs_nothing(world, make_upstream, logged):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(status=503) if len(upstream.seen) < 4 else None
    manager = await world.manager()
    async with world.proxy(REGISTRY_PATIENCE="30s"):
        assert (await manager.resolve(upstream.image)).digest == DIGEST
    waits = [line["again_in_s"] for line in logged if line["event"] == "no answer from the registry, trying again"]
    assert waits == [0.25, 0.5, 1.0]


async def test_a_registry_that_stays_away_is_an_error_when_the_patience_is_over(world, make_upstream, logged):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(status=503, text="closed")
    manager = await world.manager()
    async with world.proxy():
        resolved = await manager.resolve(upstream.image)
    assert (resolved.code, resolved.retryable) == ("registry_unreachable", True)
    assert len(upstream.seen) == 3
    failed = [line for line in logged if line["event"] == "failed to fetch container"]
    assert [line["container"] for line in failed] == [upstream.image]
    assert "closed" in failed[0]["error"]


async def test_a_refusal_is_said_at_once_however_patient_the_proxy_is(world, make_upstream):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(status=403)
    manager = await world.manager()
    async with world.proxy(REGISTRY_PATIENCE="1h"):
        assert (await manager.resolve(upstream.image)).code == "image_forbidden"
    assert len(upstream.seen) == 1


async def test_a_blob_whose_registry_comes_back_within_the_patience_is_sent(world, make_upstream):
    upstream = await make_upstream(BINARY)

    async def away_at_first(_, before):
        return web.Response(body=BINARY) if before > 1 else web.Response(status=502)

    upstream.blob = away_at_first
    proplet = await world.proplet("p1")
    async with world.proxy(REGISTRY_PATIENCE="30s"):
        await proplet.ask(upstream.image, indexes=range(COUNT))
        assert sha256_digest(await proplet.whole(COUNT)) == DIGEST


async def test_who_asks_again_while_the_answer_takes_long_is_answered_once(world, make_upstream, logged):
    upstream = await make_upstream(BINARY)
    release = asyncio.Event()

    async def stall(_, __):
        await release.wait()
        return web.Response(body=BINARY)

    upstream.blob = stall
    proplet = await world.proplet("p1")
    async with world.proxy():
        for index in range(5):
            await proplet.ask(upstream.image, indexes=[index], request_id=f"q-{index}")
        async with asyncio.timeout(5):
            while sum(line["event"] == "Received container request" for line in logged) < 5:
                await asyncio.sleep(0)
        release.set()
        assert (await proplet.info()).request_id == "q-0"
        async with asyncio.timeout(5):
            while set(proplet.chunks) != set(range(5)):
                await asyncio.sleep(0)
        await proplet.ask(upstream.image, request_id="last")
        assert (await proplet.info()).request_id == "last"


async def test_a_manager_that_asks_again_while_the_registry_is_away_is_answered_once(world, make_upstream):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(status=503)
    manager = await world.manager()
    async with world.proxy():
        for _ in range(4):
            await manager.bus.publish(TOPICS.resolve_request, Resolve(request_id="same", image=upstream.image).encode())
        assert (await manager.resolved()).request_id == "same"
        assert (await manager.resolve("127.0.0.1:1/app:v1", "other")).request_id == "other"


@pytest.mark.parametrize(
    ("image", "environ", "code", "parts"),
    [
        ("{host}/App/fl:v1", {}, "invalid_reference", ["must be lower case", "write {host}/app/fl:v1"]),
        ("{host}/app:none", {}, "image_not_found", ["404", "exactly", "PROXY_AUTHENTICATE=true"]),
        ("localhost:1/app:v1", {}, "registry_unreachable", ["Connection refused", "local-registry:5000"]),
        (
            "lab:1/app:v1",
            {"REGISTRY_ALIASES": "lab:1=https://{host}"},
            "registry_unreachable",
            ["PROXY_PLAIN_HTTP=lab:1"],
        ),
    ],
)
async def test_the_reason_and_the_way_out_reach_the_log_and_the_manager(
    world, make_upstream, logged, image, environ, code, parts
):
    host = (await make_upstream(BINARY)).host
    manager = await world.manager()
    image = image.format(host=host)
    async with world.proxy(**{name: value.format(host=host) for name, value in environ.items()}):
        told = await manager.resolve(image)
    assert told.code == code
    failed = next(line for line in logged if line["event"] == "failed to fetch container")
    assert failed["container"] == image
    for part in (part.format(host=host) for part in parts):
        assert part in told.error
        assert part in f"{failed['error']} {failed['hint']}"


async def test_a_manager_question_is_a_container_request_too(world, registry, logged):
    await registry.push("app", "v1", BINARY)
    manager = await world.manager()
    async with world.proxy():
        await manager.resolve(f"{registry.host}/app:v1")
    asked = next(line for line in logged if line["event"] == "Received container request")
    assert asked["app_name"] == f"{registry.host}/app:v1"


@pytest.mark.parametrize("index", [-1, COUNT, 10**9])
async def test_a_chunk_that_does_not_exist_is_refused_and_nothing_is_sent(world, registry, index):
    await registry.push("app", "v1", BINARY)
    proplet = await world.proplet("p1")
    async with world.proxy():
        await proplet.ask(f"{registry.host}/app:v1", indexes=[0, index])
        assert (await proplet.info()).code == "invalid_chunk_index"
    assert proplet.chunks == {}


async def test_a_digest_that_is_not_in_the_image_is_not_found(world, registry):
    await registry.push("app", "v1", BINARY)
    proplet = await world.proplet("p1")
    async with world.proxy():
        await proplet.ask(f"{registry.host}/app:v1", sha256_digest(b"?"), [0])
        assert (await proplet.info()).code == "image_not_found"


async def test_an_altered_binary_is_an_error_and_nothing_is_kept(world, make_upstream):
    upstream = await make_upstream(BINARY)

    async def altered(_, __):
        return web.Response(body=BINARY[:-1] + b"!")

    upstream.blob = altered
    proplet = await world.proplet("p1")
    async with world.proxy():
        await proplet.ask(upstream.image, indexes=[0])
        info = await proplet.info()
        assert (info.code, info.retryable) == ("digest_mismatch", False)
    assert list((world.folder / "blobs").iterdir()) == []


async def test_a_binary_is_fetched_before_the_first_proplet_asks(world, make_upstream):
    upstream = await make_upstream(BINARY)
    manager, proplet = await world.manager(), await world.proplet("p1")
    async with world.proxy():
        assert (await manager.resolve(upstream.image)).digest == DIGEST
        async with asyncio.timeout(5):
            while not (world.folder / "blobs" / digest_hex(DIGEST)).exists():
                await asyncio.sleep(0)
        upstream.guard = lambda _: web.Response(status=500)
        await proplet.ask(upstream.image, indexes=range(COUNT))
        assert sha256_digest(await proplet.whole(COUNT)) == DIGEST
    assert upstream.blob_requests == 1


async def test_a_file_that_was_uploaded_comes_from_the_manager(world, make_upstream):
    store = await make_upstream(BINARY)
    answers = {f"/blobs/{DIGEST}": web.Response}
    store.guard = lambda request: (
        web.Response(body=BINARY)
        if request.path in answers
        else web.json_response({"error": "no such blob", "code": "blob_unknown"}, status=404)
    )
    proplet = await world.proplet("p1")
    async with world.proxy(MANAGER_URL=f"http://{store.host}"):
        await proplet.ask("", indexes=range(COUNT))
        assert (await proplet.info()).chunks == COUNT
        assert sha256_digest(await proplet.whole(COUNT)) == DIGEST
        await proplet.ask("", sha256_digest(b"?"))
        assert (await proplet.info()).code == "image_not_found"


async def test_a_manager_that_is_down_is_named(world):
    proplet = await world.proplet("p1")
    async with world.proxy(MANAGER_URL=f"http://127.0.0.1:{free_port()}"):
        await proplet.ask("", indexes=[0])
        info = await proplet.info()
        assert (info.code, info.retryable) == ("manager_unreachable", True)


async def test_a_fetch_that_takes_too_long_is_given_up(world, make_upstream):
    upstream = await make_upstream(BINARY)
    release = asyncio.Event()

    async def stall(_, __):
        await release.wait()
        return web.Response(body=BINARY)

    upstream.blob = stall
    proplet = await world.proplet("p1")
    async with world.proxy(FETCH_TIMEOUT="100ms"):
        await proplet.ask(upstream.image, indexes=[0])
        info = await proplet.info()
        release.set()
        assert (info.code, info.retryable) == ("registry_unreachable", True)


async def test_both_names_of_the_local_registry_mean_the_same(world, registry):
    await registry.push("app", "v1", BINARY)
    manager = await world.manager()
    aliases = f"local-registry:5000={registry.url},localhost:5000={registry.url}"
    async with world.proxy(REGISTRY_ALIASES=aliases):
        for name in ("local-registry:5000", "localhost:5000"):
            assert (await manager.resolve(f"{name}/app:v1")).digest == DIGEST


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"request_id": 5}', b"\xff", b'{"request_id":"a"}'])
async def test_a_malformed_message_disturbs_nobody(world, registry, payload):
    await registry.push("app", "v1", BINARY)
    manager, proplet = await world.manager(), await world.proplet("p1")
    async with world.proxy():
        await manager.bus.publish(TOPICS.resolve_request, payload)
        await proplet.bus.publish(TOPICS.blob_request("p1"), payload)
        assert (await manager.resolve(f"{registry.host}/app:v1")).digest == DIGEST


async def test_an_answer_goes_to_the_topic_of_the_one_who_asked(world, registry):
    await registry.push("app", "v1", BINARY)
    asker, other = await world.proplet("p1"), await world.proplet("p2")
    async with world.proxy():
        await asker.ask(f"{registry.host}/app:v1", request_id="p2")
        await asker.info()
    assert other.replies.empty()


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"AUTHENTICATE": "true"}, "PROXY_REGISTRY_URL"),
        (
            {"AUTHENTICATE": "true", "REGISTRY_URL": "ghcr.io"},
            "PROXY_REGISTRY_USERNAME and PROXY_REGISTRY_PASSWORD are",
        ),
        (
            {"AUTHENTICATE": "true", "REGISTRY_URL": "ghcr.io", "REGISTRY_USERNAME": "me"},
            "PROXY_REGISTRY_PASSWORD is not",
        ),
        (
            {"AUTHENTICATE": "true", "REGISTRY_URL": "ghcr.io", "REGISTRY_PASSWORD": "ghp"},
            "PROXY_REGISTRY_USERNAME is not",
        ),
        ({"REGISTRY_URL": "ftp://x"}, "PROXY_REGISTRY_URL"),
        ({"MANAGER_URL": "localhost:7070"}, "PROXY_MANAGER_URL"),
        ({"CHUNK_SIZE": "0"}, "PROXY_CHUNK_SIZE"),
        ({"HTTP_PORT": "70000"}, "PROXY_HTTP_PORT"),
    ],
)
async def test_a_wrong_setting_stops_the_start_and_is_named(world, environ, named):
    with pytest.raises(ConfigurationError) as refused:
        async with world.proxy(**environ):
            pass
    assert named in f"{refused.value.sentence} {refused.value.hint}"


async def test_credentials_are_used_only_when_authenticate_is_set(world, make_upstream):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda request: (
        None
        if "Authorization" in request.headers
        else web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    )
    manager = await world.manager()
    login = {
        "REGISTRY_URL": f"http://{upstream.host}",
        "REGISTRY_USERNAME": "me",
        "REGISTRY_PASSWORD": "secret",
    }
    async with world.proxy(**login):
        refused = await manager.resolve(upstream.image)
        assert refused.code == "image_forbidden"
        assert "PROXY_AUTHENTICATE=true" in refused.error
    async with world.proxy(**login, AUTHENTICATE="true"):
        assert (await manager.resolve(upstream.image)).digest == DIGEST


@pytest.mark.parametrize("url", ["{host}", "http://{host}", "http://{host}/"])
async def test_the_registry_url_may_be_written_with_and_without_scheme(world, make_upstream, url):
    upstream = await make_upstream(BINARY)
    wanted = {"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "secret"}
    upstream.guard = lambda request: (
        None
        if "Authorization" in request.headers
        else web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    )
    manager = await world.manager()
    async with world.proxy(**wanted, REGISTRY_URL=url.format(host=upstream.host), AUTHENTICATE="true"):
        assert (await manager.resolve(upstream.image)).digest == DIGEST


async def test_a_token_is_used_when_user_and_password_are_not_both_set(world, make_upstream):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda request: (
        None
        if request.headers.get("Authorization") == "Bearer fixed"
        else web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{upstream.host}/token"'})
    )
    manager = await world.manager()
    token = {
        "REGISTRY_USERNAME": "me",
        "REGISTRY_TOKEN": "fixed",
        "REGISTRY_URL": upstream.host,
        "AUTHENTICATE": "true",
    }
    async with world.proxy(**token):
        assert (await manager.resolve(upstream.image)).digest == DIGEST


async def test_credentials_that_nobody_uses_are_noticed(world, logged):
    async with world.proxy(REGISTRY_URL="ghcr.io", REGISTRY_USERNAME="me", REGISTRY_PASSWORD="secret"):
        pass
    noticed = next(line for line in logged if line["event"] == "registry credentials are set but not used")
    assert "PROXY_AUTHENTICATE=true" in noticed["hint"]
    assert "secret" not in str(logged)


async def test_a_private_package_is_served_while_its_tokens_come_and_go(world, ghcr, tmp_path):
    wasm = tmp_path / "fl-client.wasm"
    wasm.write_bytes(BINARY)
    image, login = f"{ghcr.host}/octocat/app:v1", Credentials(ghcr.host, "octocat", "ghp_both")
    await asyncio.to_thread(push, wasm, parse(image), endpoints=endpoints(), credentials=login)
    settings = {"REGISTRY_URL": ghcr.host, "REGISTRY_USERNAME": "octocat", "REGISTRY_PASSWORD": "ghp_both"}
    manager, proplet = await world.manager(), await world.proplet("p1")
    async with world.proxy(**settings, AUTHENTICATE="true"):
        for _ in range(2):
            assert (await manager.resolve(image)).digest == DIGEST
            ghcr.expire_tokens()
        await proplet.ask(image, indexes=range(COUNT))
        assert sha256_digest(await proplet.whole(COUNT)) == DIGEST
    settings["REGISTRY_PASSWORD"] = "ghp_wrong"
    async with world.proxy(**settings, AUTHENTICATE="true"):
        refused = await manager.resolve(image)
        assert (refused.code, refused.retryable) == ("image_forbidden", False)
        assert "403 Forbidden" in refused.error
        assert "read:packages" in refused.error
