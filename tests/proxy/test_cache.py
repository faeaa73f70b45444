"""The cache of binaries: fetched once, dropped when too many, never trusted blindly."""

from __future__ import annotations

import asyncio
import os

import pytest

from proxy.cache import BlobCache
from proxy.single_flight import SingleFlight
from swashplate.blobs import sha256_digest
from swashplate.errors import UnavailableError


def source(content: bytes, log: list[bytes]):
    async def fetch(store) -> None:
        log.append(content)
        await asyncio.sleep(0)
        store.put(content)

    return fetch


async def use(cache: BlobCache, content: bytes, log: list[bytes], name: str = "image") -> bytes:
    async with cache.holding(sha256_digest(content), name, source(content, log)) as path:
        return path.read_bytes()


async def test_many_who_want_the_same_share_one_fetch(tmp_path):
    cache, log = BlobCache(tmp_path, 1000), []
    assert await asyncio.gather(*(use(cache, b"binary", log) for _ in range(20))) == [b"binary"] * 20
    assert await use(cache, b"binary", log) == b"binary"
    assert log == [b"binary"]


async def test_what_was_used_longest_ago_is_dropped_first(tmp_path):
    cache, log = BlobCache(tmp_path, 250), []
    contents = [bytes([i]) * 100 for i in range(3)]
    for age, content in zip((30, 20), contents, strict=False):
        await use(cache, content, log)
        os.utime(cache.store.path(sha256_digest(content)), (age, age))
    await use(cache, contents[0], log)
    await use(cache, contents[2], log)
    assert cache.store.has(sha256_digest(contents[0]))
    assert not cache.store.has(sha256_digest(contents[1]))


async def test_what_is_in_use_is_not_dropped(tmp_path):
    cache, log = BlobCache(tmp_path, 50), []
    first, second = b"a" * 100, b"b" * 100
    async with cache.holding(sha256_digest(first), "image", source(first, log)) as path:
        assert await use(cache, second, log) == second
        assert path.read_bytes() == first
    await use(cache, b"c" * 10, log)
    assert not cache.store.has(sha256_digest(first))


async def test_a_failed_fetch_leaves_nothing_and_is_tried_again_by_the_next(tmp_path):
    cache, log = BlobCache(tmp_path, 1000), []

    async def failing(_) -> None:
        raise UnavailableError("not now")

    with pytest.raises(UnavailableError):
        async with cache.holding(sha256_digest(b"binary"), "image", failing):
            pass
    assert await use(cache, b"binary", log) == b"binary"


async def test_a_source_that_fails_does_not_fail_those_who_named_another(tmp_path):
    cache, log = BlobCache(tmp_path, 1000), []

    async def failing(_) -> None:
        await asyncio.sleep(0)
        raise UnavailableError("not now")

    async def fail() -> None:
        async with cache.holding(sha256_digest(b"binary"), "down/app", failing):
            pass

    bad, good = await asyncio.gather(fail(), use(cache, b"binary", log, "up/app"), return_exceptions=True)
    assert isinstance(bad, UnavailableError)
    assert good == b"binary"


async def test_a_file_altered_on_disk_is_fetched_again_after_a_restart(tmp_path):
    log: list[bytes] = []
    await use(BlobCache(tmp_path, 1000), b"binary", log)
    cache = BlobCache(tmp_path, 1000)
    cache.store.path(sha256_digest(b"binary")).write_bytes(b"rotten")
    assert await use(cache, b"binary", log) == b"binary"
    assert len(log) == 2


async def test_a_restart_keeps_the_cache(tmp_path):
    log: list[bytes] = []
    for _ in range(2):
        await use(BlobCache(tmp_path, 1000), b"binary", log)
    assert len(log) == 1


async def test_a_waiter_that_leaves_does_not_end_the_work_for_others():
    flights: SingleFlight[int] = SingleFlight()
    release = asyncio.Event()

    async def work() -> int:
        await release.wait()
        return 7

    first, second = (asyncio.create_task(flights.do("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second == 7
    assert first.cancelled()
