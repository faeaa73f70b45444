"""The agent as its own process on a real broker: what it loads, how it ends, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from swashplate.messages import Alive, Result
from tests.support.fleet import Fleet, children
from tests.support.journal import state_on_disk
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
heavy = ("numpy", "sqlalchemy", "typer", "rich", "wasmtime", "cryptography", "aiohttp", "prometheus_client")
print(json.dumps([name for name in heavy if sys.modules.get(name) is not None]))
"""


def test_a_running_agent_loads_nothing_that_it_does_not_need(tmp_path):
    ran = subprocess.run([sys.executable, "-c", IMPORTS, str(tmp_path)], capture_output=True, timeout=60, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == []


@pytest.fixture
async def fleet(broker, tmp_path):
    async with Fleet(broker, tmp_path).standing() as standing:
        yield standing


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
        async with asyncio.timeout(PATIENCE):
            while (
                state_on_disk(fleet.tmp_path / "state", first.task_id) != "finished"
            ):  # it is sent while it is written
                await asyncio.sleep(0.01)
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
