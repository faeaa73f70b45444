"""Random bytes that are the same in every run with the same seed."""

from __future__ import annotations

import hashlib

import wasmtime

from proplet.sandbox.preview1.errno import SUCCESS
from proplet.sandbox.preview1.memory import GuestMemory, u32

PREFIX = b"swashplate deterministic random 1"
BLOCK_BYTES = 4096


class SeededRandom:
    """One stream of bytes, whatever pieces it is asked for in.

    Block ``i``, from 0, is the first 4096 bytes of SHAKE-256 (FIPS 202) over the prefix, the seed and ``i``, both as 8 bytes
    with the lowest first.
    """

    def __init__(self, seed: int) -> None:
        self._start = PREFIX + seed.to_bytes(8, "little")
        self._blocks = 0
        self._left = b""

    def random_get(self, caller: wasmtime.Caller, at: int, count: int) -> int:
        memory, at, count = GuestMemory(caller), u32(at), u32(count)
        memory.check(at, count)
        while count:
            if not self._left:
                self._left = self._block()
            piece, self._left = self._left[:count], self._left[count:]
            memory.write(at, piece)
            at, count = at + len(piece), count - len(piece)
        return SUCCESS

    def _block(self) -> bytes:
        block = hashlib.shake_256(self._start + self._blocks.to_bytes(8, "little")).digest(BLOCK_BYTES)
        self._blocks += 1
        return block
