"""What the manager hears of what a task is at, and of what it uses."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proplet.monitoring import usage
from proplet.monitoring.monitor import profile_of
from proplet.monitoring.usage import Sample, Usage
from proplet.work.course import Course, Spent
from proplet.work.journal import Journal
from proplet.work.outgoing import Ref
from proplet.work.progress import STAYS_S, Progress
from swashplate.bus import MemoryBus
from swashplate.messages import MonitoringProfile, Start
from tests.proplet.conftest import ID, NAMES

BURNS_OR_SLEEPS = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 5)
  (func (export "burn") (param $left i32)
    (loop $again
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (i32.store (i32.const 64) (local.get $left))
      (br_if $again (local.get $left))))
  (func (export "sleep") (param $nanoseconds i64)
    (i64.store (i32.const 24) (local.get $nanoseconds)) (i32.store (i32.const 16) (i32.const 1))
    (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))"""
FAST = MonitoringProfile(interval=100_000_000)


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


async def test_a_stage_that_lasts_is_told(world, proplet, guests):
    world.proxy.silent = True
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await world.manager.until(lambda: [p for p in world.manager.progress if p.stage == "fetching"])
    world.proxy.silent = False
    told = await world.manager.until(lambda: [p for p in world.manager.progress if p.stage == "running"])
    assert (told[0].task_id, told[0].attempt, told[0].status) == (start.id, 1, "progress")
    assert world.manager.statuses[0].status == "accepted"


async def test_a_stage_that_is_over_soon_is_not_told(world, tmp_path):
    async with Journal(tmp_path / "journal.db") as journal, MemoryBus(world.broker, client_id=ID) as bus:
        refs = [Ref(task_id, 1) for task_id in ("brief", "lasting")]
        await journal.accept(refs)
        progress = Progress(bus, NAMES, ID, journal)
        brief, lasting = (Course(ref, progress.changed) for ref in refs)
        brief.enter("running")
        lasting.enter("running")
        asyncio.get_running_loop().call_later(STAYS_S / 5, brief.enter, "")
        await world.manager.until(lambda: "lasting" in [said.task_id for said in world.manager.progress])
        progress.close()
    assert [said.task_id for said in world.manager.progress] == ["lasting"]


async def test_an_attempt_that_is_over_soon_tells_no_stage(world, proplet, guests):
    await world.manager.outcome(world.start(guests["add"], name="add", inputs=["1", "1"]))
    world.manager.progress.clear()
    for _ in range(20):
        await world.manager.outcome(world.start(guests["add"], name="add", inputs=["1", "1"]))
    assert world.manager.progress == []


async def test_a_running_task_is_measured(world, proplet, guests):
    start = world.start(guests["loops"], monitoring_profile=FAST)
    await world.manager.start(start)
    await world.manager.until(lambda: len(world.manager.task_metrics) >= 4)
    said = world.manager.task_metrics[3]
    assert (said.task_id, said.attempt, said.proplet_id) == (start.id, 1, "proplet-1")
    assert set(said.metrics) == {
        "cpu_percent",
        "memory_bytes",
        "memory_percent",
        "disk_read_bytes",
        "disk_write_bytes",
        "uptime_seconds",
        "thread_count",
        "file_descriptor_count",
    }
    assert 1 << 20 < said.metrics["memory_bytes"] < 15 << 20  # without what it shares with the other workers
    assert said.metrics["uptime_seconds"] < 20
    assert said.aggregated["sample_count"] == 4
    assert said.aggregated["max_cpu_usage"] > 5
    assert seconds(said.timestamp) > seconds(world.manager.task_metrics[0].timestamp)
    await world.manager.stop(start.id)


async def test_only_what_the_profile_wants_is_measured(world, proplet, guests):
    profile = FAST.model_copy(
        update={
            "collect_cpu": False,
            "collect_memory": False,
            "collect_disk_io": False,
            "collect_file_descriptors": False,
            "retain_history": False,
        }
    )
    start = world.start(guests["loops"], monitoring_profile=profile)
    await world.manager.start(start)
    said = (await world.manager.until(lambda: world.manager.task_metrics))[0]
    assert set(said.metrics) == {"uptime_seconds", "thread_count"}
    assert said.aggregated is None
    await world.manager.stop(start.id)


@pytest.mark.parametrize("off", [{"enabled": False}, {"export_to_mqtt": False}])
async def test_a_profile_can_forbid_it(world, guests, off):
    start = world.start(guests["loops"], monitoring_profile=FAST.model_copy(update=off))
    other = world.start(guests["loops"], monitoring_profile=FAST)
    async with world.proplet(PROPLET_SLOTS="2"):
        await world.manager.start(start)
        await world.manager.start(other)
        await world.manager.until(lambda: len(world.manager.task_metrics) >= 3)
    assert {said.task_id for said in world.manager.task_metrics} == {other.id}


def test_the_usual_intervals_are_ten_seconds_and_two_minutes_for_a_daemon(start):
    assert profile_of(start()).interval_s == 10
    assert profile_of(start(daemon=True, timeout_s=None)).interval_s == 120


