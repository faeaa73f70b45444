"""The proplet's runtime alone: tasks per second on one core, warm and each in a process of its own, and the first run.

Ours is the median of runs of ``--tasks`` trivial commands that print a line, one after the other, in a warm worker process
that has a core for itself and always its next job waiting. The command carries 10 KB of code that it never calls, as
what a compiler makes carries its C library. Through the agent's pool, one at a time, are those on all
cores and the fork-isolated; there the printed line is read after each. The baseline is what a runtime does that keeps
nothing: engine, compilation and run for every task, in one process on the same core; a second one does so with a command
of 200 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop
import wasmtime

from benchmarks.report import Report
from proplet.runtime.pool import WorkerPool
from proplet.runtime.task_folder import TaskFolders
from proplet.runtime.zygote import Zygote
from proplet.sandbox.bounds import Bounds
from proplet.sandbox.frames import Answer, Incoming, Job, Limits, packed_message
from proplet.work.course import Course
from proplet.work.outgoing import Ref

DEMO = Path(__file__).parents[1] / "client_wasm" / "fl-client.wasm"
PRINTS = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "hello\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
TELLS_TIME = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 16)))
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 8))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
LIBRARY = "".join(
    f"(func (param i32) (result i32) {f'(local.set 0 (i32.add (local.get 0) (i32.const {n + 1000})))' * 10} (local.get 0))"
    for n in range(100)
)
LIMITS = Limits(memory=512 << 20, output=64 << 20, files=10_000)
FIRST_RUNS, LATER_RUNS = 5, 200


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=2000, help="warm tasks in a run; a tenth of them fork-isolated")
    parser.add_argument("--runs", type=int, default=5, help="runs, of which the median counts")


@dataclass(frozen=True)
class Runtime:
    pool: WorkerPool
    folders: TaskFolders
    root: Path

    def job(self, binary: bytes) -> Job:
        digest = hashlib.sha256(binary).hexdigest()
        path = self.root / digest
        path.write_bytes(binary)
        return Job(f"sha256:{digest}", str(path), "task", str(self.folders.fresh().path), [], [], {}, LIMITS)

    async def ran(self, job: Job) -> Answer:
        async with self.pool.slot:
            return await self.pool.run(job, _unheard, Course(Ref("task", 1)))

    async def printed(self, job: Job) -> bytes:
        answer = await self.ran(job)
        assert not answer.error, answer
        return _printed(job)


def _printed(job: Job) -> bytes:
    with open(f"{job.folder}/stdout", "rb", buffering=0) as file:  # noqa: PTH123  # as a runner reads it
        return file.read()


def _unheard(_text: bytes) -> None:
    return None


@contextlib.asynccontextmanager
async def installed(slots: int = 1) -> AsyncIterator[Runtime]:
    """A runtime that has compiled nothing yet, with its folders where a proplet has them."""
    with tempfile.TemporaryDirectory() as below, tempfile.TemporaryDirectory(dir=_memory()) as tasks:
        root = Path(below)
        folders = TaskFolders(Path(tasks) / "tasks")
        pool = WorkerPool(slots, root / "modules", root / "empty", folders.root, Bounds(), compile_wall_s=120)
        try:
            async with pool:
                while len(pool.processes()) < min(slots, os.cpu_count() or 1):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                yield Runtime(pool, folders, root)
        finally:
            folders.close()


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def pinned(cores: Iterable[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def command() -> bytes:
    return bytes(wasmtime.wat2wasm(PRINTS.removesuffix(")") + LIBRARY + ")"))


async def tasks_per_s(runtime: Runtime, job: Job, tasks: int) -> float:
    began = time.perf_counter()
    for _ in range(tasks):
        assert await runtime.printed(job) == b"hello\n"
    return tasks / (time.perf_counter() - began)


def naive_tasks_per_s(binary: bytes, tasks: int) -> float:
    """Everything made for one task and thrown away."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        stdout = Path(folder) / "stdout"
        began = time.perf_counter()
        for _ in range(tasks):
            engine = wasmtime.Engine()
            linker = wasmtime.Linker(engine)
            linker.define_wasi()
            wasi = wasmtime.WasiConfig()
            wasi.stdout_file = str(stdout)
            store = wasmtime.Store(engine)
            store.set_wasi(wasi)
            start = linker.instantiate(store, wasmtime.Module(engine, binary)).exports(store)["_start"]
            assert isinstance(start, wasmtime.Func)
            start(store)
            assert stdout.read_bytes() == b"hello\n"
        return tasks / (time.perf_counter() - began)


