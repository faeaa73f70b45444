"""The agent as its own process on a real broker: what it loads, how it ends, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import wasmtime

from swashplate.bus import BrokerAddress, MqttBus
from swashplate.messages import Ack, Alive, BlobInfo, BlobRequest, PropletCreate, Result, Start, digest_hex
from swashplate.topics import Topics, last_level
from tests.support.ports import free_port

PATIENCE = 20
CLIENT = Path(__file__).parents[2] / "client_wasm" / "fl-client.wasm"

IMPORTS = """
import asyncio, json, sys
import proplet.__main__
from proplet.app import running
from proplet.settings import PropletSettings
from swashplate.bus import MemoryBroker, MemoryBus

async def main():
    settings = PropletSettings.load({
        "PROPLET_DOMAIN_ID": "d", "PROPLET_CHANNEL_ID": "c", "PROPLET_CLIENT_ID": "p", "PROPLET_CLIENT_KEY": "k",
        "PROPLET_STATE_DIR": sys.argv[1]})
    async with running(settings, lambda client_id, will: MemoryBus(MemoryBroker(), client_id=client_id, will=will)):
        pass

asyncio.run(main())
heavy = ("numpy", "sqlalchemy", "typer", "rich", "wasmtime", "cryptography", "aiohttp.web", "prometheus_client")
print(json.dumps([name for name in heavy if sys.modules.get(name) is not None]))
"""


def test_a_running_agent_loads_nothing_that_it_does_not_need(tmp_path):
    ran = subprocess.run([sys.executable, "-c", IMPORTS, str(tmp_path)], capture_output=True, timeout=60, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == []


class Fleet:
    """A manager and a proxy in one, on a real broker, and the proplet as a process."""

    def __init__(self, broker, tmp_path: Path) -> None:
        self.credentials = broker.credentials
        self.topics: Topics = self.credentials.topics
        self.proplet = self.credentials.client("proplet-1")
        self.address = f"tcp://127.0.0.1:{broker.port}"
        self.tmp_path = tmp_path
        self.blobs: dict[str, bytes] = {}
        self.heard: dict[type, asyncio.Queue] = {kind: asyncio.Queue() for kind in (PropletCreate, Alive, Result)}

    def bus(self, name: str) -> MqttBus:
        client = self.credentials.client(name)
        address = BrokerAddress.parse(self.address)
        return MqttBus(address, client_id=f"{name}-test", username=client.id, password=client.key)

    @asynccontextmanager
    async def standing(self):
        self.manager, self.proxy = self.bus("manager"), self.bus("proxy")
        for kind, model in (("create", PropletCreate), ("alive", Alive), ("results", Result)):
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

    async def serve(self, message) -> None:
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

    async def start(self, guest: str, **fields) -> Start:
        content = bytes(wasmtime.wat2wasm(guest))
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


@pytest.fixture
async def fleet(broker, tmp_path):
    async with Fleet(broker, tmp_path).standing() as standing:
        yield standing


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def gone(pid: int) -> None:
    """A process that is not our child has ended."""
    handle = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


async def test_a_killed_agent_leaves_no_worker_and_reports_its_attempt_later(fleet, guests):
    async with fleet.process() as running:
        start = await fleet.start(guests["loops"])
        await fleet.busy(start)
        [worker] = children(running.pid)
        running.send_signal(signal.SIGKILL)
        await gone(worker)
        await fleet.next(Alive, lambda said: said.status == "offline")
    async with fleet.process():
        result = await fleet.next(Result)
        assert (result.task_id, result.code, result.retryable) == (start.id, "proplet_restarted", True)


async def test_a_result_survives_the_kill_of_the_agent(fleet, guests):
    async with fleet.process() as running:
        await fleet.start(guests["prints"]("precious"))
        first = await fleet.next(Result)
        running.send_signal(signal.SIGKILL)
    async with fleet.process():
        assert await fleet.next(Result) == first
        await fleet.acknowledge(first.id)
        await fleet.next(Alive, lambda said: said.status == "alive" and said.running == [])


async def test_a_terminated_agent_says_goodbye_and_ends_within_two_seconds(fleet, guests):
    async with fleet.process() as running:
        await fleet.busy(await fleet.start(guests["loops"]))
        workers = children(running.pid)
        running.terminate()
        assert await asyncio.to_thread(running.wait, 2) == 0
        await fleet.next(Alive, lambda said: said.status == "offline")
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


async def test_health_and_metrics_take_the_next_free_port(fleet, guests):
    taken = free_port()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", taken)
    async with server, fleet.process(PROPLET_METRICS_PORT=str(taken)):
        await fleet.start(guests["prints"]("x"))
        await fleet.acknowledge((await fleet.next(Result)).id)
        log = (fleet.tmp_path / "proplet.log").read_text().splitlines()
        base = next(json.loads(line)["address"] for line in log if "serving HTTP" in line)
        assert base != f"http://127.0.0.1:{taken}"
        async with aiohttp.ClientSession() as session:
            async with session.get(base + "/health") as response:
                assert (response.status, await response.json()) == (200, {"status": "ok", "running_tasks": 0})
            async with session.get(base + "/metrics") as response:
                text = await response.text()
    for line in (
        "proplet_tasks_started_total 1.0",
        "proplet_tasks_completed_total 1.0",
        "proplet_tasks_failed_total 0.0",
        "proplet_tasks_running 0.0",
        "proplet_mqtt_reconnects_total 0.0",
    ):
        assert line in text.splitlines()
    for name in ("proplet_wasm_fetch_bytes_total", "proplet_cpu_usage_ratio", "proplet_cpu_user_seconds"):
        assert name in text
    assert "proplet_memory_rss_bytes" in text


async def test_two_proplets_on_one_state_folder_is_a_sentence(fleet, tmp_path):
    async with fleet.process():
        environment = {
            "PATH": os.environ["PATH"],
            "PROPLET_DOMAIN_ID": "d",
            "PROPLET_CHANNEL_ID": "c",
            "PROPLET_CLIENT_ID": "p",
            "PROPLET_CLIENT_KEY": "k",
            "PROPLET_STATE_DIR": str(tmp_path / "state"),
        }
        second = subprocess.run(
            [sys.executable, "-m", "proplet"], env=environment, check=False, capture_output=True, timeout=30
        )
    assert second.returncode == 1
    assert b"in use by another process" in second.stderr
    assert b"Traceback" not in second.stderr


async def test_the_federated_guest_learns_from_the_sites_data(world, proplet, logged):
    world.site.datasets.put("proplet-1", [{"x": [i / 8, 0.5, 1 - i / 8], "y": i % 2} for i in range(8)])
    env = {"ROUND_ID": "r-1", "MODEL_URI": "fl/models/global_model_v0", "HYPERPARAMS": '{"epochs": 5, "lr": 0.5}'}
    async with world.site.data_store(), world.site.registry(), world.site.coordinator():
        start = world.start(CLIENT.read_bytes(), name="fl-round-r-1-proplet-1", kind="federated", env=env)
        result = await world.manager.outcome(start)
    assert result.error is None
    [(_, update)] = world.site.updates
    assert update["num_samples"] == 8
    assert update["base_model_uri"] == "fl/models/global_model_v0"
    assert any(update["update"]["w"])
    line = await logged.until("DEBUG: Initial model - w: [0.000000, 0.000000, 0.000000], b: 0.000000")
    assert (line["round_id"], line["stream"]) == ("r-1", "stderr")
    assert await logged.until("Loaded dataset with 8 samples from Local Data Store")
