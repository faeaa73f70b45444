"""What a guest that broke out of the runtime finds: a process that can do little more than compute."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proplet.sandbox import confinement, landlock, system_calls
from proplet.sandbox.confinement import MACHINES, program

ROOT = Path(__file__).parents[2]
ALLOWED, EPERM, ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID = 4711
NEEDED = {
    "x86_64": [0, 1, 3, 9, 10, 11, 12, 13, 14, 15, 24, 39, 44, 45, 60, 202, 228, 230, 231, 232, 257, 262, 318, 334],
    "aarch64": [17, 25, 29, 56, 57, 63, 64, 80, 93, 94, 98, 113, 115, 134, 172, 206, 207, 214, 222, 226, 278, 283],
}
"""read, write, close, mmap, futex, openat, sendto, recvfrom, exit_group and the like."""

machines = st.sampled_from(sorted(MACHINES))
words = st.integers(0, (1 << 64) - 1)


def answer(content: bytes, number: int, arguments: tuple[int, ...] = (), machine: str = "x86_64") -> int:
    """What the kernel would do with such a call: the instructions that a filter may have, as seccomp(2) reads them."""
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, MACHINES[machine][1], 0, *given)
    instructions = list(struct.iter_unpack("=HBBI", content))
    at = value = 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x25: value > k, 0x45: value & k != 0}[code]
            at += yes if holds else no


@given(machines, st.sampled_from(sorted(system_calls.DENIED)), st.tuples(*[words] * 6))
def test_what_no_guest_needs_is_denied_whatever_its_arguments(machine, name, arguments):
    number = system_calls.DENIED[name][MACHINES[machine][0]]
    if number is not None:
        assert answer(program(machine, PID), number, arguments, machine) == EPERM


@given(machines, st.integers(0, (1 << 32) - 1), words)
def test_a_call_that_is_not_listed_is_allowed_when_it_is_known_and_unknown_when_it_is_newer(machine, number, argument):
    column = MACHINES[machine][0]
    conditional = {each.call[column] for each in confinement.CONDITIONS} | {435}
    listed = {numbers[column] for numbers in system_calls.DENIED.values()}
    if number not in conditional | listed:
        expected = ALLOWED if number <= system_calls.NEWEST else ENOSYS
        assert answer(program(machine, PID), number, (argument,), machine) == expected


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_what_a_guest_needs_is_allowed(machine):
    assert {answer(program(machine, PID), number, (), machine) for number in NEEDED[machine]} == {ALLOWED}


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_some_calls_depend_on_what_they_ask_for(machine):
    column = MACHINES[machine][0]

    def asked(call: tuple[int, int], *arguments: int) -> int:
        return answer(program(machine, PID), call[column], arguments, machine)

    threads, process = 0x3D0F00, 0x1200011
    assert (asked(system_calls.CLONE, threads), asked(system_calls.CLONE, process)) == (ALLOWED, EPERM)
    assert asked(system_calls.CLONE, 0x10000 << 32) == EPERM, "a flag in the upper half is none"
    assert asked(system_calls.CLONE3) == ENOSYS
    for call in (system_calls.TGKILL, system_calls.TKILL):
        assert (asked(call, PID), asked(call, PID + 1), asked(call, 1)) == (ALLOWED, EPERM, EPERM)
    assert (asked(system_calls.PRLIMIT, 0), asked(system_calls.PRLIMIT, 1)) == (ALLOWED, EPERM)
    assert (asked(system_calls.PRCTL, 15), asked(system_calls.PRCTL, 1)) == (ALLOWED, EPERM)
    assert [asked(system_calls.FCNTL, 3, command) for command in (2, 8, 15)] == [ALLOWED, EPERM, EPERM]
    assert (asked(system_calls.IOCTL, 2, 0x5401), asked(system_calls.IOCTL, 2, 0x5412 | 1 << 32)) == (ALLOWED, EPERM)


def test_a_call_of_another_architecture_is_denied():
    assert answer(program("x86_64", PID), 0, (), "aarch64") == EPERM
    assert answer(program("aarch64", PID), 0, (), "x86_64") == EPERM


ESCAPED = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, sys, threading
from pathlib import Path
from proplet.sandbox import worker
from proplet.sandbox.frames import Job, Limits
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.zygote import become, prepare

root, parent = Path(sys.argv[2]), os.getpid()
libc = ctypes.CDLL(None, use_errno=True)

def called(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

ATTEMPTS = {
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "internet socket": lambda: socket.socket(socket.AF_INET),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "netlink": lambda: socket.socket(socket.AF_NETLINK),
    "socket pair": socket.socketpair,
    "a signal to the zygote": lambda: os.kill(parent, 0),
    "a signal to everybody": lambda: os.kill(-1, 0),
    "outlive the zygote": lambda: libc.prctl(1, 0, 0, 0, 0) and called(157, 1, 0),
    "a signal by way of a pipe": lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, parent),
    "a signal by way of its socket": lambda: fcntl.ioctl(3, 0x8901, struct.pack("i", parent)),
    "limits of another": lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    "user": lambda: os.setuid(65534),
    "root": lambda: os.chroot("/"),
    "device": lambda: os.mknod(root / "tasks" / "device", 0o20600, os.makedev(1, 1)),
    "mode": lambda: os.chmod(root / "tasks", 0o777),
    "passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list": lambda: os.listdir("/"),
    "environment of another": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "memory of another": lambda: os.open(f"/proc/{parent}/mem", os.O_RDWR),
    "its own memory": lambda: os.open("/proc/self/mem", os.O_RDWR),
    "journal": lambda: os.open(root / "journal.db", os.O_RDWR),
    "key": lambda: os.open(root / "modules.key", os.O_RDONLY),
    "forge a module": lambda: os.open(root / "modules" / "new", os.O_WRONLY | os.O_CREAT),
    "alter a module": lambda: os.open(root / "modules" / "old", os.O_WRONLY),
    "alter an input": lambda: os.open(root / "tasks" / "a" / "in" / "file", os.O_WRONLY),
    "link an input": lambda: os.link(root / "tasks" / "a" / "in" / "file", root / "tasks" / "a" / "out" / "link"),
    "remove an input": lambda: os.unlink(root / "tasks" / "a" / "in" / "file"),
    "another file": lambda: os.open(root / "tasks" / "a" / "other", os.O_WRONLY | os.O_CREAT),
    "another task": lambda: os.listdir(root / "tasks" / "b"),
    "write what it may read": lambda: os.open(root / "read" / "file", os.O_WRONLY),
    "take a link to it": lambda: os.link(root / "journal.db", root / "tasks" / "a" / "journal"),
}
NUMBERS = {"ptrace": 101, "process_vm_readv": 310, "unshare": 272, "setns": 308, "mount": 165, "bpf": 321,
    "perf_event_open": 298, "keyctl": 250, "userfaultfd": 323, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438,
    "memfd_secret": 447, "shmget": 29, "kexec_load": 246, "clone3": 435, "x32 getpid": 0x40000027}

def escaped(connection, modules):
    global pipe
    pipe, _ = os.pipe()
    told, limits = {}, Limits(memory=1, output=1, files=1)
    granted = [(str(root / "read"), "/r", False), (str(root / "write"), "/w", True), (str(root / "missing"), "/m", True)]
    worker.restrict(Job("", "", "", str(root / "tasks" / "a"), [], [], {}, limits, isolation="fork", directories=granted), modules.folder)
    if os.uname().machine == "x86_64":
        ATTEMPTS.update({name: lambda n=number: called(n, 0, 0, 0, 0, 0, 0) for name, number in NUMBERS.items()})
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except OSError as error:
            told[name] = errno.errorcode[error.errno]
        else:
            told[name] = "done"
    started = threading.Event()
    threading.Thread(target=started.set).start()
    started.wait()
    (root / "tasks" / "a" / "out" / "file").write_text("x")
    (root / "tasks" / "a" / "out" / "file").rename(root / "tasks" / "a" / "out" / "deep" / "file")
    (root / "write" / "file").write_text("y")
    (root / "tasks" / "a" / "stdout").write_text("z")
    told["may"] = [(root / "tasks" / "a" / "in" / "file").read_text(), (root / "read" / "file").read_text(), (root / "modules" / "old").read_text(), len(os.listdir("/proc/self/fd")) > 2]
    connection.sendall(json.dumps(told).encode())
    os.abort()

prepare()
modules = ModuleCache(root / "modules")
child = os.fork()
if child == 0:
    become(escaped, parent, int(sys.argv[1]), modules)
_, status = os.waitpid(child, 0)
sys.exit(-os.waitstatus_to_exitcode(status))
"""
OF_FILES = {"passwd", "list", "environment of another", "memory of another", "its own memory", "journal", "key"} | {
    "another task", "alter an input", "link an input", "remove an input", "another file", "forge a module", "alter a module", "write what it may read", "take a link to it"}  # fmt: skip


