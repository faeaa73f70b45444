"""The pull client: against the embedded registry, and against one that misbehaves in every way we know of."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from aiohttp import web

from proxy.addresses import endpoints
from proxy.auth import Credentials
from proxy.manifests import Binary
from proxy.oci import OciClient
from proxy.transfer import Limits
from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import (
    ForbiddenError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from swashplate.references import parse
from tests.support.ports import free_port

BINARY = b"\0asm" + bytes(range(256)) * 4000
SIZE = len(BINARY)
LIMITS = Limits(max_bytes=4 << 20, attempts=3, backoff=0.001)


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "pulled")


@pytest.fixture
def client(session):
    return OciClient(session, endpoints(), limits=LIMITS)


async def fetch(client, upstream, store, size=SIZE):
    await client.fetch(parse(upstream.image), upstream.digest, size, store)


# How images are resolved


async def test_a_tag_resolves_to_the_binary_and_follows_when_it_moves(registry, client):
    reference = parse(f"{registry.host}/group/app:latest")
    for binary in (BINARY, BINARY, BINARY + b"new"):
        await registry.push("group/app", "latest", binary)
        assert await client.resolve(reference) == Binary(sha256_digest(binary), len(binary), "application/wasm")


async def test_a_digest_resolves_to_its_image_whatever_the_tag_means_now(registry, client):
    digest = await registry.push("app", "v1", BINARY)
    await registry.push("app", "v1", BINARY + b"new")
    assert (await client.resolve(parse(f"{registry.host}/app:v1@{digest}"))).digest == sha256_digest(BINARY)


async def test_an_unmoved_tag_costs_one_head(make_upstream, client):
    upstream = await make_upstream(BINARY)
    for _ in range(3):
        await client.resolve(parse(upstream.image))
    assert [request.method for request in upstream.seen] == ["GET", "HEAD", "HEAD"]


async def test_a_digest_once_resolved_is_not_asked_for_again(make_upstream, client):
    upstream = await make_upstream(BINARY)
    image = f"{upstream.host}/app@{sha256_digest(upstream.manifest)}"
    for _ in range(3):
        await client.resolve(parse(image))
    assert len(upstream.seen) == 1


async def test_an_index_leads_to_its_wasm_image(registry, client):
    digest = await registry.push("app", "v1", BINARY)
    entries = [{"digest": digest, "size": 1, "mediaType": "x", "platform": {"architecture": "wasm", "os": "wasi"}}]
    index_type = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": entries}).encode()
    await registry.push_manifest("app", "all", index, index_type)
    for _ in range(2):
        assert (await client.resolve(parse(f"{registry.host}/app:all"))).digest == sha256_digest(BINARY)


async def test_an_unknown_tag_and_an_unknown_repository_are_not_found(registry, client):
    await registry.push("app", "v1", BINARY)
    for name in ("app:v2", "other:v1", f"app@{sha256_digest(b'?')}"):
        with pytest.raises(NotFoundError) as missing:
            await client.resolve(parse(f"{registry.host}/{name}"))
        assert (missing.value.code, missing.value.retryable) == ("image_not_found", False)


async def test_a_registry_that_is_not_there_is_unreachable(client):
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError, match=address) as gone:
        await client.resolve(parse(f"{address}/app:v1"))
    assert (gone.value.code, gone.value.retryable) == ("registry_unreachable", True)


async def test_a_registry_without_tls_where_tls_is_the_rule_says_what_to_set(make_upstream, session):
    upstream = await make_upstream(BINARY)
    client = OciClient(session, endpoints(aliases=f"lab:1={'https://' + upstream.host}"))
    with pytest.raises(UnavailableError) as gone:
        await client.resolve(parse("lab:1/app:v1"))
    assert gone.value.code == "registry_unreachable"
    assert "PROXY_PLAIN_HTTP" in (gone.value.hint or "")


async def test_a_registry_with_tls_where_plain_http_is_spoken_says_what_to_set(make_upstream, client):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(status=400, text="Client sent an HTTP request to an HTTPS server.")
    with pytest.raises(UnavailableError, match="HTTPS server") as gone:
        await client.resolve(parse(upstream.image))
    assert gone.value.retryable is False
    assert "https:// into PROXY_REGISTRY_URL" in (gone.value.hint or "")


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (503, True), (429, True), (418, False)])
async def test_other_refusals_are_unreachable_and_tell_whether_to_try_again(make_upstream, client, status, retryable):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(status=status, text="not now")
    with pytest.raises(UnavailableError, match="not now") as refused:
        await client.resolve(parse(upstream.image))
    assert (refused.value.code, refused.value.retryable) == ("registry_unreachable", retryable)


async def test_a_manifest_that_is_not_the_digest_asked_for_is_refused(make_upstream, client):
    upstream = await make_upstream(BINARY)
    digest = sha256_digest(upstream.manifest)
    upstream.guard = lambda _: web.Response(body=upstream.manifest + b" ")
    with pytest.raises(IntegrityError) as altered:
        await client.resolve(parse(f"{upstream.host}/app@{digest}"))
    assert (altered.value.code, altered.value.retryable) == ("digest_mismatch", False)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"layers": []}', b'{"manifests": []}'])
async def test_what_is_no_manifest_is_refused(make_upstream, client, body):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(body=body)
    with pytest.raises(InvalidRequestError) as refused:
        await client.resolve(parse(upstream.image))
    assert refused.value.code == "invalid_manifest"


async def test_a_manifest_without_end_is_not_read(make_upstream, client):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.Response(body=b" " * (5 << 20))
    with pytest.raises(IntegrityError, match="larger than") as refused:
        await client.resolve(parse(upstream.image))
    assert refused.value.code == "invalid_manifest"


# How blobs are fetched


async def test_a_blob_is_fetched_and_verified(registry, client, store):
    await registry.push("app", "v1", BINARY)
    reference = parse(f"{registry.host}/app:v1")
    binary = await client.resolve(reference)
    await client.fetch(reference, binary.digest, binary.size, store)
    assert store.read(binary.digest) == BINARY


@pytest.mark.parametrize("size", [SIZE, None])
async def test_a_truncated_blob_is_refused_and_not_kept(make_upstream, client, store, size):
    upstream = await make_upstream(BINARY)

    async def truncated(_, __):
        return web.Response(body=BINARY[:-1])

    upstream.blob = truncated
    with pytest.raises(IntegrityError) as refused:
        await fetch(client, upstream, store, size)
    assert (refused.value.code, refused.value.retryable) == ("digest_mismatch", False)
    assert list(store.folder.iterdir()) == []


async def test_an_altered_blob_is_fetched_once_more_and_then_refused(make_upstream, client, store):
    upstream = await make_upstream(BINARY)

    async def altered(_, __):
        return web.Response(body=BINARY[:-1] + b"!")

    upstream.blob = altered
    with pytest.raises(IntegrityError) as refused:
        await fetch(client, upstream, store)
    assert (refused.value.code, refused.value.retryable) == ("digest_mismatch", False)
    assert upstream.blob_requests == 2
    assert list(store.folder.iterdir()) == []


async def test_a_blob_altered_once_is_right_the_second_time(make_upstream, client, store):
    upstream = await make_upstream(BINARY)

    async def altered_once(_, before):
        return web.Response(body=BINARY if before else b"!" + BINARY[1:])

    upstream.blob = altered_once
    await fetch(client, upstream, store)
    assert store.read(upstream.digest) == BINARY


async def test_a_blob_larger_than_announced_is_cut_off(make_upstream, client, store):
    upstream = await make_upstream(BINARY)

    async def endless(_, __):
        return web.Response(body=BINARY + b"x" * 100)

    upstream.blob = endless
    with pytest.raises(IntegrityError):
        await fetch(client, upstream, store)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("size", [SIZE, None])
async def test_a_binary_over_the_limit_is_refused(make_upstream, session, store, size):
    upstream = await make_upstream(BINARY)
    client = OciClient(session, endpoints(), limits=Limits(max_bytes=len(BINARY) - 1))
    with pytest.raises(TooLargeError) as refused:
        await fetch(client, upstream, store, size)
    assert refused.value.code == "binary_too_large"
    assert upstream.blob_requests == (0 if size else 1)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("size", [SIZE, None])
async def test_a_broken_transfer_is_resumed_where_it_stopped(make_upstream, client, store, size):
    upstream = await make_upstream(BINARY)
    asked: list[str | None] = []

    async def breaking(request, before):
        asked.append(request.headers.get("Range"))
        begin = int((asked[-1] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if before < 2:
            return await upstream.cut_after(
                request, BINARY[begin : begin + 300_000], len(BINARY) - begin, 206 if begin else 200
            )
        return web.Response(status=206, body=BINARY[begin:])

    upstream.blob = breaking
    await fetch(client, upstream, store, size)
    assert store.read(upstream.digest) == BINARY
    begins = [int(text.removeprefix("bytes=").rstrip("-")) for text in asked if text]
    assert asked[0] is None
    assert len(begins) == 2
    assert 0 < begins[0] < begins[1] < len(BINARY)


async def test_a_server_without_ranges_is_read_again_from_the_start(make_upstream, client, store):
    upstream = await make_upstream(BINARY)

    async def breaking_once(request, before):
        if not before:
            return await upstream.cut_after(request, BINARY[:300_000], len(BINARY))
        return web.Response(body=BINARY)

    upstream.blob = breaking_once
    await fetch(client, upstream, store)
    assert store.read(upstream.digest) == BINARY
    assert upstream.blob_requests == 2


async def test_a_transfer_that_keeps_breaking_is_given_up(make_upstream, client, store):
    upstream = await make_upstream(BINARY)

    async def breaking(request, _):
        return await upstream.cut_after(request, BINARY[:1000], len(BINARY))

    upstream.blob = breaking
    with pytest.raises(UnavailableError, match="broke 3 times") as gone:
        await fetch(client, upstream, store)
    assert (gone.value.code, gone.value.retryable) == ("registry_unreachable", True)
    assert list(store.folder.iterdir()) == []


async def test_a_redirect_is_followed_without_our_credentials(make_upstream, session, store):
    upstream, storage = await make_upstream(BINARY), await make_upstream(BINARY)

    async def elsewhere(request, _):
        raise web.HTTPTemporaryRedirect(f"http://{storage.host}{request.path}")

    upstream.blob = elsewhere
    upstream.guard = basic_guard("me", "secret")
    client = OciClient(session, endpoints(), credentials=Credentials(upstream.host, "me", "secret"), limits=LIMITS)
    await fetch(client, upstream, store)
    assert store.read(upstream.digest) == BINARY
    assert len(storage.seen) == 1
    assert "Authorization" not in storage.seen[0].headers


async def test_a_challenge_from_where_we_were_redirected_is_not_answered(make_upstream, session, store):
    upstream, stranger = await make_upstream(BINARY), await make_upstream(BINARY)

    async def elsewhere(request, _):
        raise web.HTTPTemporaryRedirect(f"http://{stranger.host}{request.path}")

    upstream.blob = elsewhere
    stranger.guard = bearer_guard(stranger, {"stolen"})
    stranger.token = lambda _: web.json_response({"token": "stolen"})
    client = OciClient(session, endpoints(), credentials=Credentials(upstream.host, "me", "secret"), limits=LIMITS)
    with pytest.raises(ForbiddenError):
        await fetch(client, upstream, store)
    assert [request.path for request in stranger.seen] == [f"/v2/app/blobs/{upstream.digest}"]


# How a registry that asks who we are is answered


def basic_guard(username, password):
    expected = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    def guard(request):
        if request.headers.get("Authorization") == expected:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="registry"'})

    return guard


def bearer_guard(upstream, tokens):
    """Accepts what is in ``tokens``, and sends others to the token service."""

    def guard(request):
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in tokens:
            return None
        challenge = f'Bearer realm="http://{upstream.host}/token",service="here",scope="repository:app:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    return guard


async def test_basic_credentials_are_shown_after_a_challenge(make_upstream, session):
    upstream = await make_upstream(BINARY)
    upstream.guard = basic_guard("me", "secret")
    client = OciClient(session, endpoints(), credentials=Credentials(upstream.host, "me", "secret"))
    assert (await client.resolve(parse(upstream.image))).digest == upstream.digest
    assert "Authorization" not in upstream.seen[0].headers


async def test_a_public_image_is_had_with_an_anonymous_token(make_upstream, client, store):
    upstream = await make_upstream(BINARY)
    upstream.guard = bearer_guard(upstream, {"anonymous"})
    asked = []

    def token(request):
        asked.append((dict(request.query), request.headers.get("Authorization")))
        return web.json_response({"token": "anonymous", "expires_in": 300})

    upstream.token = token
    await client.resolve(parse(upstream.image))
    await fetch(client, upstream, store)
    assert asked == [({"service": "here", "scope": "repository:app:pull"}, None)]


async def test_a_token_is_had_with_the_password_and_renewed_when_its_time_is_over(make_upstream, session):
    upstream = await make_upstream(BINARY)
    valid: set[str] = set()
    upstream.guard = bearer_guard(upstream, valid)

    def token(request):
        if request.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:secret").decode():
            return web.Response(status=401)
        valid.clear()
        valid.add(f"token-{len(upstream.seen)}")
        return web.json_response({"access_token": next(iter(valid)), "expires_in": 100})

    upstream.token = token
    now = 0.0
    client = OciClient(session, endpoints(), credentials=Credentials(upstream.host, "me", "secret"), clock=lambda: now)
    await client.resolve(parse(upstream.image))
    await client.resolve(parse(upstream.image))
    now = 95.0
    await client.resolve(parse(upstream.image))
    valid.clear()  # revoked before its time
    await client.resolve(parse(upstream.image))
    assert [request.path for request in upstream.seen].count("/token") == 3


async def test_a_fixed_token_is_shown_as_it_is(make_upstream, session):
    upstream = await make_upstream(BINARY)
    upstream.guard = bearer_guard(upstream, {"fixed"})
    client = OciClient(session, endpoints(), credentials=Credentials(upstream.host, token="fixed"))
    assert (await client.resolve(parse(upstream.image))).digest == upstream.digest
    assert "/token" not in [request.path for request in upstream.seen]


async def test_credentials_are_not_shown_to_another_registry(make_upstream, session):
    upstream = await make_upstream(BINARY)
    upstream.guard = basic_guard("me", "secret")
    client = OciClient(session, endpoints(), credentials=Credentials("ghcr.io", "me", "secret"))
    with pytest.raises(ForbiddenError) as refused:
        await client.resolve(parse(upstream.image))
    assert refused.value.code == "image_forbidden"
    assert "PROXY_AUTHENTICATE=true" in (refused.value.hint or "")
    assert all("Authorization" not in request.headers for request in upstream.seen)


async def test_a_wrong_password_is_tried_once(make_upstream, session):
    upstream = await make_upstream(BINARY)
    upstream.guard = basic_guard("me", "secret")
    client = OciClient(session, endpoints(), credentials=Credentials(upstream.host, "me", "wrong"))
    with pytest.raises(ForbiddenError) as refused:
        await client.resolve(parse(upstream.image))
    assert "PROXY_REGISTRY_PASSWORD" in (refused.value.hint or "")
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("status", "answer"), [(403, ""), (403, "[" * 4000), (200, "{}"), (200, "[]"), (200, "[" * 4000)]
)
async def test_a_token_service_that_gives_none_is_a_refusal(make_upstream, client, status, answer):
    upstream = await make_upstream(BINARY)
    upstream.guard = bearer_guard(upstream, set())
    upstream.token = lambda _: web.Response(status=status, text=answer, content_type="application/json")
    with pytest.raises(ForbiddenError) as refused:
        await client.resolve(parse(upstream.image))
    assert refused.value.code == "image_forbidden"


async def test_403_is_a_refusal_with_a_hint(make_upstream, client):
    upstream = await make_upstream(BINARY)
    upstream.guard = lambda _: web.json_response({"errors": [{"message": "denied: no"}]}, status=403)
    with pytest.raises(ForbiddenError, match="denied: no") as refused:
        await client.resolve(parse(upstream.image))
    assert (refused.value.code, refused.value.retryable) == ("image_forbidden", False)
    assert f"PROXY_REGISTRY_URL={upstream.host}" in (refused.value.hint or "")


async def test_a_fetch_that_is_cancelled_leaves_nothing(make_upstream, client, store):
    upstream = await make_upstream(BINARY)
    stuck, release = asyncio.Event(), asyncio.Event()

    async def stall(request, _):
        response = web.StreamResponse(headers={"Content-Length": str(len(BINARY))})
        await response.prepare(request)
        await response.write(BINARY[:1000])
        stuck.set()
        await release.wait()
        return response

    upstream.blob = stall
    task = asyncio.create_task(fetch(client, upstream, store))
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert list(store.folder.iterdir()) == []


async def test_a_broken_dns_name_is_unreachable(session):
    client = OciClient(session, endpoints())
    with pytest.raises(UnavailableError, match=r"no-such-host\.invalid"):
        await client.resolve(parse("no-such-host.invalid/app:v1"))
