"""A proplet on a bus in memory, between a manager, a proxy and a site that do as the test says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import structlog
import wasmtime
from aiohttp import web

from proplet.app import running
from proplet.data_store.app import DataStoreApi
from proplet.data_store.datasets import Datasets
from proplet.settings import PropletSettings
from swashplate.bus import MemoryBroker, MemoryBus, Received
from swashplate.http import FILE_LIMIT, HttpService, Route, answer, read_json
from swashplate.messages import (
    Ack,
    Alive,
    AttemptStatus,
    BlobInfo,
    BlobRequest,
    Invoke,
    InvokeResult,
    PropletCreate,
    PropletMetrics,
    Result,
    Start,
    Stop,
    TaskMetrics,
    digest_hex,
)
from swashplate.topics import Topics, last_level
from tests.support.ports import free_port

PATIENCE = 20
NAMES = Topics("d", "c")
ID = "proplet-1"

PRINT = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'


def prints(text: str, *, to: int = 1, then: str = "") -> str:
    """A command that writes ``text`` and then does ``then``."""
    escaped = "".join(f"\\{byte:02x}" for byte in text.encode())
    pages = len(text.encode()) // 65536 + 2
    return f"""(module {PRINT}
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") {pages}) (data (i32.const 64) "{escaped}")
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {len(text.encode())}))
        (drop (call $write (i32.const {to}) (i32.const 0) (i32.const 1) (i32.const 20)))
        {then}))"""


LOOPS = prints("looping\n", to=2, then="(loop $again (br $again))")
ADD = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'


class Heard:
    """What arrived so far, and a way to wait until it satisfies a condition."""

    def __init__(self) -> None:
        self._news = asyncio.Condition()

    async def tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def until(self, condition: Callable[[], object]):
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(condition)
        return condition()


class FakeManager(Heard):
    """Starts and stops tasks, keeps what the proplet says, and acknowledges it while ``acknowledges``."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__()
        self.bus = MemoryBus(broker, client_id="manager")
        self.acknowledges = True
        self.creates: list[PropletCreate] = []
        self.alives: list[Alive] = []
        self.statuses: list[AttemptStatus] = []
        self.progress: list[AttemptStatus] = []
        self.results: list[Result] = []
        self.invoke_results: list[InvokeResult] = []
        self.metrics: list[PropletMetrics] = []
        self.task_metrics: list[TaskMetrics] = []

    async def open(self) -> None:
        for kind, handler in (
            ("create", self._kept(PropletCreate, self.creates)),
            ("alive", self._kept(Alive, self.alives)),
            ("status", self._kept(AttemptStatus, self.statuses)),
            ("results", self._kept(Result, self.results)),
            ("invoke_results", self._kept(InvokeResult, self.invoke_results)),
            ("metrics", self._kept(PropletMetrics, self.metrics)),
            ("task_metrics", self._kept(TaskMetrics, self.task_metrics)),
        ):
            await self.bus.subscribe(NAMES.every_proplet(kind), handler)

    def _kept(self, model, into):
        async def handle(message: Received) -> None:
            said = model.decode(message.payload)
            if isinstance(said, AttemptStatus) and said.status == "progress":
                self.progress.append(said)
                await self.tell()
                return
            into.append(said)
            if self.acknowledges and hasattr(said, "id"):
                await self.acknowledge(said.id)
            await self.tell()

        return handle

    async def acknowledge(self, *ids: str) -> None:
        await self.bus.publish(NAMES.to_proplet(ID, "ack"), Ack(ids=list(ids)).encode())

    async def start(self, start: Start, *, topic_of: str = ID) -> None:
        await self.bus.publish(NAMES.to_proplet(topic_of, "start"), start.encode())

    async def stop(self, task_id: str, attempt: int = 0) -> None:
        stop = Stop(id=task_id, attempt=attempt, proplet_id=ID)
        await self.bus.publish(NAMES.to_proplet(ID, "stop"), stop.encode())

    async def invoke(self, task_id: str, **fields) -> str:
        """The id of the invocation."""
        known = {"invocation_id": uuid.uuid4().hex, "attempt": 1, "proplet_id": ID, "timeout_s": 30.0}
        invoke = Invoke(task_id=task_id, **{**known, **fields})
        await self.bus.publish(NAMES.to_proplet(ID, "invoke"), invoke.encode())
        return invoke.invocation_id

    async def answer(self, invocation_id: str) -> InvokeResult:
        return (await self.until(lambda: [r for r in self.invoke_results if r.invocation_id == invocation_id]))[-1]

    async def called(self, task_id: str, **fields) -> InvokeResult:
        return await self.answer(await self.invoke(task_id, **fields))

    async def ready(self, start: Start) -> None:
        """Start a latent task and wait until it can be called."""
        await self.start(start)
        await self.until(lambda: [s for s in self.statuses if s.task_id == start.id and s.status == "ready"])

    async def result(self, task_id: str) -> Result:
        return (await self.until(lambda: [r for r in self.results if r.task_id == task_id]))[-1]

    async def status(self, task_id: str) -> AttemptStatus:
        return (await self.until(lambda: [s for s in self.statuses if s.task_id == task_id]))[-1]

    async def outcome(self, start: Start) -> Result:
        await self.start(start)
        return await self.result(start.id)