async def worker_tasks_per_s(runtime: Runtime, binary: bytes, tasks: int) -> tuple[float, float]:
    """Of one worker process on a core of its own, asked from another core, with the next job always waiting; and the same
    for each second of processor time that it had, which other work on the machine changes less.
    """
    *others, core = sorted(os.sched_getaffinity(0))
    zygote = Zygote(runtime.root / "modules", runtime.root / "empty", runtime.folders.root, on_death=lambda: None)
    child, connection = await zygote.fork("worker")
    try:
        os.sched_setaffinity(child.pid, {core})
        jobs = [runtime.job(binary), runtime.job(binary)]
        with connection, pinned(others or [core]):
            _pipelined(connection, jobs, tasks // 10)
            before = processor_s(child.pid)
            per_s = _pipelined(connection, jobs, tasks)
            return per_s, tasks / (processor_s(child.pid) - before)
    finally:
        await zygote.close()


def processor_s(pid: int) -> float:
    """Of all its threads so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _pipelined(connection: socket.socket, jobs: list[Job], tasks: int) -> float:
    connection.setblocking(True)
    incoming = Incoming()
    asked = answered = 0
    messages = [packed_message(job) for job in jobs]
    began = time.perf_counter()
    while answered < tasks:
        while asked < min(answered + len(jobs), tasks):
            connection.sendall(messages[asked % len(jobs)])
            asked += 1
        for _, payload in incoming.feed(connection.recv(1 << 16)):
            assert not json.loads(payload)["error"], payload
            assert _printed(jobs[answered % len(jobs)]) == b"hello\n"
            answered += 1
    return tasks / (time.perf_counter() - began)


async def throughput(options: argparse.Namespace) -> dict[str, list[float]]:
    """On one core, the ways in turn."""
    names = ("warm", "warm cpu", "pool", "fork", "naive", "naive small")
    found: dict[str, list[float]] = {name: [] for name in names}
    binary = command()
    cores = os.sched_getaffinity(0)
    async with installed() as runtime:
        job = runtime.job(binary)
        await tasks_per_s(runtime, job, options.tasks // 4)
        for _ in range(options.runs):
            per_s, per_processor_s = await worker_tasks_per_s(runtime, binary, options.tasks)
            found["warm"].append(per_s)
            found["warm cpu"].append(per_processor_s)
    with pinned([max(cores)]):
        async with installed() as runtime:
            job = runtime.job(binary)
            await tasks_per_s(runtime, job, options.tasks // 4)
            for _ in range(options.runs):
                found["pool"].append(await tasks_per_s(runtime, job, options.tasks))
                found["fork"].append(await tasks_per_s(runtime, replace(job, isolation="fork"), options.tasks // 10))
                found["naive"].append(naive_tasks_per_s(binary, max(10, options.tasks // 20)))
                small = bytes(wasmtime.wat2wasm(PRINTS))
                found["naive small"].append(naive_tasks_per_s(small, max(10, options.tasks // 20)))
    return found


async def all_cores(options: argparse.Namespace, isolation: str) -> float:
    """Tasks per second with a slot for each core."""
    slots = os.cpu_count() or 1
    async with installed(slots) as runtime:
        binary = command()
        jobs = [replace(runtime.job(binary), isolation=isolation) for _ in range(slots)]
        tasks = options.tasks if isolation == "warm" else options.tasks // 10
        await tasks_per_s(runtime, jobs[0], tasks // 4)
        return sum(await asyncio.gather(*(tasks_per_s(runtime, job, tasks) for job in jobs)))


async def first_run_ms() -> float:
    """Of the demo's guest, in a proplet that stands but has compiled nothing."""
    async with installed() as runtime:
        job = runtime.job(DEMO.read_bytes())
        began = time.perf_counter()
        answer = await runtime.ran(job)
        took = time.perf_counter() - began
        assert answer.compiled, answer
        return took * 1000


async def first_instruction_ms() -> dict[str, float]:
    """Median and slowest tenth, from the call of the pool to what the guest's clock says first."""
    async with installed() as runtime:
        job = runtime.job(bytes(wasmtime.wat2wasm(TELLS_TIME)))
        await runtime.printed(job)
        took = []
        for _ in range(LATER_RUNS):
            began = time.time_ns()
            (at,) = struct.unpack("<Q", await runtime.printed(job))
            took.append((at - began) / 1e6)
    return {"median": round(statistics.median(took), 3), "p90": round(statistics.quantiles(took, n=10)[-1], 3)}


async def measured(options: argparse.Namespace) -> Report:
    found = await throughput(options)
    median = {name: statistics.median(values) for name, values in found.items()}
    first = [await first_run_ms() for _ in range(FIRST_RUNS)]
    return Report(
        name="runtime",
        unit="tasks/s on one core",
        ours=median["warm"],
        runs=options.runs,
        baselines={
            "new engine and compilation for every task": median["naive"],
            "the same with a command of 200 bytes": median["naive small"],
        },
        details={
            "warm_tasks_per_second_of_processor_time": round(median["warm cpu"], 1),
            "warm_tasks_per_s_on_one_core_with_the_agents_pool": round(median["pool"], 1),
            "fork_isolated_tasks_per_s_on_one_core": round(median["fork"], 1),
            "warm_tasks_per_s_on_all_cores": round(await all_cores(options, "warm"), 1),
            "fork_isolated_tasks_per_s_on_all_cores": round(await all_cores(options, "fork"), 1),
            "first_run_of_the_demo_guest_ms": round(statistics.median(first), 1),
            "later_first_guest_instruction_ms": await first_instruction_ms(),
        },
    )


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measured(options))
