"""Hostile guests, one after the other, against one real proplet whose other slot runs a well-behaved task all the time.

Whatever they do: the reason is told under a code, the neighbour does not miss a beat, the proplet reports in time, and when
they are gone nothing of them is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import wasmtime

from proplet.runtime import templates
from provision.brokers import Kind
from swashplate.messages import Alive, Result, Start
from tests.support.binaries import blocks, bomb
from tests.support.broker import prepared
from tests.support.fleet import PATIENCE, Fleet, children
from tests.support.wat import HELLO

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples" / "hostile"
HEARTBEAT_S = 2.0
BEAT_S = 0.05
SLOTS = 2
MOST_CHILDREN = SLOTS + 1 + templates.MOST
"""A worker for each slot, and one beyond when the last that began was for a guest that wants a process of its own; and what
such guests are forked from.
"""
LOOKS = 10
SETTINGS = {
    "PROPLET_SLOTS": str(SLOTS),
    "PROPLET_LIVELINESS_INTERVAL": str(HEARTBEAT_S),
    "PROPLET_METRICS_INTERVAL": "1",
    "PROPLET_COMPILE_CPU": "2",
    "PROPLET_ISOLATION": "warm",
}
MIB = 1 << 20
TICKS = f"""(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 8) "\\00\\01\\00\\00\\05\\00\\00\\00") (data (i32.const 256) "tick\\n")
  (func (export "_start")
    (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const {int(BEAT_S * 1e9)}))
    (loop $for_ever
      (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))
      (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 24)))
      (br $for_ever))))"""


def example(name: str) -> Callable[[], bytes]:
    return (EXAMPLES / f"{name}.wasm").read_bytes


def wasi(names: dict[str, str], body: str, rest: str = "", pages: int = 2) -> Callable[[], bytes]:
    """A command; ``names`` are what it imports and the types of their parameters."""
    imports = "".join(
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {kinds}) (result i32)))'
        for name, kinds in names.items()
    )
    text = f"""(module {imports} (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") {pages}) {rest} (func (export "_start") (local $i i32) {body}))"""
    return lambda: bytes(wasmtime.wat2wasm(text))


WRITE = {"fd_write": "i32 i32 i32 i32"}
OPEN = {"path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32"}
RESULT = """(drop (call $path_open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 11) (i32.const 1)
  (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 128)))"""
NAMED = '(data (i32.const 64) "result.json")'


def writes(to: str, at: int, length: int) -> str:
    return f"""(i32.store (i32.const 0) (i32.const {at})) (i32.store (i32.const 4) (i32.const {length}))
      (drop (call $fd_write {to} (i32.const 0) (i32.const 1) (i32.const 132)))"""


def result_of(fill: str, length: int) -> Callable[[], bytes]:
    """Leaves ``length`` bytes, made by ``fill`` at 256, as its ``/out/result.json``."""
    return wasi(OPEN | WRITE, f"{RESULT} {fill} {writes('(i32.load (i32.const 128))', 256, length)}", NAMED, pages=9)


def exporting(count: int, length: int) -> bytes:
    """A module with so many functions, and names so long."""
    name = "e" * length
    exports = "".join(f'(func (export "{name}{at}"))' for at in range(count))
    return bytes(wasmtime.wat2wasm(f"(module {exports})"))


@dataclass(frozen=True)
class Attack:
    name: str
    guest: Callable[[], bytes]
    code: str
    words: str
    fields: dict[str, Any] = field(default_factory=dict)


def limited(**limits: float) -> dict[str, Any]:
    return {"limits": limits}


SOON = limited(wall_s=0.4)
ATTACKS = [
    Attack("loop", example("loop"), "deadline", "0.4 s is allowed", SOON),
    Attack("loop of its processor time", example("loop"), "cpu_limit", "0.2 s is allowed", limited(cpu_s=0.2)),
    Attack("loop in the start function", example("start-loop"), "deadline", "0.4 s is allowed", SOON),
    Attack("loop in a process of its own", example("loop"), "deadline", "0.4 s", {**SOON, "isolation": "fork"}),
    Attack("sleep", example("sleep"), "deadline", "0.4 s is allowed", SOON),
    Attack("recursion", example("recursion"), "stack_overflow", "524288 bytes of stack are allowed"),
    Attack("memory", example("memory"), "memory_limit", "of the 67108864 bytes", limited(memory_bytes=64 * MIB)),
    Attack("100 memories", example("memories"), "memory_limit", "has 100 memories, one is allowed"),
    Attack("64-bit memory", example("memory64"), "guest_invalid", "memory64 must be enabled"),
    Attack("table", example("table"), "table_limit", "4294967280 elements, over the limit of 100000"),
    Attack("growing table", example("table-growth"), "table_limit", "to 90001 of the 100000 elements allowed"),
    Attack("flood of stdout", example("stdout"), "output_limit", "over the limit of 1048576", limited(output_bytes=MIB)),
    Attack("flood of stderr", example("stderr"), "deadline", "0.4 s is allowed", SOON),
    Attack("flood of files", example("files"), "file_limit", "over the limit of 50 files", limited(output_files=50)),
    Attack("compile bomb", lambda: bomb(3000, 100), "compile_limit", "more than 2 s of processor time"),
    Attack("deep blocks", lambda: blocks(100_000), "", ""),
    Attack("malformed", example("malformed"), "guest_invalid", "malformed section id"),
    Attack("truncated", example("truncated"), "guest_invalid", "unexpected end"),
    Attack("empty", lambda: b"\0asm", "guest_invalid", ""),
    Attack("unknown import", example("import"), "import_not_allowed", "env::system"),
    Attack("fork", example("fork"), "import_not_allowed", "wasix_32v1::proc_fork"),
    Attack("threads", example("threads"), "guest_invalid", "threads must be enabled"),
    Attack("escape by paths", example("escape"), "guest_exit", "status 1: every way out is closed"),
    Attack("machine code", lambda: b"\x7fELF" + bytes(200), "not_wasm", ""),
    Attack(
        "no clock",
        wasi({"clock_time_get": "i32 i64 i32"}, "(call $exit (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 0)))"),
        "capability_refused",
        "asked for the clock, which this task may not use",
        {"capabilities": {"clock": False}},
    ),
    Attack(
        "no randomness",
        wasi({"random_get": "i32 i32"}, "(call $exit (call $random_get (i32.const 0) (i32.const 8)))"),
        "capability_refused",
        "asked for random numbers, which this task may not use",
        {"capabilities": {"random": False}},
    ),
    Attack(
        "4 GiB of randomness",
        wasi({"random_get": "i32 i32"}, "(call $exit (call $random_get (i32.const 0) (i32.const -1)))"),
        "trap:other",
        "exceeds limit",
    ),
    Attack(
        "subscriptions without number",
        wasi(
            {"poll_oneoff": "i32 i32 i32 i32"},
            "(call $exit (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 0x7fffffff) (i32.const 0)))",
        ),
        "guest_exit",
        "status 48",
    ),
    Attack(
        "a result that is a link",
        wasi(
            {"path_symlink": "i32 i32 i32 i32 i32"},
            "(call $exit (call $path_symlink (i32.const 80) (i32.const 9) (i32.const 4) (i32.const 64) (i32.const 11)))",
            NAMED + '(data (i32.const 80) "../stdout")',
        ),
        "result_invalid",
        "result.json cannot be read",
    ),
    Attack(
        "a result of brackets",
        result_of("(memory.fill (i32.const 256) (i32.const 91) (i32.const 100000))", 100_000),
        "result_invalid",
        "recursion limit",
    ),
    Attack(
        "a result of one number",
        result_of("(memory.fill (i32.const 256) (i32.const 57) (i32.const 150000))", 150_000),
        "result_invalid",
        "not JSON",
    ),
    Attack("a result that is not UTF-8", result_of("(memory.fill (i32.const 256) (i32.const 255) (i32.const 9))", 9),
        "result_invalid", "not JSON"),
    Attack(
        "exports without end",
        lambda: exporting(1000, 400),
        "export_not_found",
        "exports no function",
    ),
    Attack("inputs of 200 KiB", lambda: HELLO, "", "", {"inputs": ["x" * 1000] * 200}),
]  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What a process tree holds."""

    workers: int
    descriptors: dict[str, int]
    folders: set[str]
    pss: int


class Siege(Fleet):
    """With times: ``beats`` are those of the proplet's reports."""

    def __init__(self, broker, folder: Path) -> None:
        super().__init__(broker, folder)
        self.beats: list[float] = []
        self.running = 0
        """The agent's process."""

    def keeper(self, model):
        keep = super().keeper(model)

        async def timed(message):
            if model is Alive:
                self.beats.append(time.monotonic())
            await keep(message)

        return timed

    async def attacked(self, attack: Attack) -> Result:
        guest = await asyncio.to_thread(attack.guest)  # what is made here must not hold up what is heard
        start = await self.start(guest, **attack.fields)
        result = await self.next(Result, lambda said: said.task_id == start.id)
        await self.acknowledge(result.id)
        return result

    @property
    def zygote(self) -> int:
        [found] = children(self.running)
        return found

    def held(self) -> Held:
        pids = {"agent": self.running, "zygote": self.zygote}
        everybody = [*pids.values(), *children(self.zygote)]
        return Held(
            workers=len(children(self.zygote)),
            descriptors={name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in pids.items()},
            folders={path.name for path in (self.tmp_path / "tasks").iterdir()},
            pss=sum(pss(pid) for pid in everybody),
        )

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.tmp_path / "proplet.log").read_text().splitlines()]

    def ticks(self) -> list[float]:
        """When the neighbour was heard."""
        return [stamp(line) for line in self.log() if line["msg"] == "tick"]


