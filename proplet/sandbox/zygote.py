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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from proplet.sandbox import claim, compile_worker, worker
from proplet.sandbox.engine import USUAL
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.rehearsal import rehearse

Kind = Callable[[socket.socket, ModuleCache], None]
KINDS: dict[str, Kind] = {"worker": worker.serve, "compiler": compile_worker.serve}
REQUEST_BYTES = 256
FAREWELL = b"farewell"
AGENT_ENDS_MS = 5000

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
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


def become(kind: Kind, parent: int, connection: int, modules: ModuleCache) -> NoReturn:
    """Be the child: nothing is left of its parent but what is imported, and of descriptors ``connection`` and stderr."""
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it ended before it could take us along
            os.setsid()
            os.dup2(connection, CONNECTION)
            os.closerange(CONNECTION + 1, os.sysconf("SC_OPEN_MAX"))
            _first_victim()
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            limit = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(MOST_DESCRIPTORS, most)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            kind(socket.socket(fileno=CONNECTION), modules)
            status = 0
    except BaseException:  # noqa: BLE001  # a child that returned would be a second zygote
        traceback.print_exc()
    finally:
        os._exit(status)


class Zygote:
    def __init__(self, agent: socket.socket, modules: ModuleCache, tasks: Path) -> None:
        self._agent = agent
        self._parent = os.pidfd_open(os.getppid())
        self._modules = modules
        self._tasks = tasks
        self._children: dict[int, int] = {}
        """The id of each child by its pidfd."""
        self._ready = select.poll()
        self._ready.register(agent, select.POLLIN)

    def serve(self) -> None:
        """Returns when the agent is gone, and with it everything of it."""
        farewell = False
        try:
            while not farewell:
                for handle, _ in self._ready.poll():
                    if handle in self._children:
                        self._ended(handle)
                    else:
                        farewell = not self._asked()
        except ConnectionError:
            pass
        finally:
            self._kill_all()
        if not farewell:
            self._remove_tasks()

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
        parent = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            self._tell({"failed": error.strerror})
            os.close(connection)
            return True
        if child == 0:
            become(KINDS[kind.decode()], parent, connection, self._modules)
        os.close(connection)
        pidfd = os.pidfd_open(child)
        self._children[pidfd] = child
        self._ready.register(pidfd, select.POLLIN)
        self._tell({"forked": child}, pidfd)
        return True

    def _tell(self, message: dict[str, Any], *handles: int) -> None:
        with contextlib.suppress(ConnectionError):  # we shall hear of it
            socket.send_fds(self._agent, [json.dumps(message).encode()], handles)

    def _ended(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._ready.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(child, 0)
        self._tell({"ended": child, "status": os.waitstatus_to_exitcode(status)})

    def _kill_all(self) -> None:
        for pidfd in self._children:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for child in self._children.values():
            os.waitpid(child, 0)

    def _remove_tasks(self) -> None:
        """The agent's lock of the folder may outlive its end of our socket, but not its process."""
        ended = select.poll()
        ended.register(self._parent, select.POLLIN)
        ended.poll(AGENT_ENDS_MS)
        claim.remove_left(self._tasks)


def main() -> None:
    number, folder, tasks = sys.argv[1:]
    prepare()
    modules = ModuleCache(Path(folder))
    modules.linker(USUAL)  # its engine handles the signals that are a guest's traps
    _ = USUAL.key  # remembered
    rehearse(modules)
    gc.collect()
    gc.freeze()  # the pages of what is never collected stay shared
    with socket.socket(fileno=int(number)) as agent:
        Zygote(agent, modules, Path(tasks)).serve()


if __name__ == "__main__":
    main()
