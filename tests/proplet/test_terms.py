"""A task's terms at the proplet: denied or kept to, and told in its report."""

from __future__ import annotations

import pytest

from swashplate.messages import RunLimits
from tests.proplet.conftest import prints

MIB = 1 << 20


async def test_a_limit_over_the_ceiling_is_denied_at_once(world, proplet, guests):
    start = world.start(guests["prints"]("never"), limits=RunLimits(memory_bytes=1024 * MIB))
    await world.manager.start(start)
    status = await world.manager.status(start.id)
    assert (status.status, status.code) == ("denied", "limit_over_ceiling")
    assert status.reason == "limit memory: 1 GiB asked, at most 512 MiB allowed here (memory_bytes)"


@pytest.mark.parametrize(
    ("asked", "code"), [({"env": ["SITE"]}, "capability_refused"), ({"http": ["example.org"]}, "http_unsupported")]
)
async def test_what_nobody_granted_is_denied(world, proplet, guests, asked, code):
    start = world.start(guests["prints"]("never"))
    start = start.model_validate({**start.model_dump(), "capabilities": asked})
    await world.manager.start(start)
    status = await world.manager.status(start.id)
    assert (status.status, status.code) == ("denied", code)


async def test_a_full_proplet_denies_with_a_reason_at_once(world, guests):
    async with world.proplet(PROPLET_SLOTS="1", PROPLET_QUEUE="1"):
        for _ in range(2):
            await world.manager.start(world.start(guests["loops"]))
        third = world.start(guests["prints"]("never"))
        await world.manager.start(third)
        status = await world.manager.status(third.id)
        assert (status.status, status.code) == ("denied", "no_slot")
        assert status.reason == "2 tasks here already, running or waiting"


async def test_what_is_granted_is_in_the_guests_environment_and_in_the_report(world, guests, tmp_path, monkeypatch):
    monkeypatch.setenv("SITE", "north")
    (tmp_path / "policy.toml").write_text('[default]\nenv = ["SITE"]\n')
    start = world.start(ENVIRONMENT)
    start = start.model_validate({**start.model_dump(), "capabilities": {"env": ["SITE"]}, "limits": {"cpu_s": 7.0}})
    async with world.proplet(PROPLET_POLICY=str(tmp_path / "policy.toml")):
        result = await world.manager.outcome(start)
    assert "SITE=north\0" in result.results
    assert result.report.capabilities.granted == ["env SITE"]
    assert (result.report.limits["cpu_s"], result.report.limits["memory_bytes"]) == (7.0, 512 * MIB)
    assert result.report.isolation == "warm"
    assert result.report.used["wall_s"] > 0


async def test_the_folder_of_a_process_that_ended_with_its_run_is_not_lent_again(world, proplet, guests):
    """It may still write there for a moment after it has told its result."""
    lent = []
    for isolation in ("warm", "fork", "warm"):
        start = world.start(guests["prints"]("x"))
        result = await world.manager.outcome(start.model_validate({**start.model_dump(), "isolation": isolation}))
        assert (result.results, result.report.isolation) == ("x", isolation)
        lent.append([folder.path for folder in proplet.runner._folders._clean])
    assert [len(folders) for folders in lent] == [1, 0, 1]


async def test_a_failure_has_a_report_with_the_end_of_stderr(world, proplet, guests):
    flood = "x" * 5000 + "\nthe end\n"
    result = await world.manager.outcome(world.start(prints(flood, to=2, then="unreachable")))
    assert result.error
    assert result.report.log_tail.endswith("\nthe end\n")
    assert len(result.report.log_tail) == 4096


async def test_a_task_that_is_stopped_has_a_report_too(world, proplet, guests, logged):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await logged.until("looping")
    await world.manager.stop(start.id)
    result = await world.manager.result(start.id)
    assert result.code == "stopped"
    assert result.report.log_tail == "looping\n"
    assert result.report.used["wall_s"] > 0


async def test_a_run_that_need_not_be_the_same_again_is_not_hashed(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["prints"]("hello")))
    assert (result.report.inputs_digest, result.report.output_digest) == (None, None)


ENVIRONMENT = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $get (i32.const 1024) (i32.const 4096)))
    (i32.store (i32.const 8) (i32.const 4096)) (i32.store (i32.const 12) (i32.load (i32.const 4)))
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 20)))))"""
"""Prints its environment."""


async def test_what_the_policy_allows_is_what_a_binary_may_begin_with(world, tmp_path):
    (tmp_path / "policy.toml").write_text("[ceilings]\nmemory = '640KiB'\ntable = 2000\n")
    settings = {"PROPLET_POLICY": str(tmp_path / "policy.toml"), "PROPLET_MEMORY_LIMIT": str(2 * 65536)}
    large = '(module (memory (export "memory") 10) (table 2000 funcref) (func (export "_start")))'
    async with world.proplet(**settings, PROPLET_TABLE_LIMIT="1000"):
        limits = {"memory_bytes": 10 * 65536, "table_elements": 2000}
        result = await world.manager.outcome(world.start(large, limits=limits))
    assert (result.error, result.code) == (None, "")
