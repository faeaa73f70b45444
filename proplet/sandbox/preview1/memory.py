"""The calling guest's memory, where a host function finds its arguments and leaves its answers."""

from __future__ import annotations

import wasmtime

from proplet.sandbox.entry import GuestError

U32 = (1 << 32) - 1


def u32(value: int) -> int:
    """A pointer, a size or a descriptor: wasmtime's Python hands them over with a sign."""
    return value & U32


class GuestMemory:
    """Raises ``GuestError`` when the guest has none, or points beside it."""

    def __init__(self, caller: wasmtime.Caller) -> None:
        memory = caller.get("memory")
        if not isinstance(memory, wasmtime.Memory):
            raise GuestError("missing required memory export", "guest_link", reusable=False)
        self._memory = memory
        self._caller = caller
        self._size = memory.data_len(caller)

    def check(self, at: int, count: int) -> None:
        if at + count > self._size:
            raise GuestError(
                f"Pointer out of bounds: {count} bytes at {at}, the memory has {self._size}",
                "trap:out_of_bounds",
                reusable=False,
            )

    def read(self, at: int, count: int) -> bytes:
        self.check(at, count)
        return bytes(self._memory.read(self._caller, at, at + count))

    def write(self, at: int, content: bytes) -> None:
        self.check(at, len(content))
        if content:
            self._memory.write(self._caller, content, at)

    def write_int(self, at: int, value: int, size: int) -> None:
        self.write(at, value.to_bytes(size, "little"))
