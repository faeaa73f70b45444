"""``python -m proplet.sandbox.zygote SOCKET MODULES TASKS``: the process from which those that run guests are forked.

It has imported what they need and made an engine, which has no thread, and nothing else: no store, no random number, so
that nothing of one child can be known in another. Over SOCKET, of type SEQPACKET, the agent asks for a child of a kind and hands over the
child's end of a socket; the answer carries a pidfd, and the child's exit status follows when it has ended. The agent's end,
however it comes, is the end of that socket: the children are killed and, unless the agent said farewell, the folder of
running tasks, TASKS, is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from proplet.sandbox import claim, compile_worker, confinement, landlock, worker
from proplet.sandbox.engine import USUAL
from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Incoming, Job, decoded
from proplet.sandbox.guest import configuration
from proplet.sandbox.module_cache import ModuleCache, NotCompiled
from proplet.sandbox.rehearsal import hand_down_code, rehearse

Kind = Callable[[socket.socket, ModuleCache], None]
REQUEST_BYTES = 4096
FAREWELL = b"farewell"
AGENT_ENDS_MS = 5000

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}
"""A broken pipe and a file that is too large are errors for the one who writes, not the end of the process."""
CONNECTION = 3
MOST_DESCRIPTORS = 1024

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def prepare() -> None:
    """What the children inherit: no core files, no new privileges, every signal as it is by default."""
    os.environ["TOKIO_WORKER_THREADS"] = "1"  # of the runtime's input and output; else one for each core of the machine
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):  # KILL, STOP and the C library's own
            signal.signal(number, signal.SIG_IGN if number in IGNORED else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _first_victim() -> None:
    """Should the machine run out of memory, this process goes before the agent and everybody else."""
    with contextlib.suppress(OSError):
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(handle, b"1000")
        os.close(handle)


def _limit_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(MOST_DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _close_all_but(kept: Iterable[int]) -> None:
    """``kept`` ascends."""
    lowest = CONNECTION + 1
    for handle in kept:
        os.closerange(lowest, handle)
        lowest = handle + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))


def become(kind: Kind, parent: int, connection: int, modules: ModuleCache, kept: list[int] | None = None) -> NoReturn:
    """Be the child: nothing is left of its parent but what is imported, and of descriptors ``connection`` and stderr.

    A template's child has its module too, with the descriptors ``kept``, and its limits from it.
    """
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it ended before it could take us along
            os.setsid()
            os.dup2(connection, CONNECTION)
            _close_all_but(kept or ())
            if kept is None:
                _first_victim()
                _limit_descriptors()
            if kind is not template:  # which forks
                confinement.confine()
            kind(socket.socket(fileno=CONNECTION), modules)
            status = 0
    except BaseException:  # noqa: BLE001  # a child that returned would be a second zygote
        traceback.print_exc()
    finally:
        os._exit(status)


class Forks:
    """Forks for the agent, over ``agent``, children of ``kinds``; serves until the agent is gone."""

    def __init__(
        self, agent: socket.socket, modules: ModuleCache, kinds: Mapping[str, Kind], job: Job | None = None
    ) -> None:
        self._agent = agent
        self._modules = modules
        self._kinds = kinds
        self._job = job
        """Of a template: the one whose module every child shall have."""
        self._kept: list[int] | None = None
        """The descriptors that the children get from us beside their connection; None while they begin with nothing."""
        self._children: dict[int, int] = {}
        """The pidfd of each child by its id."""
        self._ready = select.poll()
        self._ready.register(agent, select.POLLIN)

    def serve(self) -> bool:
        """Returns when the agent is gone, and with it everything of it: did it say farewell?"""
        farewell = False
        try:
            while not farewell:
                for handle, _ in self._ready.poll():
                    if handle == self._agent.fileno():
                        farewell = not self._asked()
                    else:
                        self._reap()
        except ConnectionError:
            pass
        finally:
            self._kill_all()
        return farewell

    def _asked(self) -> bool:
        """Fork the child that is asked for; False for a farewell. Raises ``ConnectionError`` when the agent is gone."""
        try:
            kind, handles, _, _ = socket.recv_fds(self._agent, REQUEST_BYTES, 1)
        except ConnectionResetError:  # it closed its end with something of ours unread; its last words are still there
            kind, handles, _, _ = socket.recv_fds(self._agent, REQUEST_BYTES, 1)
        if not kind:
            raise ConnectionResetError
        if kind == FAREWELL:
            return False
        if not handles:  # the kernel drops them when we have too many already
            self._tell({"failed": "too many open files"})
            return True
        [connection] = handles
        begin, parent = self._kinds[kind.decode()], os.getpid()
        self._load()
        try:
            child = os.fork()
        except OSError as error:
            self._tell({"failed": error.strerror})
            os.close(connection)
            return True
        if child == 0:
            become(begin, parent, connection, self._modules, self._kept)
        os.close(connection)
        pidfd = self._children[child] = os.pidfd_open(child)
        self._ready.register(pidfd, select.POLLIN)
        self._tell({"forked": child}, pidfd)
        return True

    def _load(self) -> None:
        """The module that the children shall have, once it is compiled; they find out themselves why there is none."""
        if self._job is None:
            return
        before = _open_descriptors() if self._kept is None else None
        with contextlib.suppress(NotCompiled, GuestError):
            self._modules.load(self._job.digest, configuration(self._job))
            if before is not None:  # the runtime keeps the file to map its data from
                self._kept = sorted(_open_descriptors() - before)
                gc.freeze()

    def _tell(self, message: dict[str, Any], *handles: int) -> None:
        with contextlib.suppress(ConnectionError):  # we shall hear of it
            socket.send_fds(self._agent, [json.dumps(message).encode()], handles)

    def _reap(self) -> None:
        """Those that have ended, and those of a template that ended before them, of which nobody wants to hear."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                child, status = ended
                if (pidfd := self._children.pop(child, None)) is not None:
                    self._ready.unregister(pidfd)
                    os.close(pidfd)
                    self._tell({"ended": child, "status": os.waitstatus_to_exitcode(status)})

    def _kill_all(self) -> None:
        """Those of our templates are ours as soon as these have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                for child in _own_children() or self._children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)  # nobody else can have the number before we have waited for it
                child, _ = os.waitpid(-1, 0)
                self._children.pop(child, None)


def _open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208  # also the listing's own, which is closed


def _own_children() -> list[int]:
    """Empty where the kernel does not tell."""
    try:
        with open("/proc/thread-self/children") as file:  # noqa: PTH123
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def template(connection: socket.socket, modules: ModuleCache) -> None:
    """Fork those that run one module, once each; what runs is never in this process. The first message says which module."""
    if asked := connection.recv(REQUEST_BYTES):
        [(_, payload)] = Incoming().feed(asked)
        Forks(connection, modules, {"worker": worker.serve}, Job.of(decoded(payload))).serve()


KINDS: dict[str, Kind] = {"worker": worker.serve, "compiler": compile_worker.serve, "template": template}


def _remove_tasks(agent: int, tasks: Path) -> None:
    """The agent's lock of the folder may outlive its end of our socket, but not its process, of which ``agent`` is a pidfd."""
    ended = select.poll()
    ended.register(agent, select.POLLIN)
    ended.poll(AGENT_ENDS_MS)
    claim.remove_left(tasks)


def main() -> None:
    number, folder, tasks = sys.argv[1:]
    prepare()
    modules = ModuleCache(Path(folder))
    modules.linker(USUAL)  # its engine handles the signals that are a guest's traps
    _ = USUAL.key  # remembered
    rehearse(modules)
    hand_down_code()
    gc.collect()
    gc.freeze()  # the pages of what is never collected stay shared
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    parent = os.pidfd_open(os.getppid())
    confined = {"seccomp": confinement.offered(), "landlock": landlock.version() > 0}
    with socket.socket(fileno=int(number)) as agent:
        agent.send(json.dumps({"confinement": [name for name, offered in confined.items() if offered]}).encode())
        if not Forks(agent, modules, KINDS).serve():
            _remove_tasks(parent, Path(tasks))


if __name__ == "__main__":
    main()