class FakeProxy(Heard):
    """Answers requests for the binaries in ``blobs``; loses and alters chunks as told."""

    def __init__(self, broker: MemoryBroker, names: Topics = NAMES) -> None:
        super().__init__()
        self._names = names
        self.bus = MemoryBus(broker, client_id="proxy")
        self.blobs: dict[str, bytes] = {}
        self.errors: dict[str, tuple[str, str]] = {}
        self.chunk_size = 512_000
        self.requests: list[BlobRequest] = []
        self.lost: set[int] = set()
        """Chunks that are not sent the first time they are asked for."""
        self.altered: set[int] = set()
        self.silent = False

    async def open(self) -> None:
        await self.bus.subscribe(self._names.every_blob_request, self._asked)

    def put(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    async def send_chunk(self, digest: str, index: int | str, content: bytes) -> None:
        topic = f"{self._names.base}/registry/blobs/{digest_hex(digest)}/{index}"
        await self.bus.publish(topic, content, qos=0)

    async def _asked(self, message: Received) -> None:
        request = BlobRequest.decode(message.payload)
        self.requests.append(request)
        await self.tell()
        if self.silent:
            return
        reply = self._names.blob_reply(last_level(message.topic))
        known = {"request_id": request.request_id, "digest": request.digest}
        if request.digest not in self.blobs:
            error, code = self.errors.get(request.digest, ("no such image", "image_not_found"))
            await self.bus.publish(
                reply, BlobInfo(**known, error=error, code=code, retryable=code == "registry_unreachable").encode()
            )
            return
        content = self.blobs[request.digest]
        chunks = math.ceil(len(content) / self.chunk_size)
        info = BlobInfo(**known, size=len(content), chunk_size=self.chunk_size, chunks=chunks)
        await self.bus.publish(reply, info.encode())
        for index in request.indexes:
            assert 0 <= index < chunks, "a chunk that does not exist was asked for"
            if index in self.lost:
                self.lost.discard(index)
                continue
            piece = content[index * self.chunk_size : (index + 1) * self.chunk_size]
            if index in self.altered:
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            await self.send_chunk(request.digest, index, piece)


class Site(Heard):
    """The real data store; a registry and a coordinator that answer as the test says."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.datasets = Datasets(folder)
        self.models: dict[tuple[str, int], object] = {("global_model", 0): {"w": [0.0, 0.0, 0.0], "b": 0.0}}
        self.model_requests: list[str] = []
        self.updates: list[tuple[str, dict]] = []
        """``(token, update)`` of every post."""
        self.answers: list[tuple[int, dict]] = []
        """What the coordinator says to the next posts; then it accepts."""
        self.data_store_port = free_port()
        self.registry_port = free_port()
        self.coordinator_port = free_port()

    def url(self, port: int) -> str:
        return f"http://127.0.0.1:{port}"

    @asynccontextmanager
    async def data_store(self):
        async with HttpService("data_store", DataStoreApi(self.datasets).routes()).serving(
            "127.0.0.1", self.data_store_port
        ):
            yield

    @asynccontextmanager
    async def registry(self):
        paths = ("/models/{n}", "/lines/{line}/models/{n}")
        routes = [Route("GET", path, self._model, "A model") for path in paths]
        async with HttpService("registry", routes).serving("127.0.0.1", self.registry_port):
            yield

    @asynccontextmanager
    async def coordinator(self):
        routes = [Route("POST", "/update", self._update, "An update", limit=FILE_LIMIT)]
        async with HttpService("coordinator", routes).serving("127.0.0.1", self.coordinator_port):
            yield

    async def _model(self, request: web.Request) -> web.Response:
        self.model_requests.append(request.path)
        key = request.match_info.get("line", "global_model"), int(request.match_info["n"])
        if key not in self.models:
            return answer({"error": "Model not found", "code": "model_unknown"}, status=404)
        model = self.models[key]
        return web.Response(text=model, content_type="application/json") if isinstance(model, str) else answer(model)

    async def _update(self, request: web.Request) -> web.Response:
        self.updates.append((request.headers.get("X-Attempt-Token", ""), json.loads(await read_json(request))))
        await self.tell()
        status, body = self.answers.pop(0) if self.answers else (200, {"status": "accepted"})
        return answer(body, status=status)


class World:
    """Everything around one proplet, and the proplet itself, which can be started more than once."""

    def __init__(self, tmp_path, broker: MemoryBroker, manager: FakeManager, proxy: FakeProxy, site: Site) -> None:
        self.tmp_path = tmp_path
        self.broker = broker
        self.manager = manager
        self.proxy = proxy
        self.site = site

    def settings(self, **changes) -> PropletSettings:
        known = {
            "PROPLET_DOMAIN_ID": "d",
            "PROPLET_CHANNEL_ID": "c",
            "PROPLET_CLIENT_ID": ID,
            "PROPLET_CLIENT_KEY": "key",
            "PROPLET_STATE_DIR": str(self.tmp_path / "state"),
            "PROPLET_TASK_DIR": str(self.tmp_path / "tasks"),
            "PROPLET_METRICS_PORT": "0",
            "DATA_STORE_URL": self.site.url(self.site.data_store_port),
            "MODEL_REGISTRY_URL": self.site.url(self.site.registry_port),
            "COORDINATOR_URL": self.site.url(self.site.coordinator_port),
        }
        return PropletSettings.load({**known, **changes})

    @asynccontextmanager
    async def proplet(self, **changes):
        def bus(client_id, will):
            return MemoryBus(self.broker, client_id=client_id, will=will)

        async with running(self.settings(**changes), bus) as proplet:
            yield proplet

    def start(self, guest: str | bytes, **fields) -> Start:
        """A start of ``guest``, which is WAT or WASM; the proxy has it."""
        content = bytes(wasmtime.wat2wasm(guest)) if isinstance(guest, str) else guest
        known = {
            "id": uuid.uuid4().hex,
            "attempt": 1,
            "proplet_id": ID,
            "name": "task",
            "image_url": "registry/guest:1",
            "digest": self.proxy.put(content),
            "size": len(content),
            "timeout_s": 30.0,
        }
        return Start(**{**known, **fields})


@pytest.fixture
def in_memory(tmp_path):
    """A folder where those of running tasks are, in memory: on a disk thousands of folders take many seconds."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
async def world(tmp_path):
    broker = MemoryBroker()
    manager, proxy = FakeManager(broker), FakeProxy(broker)
    async with AsyncExitStack() as stack:
        for peer in (manager, proxy):
            await peer.open()
            await stack.enter_async_context(peer.bus)
        yield World(tmp_path, broker, manager, proxy, Site(tmp_path / "datasets"))


@pytest.fixture
async def proplet(world):
    async with world.proplet() as running_proplet:
        yield running_proplet


class Lines(list):
    """Log lines as dictionaries of their fields; the message is under ``event``."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    async def until(self, text: str) -> dict:
        """The first line with ``text`` in its message, as soon as it is there."""
        async with asyncio.timeout(PATIENCE):
            while not (found := [line for line in self if text in line["event"]]):
                self.news.clear()
                await self.news.wait()
        return found[0]


@pytest.fixture
def logged():
    """Every log line of this process."""
    lines = Lines()

    def keep(_logger, _method, event):
        lines.append(dict(event))
        lines.news.set()
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    before = list(processors)
    processors[:] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, keep]
    yield lines
    processors[:] = before


@pytest.fixture
def guests():
    """Small guests as WAT."""
    found = defaultdict(str, loops=LOOPS, add=ADD)
    found["prints"] = prints
    return found
