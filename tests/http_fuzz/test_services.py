"""Whatever a service is asked, it answers as its own description says, and never with a failure of its own.

A share of the requests must have succeeded, so that not only refusals are looked at.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from coordinator import aggregator, registry
from proplet.data_store.app import DataStoreApi, seed
from proplet.data_store.datasets import Datasets
from proxy.manifests import OCI_MANIFEST
from proxy.registry import Registry
from proxy.registry_routes import routes
from proxy.registry_store import RegistryStore
from swashplate.access import Access
from swashplate.http import HttpService
from tests.http_fuzz.coordinating import coordinating
from tests.http_fuzz.harness import OWN, fuzz, in_a_thread, judge
from tests.support.identity import Identity
from tests.support.ports import free_port

HOST = "127.0.0.1"


def test_the_aggregator_and_what_every_service_has(examples):
    @asynccontextmanager
    async def serving():
        port = free_port()
        async with aggregator.http_service().serving(HOST, port):
            yield f"http://{HOST}:{port}"

    with in_a_thread(serving()) as url:
        judge(fuzz(url, examples=examples), share=0.05)


def test_a_service_with_tokens(examples):
    token, port = "a-token-0123456789", free_port()
    service = HttpService("proxy", [], access=Access(token, "", "PROXY_HTTP_TOKEN"))

    with in_a_thread(service.serving(HOST, port)):
        url = f"http://{HOST}:{port}"
        judge(fuzz(url, examples=examples, headers={"Authorization": f"Bearer {token}"}), share=0.2)


def test_the_model_registry(tmp_path, examples):
    @asynccontextmanager
    async def serving():
        port = free_port()
        async with registry.serving(HOST, port, tmp_path):
            yield f"http://{HOST}:{port}"

    known = {"path.line": ["global_model"], "path.version": ["0"]}
    with in_a_thread(serving()) as url:
        judge(fuzz(url, examples=examples, exclude=OWN, known=known), share=0.2)


def test_the_coordinator(tmp_path, examples):
    @asynccontextmanager
    async def serving():
        async with aiohttp.ClientSession() as session, coordinating(session, tmp_path) as url:
            yield url

    known = {"path.round_id": ["r-1"], "query.round_id": ["r-1"], "query.proplet_id": ["p-1"]}
    with in_a_thread(serving()) as url:
        report = fuzz(url, examples=examples, exclude=OWN, known=known)
        judge(report, share=0.1, without_success={"POST /update", "POST /update_cbor", "POST /experiments"})


def test_the_data_store(tmp_path, examples):
    datasets = Datasets(tmp_path)
    seed(datasets, ["site-1"])
    port = free_port()
    with in_a_thread(HttpService("data_store", DataStoreApi(datasets).routes()).serving(HOST, port)):
        url = f"http://{HOST}:{port}"
        judge(fuzz(url, examples=examples, exclude=OWN, known={"path.id": ["site-1"]}), share=0.2)


def test_the_oci_registry(tmp_path, examples):
    blob = b"{}"
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    tags, names = [f"t{n}" for n in range(40)], ["app", "fl/app"]
    part = {"mediaType": "application/octet-stream", "digest": digest, "size": len(blob)}
    manifest = json.dumps({"schemaVersion": 2, "config": part, "layers": [part]})
    uploads: list[str] = []

    @asynccontextmanager
    async def serving():
        made, port = Registry(RegistryStore(tmp_path), max_blob_bytes=1 << 20), free_port()
        async with AsyncExitStack() as stack:
            stack.callback(made.close)
            await stack.enter_async_context(HttpService("oci_registry", routes(made)).serving(HOST, port))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            url = f"http://{HOST}:{port}"
            for name in names:
                async with session.post(f"{url}/v2/{name}/blobs/uploads/?digest={digest}", data=blob) as response:
                    assert response.status == 201
                for tag in tags:
                    headers = {"Content-Type": OCI_MANIFEST}
                    async with session.put(f"{url}/v2/{name}/manifests/{tag}", data=manifest, headers=headers) as put:
                        assert put.status == 201, await put.text()
            for _ in range(40):
                async with session.post(f"{url}/v2/app/blobs/uploads/") as response:
                    uploads.append(response.headers["Docker-Upload-UUID"])
            yield url

    with in_a_thread(serving()) as url:
        known = {
            "path.name": names,
            "path.digest": [digest],
            "path.reference": tags,
            "path.upload": uploads,
            "query.digest": [digest],
        }
        never = {"PUT /v2/{name}/manifests/{reference}", "PUT /v2/{name}/blobs/uploads/{upload}"}
        judge(fuzz(url, examples=examples, exclude=OWN, known=known), share=0.1, without_success=never)


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    with Identity(tmp_path_factory.mktemp("identity")) as running:
        yield running.log_in()


@pytest.mark.parametrize("service", ["users", "domains", "channels", "clients"])
def test_identity(identity, service, examples):
    domain = identity.domain(f"d-{service}-{examples}")
    channel, client = identity.channel(domain), identity.client(domain, "proplet-1")["id"]
    known = {"path.domain": [domain], "path.channel": [channel], "path.client": [client]}
    report = fuzz(
        f"http://{HOST}:{identity.ports[service]}",
        examples=examples,
        exclude=OWN,
        headers={"Authorization": f"Bearer {identity.token}"},
        known=known,
    )
    never = {"POST /users/tokens/refresh"} | {f"POST /{{domain}}/channels/{word}" for word in ("connect", "disconnect")}
    judge(report, share=0.01, without_success=never)