def needs(there: object, what: str) -> None:
    if not there:
        assert os.environ.get("CI") != "true", f"this machine has no {what}"
        pytest.skip(f"this machine has no {what}")


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, str]:
    """What each attempt of a process that runs a guest came to."""
    needs(confinement.offered(), "seccomp")
    root = tmp_path_factory.mktemp("root")
    for folder in ("modules", "tasks/a/in", "tasks/a/out/deep", "tasks/b", "read", "write"):
        (root / folder).mkdir(parents=True, mode=0o700)
    for file in ("journal.db", "read/file", "modules/old", "tasks/a/in/file"):
        (root / file).write_text(file)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = subprocess.run(
            [sys.executable, "-c", ESCAPED, str(theirs.fileno()), str(root)],
            env={"PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            timeout=60,
            check=False,
        )
        told = json.loads(ours.recv(1 << 16, socket.MSG_DONTWAIT))
    assert ended.returncode == signal.SIGABRT, "abort must still be possible: it tells of a want of memory"
    assert told.pop("may") == ["tasks/a/in/file", "read/file", "modules/old", True]
    assert (root / "tasks" / "a" / "out" / "deep" / "file").read_text() == "x"
    return told


def test_it_starts_nothing_reaches_nobody_and_changes_no_rights(told):
    newer = {"clone3", "x32 getpid"}
    got = {name: said for name, said in told.items() if name not in OF_FILES}
    assert got == {name: "ENOSYS" if name in newer else "EPERM" for name in got}
    assert len(got) > 15


def test_it_sees_no_files_but_those_of_its_work(told):
    needs(landlock.version(), "Landlock")
    got = {name: told[name] for name in OF_FILES}
    assert set(got.values()) <= {"EACCES", "EXDEV"}, got
