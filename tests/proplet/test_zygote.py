"""The processes in which guests run: how they begin, what they have, and that none is left."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proplet.runtime.worker import WorkerDiedError
from proplet.runtime.zygote import Zygote
from proplet.sandbox import confinement as seccomp
from proplet.sandbox import landlock
from proplet.sandbox.bounds import Bounds
from swashplate.errors import ConfigurationError, UnavailableError
from tests.proplet.conftest import LOOPS, prints
from tests.support import binaries
from tests.support.pool import standing

PATIENCE = 20
SOON = 2.0
"""Seconds; the promise is half a second on a machine that has time."""

SLEEPS = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 512) "asleep")
  (func (export "_start")
    (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 6))
    (drop (call $write (i32.const 2) (i32.const 256) (i32.const 1) (i32.const 272)))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""
RANDOM = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $random (i32.const 64) (i32.const 16)))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"""
BOMB = binaries.bomb(20_000)

AGENT = """
import asyncio, json, sys
from pathlib import Path
from tests.proplet.test_zygote import BOMB, SLEEPS
from tests.support.pool import standing

async def main():
    async with standing(Path(sys.argv[1]), slots=3) as guests:
        jobs = guests.job(SLEEPS), guests.job(SLEEPS, isolation="fork"), guests.job(BOMB)
        runs = [asyncio.ensure_future(guests.run(job)) for job in jobs]
        while guests.stderr != b"asleepasleep" or "compiler" not in guests.pool.every_process().values():
            await asyncio.sleep(0.01)
        print(json.dumps(list(guests.pool.every_process())), flush=True)
        await asyncio.gather(*runs)

asyncio.run(main())
"""


@contextmanager
def watched(processes):
    """A function that says whether all ``processes`` have ended within some seconds."""
    handles = set()
    for pid in processes:
        with suppress(ProcessLookupError):  # it has ended already
            handles.add(os.pidfd_open(pid))
    waiting = select.poll()
    for handle in handles:
        waiting.register(handle, select.POLLIN)

    def all_ended(within: float) -> bool:
        deadline = time.monotonic() + within
        left = set(handles)
        while left and (remaining := deadline - time.monotonic()) > 0:
            for handle, _ in waiting.poll(remaining * 1000):
                waiting.unregister(handle)
                left.discard(handle)
        return not left

    try:
        yield all_ended
    finally:
        for handle in handles:
            os.close(handle)


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_killed_agent_leaves_neither_a_process_nor_a_task_folder(tmp_path):
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            processes = json.loads(await agent.stdout.readline())
        assert len(processes) >= 5
        with watched(processes) as all_ended:
            agent.kill()
            assert await asyncio.to_thread(all_ended, SOON)
        assert not (tmp_path / "tasks").exists()
        assert list((tmp_path / "modules").glob(".incoming-*")) == []
    finally:
        if agent.returncode is None:
            agent.kill()
        await agent.wait()


async def test_when_the_zygote_dies_so_does_what_ran_and_the_next_run_has_another(tmp_path):
    async with standing(tmp_path) as guests:
        running = asyncio.ensure_future(guests.run(guests.job(LOOPS)))
        await until(lambda: guests.stderr == b"looping\n")
        [zygote, *_] = processes = guests.pool.every_process()
        with watched(processes) as all_ended:
            os.kill(zygote, signal.SIGKILL)
            with pytest.raises(WorkerDiedError) as error:
                await running
            assert error.value.retryable
            assert await asyncio.to_thread(all_ended, SOON)
        assert await guests.printed(prints("again")) == b"again"
        assert zygote not in guests.pool.every_process()


def opened_by(process: int) -> dict[str, str]:
    return {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()}


