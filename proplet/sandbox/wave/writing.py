"""From a value of a type that is known to text."""

from __future__ import annotations

from proplet.sandbox import entry
from proplet.sandbox.wave.types import (
    KEYWORDS,
    Bool,
    Char,
    Enum,
    Flags,
    Float,
    Integer,
    List,
    Option,
    Record,
    Result,
    String,
    Tuple,
    Type,
    Value,
    Variant,
)

ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}


class TooLong(Exception):  # noqa: N818
    """The text would be longer than it may be."""


def write(kind: Type, value: Value, limit: int) -> str:
    """The text; raises ``TooLong`` before it is longer than ``limit`` bytes of UTF-8."""
    writer = _Writer(limit)
    writer.value(kind, value)
    return "".join(writer.pieces)


class _Writer:
    def __init__(self, left: int) -> None:
        self.pieces: list[str] = []
        self._left = left

    def value(self, kind: Type, value: Value) -> None:  # one for each type
        match kind:
            case Bool():
                self._put("true" if value else "false")
            case Integer():
                self._put(str(value))
            case Float():
                self._put(entry.decimal(f"f{kind.bits}", value))
            case Char():
                self._quoted("'", value)
            case String():
                self._quoted('"', value)
            case List():
                self._items("[]", [("", kind.element, item) for item in value])
            case Tuple():
                self._items("()", [("", *item) for item in zip(kind.elements, value, strict=True)])
            case Record():
                self._record(kind, value)
            case Flags():
                self._put("{" + ", ".join(name for name in kind.names if name in value) + "}")
            case Enum():
                self._put(_case(value))
            case Variant():
                self._chosen(_case(value.name), dict(kind.cases)[value.name], value.payload)
            case Option() | Result():
                self._chosen(value.name, dict(kind.cases)[value.name], value.payload)

    def _put(self, text: str) -> None:
        self._left -= len(text.encode())
        if self._left < 0:
            raise TooLong
        self.pieces.append(text)

    def _quoted(self, quote: str, text: str) -> None:
        self._put(quote + "".join(_escaped(one, quote) for one in text) + quote)

    def _items(self, brackets: str, items: list[tuple[str, Type, Value]]) -> None:
        self._put(brackets[0])
        for at, (before, kind, value) in enumerate(items):
            self._put(f", {before}" if at else before)
            self.value(kind, value)
        self._put(brackets[1])

    def _record(self, kind: Record, value: dict[str, Value]) -> None:
        """An option that is none is left out."""
        told = [
            (f"{name}: ", field, value[name])
            for name, field in kind.fields
            if not (isinstance(field, Option) and value[name].name == "none")
        ]
        if told:
            self._items("{}", told)
        else:
            self._put("{:}")

    def _chosen(self, name: str, kind: Type | None, payload: Value) -> None:
        self._put(name)
        if kind is not None:
            self._items("()", [("", kind, payload)])


def _case(name: str) -> str:
    return f"%{name}" if name in KEYWORDS else name


def _escaped(one: str, quote: str) -> str:
    if one == quote:
        return f"\\{one}"
    if one in ESCAPES or one.isprintable():
        return ESCAPES.get(one, one)
    return f"\\u{{{ord(one):x}}}"
