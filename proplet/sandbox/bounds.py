"""What one compile may use, and what it means when a compile ended because it wanted more."""

from __future__ import annotations

import resource
import signal
from dataclasses import dataclass
from typing import Any, Self

from proplet.sandbox.frames import Answer

MIB = 1 << 20
ENDLESS = 1 << 62
"""Bytes: who allows so many means no limit, and the kernel takes no larger number."""


_set: dict[int, int] = {}
"""What this process was given last: a run that wants the same spares itself the asking."""


def soft_limit(which: int, amount: int) -> None:
    """Of this process. Who started it may have set a hard limit, above which nothing can be asked for."""
    if _set.get(which) == amount:
        return
    _set[which] = amount
    _, most = resource.getrlimit(which)
    amount = resource.RLIM_INFINITY if amount >= ENDLESS else amount
    if most != resource.RLIM_INFINITY and (amount == resource.RLIM_INFINITY or amount > most):
        amount = most
    resource.setrlimit(which, (amount, most))


@dataclass(frozen=True)
class Bounds:
    """Bytes, and seconds of processor time, for one compile. Waiting is bounded by whoever waits.

    ``memory`` and ``table_elements`` are what its runs may have: a binary that declares more is refused before it is
    compiled. ``data_bytes`` is the compiler's own private memory, ``cache_bytes`` what the compiled modules may take together.
    """

    binary_bytes: int = 256 * MIB
    memory: int = 512 * MIB
    table_elements: int = 100_000
    cpu_s: int = 60
    data_bytes: int = 4096 * MIB
    cache_bytes: int = 1024 * MIB

    def impose(self) -> None:
        """On this process, for good. The kernel ends it when it computes too long, the compiler when it gets no memory."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = int(used.ru_utime + used.ru_stime) + self.cpu_s
        soft_limit(resource.RLIMIT_CPU, cpu)  # the signal for it ends the process
        soft_limit(resource.RLIMIT_DATA, self.data_bytes)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def ended(self, number: int) -> Answer:
        """The answer in the name of a compile that the signal ``number`` ended."""
        if number == signal.SIGXCPU:
            reason = f"takes more than {self.cpu_s} s of processor time"
        elif number == signal.SIGABRT:
            reason = f"takes more than {self.data_bytes // MIB} MiB of memory"
        else:
            reason = f"ended with {_name(number)}"
        return Answer(error=f"the binary cannot be compiled: compiling it {reason}", code="compile_limit")


@dataclass(frozen=True)
class Compilation:
    """A module that is wanted: of which binary, for which engines, and what making it may take."""

    digest: str
    binary: str
    fuel: bool
    deterministic: bool
    bounds: Bounds

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Self:
        """The one in a received message."""
        return cls(**{**asked, "bounds": Bounds(**asked["bounds"])})


def _name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
