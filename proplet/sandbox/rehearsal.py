"""A few runs of a guest that does nothing, in the zygote before its first fork: what Python and the runtime find out and
remember when they do something for the first time is there in every child, and no child has to write it for itself.

They run in a thread that has ended when this returns, because the runtime seeds its random numbers once for each thread,
and a child must have its own. The guest asks the runtime for nothing: its first request would start a thread that no child
inherits.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import resource
import socket
from pathlib import Path

import wasmtime

from proplet.sandbox import pooling, tree, worker
from proplet.sandbox.bounds import soft_limit
from proplet.sandbox.engine import USUAL
from proplet.sandbox.frames import Answer, Incoming, Job, Limits, decoded, messages, packed_message
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.module_folder import Contents
from proplet.sandbox.watch import Watch

RUNS = 20
"""Python has specialised what it runs by then."""
GUEST = bytes.fromhex(
    "0061736d01000000 010401600000 03020100"  # (module
    "0503010001 0713 02 066d656d6f72790200"  # (memory (export "memory") 1)
    "065f73746172740000 0a040102000b"  # (func (export "_start")))
)
CODE_OF = ("/libpython", "/_libwasmtime", "/libc.so")
CONTENTS = Contents(component=False, exports={"memory": False, "_start": True})


class _Unwatched(Watch):
    def wake(self) -> None:
        """A thread would be one too many: there is no run but our own."""


def rehearse(modules: ModuleCache) -> None:
    """Nothing of it is left in ``modules``, on disk or of its limits. Raises ``RuntimeError`` when even this guest cannot be run."""
    folder = Path(f"rehearsal-{os.getpid()}").absolute()
    limits = Limits(memory=pooling.MEMORY, output=1 << 20, files=1)
    job = Job("rehearsal", "", "task", str(folder), [], [], {}, limits)
    before = {which: resource.getrlimit(which)[0] for which in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)}
    ours, theirs = socket.socketpair()
    with ours, theirs, modules.lent(job.digest, USUAL, _module(modules.linker(USUAL).engine), CONTENTS):
        try:
            tree.remove(folder)  # of one that was killed: in a container each start may have the same id
            for name in ("in", "out"):
                (folder / name).mkdir(parents=True)
            ours.sendall(packed_message(job) * RUNS)
            ours.shutdown(socket.SHUT_WR)
            _run_all(theirs, modules)
            answers = [Answer(**decoded(payload)) for _, payload in Incoming().feed(ours.recv(1 << 16))]
        finally:
            tree.remove(folder)
            for which, amount in before.items():
                soft_limit(which, amount)
    if len(answers) != RUNS or answers[-1].error:
        raise RuntimeError(f"the rehearsal failed: {answers[-1:]}")


def _module(engine: wasmtime.Engine) -> wasmtime.Module:
    """Compiled by a child: what the compiler leaves in memory is not for everybody to inherit."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, wasmtime.Module(engine, GUEST).serialize())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as made:
        code = made.read()
    os.waitpid(child, 0)
    return wasmtime.Module.deserialize(engine, code)


def _run_all(connection: socket.socket, modules: ModuleCache) -> None:
    ended = _thread.allocate_lock()
    ended.acquire()

    def run() -> None:
        try:
            with contextlib.closing(_Unwatched(connection)) as watch:
                worker.run_all(messages(connection), modules, watch)
        finally:
            ended.release()

    _thread.start_new_thread(run, ())
    ended.acquire()
    while len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208  # it has still to end
        os.sched_yield()


def hand_down_code() -> None:
    """Have the children begin with the pages of the largest libraries' code that are known here. A fork leaves it to the child
    to find those of a file again, a hundred faults each time, unless the mapping has a page of its own: this gives it one,
    with what is there already. Where the kernel does not allow that, children only begin more slowly.
    """
    with contextlib.suppress(OSError), Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if " r-xp " in line and any(name in line for name in CODE_OF):
                start = int(line.partition("-")[0], 16)
                memory.seek(start)
                byte = memory.read(1)
                memory.seek(start)
                memory.write(byte)
