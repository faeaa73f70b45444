"""One proplet as a process of its own on a real broker, with the test as its manager and its proxy."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import wasmtime

from swashplate.bus import BrokerAddress, MqttBus
from swashplate.messages import (
    Ack,
    Alive,
    AttemptStatus,
    BlobInfo,
    BlobRequest,
    PropletCreate,
    Result,
    Start,
    digest_hex,
)
from swashplate.topics import Topics, last_level

PATIENCE = 20


class Fleet:
    """What the manager has heard is in ``heard``, by the type of message."""

    def __init__(self, broker, tmp_path: Path) -> None:
        self.credentials = broker.credentials
        self.topics: Topics = self.credentials.topics
        self.proplet = self.credentials.client("proplet-1")
        self.address = f"tcp://127.0.0.1:{broker.port}"
        self.tmp_path = tmp_path
        self.blobs: dict[str, bytes] = {}
        self.heard: dict[type, asyncio.Queue] = {
            kind: asyncio.Queue() for kind in (PropletCreate, Alive, AttemptStatus, Result)
        }

    def bus(self, name: str) -> MqttBus:
        client = self.credentials.client(name)
        address = BrokerAddress.parse(self.address)
        return MqttBus(address, client_id=f"{name}-test", username=client.id, password=client.key)

    @asynccontextmanager
    async def standing(self):
        self.manager, self.proxy = self.bus("manager"), self.bus("proxy")
        told = {"create": PropletCreate, "alive": Alive, "status": AttemptStatus, "results": Result}
        for kind, model in told.items():
            await self.manager.subscribe(self.topics.every_proplet(kind), self.keeper(model))
        await self.proxy.subscribe(self.topics.every_blob_request, self.serve)
        async with self.manager, self.proxy:
            await self.manager.wait_connected(PATIENCE)
            await self.proxy.wait_connected(PATIENCE)
            yield self

    def keeper(self, model):
        async def keep(message):
            self.heard[model].put_nowait(model.decode(message.payload))

        return keep

    async def next(self, model, condition=lambda _: True):
        async with asyncio.timeout(PATIENCE):
            while not condition(said := await self.heard[model].get()):
                pass
        return said

    def forget(self, model) -> None:
        """What has been heard up to now."""
        self.heard[model] = asyncio.Queue()

    async def serve(self, message) -> None:
        """Of a binary that fits into one message."""
        request = BlobRequest.decode(message.payload)
        content = self.blobs[request.digest]
        info = BlobInfo(
            request_id=request.request_id, digest=request.digest, size=len(content), chunk_size=512_000, chunks=1
        )
        await self.proxy.publish(self.topics.blob_reply(last_level(message.topic)), info.encode())
        await self.proxy.publish(self.topics.chunk(digest_hex(request.digest), 0), content, qos=0)

    @asynccontextmanager
    async def process(self, **changes: str):
        environment = {
            "PATH": os.environ["PATH"],
            "PROPLET_MQTT_ADDRESS": self.address,
            "PROPLET_DOMAIN_ID": self.topics.domain,
            "PROPLET_CHANNEL_ID": self.topics.channel,
            "PROPLET_CLIENT_ID": self.proplet.id,
            "PROPLET_CLIENT_KEY": self.proplet.key,
            "PROPLET_STATE_DIR": str(self.tmp_path / "state"),
            "PROPLET_TASK_DIR": str(self.tmp_path / "tasks"),
            "PROPLET_METRICS_PORT": "0",
            **changes,
        }
        log = self.tmp_path / "proplet.log"
        with log.open("ab") as errors:
            running = subprocess.Popen([sys.executable, "-m", "proplet"], env=environment, stderr=errors)
        try:
            await self.next(PropletCreate)
            yield running
        finally:
            running.kill()
            running.wait()

    async def start(self, guest: str | bytes, **fields) -> Start:
        """``guest`` is WAT or WASM."""
        content = bytes(wasmtime.wat2wasm(guest)) if isinstance(guest, str) else guest
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        known = {"id": os.urandom(8).hex(), "attempt": 1, "proplet_id": self.proplet.id, "name": "task"}
        start = Start(**{**known, "digest": digest, "size": len(content), "timeout_s": 60.0, **fields})
        await self.manager.publish(self.topics.to_proplet(self.proplet.id, "start"), start.encode())
        return start

    async def acknowledge(self, *ids: str) -> None:
        await self.manager.publish(self.topics.to_proplet(self.proplet.id, "ack"), Ack(ids=list(ids)).encode())

    async def busy(self, start: Start) -> None:
        await self.next(Alive, lambda said: any(ref.task_id == start.id for ref in said.running))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
