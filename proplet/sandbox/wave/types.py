"""The types that a component's values have, each written as WIT writes it, and the values in Python.

| type | value |
| --- | --- |
| bool, integers, floats, char, string, enum | bool, int, float, str |
| list, tuple | list, tuple |
| record | dict |
| flags | frozenset of the names that are set |
| variant, option, result | ``Case`` |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Value = Any
KEYWORDS = frozenset({"true", "false", "inf", "nan", "some", "none", "ok", "err"})
"""As the name of a case they are written with a ``%`` before them."""


@dataclass(frozen=True)
class Case:
    """One of several: its name, and its value when it has one."""

    name: str
    payload: Value = None


@dataclass(frozen=True)
class Bool:
    def __str__(self) -> str:
        return "bool"


@dataclass(frozen=True)
class Integer:
    bits: int
    signed: bool

    @property
    def least(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def most(self) -> int:
        return self.least + (1 << self.bits) - 1

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}"


@dataclass(frozen=True)
class Float:
    bits: int

    def __str__(self) -> str:
        return f"f{self.bits}"


@dataclass(frozen=True)
class Char:
    def __str__(self) -> str:
        return "char"


@dataclass(frozen=True)
class String:
    def __str__(self) -> str:
        return "string"


@dataclass(frozen=True)
class List:
    element: Type

    def __str__(self) -> str:
        return f"list<{self.element}>"


@dataclass(frozen=True)
class Tuple:
    elements: tuple[Type, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.elements))}>"


@dataclass(frozen=True)
class Record:
    fields: tuple[tuple[str, Type], ...]

    def __str__(self) -> str:
        return f"record {{ {', '.join(f'{name}: {kind}' for name, kind in self.fields)} }}"


@dataclass(frozen=True)
class Flags:
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"flags {{ {', '.join(self.names)} }}"


@dataclass(frozen=True)
class Enum:
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"enum {{ {', '.join(self.names)} }}"


@dataclass(frozen=True)
class Variant:
    cases: tuple[tuple[str, Type | None], ...]

    def __str__(self) -> str:
        return f"variant {{ {', '.join(_listed(self.cases))} }}"


@dataclass(frozen=True)
class Option:
    some: Type

    @property
    def cases(self) -> tuple[tuple[str, Type | None], ...]:
        return ("none", None), ("some", self.some)

    def __str__(self) -> str:
        return f"option<{self.some}>"


@dataclass(frozen=True)
class Result:
    ok: Type | None
    err: Type | None

    @property
    def cases(self) -> tuple[tuple[str, Type | None], ...]:
        return ("ok", self.ok), ("err", self.err)

    def __str__(self) -> str:
        if self.err is not None:
            return f"result<{'_' if self.ok is None else self.ok}, {self.err}>"
        return "result" if self.ok is None else f"result<{self.ok}>"


Type = Bool | Integer | Float | Char | String | List | Tuple | Record | Flags | Enum | Variant | Option | Result


def _listed(cases: tuple[tuple[str, Type | None], ...]) -> Iterator[str]:
    for name, kind in cases:
        yield name if kind is None else f"{name}({kind})"
