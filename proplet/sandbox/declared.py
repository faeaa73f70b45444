"""What a binary says about itself before anything of it is compiled: imports, memories, tables, its largest function.

https://webassembly.github.io/spec/core/binary/modules.html and
https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md. Only what is needed is read; what is not
understood is refused, so that nothing is run that was not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAGIC = b"\0asm"
CORE = MAGIC + b"\x01\0\0\0"
COMPONENT = MAGIC + b"\x0d\0\x01\0"
PAGE = 65536

TYPES, IMPORTS, FUNCTIONS, TABLES, MEMORIES, EXPORTS, CODE = 1, 2, 3, 4, 5, 7, 10
CORE_MODULE, NESTED_COMPONENT = 1, 4
KINDS = ("function", "table", "memory", "global", "tag")
REFERENCES = {0x70, 0x6F}
VECTOR = 0x7B
VALUES = {0x7F, 0x7E, 0x7D, 0x7C, VECTOR, *REFERENCES}
FUNCTION_TYPE = 0x60
LEB_BYTES = 5


class Malformed(Exception):  # noqa: N818
    """The bytes at ``offset`` are not what they should be."""

    def __init__(self, sentence: str, offset: int) -> None:
        super().__init__(sentence)
        self.sentence = f"{sentence} (at offset {offset:#x})"


@dataclass(frozen=True)
class Import:
    module: str
    name: str
    kind: str


@dataclass
class Declared:
    """``memories`` are bytes at the start and ``tables`` elements, of the module itself; of a component, of all its modules.

    ``vectors`` are a module's exported functions that take or return a v128.
    """

    component: bool
    imports: list[Import] = field(default_factory=list)
    memories: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    largest_function: int = 0


class Reader:
    """From ``at`` to ``end`` of ``content``."""

    def __init__(self, content: bytes, at: int, end: int) -> None:
        self.content = content
        self.at = at
        self.end = end

    def byte(self) -> int:
        if self.at >= self.end:
            raise Malformed("unexpected end", self.at)
        self.at += 1
        return self.content[self.at - 1]

    def number(self) -> int:
        """An unsigned LEB128 number of at most 32 bits."""
        start, value = self.at, 0
        for place in range(LEB_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                break
        else:
            raise Malformed("a number is too long", start)
        if value >> 32:
            raise Malformed("a number is too large", start)
        return value

    def part(self) -> Reader:
        """The next bytes, whose count stands before them."""
        size = self.number()
        start = self.at
        if size > self.end - start:
            raise Malformed("a size is beyond the end", start)
        self.at += size
        return Reader(self.content, start, start + size)

    def text(self) -> str:
        inner = self.part()
        try:
            return self.content[inner.at : inner.end].decode()
        except UnicodeDecodeError as error:
            raise Malformed("a name is not UTF-8", inner.at) from error

    def minimum(self) -> int:
        """Of a memory or a table. The flags of 64 bits, sharing and page sizes belong to what is off."""
        start, flags = self.at, self.byte()
        if flags > 1:
            raise Malformed(f"limits with the flags {flags:#x} are not supported", start)
        least = self.number()
        if flags:
            self.number()
        return least

    def table(self) -> int:
        start = self.at
        if self.byte() not in REFERENCES:
            raise Malformed("a table of this type is not supported", start)
        return self.minimum()

    def function_type(self) -> bool:
        """Is a v128 in it?"""
        start = self.at
        if self.byte() != FUNCTION_TYPE:
            raise Malformed("a type of this kind is not supported", start)
        return VECTOR in [self.value_type() for _ in ("parameters", "results") for _ in range(self.number())]

    def value_type(self) -> int:
        start, kind = self.at, self.byte()
        if kind not in VALUES:
            raise Malformed("a value of this type is not supported", start)
        return kind


def declared(content: bytes) -> Declared:
    """Raises ``Malformed``."""
    found = Declared(component=content.startswith(COMPONENT))
    # Nested parts wait here instead of in calls, so that no depth of nesting is too deep.
    waiting = [(0, len(content))]
    while waiting:
        start, end = waiting.pop()
        header = content[start : min(start + 8, end)]
        reader = Reader(content, start + 8, end)
        if header == CORE:
            _core(reader, found)
        elif header == COMPONENT and found.component:
            while reader.at < reader.end:
                kind, inner = reader.byte(), reader.part()
                if kind in {CORE_MODULE, NESTED_COMPONENT}:
                    waiting.append((inner.at, inner.end))
        else:
            raise Malformed("this is neither a WebAssembly module nor a component", start)
    return found


def _core(reader: Reader, found: Declared) -> None:
    types: list[bool] = []
    functions: list[int] = []
    while reader.at < reader.end:
        kind, inner = reader.byte(), reader.part()
        if kind == TYPES:
            types = [inner.function_type() for _ in range(inner.number())]
        elif kind == IMPORTS:
            imports = [_import(inner, functions) for _ in range(inner.number())]
            if not found.component:  # a component's modules get theirs from each other
                found.imports = imports
        elif kind == FUNCTIONS:
            functions += [inner.number() for _ in range(inner.number())]
        elif kind == TABLES:
            found.tables += [inner.table() for _ in range(inner.number())]
        elif kind == MEMORIES:
            found.memories += [inner.minimum() * PAGE for _ in range(inner.number())]
        elif kind == EXPORTS and not found.component:
            found.vectors = _vectors(inner, types, functions)
        elif kind == CODE:
            for _ in range(inner.number()):
                body = inner.part()
                found.largest_function = max(found.largest_function, body.end - body.at)


def _vectors(reader: Reader, types: list[bool], functions: list[int]) -> list[str]:
    found = []
    for _ in range(reader.number()):
        name, start, kind, index = reader.text(), reader.at, reader.byte(), reader.number()
        if kind == KINDS.index("function"):
            if index >= len(functions) or functions[index] >= len(types):
                raise Malformed("there is no such function", start)
            if types[functions[index]]:
                found.append(name)
    return found


def _import(reader: Reader, functions: list[int]) -> Import:
    """Of a function, the number of its type goes to ``functions``."""
    module, name, start, number = reader.text(), reader.text(), reader.at, reader.byte()
    if number >= len(KINDS):
        raise Malformed("an import of this kind is not supported", start)
    kind = KINDS[number]
    if kind == "function":
        functions.append(reader.number())
    elif kind == "table":
        reader.table()
    elif kind == "memory":
        reader.minimum()
    else:
        _ = reader.byte(), reader.byte()
    return Import(module, name, kind)
