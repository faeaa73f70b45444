"""WAVE, the text of a component's values, read and written by their type. Pure.

What the WebAssembly Value Encoding of the Bytecode Alliance says, without its multi-line strings.
"""

from proplet.sandbox.wave.reading import WaveError, read
from proplet.sandbox.wave.types import (
    Bool,
    Case,
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
from proplet.sandbox.wave.writing import TooLong, write

__all__ = [
    "Bool",
    "Case",
    "Char",
    "Enum",
    "Flags",
    "Float",
    "Integer",
    "List",
    "Option",
    "Record",
    "Result",
    "String",
    "TooLong",
    "Tuple",
    "Type",
    "Value",
    "Variant",
    "WaveError",
    "read",
    "write",
]
