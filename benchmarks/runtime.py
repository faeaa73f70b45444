"""The proplet's runtime alone: tasks per second on one core, warm and each in a process of its own, and the first run.

Ours is the median of runs of ``--tasks`` trivial commands that print a line, one after the other, in a warm worker process,
together with a plain process that feeds it on the same core: it writes jobs ahead, and reads each answer and each printed
line. The command carries 10 KB of code that it never calls, as what a compiler makes carries its C library. Through the
agent's pool, one at a time, are the fork-isolated and those that say so. The baseline is what a runtime does that keeps
nothing: engine, compilation and run for every task, in one process on the same core; a second one does so with a command
of 200 bytes. Processor time is user and system, of every process that takes part: other work on the machine changes it less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
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
AHEAD = 16
"""Jobs that wait in the worker's socket."""
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


def naive_tasks_per_s(binary: bytes, tasks: int) -> tuple[float, float]:
    """Everything made for one task and thrown away; and the seconds of processor time for a task."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        stdout = Path(folder) / "stdout"
        began, before = time.perf_counter(), time.process_time()
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
        return tasks / (time.perf_counter() - began), (time.process_time() - before) / tasks


async def worker_tasks_per_s(runtime: Runtime, binary: bytes, tasks: int) -> tuple[float, float]:
    """Of one worker process and who feeds it, on one core; and the seconds of processor time that both took for a task."""
    zygote = Zygote(runtime.root / "modules", runtime.root / "empty", runtime.folders.root, on_death=lambda: None)
    child, connection = await zygote.fork("worker")
    try:
        jobs = [runtime.job(binary) for _ in range(AHEAD)]
        with connection:
            _pipelined(connection, jobs, tasks // 10)
            before = processor_s(child.pid) + time.process_time()
            per_s = _pipelined(connection, jobs, tasks)
            return per_s, (processor_s(child.pid) + time.process_time() - before) / tasks
    finally:
        await zygote.close()


def processor_s(pid: int) -> float:
    """Of all its threads so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def all_processor_s(runtime: Runtime) -> float:
    """Of the agent, of what it has started, and of what that has started and has ended; to a hundredth."""
    ticks = 0
    for pid in runtime.pool.every_process():
        ticks += sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


async def pool_tasks_per_s(runtime: Runtime, job: Job, tasks: int) -> tuple[float, float]:
    """One at a time through the agent's pool; and the seconds of processor time that everything took for a task."""
    before = all_processor_s(runtime)
    per_s = await tasks_per_s(runtime, job, tasks)
    return per_s, (all_processor_s(runtime) - before) / tasks


def _pipelined(connection: socket.socket, jobs: list[Job], tasks: int) -> float:
    connection.setblocking(True)
    incoming = Incoming()
    asked = answered = 0
    messages = [packed_message(job) for job in jobs]
    began = time.perf_counter()
    while answered < tasks:
        if asked - answered <= len(jobs) // 2:
            until = min(answered + len(jobs), tasks)
            connection.sendall(b"".join(messages[at % len(jobs)] for at in range(asked, until)))
            asked = until
        for _, payload in incoming.feed(connection.recv(1 << 16)):
            assert b'"error":""' in payload, payload
            assert _printed(jobs[answered % len(jobs)]) == b"hello\n"
            answered += 1
    return tasks / (time.perf_counter() - began)


async def throughput(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """On one core, the ways in turn: tasks per second, and seconds of processor time for a task."""
    found: dict[str, list[tuple[float, float]]] = {}
    binary, small = command(), bytes(wasmtime.wat2wasm(PRINTS))
    naive_tasks = max(10, options.tasks // 20)
    with pinned([max(os.sched_getaffinity(0))]):
        async with installed() as runtime:
            job = runtime.job(binary)
            alone = job._replace(isolation="fork")
            await tasks_per_s(runtime, job, options.tasks // 4)
            for _ in range(options.runs):
                for name, measured_now in (
                    ("warm", await worker_tasks_per_s(runtime, binary, options.tasks)),
                    ("pool", await pool_tasks_per_s(runtime, job, options.tasks)),
                    ("fork", await pool_tasks_per_s(runtime, alone, options.tasks // 10)),
                    ("naive", naive_tasks_per_s(binary, naive_tasks)),
                    ("naive small", naive_tasks_per_s(small, naive_tasks)),
                ):
                    found.setdefault(name, []).append(measured_now)
    return found


async def all_cores(options: argparse.Namespace, isolation: str) -> float:
    """Tasks per second with a slot for each core."""
    slots = os.cpu_count() or 1
    async with installed(slots) as runtime:
        binary = command()
        jobs = [runtime.job(binary)._replace(isolation=isolation) for _ in range(slots)]
        tasks = options.tasks if isolation == "warm" else options.tasks // 10
        await tasks_per_s(runtime, jobs[0], tasks // 4)
        return sum(await asyncio.gather(*(tasks_per_s(runtime, job, tasks) for job in jobs)))


async def first_run_ms() -> tuple[float, float]:
    """Of the demo's guest, in a proplet that stands but has compiled nothing; and the processor time of it all."""
    async with installed() as runtime:
        job = runtime.job(DEMO.read_bytes())
        began, before = time.perf_counter(), all_processor_s(runtime)
        answer = await runtime.ran(job)
        took = time.perf_counter() - began
        assert answer.compiled, answer
        while "compiler" in runtime.pool.every_process().values():  # noqa: ASYNC110  # its time is told when it has ended
            await asyncio.sleep(0.01)
        return took * 1000, (all_processor_s(runtime) - before) * 1000


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
    median = {name: statistics.median(per_s for per_s, _ in values) for name, values in found.items()}
    processor_us = {name: round(statistics.median(s for _, s in values) * 1e6) for name, values in found.items()}
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
            "processor_us_per_task": {
                "warm, worker and feeder": processor_us["warm"],
                "warm, with the agent's pool": processor_us["pool"],
                "fork-isolated, with the agent's pool": processor_us["fork"],
                "new engine and compilation": processor_us["naive"],
                "the same, 200 bytes": processor_us["naive small"],
            },
            "warm_tasks_per_s_on_one_core_with_the_agents_pool": round(median["pool"], 1),
            "fork_isolated_tasks_per_s_on_one_core": round(median["fork"], 1),
            "warm_tasks_per_s_on_all_cores": round(await all_cores(options, "warm"), 1),
            "fork_isolated_tasks_per_s_on_all_cores": round(await all_cores(options, "fork"), 1),
            "first_run_of_the_demo_guest_ms": round(statistics.median(took for took, _ in first), 1),
            "first_run_of_the_demo_guest_processor_ms": round(statistics.median(spent for _, spent in first), 1),
            "later_first_guest_instruction_ms": await first_instruction_ms(),
        },
    )


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measured(options))
