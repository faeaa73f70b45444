"""Why a run failed: wasmtime's errors as a code of ours and a sentence with the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import wasmtime
from wasmtime import TrapCode

from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Limits

STACK_OVERFLOW, FUEL_EXHAUSTED = "stack_overflow", "fuel_exhausted"
MEMORY_LIMIT, TABLE_LIMIT = "memory_limit", "table_limit"
CAPABILITY_REFUSED = "capability_refused"
OTHER = "trap:other"

TRAPS = {
    TrapCode.STACK_OVERFLOW: STACK_OVERFLOW,
    TrapCode.OUT_OF_FUEL: FUEL_EXHAUSTED,
    TrapCode.UNREACHABLE: "trap:unreachable",
    TrapCode.MEMORY_OUT_OF_BOUNDS: "trap:out_of_bounds",
    TrapCode.TABLE_OUT_OF_BOUNDS: "trap:table_out_of_bounds",
    TrapCode.INDIRECT_CALL_TO_NULL: "trap:indirect_call_to_null",
    TrapCode.BAD_SIGNATURE: "trap:indirect_call_type",
    TrapCode.INTEGER_OVERFLOW: "trap:integer_overflow",
    TrapCode.INTEGER_DIVISION_BY_ZERO: "trap:integer_divide_by_zero",
    TrapCode.BAD_CONVERSION_TO_INTEGER: "trap:invalid_conversion",
}
"""Every other trap is ``trap:`` and its name in wasmtime."""

WORDS = {
    "call stack exhausted": STACK_OVERFLOW,
    "all fuel consumed": FUEL_EXHAUSTED,
    "`unreachable` instruction": "trap:unreachable",
    "out of bounds memory access": "trap:out_of_bounds",
    "Pointer out of bounds": "trap:out_of_bounds",
    "out of bounds table access": "trap:table_out_of_bounds",
    "uninitialized element": "trap:indirect_call_to_null",
    "indirect call type mismatch": "trap:indirect_call_type",
    "integer overflow": "trap:integer_overflow",
    "integer divide by zero": "trap:integer_divide_by_zero",
    "invalid conversion to integer": "trap:invalid_conversion",
    "exceeds memory limits": MEMORY_LIMIT,
    "memory count too high": MEMORY_LIMIT,
    "Cannot allocate memory": MEMORY_LIMIT,
    "too much data is being copied": "output_limit",
    "exceeds table limits": TABLE_LIMIT,
    "table count too high": TABLE_LIMIT,
    "instance count too high": "instance_limit",
    "missing required memory export": "guest_link",
}
"""Where wasmtime's Python has no trap code: a component's traps, limits at instantiation, its WASI's own complaints."""

OUT_OF_MEMORY = {"trap:unreachable", "trap:out_of_bounds"}
"""How a guest ends that wanted memory and did not get it: ``abort`` is ``unreachable``, and no pointer points too far."""
OUT_OF_TABLE = {"trap:unreachable", "trap:table_out_of_bounds"}
"""Likewise one that wanted room in a table."""


@dataclass(frozen=True)
class Growth:
    """Of a guest's linear memory in bytes, or of its table in elements: when it began and when it failed."""

    before: int
    after: int

    def exhausted(self, limit: int) -> bool:
        """Did it grow so far that doubling it, an allocator's largest usual step, would have passed ``limit``?

        ``memory.grow`` and ``table.grow`` tell a refusal to the guest alone, so this is the nearest that can be known.
        """
        return self.after > self.before and self.after * 2 > limit


@dataclass(frozen=True)
class Grown:
    """What a guest shows of itself; None is what it does not show."""

    memory: Growth | None = None
    table: Growth | None = None


def failed(error: Exception, limits: Limits, grown: Grown) -> GuestError:
    """What wasmtime, or Python for want of memory, raised while a guest ran."""
    cause = in_short(error)
    code = _code(error, cause)
    memory, table = grown.memory, grown.table
    if code in OUT_OF_MEMORY and memory is not None and memory.exhausted(limits.memory):
        code, cause = MEMORY_LIMIT, f"{cause}, {_grown(memory, limits)}"
    elif code in OUT_OF_TABLE and table is not None and table.exhausted(limits.table_elements):
        code = TABLE_LIMIT
        cause += f", after its table had grown to {table.after} of the {limits.table_elements} elements allowed"
    elif code == MEMORY_LIMIT and "count" not in cause:
        cause = f"{cause}, {limits.memory} bytes are allowed"
    elif code == TABLE_LIMIT and "count" not in cause:
        cause = f"{cause}, {limits.table_elements} elements are allowed"
    elif code == STACK_OVERFLOW:
        cause = f"{cause}, {limits.stack} bytes of stack are allowed"
    elif code == FUEL_EXHAUSTED:
        cause = f"{cause}, {limits.fuel} units are allowed"
    return GuestError(cause, code, reusable=False)


def exited(status: int, limits: Limits, grown: Grown) -> GuestError:
    """A status other than 0: the guest's own decision, even when memory may have been the reason for it."""
    sentence, memory = f"process exited with status {status}", grown.memory
    if memory is not None and memory.exhausted(limits.memory):
        sentence += f", {_grown(memory, limits)}"
    return GuestError(sentence, "guest_exit")


def refused(error: GuestError, names: list[str]) -> GuestError:
    """``error``, of a guest that had asked for what its task may not use."""
    asked = " and ".join(names)
    sentence = f"{error.sentence}; the guest had asked for {asked}, which this task may not use"
    return GuestError(sentence, CAPABILITY_REFUSED, reusable=error.reusable)


def in_short(error: Exception) -> str:
    """The reason alone, of a message that begins with a backtrace and may number its causes."""
    causes = [line.strip() for line in str(error).rpartition("Caused by:")[2].splitlines()]
    return " ".join(causes).strip()[:500] or type(error).__name__


def _code(error: Exception, cause: str) -> str:
    if isinstance(error, MemoryError):
        return MEMORY_LIMIT
    trap = error.trap_code if isinstance(error, wasmtime.Trap) else None
    if trap is not None:
        return TRAPS.get(trap, f"trap:{trap.name.lower()}")
    return next((code for words, code in WORDS.items() if words in cause), OTHER)


def _grown(memory: Growth, limits: Limits) -> str:
    return f"after its memory had grown to {memory.after} of the {limits.memory} bytes allowed"
