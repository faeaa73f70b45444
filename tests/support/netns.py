"""A network of its own for one command: every port is free there, whatever runs on this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

# A new network namespace has its loopback interface down: SIOCSIFFLAGS with IFF_UP | IFF_RUNNING.
_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x41))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@functools.cache
def isolated() -> list[str] | None:
    """What to put before a command; None where this user may not make a network namespace."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    prefix = [unshare, *user, "--net", sys.executable, "-c", _LOOPBACK_UP]
    tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if tried.returncode == 0 else None