async def test_the_proplet_reports_what_it_uses(world, guests):
    async with world.proplet(PROPLET_METRICS_INTERVAL="0.1"):
        await world.manager.until(lambda: len(world.manager.metrics) >= 2)
    said = world.manager.metrics[1]
    assert set(said.cpu_metrics) == {"user_seconds", "system_seconds", "percent"}
    assert 0 <= said.cpu_metrics["percent"] <= 100
    assert said.cpu_metrics["user_seconds"] > 0
    assert {"rss_bytes", "heap_alloc_bytes", "heap_sys_bytes", "heap_inuse_bytes"} <= set(said.memory_metrics)
    assert 10 << 20 < said.memory_metrics["rss_bytes"] < 4 << 30
    assert said.namespace == "default"
    assert said.timestamp.endswith("Z")


async def test_nothing_is_measured_when_the_operator_says_so(world, guests):
    async with world.proplet(PROPLET_ENABLE_MONITORING="false", PROPLET_METRICS_INTERVAL="0.05"):
        start = world.start(guests["loops"], monitoring_profile=FAST, timeout_s=1.5)
        await world.manager.outcome(start)
    assert world.manager.metrics == []
    assert world.manager.task_metrics == []


@pytest.fixture
def start():
    known = {"id": "t", "attempt": 1, "proplet_id": "p", "name": "n", "digest": "sha256:" + "0" * 64, "size": 1}
    return lambda **fields: Start(**{**known, "timeout_s": 1.0, **fields})


def test_this_process_is_read_as_the_kernel_shows_it():
    used = usage.of_process(os.getpid())
    spent = os.times()
    assert abs(used.user_s - spent.user - spent.children_user) < 1
    assert used.threads >= 1
    assert used.descriptors >= 3
    assert 10 << 20 < used.private <= used.share
    assert usage.of_process(2**22 + 1) is None


def test_what_a_process_is_called_does_not_matter(tmp_path):
    folder = tmp_path / "7"
    folder.mkdir()
    numbers = " ".join(str(number) for number in range(4, 53))
    (folder / "stat").write_text(f"7 (a) b (c) S {numbers}\n")
    assert usage.of_process(7, tmp_path) == Usage(
        user_s=(14 + 16) / usage.TICKS,
        system_s=(15 + 17) / usage.TICKS,
        private=24 * usage.PAGE,
        share=24 * usage.PAGE,
        threads=20,
        descriptors=0,
        read=0,
        written=0,
    )


def test_the_machines_percentage_is_that_of_all_processors(tmp_path):
    (tmp_path / "stat").write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n")
    assert usage.of_machine(tmp_path) == (150, 1000)
    assert usage.percent_between((150, 1000), (200, 1200)) == 25
    assert usage.percent_between((150, 1000), (150, 1000)) == 0


def test_a_sample_is_what_this_guest_used():
    before = Spent(cpu_s=15, read=1000, written=2000)
    now = Usage(user_s=12, system_s=5.5, private=77, share=99, threads=2, descriptors=9, read=1700, written=2600)
    seen = usage.sample(before, 16.0, now, 3.0)
    assert seen == Sample(cpu_percent=50, memory=77, threads=2, descriptors=9, read=700, written=600)
    last = usage.whole(seen, before, Spent(17.0, 1800, 2600), {"wall_s": 8.0, "memory_bytes": 65536.0})
    assert last == Sample(cpu_percent=25, memory=65536, threads=2, descriptors=9, read=800, written=600)


async def test_the_last_sample_is_of_the_whole_run_and_of_nothing_before_it(world, proplet):
    """The warm worker has used a second of processor time for another guest of the same binary."""
    guest = BURNS_OR_SLEEPS
    await world.manager.outcome(world.start(guest, cli_args=["--invoke", "burn"], inputs=["900000000"]))
    start = world.start(guest, cli_args=["--invoke", "sleep"], inputs=["450000000"])
    result = await world.manager.outcome(start)
    assert not result.error
    [said] = [each for each in world.manager.task_metrics if each.task_id == start.id]
    assert said.metrics["cpu_percent"] < 40
    assert said.metrics["memory_bytes"] == 5 * 65536
    assert said.metrics["thread_count"] >= 2
    assert 0.45 <= said.metrics["uptime_seconds"] < 5
    assert said.aggregated["sample_count"] == 1


async def test_a_task_that_is_stopped_is_not_measured_any_more(world, proplet, guests):
    start = world.start(guests["loops"], monitoring_profile=FAST)
    await world.manager.start(start)
    await world.manager.until(lambda: world.manager.task_metrics)
    await world.manager.stop(start.id)
    await world.manager.result(start.id)
    told = len(world.manager.task_metrics)
    other = world.start(guests["loops"], monitoring_profile=FAST)
    await world.manager.start(other)
    await world.manager.until(lambda: len(world.manager.task_metrics) >= told + 3)
    assert {each.task_id for each in world.manager.task_metrics[told:]} == {other.id}


@given(st.lists(st.tuples(st.floats(0, 6400), st.integers(0, 2**40)), min_size=1, max_size=20))
def test_the_aggregate_lies_between_its_samples(values):
    samples = [Sample(cpu, memory, 1, 1, at, at) for at, (cpu, memory) in enumerate(values)]
    found = usage.aggregated(samples)
    assert found["sample_count"] == len(values)
    assert found["max_cpu_usage"] == round(max(cpu for cpu, _ in values), 2)
    assert min(memory for _, memory in values) <= found["avg_memory_usage"] <= found["max_memory_usage"]
    assert found["total_disk_read"] == len(values) - 1
    assert usage.aggregated([]) is None
