"""TCP ports: which are free, and who holds one that is not."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

from swashplate.errors import ConfigurationError, SwashplateError

_LISTEN = "0A"


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder(port: int) -> tuple[int, str] | None:
    """Pid and command of the process that listens on ``port``, when /proc tells us (Linux, own processes or root)."""
    sockets: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{columns[9]}]")
    if not sockets:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(handle.readlink()) in sockets:
                        return int(process.name), " ".join(_words(process))[:120]
    return None


def _words(process: Path) -> list[str]:
    return (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _stack_of(pid: int) -> int | None:
    """The pid of the ``swashplate up`` that ``pid`` is a child of: it would only start ``pid`` again."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        words = _words(Path(f"/proc/{parent}"))
        if "swashplate.stack.daemon" in words or ("up" in words and any(w.endswith("swashplate") for w in words)):
            return parent
    return None


def taken(port: int, error: OSError | None = None, *, service: str = "", setting: str = "") -> SwashplateError:
    """The error to raise when ``service`` could not bind ``port``, which ``setting`` chooses; without, ``up`` does."""
    whose = f"{service.replace('_', '-')} cannot listen: " if service else ""
    move = f"set {setting} to another port" if setting else "move every port with --port-offset N"
    if error is not None and error.errno not in {errno.EADDRINUSE, None}:
        reason = f"{whose}port {port} cannot be used: {error.strerror or error}"
        return ConfigurationError(reason, code="port_unusable", hint=move)
    found = holder(port)
    stack = _stack_of(found[0]) if found else None
    stop = f"it belongs to a running stack: swashplate down in its folder, or kill {stack}," if stack else "stop it,"
    return ConfigurationError(
        f"{whose}port {port} is taken" + (f" by {found[1]} (pid {found[0]})" if found else ""),
        code="port_taken",
        hint=f"{stop} or {move}",
    )
