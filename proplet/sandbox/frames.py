"""What the agent and a worker process say to each other: frames of a length, a kind and a payload.

Only the standard library is used on this side of the wall: a worker carries nothing that it does not need.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

HEADER = struct.Struct(">IB")
MESSAGE, STDERR = 0, 1
MOST_BYTES = 4 << 20
"""Of one frame from a child; one that sends more is out of its mind."""
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


@dataclass(frozen=True)
class Limits:
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


@dataclass(frozen=True)
class Job:
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
    directories: list[tuple[str, str, bool]] = field(default_factory=list)

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Self:
        """The job in a received message."""
        return cls(**{**asked, "limits": Limits(**asked["limits"])})


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


def packed(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), kind) + payload


def packed_message(message: object) -> bytes:
    return packed(MESSAGE, _encode(vars(message)).encode())


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message, or None when the other side is gone."""
    header = _exactly(connection, HEADER.size)
    if header is None:
        return None
    length, _ = HEADER.unpack(header)
    payload = _exactly(connection, length)
    return None if payload is None else json.loads(payload)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    buffer = bytearray(count)
    view, filled = memoryview(buffer), 0
    while filled < count:
        got = connection.recv_into(view[filled:])
        if got == 0:
            return None
        filled += got
    return bytes(buffer)


class Incoming:
    """Frames out of the pieces in which they arrive."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """The kind and the payload of each frame that is complete. Raises ``ValueError`` for one that is too long."""
        self._rest += piece
        while len(self._rest) >= HEADER.size:
            length, kind = HEADER.unpack_from(self._rest)
            if length > MOST_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = HEADER.size + length
            if len(self._rest) < end:
                return
            payload, self._rest = self._rest[HEADER.size : end], self._rest[end:]
            yield kind, payload