@pytest.mark.parametrize("isolation", ["warm", "fork"])
async def test_a_child_has_nothing_but_its_connection(tmp_path, isolation):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        async with standing(tmp_path, slots=2) as guests:
            beside = asyncio.ensure_future(guests.run(guests.job(SLEEPS, isolation=isolation)))
            await until(lambda: guests.stderr == b"asleep")
            job = guests.job(SLEEPS, isolation=isolation)
            running = asyncio.ensure_future(guests.run(job))
            await until(lambda: guests.stderr == b"asleepasleep")
            [worker] = [pid for pid in guests.pool.processes() if f"{job.folder}/stdout" in opened_by(pid).values()]
            process = Path(f"/proc/{worker}")
            status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            opened = opened_by(worker)
            limits = (process / "limits").read_text()
            victim = (process / "oom_score_adj").read_text()
            session = os.getsid(worker)
            confinement = await guests.pool.ready()
            for run in (beside, running):
                run.cancel()
            await asyncio.wait([beside, running])
    assert {name: opened.pop(name) for name in ("0", "1")} == {"0": "/dev/null", "1": "/dev/null"}
    del opened["2"]
    assert opened.pop("3").startswith("socket:")
    allowed = ("pipe:", "anon_inode:", str(tmp_path / "modules"))
    assert [target for target in opened.values() if not target.startswith((*allowed, job.folder))] == []
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == ("2" if "seccomp" in confinement else "0")
    offered = {"seccomp": seccomp.offered(), "landlock": landlock.version()}
    assert confinement == [name for name, there in offered.items() if there]
    assert status["SigBlk"].strip("0 ") == ""
    assert session == worker
    assert int(victim) == 1000
    assert ["Max", "core", "file", "size", "0", "0", "bytes"] in [line.split() for line in limits.splitlines()]


async def test_isolation_is_a_process_of_its_own(tmp_path):
    async with standing(tmp_path) as guests:
        await guests.printed(prints("x"))
        [first] = guests.pool.processes()
        await guests.printed(prints("x"))
        assert first in guests.pool.processes()
        printed = {await guests.printed(RANDOM, isolation="fork") for _ in range(3)}
        assert len(printed) == 3, "what is random in one child is known in another"
        assert first in guests.pool.processes(), "a fork leaves the warm worker alone"
        before = guests.pool.every_process()
        running = asyncio.ensure_future(guests.run(guests.job(LOOPS, isolation="fork")))
        await until(lambda: guests.stderr == b"looping\n")
        running.cancel()
        with watched([pid for pid in workers(guests) if pid not in before]) as all_ended:
            await asyncio.wait([running])
            assert await asyncio.to_thread(all_ended, SOON)


def workers(guests) -> list[int]:
    return [pid for pid, kind in guests.pool.every_process().items() if kind == "worker"]


def templates(guests) -> list[int]:
    return [pid for pid, kind in guests.pool.every_process().items() if kind == "template"]


async def test_what_is_random_in_one_process_is_not_in_another(tmp_path):
    async with standing(tmp_path) as guests:
        printed = [await guests.printed(RANDOM, isolation="fork") for _ in range(3)]
        for _ in range(2):
            printed.append(await guests.printed(RANDOM))
            with watched(workers(guests)) as all_ended:
                for worker in workers(guests):
                    os.kill(worker, signal.SIGKILL)
                assert await asyncio.to_thread(all_ended, SOON)
        assert len(set(printed)) == 5


async def test_a_template_that_dies_takes_along_what_it_forked_and_the_next_run_has_another(tmp_path):
    async with standing(tmp_path) as guests:
        running = asyncio.ensure_future(guests.run(guests.job(LOOPS, isolation="fork")))
        await until(lambda: guests.stderr == b"looping\n")
        [template] = templates(guests)
        child = max(guests.pool.processes())
        with watched([template, child]) as all_ended:
            os.kill(template, signal.SIGKILL)
            with pytest.raises(WorkerDiedError) as error:
                await running
            assert error.value.retryable
            assert await asyncio.to_thread(all_ended, SOON)
        assert child not in guests.pool.every_process()
        assert not any(kept.busy for kept in guests.pool._templates._kept.values()), "it would be kept for ever"
        assert await guests.printed(prints("x"), isolation="fork") == b"x"
        await until(lambda: not Path(f"/proc/{child}").exists())  # nor is anybody's child that nobody waits for
        [idle] = [pid for pid in templates(guests) if pid != template]
        with watched([idle]) as all_ended:
            os.kill(idle, signal.SIGKILL)
            assert await asyncio.to_thread(all_ended, SOON)
        assert await guests.printed(prints("x"), isolation="fork") == b"x"