def stamp(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def pss(pid: int) -> int:
    """Bytes of memory, of what is shared its share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege(nats_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("siege")
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(prepared(Kind.EMBEDDED, nats_server, folder))
        siege = await stack.enter_async_context(Siege(broker, folder).standing())
        process = await stack.enter_async_context(siege.process(**SETTINGS))
        siege.running = process.pid
        yield siege


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def neighbour(siege) -> Start:
    start = await siege.start(TICKS, name="neighbour", timeout_s=600)
    await siege.busy(start)
    return start


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def before(siege, neighbour) -> Held:
    """What the proplet holds when it has done everything once."""
    for guest in (HELLO, example("recursion")(), example("malformed")()):
        await siege.attacked(Attack("first", lambda guest=guest: guest, "", ""))
    return await settled(siege)


async def settled(siege: Siege) -> Held:
    """When no process has begun or ended for some looks, and no more are left than there may be."""
    seen: list[list[int]] = []
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OSError):  # one ended just now
                seen.append(children(siege.zygote))
                if len(seen[-1]) <= MOST_CHILDREN and all(each == seen[-1] for each in seen[-LOOKS:]):
                    return siege.held()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_an_attack_ends_with_its_reason(siege, attack):
    began = time.monotonic()
    result = await siege.attacked(attack)
    assert (result.code, result.retryable) == (attack.code, False), result
    assert attack.words in (result.error or "")
    assert len(result.error or "") < 5000
    assert "\n" not in (result.error or "")
    assert time.monotonic() - began < PATIENCE


async def test_a_guest_knows_nothing_of_its_host(siege):
    """Its environment has its own names, and no descriptor is open but stdin, stdout, stderr, /in and /out."""
    shows = wasi(
        {"environ_get": "i32 i32", "fd_fdstat_get": "i32 i32"} | WRITE,
        f"""(drop (call $environ_get (i32.const 1024) (i32.const 4096)))
          (local.set $i (i32.const 5))
          (loop $next
            (if (i32.eqz (call $fd_fdstat_get (local.get $i) (i32.const 64))) (then (call $exit (local.get $i))))
            (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
          {writes("(i32.const 1)", 4096, 4096)}""",
    )
    start = await siege.start(shows())
    result = await siege.next(Result, lambda said: said.task_id == start.id)
    await siege.acknowledge(result.id)
    assert result.error is None, result
    variables = [text for text in result.results.split("\0") if text]
    assert sorted(variables) == [f"PROPLET_ID={siege.proplet.id}", f"TASK_ID={start.id}"]


@pytest.mark.parametrize("place", ["another's", "unsigned"])
async def test_code_from_elsewhere_does_not_run(siege, place):
    """A file in the cache of compiled modules under the right name, right in everything but the proplet's key."""
    evil = bytes(wasmtime.wat2wasm(f'(module (func (export "f") (result i32) (i32.const {len(place)})))'))
    honest = bytes(wasmtime.wat2wasm(f'(module (func (export "f") (result i32) (i32.const -{len(place)})))'))
    modules = siege.tmp_path / "state" / "modules"
    said = {}
    for name, guest in (("evil", evil), ("honest", honest)):
        known = set(modules.iterdir())
        start = await siege.start(guest, name="f")
        result = await siege.next(Result, lambda each, start=start: each.task_id == start.id)
        await siege.acknowledge(result.id)
        [said[name]] = set(modules.iterdir()) - known or {None}
        assert result.error is None
    forged = said["evil"].read_bytes()
    said["honest"].write_bytes(forged if place == "another's" else forged[:-32] + bytes(32))
    # A worker that never saw the honest one must load it from the disk.
    start = await siege.start(honest, name="f", isolation="fork")
    result = await siege.next(Result, lambda each: each.task_id == start.id)
    await siege.acknowledge(result.id)
    assert (result.error, result.results) == (None, f"-{len(place)}")


async def test_secrets_are_in_no_process_that_runs_guests(siege):
    secrets = [siege.proplet.key.encode(), siege.proplet.key.encode()[:16]]
    await settled(siege)
    for pid in (siege.zygote, *children(siege.zygote)):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PROPLET" not in environment
        written = await asyncio.to_thread(memory, pid)
        assert not any(secret in written for secret in secrets)


def memory(pid: int) -> bytes:
    """Everything that the process can write, which is all that it has made itself or inherited."""
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights, *_ = line.split()
            start, end = (int(part, 16) for part in where.split("-"))
            if rights.startswith("rw") and end - start < 256 * MIB:
                file.seek(start)
                found += file.read(end - start)
    return bytes(found)


async def test_afterwards_nothing_is_left_and_nobody_was_disturbed(siege, neighbour, before):
    after = await settled(siege)
    workers = max(0, after.workers - before.workers)
    for name, count in after.descriptors.items():
        assert count <= before.descriptors[name] + 2 * workers, name  # each worker has a socket and a pidfd there
    assert len(after.folders) <= len(before.folders) + 1  # a clean one may be kept for the next task
    assert after.pss < before.pss + 24 * MIB
    late = max(later - earlier for earlier, later in itertools.pairwise(siege.beats))
    assert late < 2 * HEARTBEAT_S
    ticks = siege.ticks()
    assert max(later - earlier for earlier, later in itertools.pairwise(ticks)) < 1
    siege.forget(Alive)
    assert [ref.task_id for ref in (await siege.next(Alive)).running] == [neighbour.id]
