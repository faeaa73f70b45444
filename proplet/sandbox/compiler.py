"""What a compile child does: from the bytes of a binary to a module that may run, or one sentence why not."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
from pathlib import Path
from typing import IO

import wasmtime
from wasmtime import component

from proplet.sandbox import components, imports, pooling
from proplet.sandbox.bounds import Bounds
from proplet.sandbox.declared import Declared, Malformed, declared
from proplet.sandbox.engine import Configuration
from proplet.sandbox.entry import GuestError
from proplet.sandbox.failures import in_short
from proplet.sandbox.frames import Answer
from proplet.sandbox.module_folder import Contents, ModuleFolder

LARGE_FUNCTION = 1 << 20
"""Bytes. The optimiser needs four times the time for such a function, and gigabytes."""

EXPORTS = 10_000
"""Each is listed wherever the module is loaded."""


def compile_binary(binary: Path, digest: str, folder: Path, configuration: Configuration, bounds: Bounds) -> Answer:
    """Have the module of ``binary`` in ``folder``; the answer says ``compiled`` when it was not there before.

    Never raises for what a binary is. It does not limit itself: call ``bounds.impose`` before, and wait with a deadline.
    """
    try:
        with binary.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another process may be compiling it just now
            return _compiled(file, digest, ModuleFolder(folder), configuration, bounds)
    except GuestError as error:
        return Answer(error=error.sentence, code=error.code)
    except MemoryError:
        return bounds.ended(signal.SIGABRT)
    except OSError as error:
        return Answer(error=f"the stored binary cannot be read: {error.strerror}", code="digest_mismatch")


def _compiled(
    file: IO[bytes], digest: str, modules: ModuleFolder, configuration: Configuration, bounds: Bounds
) -> Answer:
    with modules.opened(digest, configuration.key) as there:
        if there is not None:
            return Answer()
    content = _read(file, digest, bounds)
    found = _checked(content, configuration, bounds)
    engine = configuration.compiling_engine(optimise=found.largest_function <= LARGE_FUNCTION)
    code, contents = _compile(content, found, engine)
    try:
        modules.keep(digest, configuration.key, code, contents, bounds.cache_bytes)
    except OSError as error:
        raise GuestError(f"the compiled module cannot be stored: {error.strerror}", "module_not_stored") from error
    return Answer(compiled=True)


def _read(file: IO[bytes], digest: str, bounds: Bounds) -> bytes:
    size = os.fstat(file.fileno()).st_size
    if size > bounds.binary_bytes:
        raise GuestError(
            f"the binary has {size} bytes and is over the limit of {bounds.binary_bytes}", "binary_too_large"
        )
    content = file.read()
    if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
        raise GuestError(f"the stored binary {digest} was altered on disk", "digest_mismatch")
    return content


def _checked(content: bytes, configuration: Configuration, bounds: Bounds) -> Declared:
    """What can be refused before the compiler has its turn."""
    try:
        found = declared(content)
    except Malformed as error:
        _validate(content, configuration)  # it knows better what is wrong
        raise GuestError(f"the binary is not valid: {error.sentence}", "guest_invalid") from error
    _validate(content, configuration)
    imports.check(found.imports)
    if not found.component and len(found.memories) > 1:
        raise GuestError(f"the module has {len(found.memories)} memories, one is allowed", "memory_limit")
    if not found.component and len(found.tables) > pooling.TABLES:
        raise GuestError(f"the module has {len(found.tables)} tables, {pooling.TABLES} are allowed", "table_limit")
    for size in found.memories:
        if size > bounds.memory:
            raise GuestError(
                f"the binary begins with {size} bytes of memory, over the limit of {bounds.memory}", "memory_limit"
            )
    for elements in found.tables:
        if elements > bounds.table_elements:
            raise GuestError(
                f"the binary begins with a table of {elements} elements, over the limit of {bounds.table_elements}",
                "table_limit",
            )
    return found


def _validate(content: bytes, configuration: Configuration) -> None:
    """Of core modules; a component is validated only while it is compiled."""
    if content[4:5] == b"\x01":
        try:
            wasmtime.Module.validate(configuration.engine(), content)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the binary is not valid: {in_short(error)}", "guest_invalid") from error


def _compile(content: bytes, found: Declared, engine: wasmtime.Engine) -> tuple[bytearray, Contents]:
    try:
        made = (component.Component if found.component else wasmtime.Module)(engine, content)
    except wasmtime.WasmtimeError as error:
        raise GuestError(f"the binary does not compile: {in_short(error)}", "guest_invalid") from error
    if isinstance(made, wasmtime.Module):
        exports = {export.name: isinstance(export.type, wasmtime.FuncType) for export in made.exports}
    else:
        exports = components.exports(engine, made)
        imports.check_component(made.type.imports(engine), exports)
    if len(exports) > EXPORTS:
        raise GuestError(f"the binary exports {len(exports)} names, over the limit of {EXPORTS}", "guest_invalid")
    return made.serialize(), Contents(found.component, exports, found.vectors)
