"""Whatever a service is asked, it answers as its own description says, and never with a failure of its own.

A share of the requests must have succeeded, so that not only refusals are looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from coordinator import aggregator, registry
from proplet.data_store import DataStoreApi, seed
from proplet.datasets import Datasets
from proxy.manifests import OCI_MANIFEST
from proxy.registry import Registry
from proxy.registry_routes import routes
from proxy.registry_store import RegistryStore
from swashplate.access import Access
from swashplate.http import HttpService
from tests.coordinator.conftest import World as CoordinatorWorld
from tests.http_fuzz.harness import Report, fuzz, in_a_thread
from tests.manager.conftest import NAMES
from tests.manager.conftest import World as ManagerWorld
from tests.support.identity import Identity
from tests.support.ports import free_port

HOST = "127.0.0.1"
OWN = r"^/(health|metrics|openapi\.json|docs)$"
"""What every service has alike; asked of one of them."""
UPLOAD = "PUT /tasks/{task_id}/upload"
"""A file named .wasm that begins as WASM does is not made by chance."""


def judge(report: Report, *, share: float, without_success: set[str] = frozenset()) -> None:
    """``without_success`` are operations that nothing random can make succeed."""
    print(report)
    assert not report.failures, "\n\n".join(report.failures)
    assert report.never_succeeded() <= without_success
    assert report.share_of_successes() >= share


@pytest.fixture(params=[pytest.param(6, id="few"), pytest.param(400, id="many", marks=pytest.mark.soak)])
def examples(request):
    return request.param


def test_the_aggregator_and_what_every_service_has(examples):
    @asynccontextmanager
    async def serving():
        port = free_port()
        async with aggregator.http_service().serving(HOST, port):
            yield f"http://{HOST}:{port}"

    with in_a_thread(serving()) as url:
        judge(fuzz(url, examples=examples), share=0.1)


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


@asynccontextmanager
async def coordinating(session: aiohttp.ClientSession, folder: Path):
    """A coordinator with everything around it, which knows the round ``r-1``; it is over."""
    world = CoordinatorWorld(folder)
    world.session = session
    await world.start()
    try:
        assert (await world.configure(timeout_s=0.1))[0] == 201
        await world.over()
        yield world.url("coordinator")
    finally:
        await world.stop()


def test_the_coordinator(tmp_path, examples):
    @asynccontextmanager
    async def serving():
        async with aiohttp.ClientSession() as session, coordinating(session, tmp_path) as url:
            yield url

    known = {"path.round_id": ["r-1"], "query.round_id": ["r-1"], "query.proplet_id": ["p-1"]}
    with in_a_thread(serving()) as url:
        report = fuzz(url, examples=examples, exclude=OWN, known=known)
        judge(report, share=0.1, without_success={"POST /update", "POST /update_cbor", "POST /experiments"})


def test_the_manager(tmp_path, examples):
    """With a proplet that accepts and completes all it is given, and answers all calls."""
    tasks: list[str] = []
    invocations: list[str] = []
    learning = tmp_path / "learning"
    learning.mkdir()

    @asynccontextmanager
    async def serving():
        async with aiohttp.ClientSession() as session, coordinating(session, learning) as coordinator_url:
            world = ManagerWorld(tmp_path, session)
            world.coordinator_url = coordinator_url
            await world.proxy.bus.subscribe(NAMES.resolve_request, world.proxy.answer)
            async with world.proxy.bus, world.manager(), world.proplet("p-1") as proplet:
                working = asyncio.create_task(work(proplet))
                for n in range(60):
                    task = await world.launch(metadata={"n": n}, start=n % 2 == 0, daemon=n % 4 == 0)
                    tasks.append(task["id"])
                for n in range(40):
                    latent = await world.launch(latent=True)
                    tasks.insert(2 * n, latent["id"])
                    _, call = await world.call("POST", f"/tasks/{latent['id']}/invoke", {"async": True})
                    invocations.append(call["invocation_id"])
                others = [asyncio.create_task(answer(proplet)), asyncio.create_task(keep(world, proplet))]
                yield world.url
                for each in (working, *others):
                    each.cancel()

    async def work(proplet) -> None:
        while True:
            start = await proplet.starts.get()
            await proplet.status(start, "ready" if start.latent else "accepted")
            if not start.daemon and not start.latent:
                await proplet.result(start, results="42")

    async def answer(proplet) -> None:
        while True:
            await proplet.invoke_result(await proplet.invokes.get(), "42")

    async def keep(world, proplet) -> None:
        """Whatever is done to the proplet, it is there again and used again: a call may wait long for one."""
        while True:
            await proplet.register()
            await world.call("POST", "/proplets/p-1/uncordon")
            await asyncio.sleep(0.3)

    with in_a_thread(serving()) as url:
        known = {
            "path.task_id": tasks,
            "path.proplet_id": ["p-1"],
            "path.invocation_id": invocations,
            "path.round_id": ["r-1"],
            "query.round_id": ["r-1"],
        }
        # One that is this task's, a task that is latent and was not stopped, a proplet that is cordoned and has nothing.
        never = {"GET /tasks/{task_id}/invocations/{invocation_id}", "POST /tasks/{task_id}/invoke"}
        never |= {"DELETE /proplets/{proplet_id}"}
        never |= {"POST /fl/update", "POST /fl/experiments", "POST /fl/update_cbor", "GET /blobs/{digest}", UPLOAD}
        report = fuzz(url, examples=examples, exclude=OWN, known=known)
        judge(report, share=0.2, without_success=never)


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
    judge(report, share=0.03, without_success=never)