async def test_templates_are_few_and_end_when_nothing_asks_for_them(tmp_path, monkeypatch):
    async with standing(tmp_path) as guests:
        monkeypatch.setattr("proplet.runtime.templates.MOST", 2)
        for text in ("a", "b", "a", "c", "a"):
            assert await guests.printed(prints(text), isolation="fork") == text.encode()
            await until(lambda: len(templates(guests)) <= 2)
        first, second = templates(guests)
        monkeypatch.setattr("proplet.runtime.templates.KEPT_S", 0.05)
        assert await guests.printed(prints("a"), isolation="fork") == b"a"
        await until(lambda: len(templates(guests)) == 1)
        assert await guests.printed(prints("c"), isolation="fork") == b"c"
        assert {first, second} & set(templates(guests)), "the same binary again has the same template"
        running = asyncio.ensure_future(guests.run(guests.job(LOOPS, isolation="fork")))
        await until(lambda: guests.stderr == b"looping\n")
        await until(lambda: len(templates(guests)) == 1)
        kept = guests.pool._templates
        for module in list(kept._kept):
            kept._end_unused(module)
        assert len(templates(guests)) == 1, "one that is at work does not end"
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])
        await until(lambda: not templates(guests))


async def test_no_process_runs_two_binaries(tmp_path):
    async with standing(tmp_path) as guests:
        ran = {}
        for text in ("a", "b", "a", "c", "c"):
            assert await guests.printed(prints(text)) == text.encode()
            for worker in guests.pool._all:
                ran.setdefault(worker.pid, set()).add(worker.digest)
        binaries = [digests - {""} for digests in ran.values()]
        assert max(map(len, binaries)) == 1, "no process has two"
        assert binaries.count({guests.job(prints("c")).digest}) == 1, "the same binary again has the same process"
        assert len(guests.pool.processes()) <= 2


async def test_workers_that_wait_for_directories_nobody_asks_for_any_more_make_room(tmp_path):
    """They have run nothing, as what was asked for did not compile, and can be used for nothing else."""
    async with standing(tmp_path) as guests:
        for place in range(4):
            broken = guests.job(b"\0asm\1\0\0\0\xc8", directories=[(str(tmp_path), f"/{place}", False)])
            assert (await guests.run(broken)).code == "guest_invalid"
        assert len(guests.pool.processes()) <= 2
        assert await guests.printed(prints("x")) == b"x"
        assert len(guests.pool.processes()) <= 2


async def test_a_worker_that_may_use_only_a_folder_of_tasks_that_is_gone_is_replaced(tmp_path):
    async with standing(tmp_path) as guests:
        assert (await guests.run(guests.job(b"\0asm\1\0\0\0\xc8"))).code == "guest_invalid"
        [before] = guests.pool.processes()
        shutil.rmtree(guests.folders.root)
        guests.folders.on_remade = guests.pool.renew
        assert await guests.printed(prints("x")) == b"x"
        assert before not in guests.pool.processes()


async def test_a_folder_of_modules_that_was_cleared_is_filled_again(tmp_path):
    async with standing(tmp_path) as guests:
        assert await guests.printed(prints("a")) == b"a"
        shutil.rmtree(tmp_path / "modules")
        for text, isolation in (("b", "warm"), ("c", "warm"), ("d", "fork")):
            runs = [await guests.run(guests.job(prints(text), isolation=isolation)) for _ in range(3)]
            assert {answer.code for answer in runs} <= {"not_compiled", ""}, "which is worth another attempt"
            assert runs[-1].error == ""


