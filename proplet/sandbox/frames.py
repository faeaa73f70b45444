"""What the agent and a worker process say to each other: frames of a length, a kind and a payload.

Only the standard library is used on this side of the wall: a worker carries nothing that it does not need.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

HEADER = struct.Struct(">IB")
MESSAGE, STDERR = 0, 1
MOST_BYTES = 4 << 20
"""Of one frame from a child; one that sends more is out of its mind."""
RECEIVED_BYTES = 1 << 14
NOT_COMPILED = "not_compiled"
LOGGED_BYTES = 1 << 20
"""Of one run's stderr in ``LOGGED_EVERY_S``; a worker hands over one byte more, so that the agent knows, and drops the rest."""
LOGGED_EVERY_S = 600.0
"""A daemon that was loud once is not silent for ever."""


class Allowance:
    """``size`` bytes, and as many again whenever ``LOGGED_EVERY_S`` have passed. ``clock`` counts seconds."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._left = size
        self._since = clock()

    def left(self) -> int:
        """Negative when more was spent than there was."""
        if self._clock() - self._since >= LOGGED_EVERY_S:
            self._left, self._since = self._size, self._clock()
        return self._left

    def spend(self, count: int) -> int:
        """What is left after it."""
        self._left = self.left() - count
        return self._left


class Limits(NamedTuple):
    """What one run may use at most: bytes, seconds, and how many. Of ``wall_s``, ``cpu_s`` and ``fuel`` 0 is no limit."""

    memory: int
    output: int
    files: int
    wall_s: float = 0.0
    cpu_s: float = 0.0
    table_elements: int = 100_000
    stack: int = 512 * 1024
    log: int = LOGGED_BYTES
    fuel: int = 0


class Job(NamedTuple):
    """One run of a guest, or with ``precompile`` only its preparation. ``folder`` holds ``in/`` and ``out/``; stdout is
    written to ``stdout`` in it. ``directories`` are (folder here, path for the guest, may it write). ``isolation`` is that
    of ``swashplate.messages.RunTerms``, never empty.
    """

    digest: str
    binary: str
    name: str
    folder: str
    inputs: list[str]
    cli_args: list[str]
    env: dict[str, str]
    limits: Limits
    precompile: bool = False
    isolation: str = "warm"
    deterministic: bool = False
    seed: int = 0
    clock: bool = True
    random: bool = True
    directories: Sequence[tuple[str, str, bool]] = ()

    @classmethod
    def of(cls, asked: Sequence[Any]) -> Self:
        """The job in a received message, which has the fields in their order."""
        job = cls(*asked)
        return job._replace(limits=Limits(*job.limits))


@dataclass(frozen=True)
class Answer:
    """How a run ended: with ``error`` empty it succeeded, and ``text`` is what a function returned.

    A worker that is not ``reusable`` must be replaced; ``compiled`` says that the module had to be compiled first, and the
    code ``NOT_COMPILED`` that it must be, and that nothing was run. ``used`` has the names of ``swashplate.messages.RunLimits``.
    A deterministic run has digests: ``sha256:`` and hexadecimal. ``spent`` is what the process has used in all its life:
    seconds of processor time, bytes read from storage, bytes written to it.
    """

    text: str | None = None
    error: str = ""
    code: str = ""
    reusable: bool = True
    compiled: bool = False
    used: dict[str, float] = field(default_factory=dict)
    inputs_digest: str = ""
    output_digest: str = ""
    spent: list[float] = field(default_factory=list)


_encode = json.JSONEncoder(default=vars, check_circular=False, separators=(",", ":")).encode


_decode = json.JSONDecoder().raw_decode


def decoded(payload: bytes) -> Any:
    """The JSON of a message, which has no space around it. Raises ``ValueError``."""
    return _decode(payload.decode())[0]


def packed(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), kind) + payload


def packed_message(message: object) -> bytes:
    return packed(MESSAGE, _encode(message).encode())


def messages(connection: socket.socket) -> Iterator[Any]:
    """What the agent sends, until it is gone; it may send the next before the last is answered."""
    incoming = Incoming(most_bytes=sys.maxsize)
    while piece := connection.recv(RECEIVED_BYTES):
        for _, payload in incoming.feed(piece):
            yield decoded(payload)


class Incoming:
    """Frames out of the pieces in which they arrive."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """The kind and the payload of each frame that is complete. Raises ``ValueError`` for one that is too long."""
        self._rest += piece
        while len(self._rest) >= HEADER.size:
            length, kind = HEADER.unpack_from(self._rest)
            if length > self._most:
                raise ValueError(f"a frame of {length} bytes")
            end = HEADER.size + length
            if len(self._rest) < end:
                return
            payload, self._rest = self._rest[HEADER.size : end], self._rest[end:]
            yield kind, payload
