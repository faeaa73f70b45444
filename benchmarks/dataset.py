"""A dataset on its way into a guest: from the site's data store, through the proplet's cache, to reads in WebAssembly.

Ours is the rate, seen by the guest's own clock, at which it opens and reads ``/in/data/dataset.json`` with 1 MB reads and
touches every page of what it got. The baselines are the same with 4 KB reads, and the same bytes as the peers pass them,
base64 in an environment variable (encoded and copied into the guest, but not decoded there). The details also tell how
long a task waits for the first byte: with the dataset still at the data store, and with it in the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
import wasmtime

from benchmarks.report import Report
from benchmarks.runtime import Runtime, installed
from proplet.sandbox.frames import Job
from proplet.supply.input_cache import InputCache
from proplet.supply.inputs import DATASET
from proplet.work.course import Course
from proplet.work.outgoing import Ref
from swashplate.client import HttpClient

MB, PAGE = 1_000_000, 65536
LARGE_READ, SMALL_READ = 1 << 20, 4096
NAME = "site"
CLOCK = '(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))'
NOW = """(func $now (result i64)
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 0)))
    (i64.load (i32.const 0)))"""
READS = f"""(module {CLOCK}
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 40) (data (i32.const 64) "{DATASET}") {NOW}
  (func (export "read") (param $size i32) (result i64 i64 i64 i64)
    (local $bytes i64) (local $began i64) (local $first i64) (local $sum i64) (local $got i32) (local $at i32)
    (local.set $began (call $now))
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const {len(DATASET)}) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)) (then unreachable))
    (i32.store (i32.const 24) (i32.const {PAGE})) (i32.store (i32.const 28) (local.get $size))
    (loop $again
      (if (call $read (i32.load (i32.const 16)) (i32.const 24) (i32.const 1) (i32.const 32)) (then unreachable))
      (if (i64.eqz (local.get $first)) (then (local.set $first (call $now))))
      (local.set $got (i32.load (i32.const 32)))
      (local.set $bytes (i64.add (local.get $bytes) (i64.extend_i32_u (local.get $got))))
      (local.set $at (i32.const 0))
      (if (local.get $got) (then
        (loop $touch
          (local.set $sum (i64.add (local.get $sum) (i64.load8_u (i32.add (i32.const {PAGE}) (local.get $at)))))
          (local.set $at (i32.add (local.get $at) (i32.const 4096)))
          (br_if $touch (i32.lt_u (local.get $at) (local.get $got))))
        (br $again))))
    (local.get $bytes) (local.get $began) (local.get $first) (call $now)))"""
TAKES = f"""(module {CLOCK}
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (memory (export "memory") PAGES) {NOW}
  (func (export "take") (result i64)
    (if (call $get (i32.const 16) (i32.const 32)) (then unreachable)) (call $now)))"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mb", type=int, default=100, help="size of the dataset in 1,000,000 bytes")
    parser.add_argument("--runs", type=int, default=7, help="runs, of which the median counts")


@dataclass(frozen=True)
class Read:
    """``first_s`` from the start of the task to the guest's first byte; ``gb_per_s`` in the guest."""

    gb_per_s: float
    first_s: float


def dataset(size: int) -> bytes:
    """A JSON dataset of about ``size`` bytes."""
    row = b'{"x":[' + b",".join(b"0.%09d" % n for n in range(100)) + b'],"y":1}'
    rows = max(1, size // (len(row) + 1))
    return b'{"schema":"fl-demo-dataset-v1","data":[' + b",".join([row] * rows) + b"]}"


@contextlib.asynccontextmanager
async def data_store(content: bytes) -> AsyncIterator[str]:
    """The URL of the dataset at a data store in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{NAME}.json").write_bytes(content)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proplet.data_store",
            env={**os.environ, "DATA_DIR": folder, "DATA_STORE_PORT": str(port), "DATA_STORE_LOG_LEVEL": "error"},
        )
        try:
            await _listens(port)
            yield f"http://127.0.0.1:{port}/datasets/{NAME}"
        finally:
            process.terminate()
            await process.wait()


async def _listens(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise RuntimeError("the data store did not start")


async def read(runtime: Runtime, known: Job, cache: InputCache, url: str, size: int, expected: int) -> Read:
    """One task, as a proplet performs it once its binary is there; ``known`` but for its folder."""
    began = time.time()
    with runtime.folders.lent() as folder:
        folder.give(DATASET, (await cache.get(url)).path)
        job = known._replace(folder=str(folder.path), cli_args=["--invoke", "read"], inputs=[str(size)])
        async with runtime.pool.slot:
            answer = await runtime.pool.run(job, lambda _: None, Course(Ref("read", 1)))
    assert not answer.error, answer
    count, opened, first, ended = map(int, (answer.text or "").split())
    assert count == expected, (count, expected)
    return Read(count / (ended - opened), first / 1e9 - began)


def through_environment(content: bytes) -> float:
    """GB/s of ``content`` as base64 in a variable, until the guest has it."""
    pages = len(content) * 4 // 3 // PAGE + 2
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, wasmtime.wat2wasm(TAKES.replace("PAGES", str(pages))))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    began = time.time_ns()
    wasi = wasmtime.WasiConfig()
    wasi.env = [("DATASET_DATA", base64.b64encode(content).decode())]
    store.set_wasi(wasi)
    take = linker.instantiate(store, module).exports(store)["take"]
    assert isinstance(take, wasmtime.Func)
    return len(content) / (take(store) - began)


async def measure(options: argparse.Namespace) -> Report:
    content = dataset(options.mb * MB)
    size, runs = len(content), options.runs
    async with installed() as runtime, data_store(content) as url, HttpClient() as http:
        cache_folder = runtime.folders.root / "cache"

        def cache() -> InputCache:
            return InputCache(http, cache_folder, 2 * size)

        began = time.perf_counter()
        await cache().get(url)
        store_first_s = time.perf_counter() - began
        job = runtime.job(bytes(wasmtime.wat2wasm(READS)))
        kept = cache()
        await read(runtime, job, kept, url, LARGE_READ, size)  # compiled, and in the cache
        missing = [await read(runtime, job, cache(), url, LARGE_READ, size) for _ in range(runs)]
        large = [await read(runtime, job, kept, url, LARGE_READ, size) for _ in range(runs)]
        small = [await read(runtime, job, kept, url, SMALL_READ, size) for _ in range(runs)]
    median = statistics.median
    return Report(
        name="dataset into a guest, 1 MB reads",
        unit="GB/s",
        ours=median(each.gb_per_s for each in large),
        runs=runs,
        baselines={
            "4 KB reads": median(each.gb_per_s for each in small),
            "base64 in an environment variable": median(through_environment(content) for _ in range(runs)),
        },
        details={
            "dataset_mb": round(size / MB, 1),
            "first_byte_cached_ms": round(median(each.first_s for each in large) * 1000, 2),
            "first_byte_not_cached_ms": round(median(each.first_s for each in missing) * 1000, 2),
            "first_fetch_after_the_data_store_started_ms": round(store_first_s * 1000, 2),
        },
    )


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measure(options))
