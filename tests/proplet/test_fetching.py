"""Binaries over a bus that loses, alters and repeats."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest
import wasmtime

from proplet.supply import fetch
from proplet.supply.binaries import Binaries


def padded(wat: str, size: int) -> bytes:
    """The same module with a custom section of ``size`` random bytes."""
    filler = os.urandom(size)
    name = b"\x04fill"
    length, content = len(name) + len(filler), b""
    while True:
        content += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            break
    return bytes(wasmtime.wat2wasm(wat)) + b"\0" + content + name + filler


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(fetch, "QUIET_S", 0.05)


async def test_many_chunks_are_asked_for_in_windows_and_assembled(world, proplet, guests):
    world.proxy.chunk_size = 1000
    start = world.start(padded(guests["prints"]("whole"), 50_000))
    assert (await world.manager.outcome(start)).results == "whole"
    asked = [i for request in world.proxy.requests for i in request.indexes]
    assert sorted(asked) == list(range(-(-start.size // 1000)))
    assert max(len(request.indexes) for request in world.proxy.requests) <= fetch.WINDOW


async def test_the_second_run_asks_for_nothing(world, proplet, guests):
    guest = guests["prints"]("cached")
    await world.manager.outcome(world.start(guest))
    world.proxy.requests.clear()
    assert (await world.manager.outcome(world.start(guest))).results == "cached"
    assert world.proxy.requests == []


async def test_a_restarted_proplet_asks_for_nothing_either(world, guests):
    guest = guests["prints"]("cached")
    async with world.proplet():
        await world.manager.outcome(world.start(guest))
    world.proxy.requests.clear()
    async with world.proplet():
        assert (await world.manager.outcome(world.start(guest))).results == "cached"
    assert world.proxy.requests == []


async def test_lost_chunks_are_asked_for_again(world, proplet, quick, guests):
    world.proxy.chunk_size = 1000
    world.proxy.lost = {0, 3, 20, 21, 22}
    start = world.start(padded(guests["prints"]("complete"), 30_000))
    assert (await world.manager.outcome(start)).results == "complete"
    assert world.proxy.lost == set()


async def test_a_proxy_that_comes_late_is_found(world, proplet, quick, guests):
    world.proxy.silent = True
    start = world.start(guests["prints"]("late"))
    await world.manager.start(start)
    await world.proxy.until(lambda: len(world.proxy.requests) >= 3)
    world.proxy.silent = False
    assert (await world.manager.result(start.id)).results == "late"


@pytest.mark.parametrize("kind", ["daemon", "latent"])
async def test_who_has_no_deadline_does_not_wait_for_a_binary_for_ever(world, guests, kind):
    world.proxy.silent = True
    start = world.start(guests["prints"]("never"), **{kind: True}, timeout_s=None)
    other = world.start(guests["prints"]("in time"))
    async with world.proplet(PROPLET_FETCH_TIMEOUT="0.3"):
        await world.manager.start(other)
        outcome = await world.manager.outcome(start)
        assert (outcome.code, outcome.retryable) == ("fetch_timeout", True)
        assert "did not arrive within 0.3 s" in outcome.error
        world.proxy.silent = False
        assert (await world.manager.result(other.id)).results == "in time"


async def test_a_registry_that_comes_back_in_time_costs_no_attempt(world, proplet, guests, logged):
    start = world.start(guests["prints"]("back"))
    content = world.proxy.blobs.pop(start.digest)
    world.proxy.errors[start.digest] = ("no route to the registry", "registry_unreachable")
    await world.manager.start(start)
    await logged.until("no binary yet, trying again")
    world.proxy.put(content)
    assert (await world.manager.result(start.id)).results == "back"


async def test_a_registry_that_stays_away_is_the_reason(world, proplet, guests, monkeypatch):
    monkeypatch.setattr(fetch, "AWAY_S", 0.1)
    start = world.start(guests["prints"]("gone"))
    world.proxy.blobs.clear()
    world.proxy.errors[start.digest] = ("no route to the registry", "registry_unreachable")
    result = await world.manager.outcome(start)
    assert (result.code, result.retryable) == ("registry_unreachable", False)
    assert "no route to the registry" in result.error


async def test_altered_chunks_never_run(world, proplet, guests):
    world.proxy.altered = {0}
    result = await world.manager.outcome(world.start(guests["prints"]("evil")))
    assert result.code == "digest_mismatch"
    assert result.retryable
    world.proxy.altered = set()
    assert (await world.manager.outcome(world.start(guests["prints"]("evil")))).results == "evil"


async def test_chunks_of_a_wrong_index_or_size_are_ignored_and_counted(world, proplet, quick, guests):
    world.proxy.chunk_size = 1000
    world.proxy.lost = {5}
    start = world.start(padded(guests["prints"]("right"), 10_000))
    await world.manager.start(start)
    await world.proxy.until(lambda: any(5 in request.indexes for request in world.proxy.requests))
    for index, content in ((5, b"short"), (99, b"x" * 1000), ("-1", b"x"), ("one", b"x"), ("²", b"x")):
        await world.proxy.send_chunk(start.digest, index, content)
    assert (await world.manager.result(start.id)).results == "right"
    assert proplet.fetcher.ignored_chunks == 2


async def test_chunks_that_others_asked_for_are_taken(world, proplet, quick, guests):
    world.proxy.chunk_size = 1000
    content = padded(guests["prints"]("shared"), 40_000)
    start = world.start(content)
    world.proxy.lost = {0}
    await world.manager.start(start)
    await world.proxy.until(lambda: world.proxy.requests)
    for index in range(1, -(-len(content) // 1000)):
        await world.proxy.send_chunk(start.digest, index, content[index * 1000 : (index + 1) * 1000])
    assert (await world.manager.result(start.id)).results == "shared"
    asked = {i for request in world.proxy.requests for i in request.indexes}
    assert len(asked) <= fetch.WINDOW + 1


async def test_two_tasks_of_one_binary_share_one_fetch(world, guests):
    async with world.proplet(PROPLET_SLOTS="2"):
        world.proxy.chunk_size = 1000
        content = padded(guests["prints"]("both"), 20_000)
        starts = [world.start(content), world.start(content)]
        results = await asyncio.gather(*(world.manager.outcome(start) for start in starts))
        assert [r.results for r in results] == ["both", "both"]
        asked = [i for request in world.proxy.requests for i in request.indexes]
        assert len(asked) == len(set(asked))


async def test_giving_up_one_task_leaves_the_fetch_to_the_other(world, guests, quick):
    async with world.proplet(PROPLET_SLOTS="2"):
        world.proxy.silent = True
        impatient, patient = (world.start(guests["prints"]("p"), timeout_s=t) for t in (0.2, 30))
        await world.manager.start(impatient)
        await world.manager.start(patient)
        assert (await world.manager.result(impatient.id)).code == "timeout"
        world.proxy.silent = False
        assert (await world.manager.result(patient.id)).results == "p"


async def test_a_fetch_that_everybody_gave_up_can_begin_again(world, proplet, guests):
    world.proxy.silent = True
    assert (await world.manager.outcome(world.start(guests["prints"]("x"), timeout_s=0.2))).code == "timeout"
    world.proxy.silent = False
    assert (await world.manager.outcome(world.start(guests["prints"]("x")))).results == "x"


async def test_what_the_proxy_refuses_fails_the_task_with_its_code(world, proplet, guests):
    start = world.start(guests["prints"]("x"))
    del world.proxy.blobs[start.digest]
    world.proxy.errors[start.digest] = ("registry/guest:1: 403 Forbidden", "registry_forbidden")
    result = await world.manager.outcome(start)
    assert result.code == "registry_forbidden"
    assert "403 Forbidden" in result.error


async def test_a_description_that_contradicts_the_start_is_refused(world, proplet, guests):
    start = world.start(guests["prints"]("x"))
    result = await world.manager.outcome(start.model_copy(update={"size": start.size + 1}))
    assert result.code == "blob_info_invalid"


async def test_what_is_no_wasm_is_refused_and_not_kept(world, proplet):
    start = world.start(b"#!/bin/sh\necho no\n")
    assert (await world.manager.outcome(start)).code == "not_wasm"
    assert list((world.tmp_path / "state" / "binaries").iterdir()) == []


async def test_a_binary_over_the_cache_limit_is_refused(world, guests):
    async with world.proplet(PROPLET_CACHE_BYTES="100"):
        assert (await world.manager.outcome(world.start(guests["prints"]("x" * 100)))).code == "binary_too_large"


async def test_the_binary_used_longest_ago_goes_first(world, guests):
    async with world.proplet(PROPLET_CACHE_BYTES="25000"):
        guest = [padded(guests["prints"](str(i)), 10_000) for i in range(3)]
        for content in (guest[0], guest[1], guest[0], guest[2]):
            assert (await world.manager.outcome(world.start(content))).error is None
        kept = {path.name for path in (world.tmp_path / "state" / "binaries").iterdir()}
        assert kept == {hashlib.sha256(guest[i]).hexdigest() for i in (0, 2)}
        assert not any(
            path.name.startswith(hashlib.sha256(guest[1]).hexdigest())
            for path in (world.tmp_path / "state" / "modules").iterdir()
        )


def test_a_binary_in_use_is_not_dropped(tmp_path):
    (tmp_path / "modules").mkdir()
    binaries = Binaries(tmp_path / "binaries", tmp_path / "modules", 10)
    first, second = binaries.store.put(b"a" * 8), binaries.store.put(b"b" * 8)
    os.utime(binaries.path(first), ns=(1, 1))
    with binaries.in_use(first):
        binaries.make_room()
    assert binaries.store.digests() == [first]
    binaries.store.put(b"b" * 8)
    binaries.make_room()
    assert binaries.store.digests() == [second]
