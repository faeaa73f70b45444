"""WebAssembly put together from bytes: what no text format would write."""

from __future__ import annotations

CORE = b"\0asm\x01\0\0\0"
LOCAL = b"\x01\x01\x7f"
"""One local of type i32."""
STEP = b"\x20\0\x41\x03\x6c\x41\x05\x73\x21\0"
"""Ten bytes: the local, times 3, xor 5."""


def leb(number: int, length: int = 1) -> bytes:
    """Unsigned, of at least ``length`` bytes."""
    found = bytearray()
    while number or len(found) < length:
        found.append((number & 0x7F) | 0x80)
        number >>= 7
    found[-1] &= 0x7F
    return bytes(found)


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + leb(len(content)) + content


def vector(items: list[bytes]) -> bytes:
    return leb(len(items)) + b"".join(items)


def function(body: bytes, local: bytes = LOCAL) -> bytes:
    """A module whose ``_start`` is ``body``."""
    code = local + body + b"\x0b"
    return (
        CORE
        + section(1, vector([b"\x60\0\0"]))
        + section(3, vector([b"\0"]))
        + section(7, vector([b"\x06_start\0\0"]))
        + section(10, vector([leb(len(code)) + code]))
    )


def straight(size: int) -> bytes:
    """One function of about ``size`` bytes."""
    return function(STEP * (size // len(STEP)))


def loops(size: int) -> bytes:
    """One function of about ``size`` bytes: loops, each in the one before."""
    return function(b"\x03\x40" * (size // 3) + b"\x0b" * (size // 3))


def blocks(depth: int) -> bytes:
    return function(b"\x02\x40" * depth + b"\x0b" * depth)


def bomb(levels: int, values: int = 50) -> bytes:
    """Loops in loops that keep ``values`` alive: the register allocator's time grows with the square of ``levels``."""
    names = [leb(level % values) for level in range(levels)]
    into = [b"\x03\x40\x20" + name + b"\x20" + leb(n * 7 % values) + b"\x6a\x21" + name for n, name in enumerate(names)]
    out = [b"\x20" + name + b"\x0d\0\x0b" for name in names]
    return function(b"".join(into + out), b"\x01" + leb(values) + b"\x7f")
