"""Which export of a guest runs, and how inputs become typed arguments. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

COMMAND = "_start"
INTEGER_BITS = {"i32": 32, "i64": 64}


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
    if name.startswith("fl-round-"):
        wanted = [COMMAND]
    elif asked is not None:
        wanted = [asked]
    else:
        wanted = [name, COMMAND]
    for export in wanted:
        if exports.get(export):
            return export
    listed = ", ".join(sorted(exports)) or "nothing"
    others = "".join(f"; {export} is not a function" for export in wanted if export in exports)
    raise GuestError(
        f"the module exports no function {' or '.join(wanted)}; it exports {listed}{others}", "export_not_found"
    )


def check_command(params: Sequence[str]) -> None:
    """Raises ``GuestError`` for a ``_start`` that nobody can call."""
    if params:
        raise GuestError(f"{COMMAND} must take no parameters, it takes ({', '.join(params)})", "guest_link")


def arguments(types: Sequence[str], inputs: Sequence[str]) -> list[int | float]:
    """Inputs as values of the WebAssembly types i32, i64, f32, f64; raises ``GuestError``."""
    if len(types) != len(inputs):
        raise GuestError(
            f"the function takes {len(types)} arguments ({', '.join(types)}), got {len(inputs)} inputs",
            "invalid_inputs",
        )
    return [_value(kind, text, at) for at, (kind, text) in enumerate(zip(types, inputs, strict=True))]


def _value(kind: str, text: str, at: int) -> int | float:
    try:
        if kind in INTEGER_BITS:
            half = 1 << (INTEGER_BITS[kind] - 1)
            whole = int(text, 10)
            if not -half <= whole < half:
                raise OverflowError
            return whole
        if kind in {"f32", "f64"}:
            number = float(text)
            if math.isinf(number) and "inf" not in text.lower():
                raise OverflowError
            return struct.unpack("<f", struct.pack("<f", number))[0] if kind == "f32" else number
    except ValueError as error:
        raise GuestError(f"input {at}: {text!r} is not a number of type {kind}", "invalid_inputs") from error
    except OverflowError as error:
        raise GuestError(f"input {at}: {text!r} is out of the range of {kind}", "invalid_inputs") from error
    raise GuestError(f"input {at}: a function that takes {kind} cannot be called with inputs", "invalid_inputs")


def decimal(kind: str, value: float) -> str:
    """A returned value as text that reads back as the same value of its type."""
    if kind != "f32" or not math.isfinite(value):
        return repr(value)
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return repr(short)
    return repr(value)