async def test_a_bomb_is_stopped_once_and_remembered(tmp_path):
    async with standing(tmp_path, bounds=Bounds(cpu_s=1)) as guests:
        bomb = guests.job(BOMB)
        answer = await guests.run(bomb)
        assert (answer.code, "1 s of processor time" in answer.error) == ("compile_limit", True)
        Path(bomb.binary).unlink()
        assert await guests.run(bomb) == answer
        assert await guests.printed(prints("next")) == b"next"


async def test_a_compilation_has_a_deadline_too(tmp_path):
    async with standing(tmp_path, wall_s=0.3) as guests:
        answer = await guests.run(guests.job(BOMB))
        assert (answer.code, "0.3 s" in answer.error) == ("compile_limit", True)


async def test_a_compilation_ends_with_the_last_who_waits_for_it(tmp_path):
    async with standing(tmp_path, slots=2) as guests:
        runs = [asyncio.ensure_future(guests.run(guests.job(BOMB))) for _ in range(2)]
        await until(lambda: guests.stages.count("compiling") == 2)
        await until(lambda: "compiler" in guests.pool.every_process().values())
        [compiler] = [pid for pid, kind in guests.pool.every_process().items() if kind == "compiler"]
        with watched([compiler]) as all_ended:
            runs[0].cancel()
            await asyncio.wait([runs[0]])
            assert not await asyncio.to_thread(all_ended, 0.1)
            runs[1].cancel()
            await asyncio.wait([runs[1]])
            assert await asyncio.to_thread(all_ended, SOON)


async def test_whoever_is_stopped_before_there_is_a_process_leaves_none(tmp_path):
    async with standing(tmp_path) as guests:
        for _ in range(3):
            running = asyncio.ensure_future(guests.run(guests.job(LOOPS, isolation="fork")))
            await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
        assert await guests.printed(prints("alone")) == b"alone"
        await until(lambda: len(guests.pool.every_process()) <= 3)


async def test_a_compile_process_that_fails_by_itself_says_nothing_of_the_binary(tmp_path):
    async with standing(tmp_path) as guests:
        await guests.printed(prints("y"))
        (tmp_path / "modules").rename(tmp_path / "elsewhere")
        (tmp_path / "modules").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(WorkerDiedError):
            await guests.run(guests.job(prints("x")))
        (tmp_path / "modules").unlink()
        (tmp_path / "elsewhere").rename(tmp_path / "modules")
        assert await guests.printed(prints("x")) == b"x"


async def test_a_pool_that_can_run_nothing_says_why(tmp_path, monkeypatch):
    """As where wasmtime is not installed, or its library not for this machine."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    async with standing(tmp_path) as guests:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(
                ConfigurationError, match=r"no guest can run .*: ModuleNotFoundError: No module named 'wasmtime'"
            ):
                await guests.pool.ready()
        monkeypatch.undo()
        assert await guests.printed(prints("installed")) == b"installed"


async def test_a_task_whose_folder_vanished_is_not_to_blame(tmp_path):
    async with standing(tmp_path) as guests:
        for gone in ("", "in", "out"):
            job = guests.job(prints("x"))
            shutil.rmtree(Path(job.folder) / gone)
            assert (await guests.run(job)).code == "task_folder", gone
        blocked = guests.job(prints("x"))
        (Path(blocked.folder) / "stdout").mkdir()
        assert (await guests.run(blocked)).code == "task_folder"
        assert await guests.printed(prints("x")) == b"x"


@pytest.mark.parametrize("free", [0, 1, 2])
async def test_an_agent_without_descriptors_says_so_at_once_and_goes_on_when_it_has_some(tmp_path, free):
    (tmp_path / "empty").mkdir()
    zygote = Zygote(tmp_path / "modules", tmp_path / "empty", tmp_path / "tasks", on_death=lambda: None)
    children = [await zygote.fork("worker")]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for handle in [taken.pop() for _ in range(free)]:
            os.close(handle)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(UnavailableError, match="Too many open files"):
                await zygote.fork("worker")
    finally:
        for handle in taken:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    children.append(await zygote.fork("worker"))
    await zygote.close()
    assert all(child.gone for child, _ in children)
    for _, connection in children:
        connection.close()
