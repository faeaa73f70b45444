"""A component's types and values between wasmtime and WAVE."""

from __future__ import annotations

from typing import Any

from wasmtime import component

from proplet.sandbox import wave
from proplet.sandbox.entry import TYPE_UNSUPPORTED, GuestError

MAX_DEPTH = 32
"""Of types in types: nobody writes more by hand, and Python's stack ends somewhere."""
BYTE = wave.Integer(8, signed=False)
SIMPLE: dict[type, wave.Type] = {
    component.Bool: wave.Bool(),
    component.S8: wave.Integer(8, signed=True),
    component.S16: wave.Integer(16, signed=True),
    component.S32: wave.Integer(32, signed=True),
    component.S64: wave.Integer(64, signed=True),
    component.U8: BYTE,
    component.U16: wave.Integer(16, signed=False),
    component.U32: wave.Integer(32, signed=False),
    component.U64: wave.Integer(64, signed=False),
    component.F32: wave.Float(32),
    component.F64: wave.Float(64),
    component.Char: wave.Char(),
    component.String: wave.String(),
}

# Left alone, wasmtime finds out which case a value is by its class, and takes true for an integer.
for _kind in (component.VariantType, component.OptionType, component.ResultType):
    setattr(_kind, "_tagged", lambda _self: True)  # noqa: B010  # mypy takes no assignment to a method


def described(kind: component.ValType, depth: int = 0) -> wave.Type:  # one for each type
    """Raises ``GuestError`` for a type whose values have no text."""
    if depth > MAX_DEPTH:
        raise GuestError(f"types in types more than {MAX_DEPTH} deep cannot be written as text", TYPE_UNSUPPORTED)

    def optional(inner: component.ValType | None) -> wave.Type | None:
        return None if inner is None else described(inner, depth + 1)

    match kind:
        case component.ListType():
            return wave.List(described(kind.element, depth + 1))
        case component.TupleType():
            return wave.Tuple(tuple(described(inner, depth + 1) for inner in kind.elements))
        case component.RecordType():
            return wave.Record(tuple((name, described(inner, depth + 1)) for name, inner in kind.fields))
        case component.FlagsType():
            return wave.Flags(tuple(kind.names))
        case component.EnumType():
            return wave.Enum(tuple(kind.names))
        case component.VariantType():
            return wave.Variant(tuple((name, optional(inner)) for name, inner in kind.cases))
        case component.OptionType():
            return wave.Option(described(kind.payload, depth + 1))
        case component.ResultType():
            return wave.Result(optional(kind.ok), optional(kind.err))
        case component.OwnType() | component.BorrowType():
            raise GuestError("a resource has no text", TYPE_UNSUPPORTED)
    simple = SIMPLE.get(type(kind))
    if simple is None:
        raise GuestError(f"a value of type {type(kind).__name__} has no text", TYPE_UNSUPPORTED)
    return simple


def lowered(kind: wave.Type, value: wave.Value) -> Any:
    """As wasmtime takes it."""
    match kind:
        case wave.List():
            return bytes(value) if kind.element == BYTE else [lowered(kind.element, item) for item in value]
        case wave.Tuple():
            return tuple(lowered(*item) for item in zip(kind.elements, value, strict=True))
        case wave.Record():
            record = component.Record()
            for name, field in kind.fields:
                setattr(record, name, lowered(field, value[name]))
            return record
        case wave.Flags():
            return set(value)
        case wave.Variant() | wave.Option() | wave.Result():
            inner = dict(kind.cases)[value.name]
            return component.Variant(value.name, None if inner is None else lowered(inner, value.payload))
    return value


def lifted(kind: wave.Type, value: Any) -> wave.Value:
    """From what wasmtime gives."""
    match kind:
        case wave.List():
            return list(value) if kind.element == BYTE else [lifted(kind.element, item) for item in value]
        case wave.Tuple():
            return tuple(lifted(*item) for item in zip(kind.elements, value, strict=True))
        case wave.Record():
            return {name: lifted(field, getattr(value, name)) for name, field in kind.fields}
        case wave.Flags():
            return frozenset(value)
        case wave.Variant() | wave.Option() | wave.Result():
            inner = dict(kind.cases)[value.tag]
            return wave.Case(value.tag, None if inner is None else lifted(inner, value.payload))
    return value
