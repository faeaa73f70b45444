"""Which export of a guest runs, and how inputs become typed arguments. Pure."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence

COMMAND, INITIALIZE = "_start", "_initialize"
RUN = re.compile(r"wasi:cli/run@[^#]+#run")
INTEGER_BITS = {"i32": 32, "i64": 64}
NUMBERS = {"i32", "i64", "f32", "f64"}
TYPE_UNSUPPORTED = "type_unsupported"
LISTED = 1000
"""Characters of a list of exports in a sentence."""


LONGEST_SENTENCE = 2000
"""Characters: a guest's names are as long as it likes, and what is said of it travels in a message."""


class GuestError(Exception):
    """A run that failed for a reason that lies in the guest or in what it was given."""

    def __init__(self, sentence: str, code: str, *, reusable: bool = True) -> None:
        super().__init__(sentence)
        self.sentence = _one_line(sentence)
        self.code = code
        self.reusable = reusable


def _one_line(text: str) -> str:
    """A name may hold line ends, and whatever else would pass for more than a part of a sentence."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST_SENTENCE])
    return f"{shown}…" if len(text) > LONGEST_SENTENCE else shown


class Exited(Exception):  # noqa: N818  # an exit is no error
    """The guest called ``proc_exit``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def invoked(cli_args: Sequence[str]) -> str | None:
    """The ``F`` of ``--invoke F`` or ``--invoke=F``."""
    for at, argument in enumerate(cli_args):
        if argument == "--invoke":
            return cli_args[at + 1] if at + 1 < len(cli_args) else ""
        if argument.startswith("--invoke="):
            return argument.partition("=")[2]
    return None


def choose(name: str, cli_args: Sequence[str], exports: Mapping[str, bool]) -> str:
    """The export to call; ``exports`` says of each whether it is a function. Raises ``GuestError`` listing them."""
    asked = invoked(cli_args)
    wanted = _wanted(name, asked, COMMAND)
    for export in wanted:
        if exports.get(export):
            return export
    raise _not_found("module", wanted, exports)


def choose_in_component(name: str, cli_args: Sequence[str], exports: Mapping[str, bool]) -> str:
    """As ``choose``; a function of an instance is ``instance#func`` in ``exports`` and in the answer.

    What is asked for may leave out the instance's version, and the whole instance when only one has such a function.
    """
    asked = invoked(cli_args)
    command = next((path for path in sorted(exports) if RUN.fullmatch(path)), "wasi:cli/run")
    wanted = _wanted(name, asked, command)
    for path in wanted:
        if exports.get(path):
            return path
        found = [known for known, callable_ in exports.items() if callable_ and _means(path, known)]
        if len(found) == 1:
            return found[0]
        if found and path == asked:
            raise GuestError(f"{path} may be {' or '.join(sorted(found))}", "export_not_found")
    raise _not_found("component", wanted, exports)


def _wanted(name: str, asked: str | None, command: str) -> list[str]:
    if name.startswith("fl-round-"):
        return [command]
    return [name, command] if asked is None else [asked]


def _means(path: str, known: str) -> bool:
    instance, _, function = known.rpartition("#")
    return bool(instance) and path in {function, f"{instance.partition('@')[0]}#{function}"}


def _not_found(what: str, wanted: Sequence[str], exports: Mapping[str, bool]) -> GuestError:
    instances = {name.rpartition("#")[0] for name in exports}
    listed = ", ".join(sorted(set(exports) - instances))[:LISTED] or "nothing"
    others = "".join(f"; {export} is not a function" for export in wanted if export in exports)
    return GuestError(
        f"the {what} exports no function {' or '.join(wanted)}; it exports {listed}{others}", "export_not_found"
    )


def check_signature(name: str, params: Sequence[str], results: Sequence[str]) -> None:
    """Raises ``GuestError`` for a function that nobody can call."""
    if name in {COMMAND, INITIALIZE} and params:
        raise GuestError(f"{name} must take no parameters, it takes ({', '.join(params)})", "guest_link")
    for what, kinds in (("takes", params), ("returns", results)):
        for kind in kinds:
            if kind not in NUMBERS:
                raise GuestError(f"{name} {what} {kind}, which is no number", TYPE_UNSUPPORTED)


def arguments(types: Sequence[str], inputs: Sequence[str]) -> list[int | float]:
    """Inputs as values of the WebAssembly types i32, i64, f32, f64; raises ``GuestError``."""
    if len(types) != len(inputs):
        raise GuestError(
            f"the function takes {len(types)} argument{'s' * (len(types) != 1)} ({', '.join(types)}), got {len(inputs)} input{'s' * (len(inputs) != 1)}",
            "invalid_inputs",
        )
    return [_value(kind, text, at) for at, (kind, text) in enumerate(zip(types, inputs, strict=True))]


def number(kind: str, text: str) -> int | float:
    """``text`` as a value of ``kind``. Raises ``ValueError``, and ``OverflowError`` for one that is too large for it."""
    if kind in INTEGER_BITS:
        half = 1 << (INTEGER_BITS[kind] - 1)
        whole = int(text, 10)
        if not -half <= whole < half:
            raise OverflowError
        return whole
    value = float(text)
    if math.isinf(value) and "inf" not in text.lower():
        raise OverflowError
    return struct.unpack("<f", struct.pack("<f", value))[0] if kind == "f32" else value


def _value(kind: str, text: str, at: int) -> int | float:
    try:
        return number(kind, text)
    except ValueError as error:
        raise GuestError(f"input {at}: {text!r} is not a number of type {kind}", "invalid_inputs") from error
    except OverflowError as error:
        raise GuestError(f"input {at}: {text!r} is out of the range of {kind}", "invalid_inputs") from error


def decimal(kind: str, value: float) -> str:
    """A returned value as text that reads back as the same value of its type."""
    if kind != "f32" or not math.isfinite(value):
        return repr(value)
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return repr(short)
    return repr(value)
