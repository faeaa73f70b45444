"""What a process that runs or compiles a guest may ask of the kernel: a seccomp filter, which it cannot take off again.

A guest has no system call of its own. This is for one that broke out of the runtime: it may read and write what the process
may and compute, and that is all. A denied call answers EPERM, so that a part of the runtime that tries one goes on without it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from dataclasses import dataclass

from proplet.sandbox import system_calls

PR_SET_NAME, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 15, 22, 38
SECCOMP_MODE_FILTER = 2
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column of ``system_calls`` and what the kernel calls the architecture."""

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, AT_LEAST_ONE_BIT, GREATER, RETURN = 0x20, 0x15, 0x45, 0x25, 0x06
INSTRUCTION = struct.Struct("=HBBI")
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Where ``struct seccomp_data`` has them; an argument has 8 bytes, the lower half first."""
FEW = 4
"""Numbers that are compared one after the other."""
CLONE_THREAD = 0x10000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""Put words into the mouth of whoever sits at the terminal, should stderr be one."""
SET_OWNER = (8, 15), (0x8901, 0x8902)
"""What fcntl and ioctl call it: the kernel sends whatever signal is asked for to the owner of a pipe or socket."""
ITS_ID = 0x7FC0FFEE
"""Stands for the id of the process that is confined; no process has it, as the kernel has no more than 2**22."""


@dataclass(frozen=True)
class Condition:
    """``call`` is allowed when its argument of this place, the lower half of it, compares so with one of ``values``, or else with
    none.

    The kernel itself takes no more than that half of the arguments that are asked for here.
    """

    call: tuple[int, int]
    argument: int
    compare: int
    values: tuple[int, ...]
    holds: bool = True


CONDITIONS = [
    Condition(system_calls.CLONE, 0, AT_LEAST_ONE_BIT, (CLONE_THREAD,)),
    Condition(system_calls.PRCTL, 0, EQUAL, (PR_SET_NAME,)),
    Condition(system_calls.PRLIMIT, 0, EQUAL, (0,)),
    Condition(system_calls.FCNTL, 1, EQUAL, SET_OWNER[0], holds=False),
    Condition(system_calls.IOCTL, 1, EQUAL, (TIOCSTI, TIOCLINUX, *SET_OWNER[1]), holds=False),
    Condition(system_calls.TGKILL, 0, EQUAL, (ITS_ID,)),  # as abort does
    Condition(system_calls.TKILL, 0, EQUAL, (ITS_ID,)),
]


def program(machine: str, pid: int) -> bytes:
    """The filter for the process ``pid``, in the kernel's classic BPF. Raises ``KeyError`` for an architecture without a table."""
    return _for_any_process(machine).replace(ITS_ID.to_bytes(4, "little"), pid.to_bytes(4, "little"))


@functools.cache
def _for_any_process(machine: str) -> bytes:
    """With ``ITS_ID`` for that of the process, which has little time when it is new."""
    column, architecture = MACHINES[machine]
    answers = {numbers[column]: _error(errno.EPERM) for numbers in system_calls.DENIED.values()}
    answers |= {each.call[column]: _condition(each) for each in CONDITIONS}
    answers[system_calls.CLONE3[column]] = _error(errno.ENOSYS)  # the C library then takes clone
    begin = _load(ARCHITECTURE) + _unless(EQUAL, architecture, _error(errno.EPERM))
    begin += _load(NUMBER) + _when(GREATER, system_calls.NEWEST, _error(errno.ENOSYS))
    return begin + _search(sorted((number, answer) for number, answer in answers.items() if number is not None))


def _search(answers: list[tuple[int, bytes]]) -> bytes:
    """The answer to the call whose number is loaded. By halves: the kernel asks for every number as the filter is put on."""
    if len(answers) <= FEW:
        return b"".join(_when(EQUAL, number, answer) for number, answer in answers) + _return(ALLOW)
    lower, upper = answers[: len(answers) // 2], answers[len(answers) // 2 :]
    return _when(GREATER, lower[-1][0], _search(upper)) + _search(lower)


def _condition(wanted: Condition) -> bytes:
    """The answer to its call."""
    allow, deny = _return(ALLOW), _error(errno.EPERM)
    then, otherwise = (allow, deny) if wanted.holds else (deny, allow)
    compared = b"".join(_when(wanted.compare, value, then) for value in wanted.values)
    return _load(ARGUMENTS + 8 * wanted.argument) + compared + otherwise


def _when(compare: int, value: int, then: bytes) -> bytes:
    return INSTRUCTION.pack(compare, 0, len(then) // INSTRUCTION.size, value) + then


def _unless(compare: int, value: int, then: bytes) -> bytes:
    return INSTRUCTION.pack(compare, len(then) // INSTRUCTION.size, 0, value) + then


def _load(at: int) -> bytes:
    return INSTRUCTION.pack(LOAD, 0, 0, at)


def _return(what: int) -> bytes:
    return INSTRUCTION.pack(RETURN, 0, 0, what)


def _error(number: int) -> bytes:
    return _return(ERRNO | number)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


MACHINE = os.uname().machine
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def offered() -> bool:
    """Does this machine have a table here, and its kernel filters? Ask before a fork, so that it is known in the child."""
    if MACHINE not in MACHINES or sys.maxsize < 1 << 32:
        return False
    program(MACHINE, 0)
    _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None)
    return ctypes.get_errno() == errno.EFAULT  # it would have looked at the filter


def confine() -> None:
    """Of this process, for good, and the threads that it starts from now on; nothing where it is not ``offered``. Raises ``OSError``."""
    if not offered():
        return
    content = program(MACHINE, os.getpid())
    given = ctypes.byref(_Program(len(content) // INSTRUCTION.size, content))
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, given):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
