"""Makes every example binary: ``python examples/build.py``. The results are committed, nobody has to.

Most are compiled from the .wat file beside them. The others, in ``hostile/``, are what no compiler writes.
"""

from pathlib import Path

import wasmtime

HERE = Path(__file__).parent
HOSTILE = HERE / "hostile"
NESTED_LOOPS = 3000
VALUES = 200


def leb128(number: int) -> bytes:
    """``number`` as WebAssembly writes whole numbers."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + leb128(len(content)) + content


def one_function(local: bytes, body: bytes) -> bytes:
    """A command whose ``_start`` has the variables ``local`` and is ``body``."""
    code = local + body + b"\x0b"
    return (
        b"\0asm\1\0\0\0"
        + section(1, b"\1\x60\0\0")
        + section(3, b"\1\0")
        + section(7, b"\1" + leb128(len("_start")) + b"_start" + b"\0\0")
        + section(10, b"\1" + leb128(len(code)) + code)
    )


def compile_bomb(depth: int) -> bytes:
    """Loops in loops that keep many values alive: valid, but its compilation takes time that grows with the square of its size."""
    into, out = b"", b""
    for level in range(depth):
        value, other = leb128(level % VALUES), leb128(level * 7 % VALUES)
        into += b"\x03\x40" + b"\x20" + value + b"\x20" + other + b"\x6a" + b"\x21" + value
        out += b"\x20" + value + b"\x0d\0" + b"\x0b"
    return one_function(b"\1" + leb128(VALUES) + b"\x7f", into + out)


def main() -> None:
    for source in sorted(HERE.rglob("*.wat")):
        source.with_suffix(".wasm").write_bytes(wasmtime.wat2wasm(source.read_text(encoding="utf-8")))
    HOSTILE.joinpath("compile-bomb.wasm").write_bytes(compile_bomb(NESTED_LOOPS))
    hello = HERE.joinpath("hello.wasm").read_bytes()
    HOSTILE.joinpath("truncated.wasm").write_bytes(hello[: len(hello) // 2])
    HOSTILE.joinpath("malformed.wasm").write_bytes(hello[:8] + hello[8:][::-1])


if __name__ == "__main__":
    main()
