"""A run's report as people read it: what was used of what was allowed, what was granted, how stderr ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swashplate.commands import output

if TYPE_CHECKING:
    from swashplate.client import Report

LAST_LINES, LONGEST = 10, 300
OF_CODE = {
    "memory_limit": ("memory_bytes",),
    "deadline": ("wall_s",),
    "cpu_limit": ("cpu_s",),
    "table_limit": ("table_elements",),
    "output_limit": ("output_bytes",),
    "file_limit": ("output_files",),
    "fuel_exhausted": ("fuel",),
}
"""What a run that failed with such a code had used up."""


def reason(error: str, code: str, report: Report | None) -> str:
    """The error with its code and numbers: ``: out of memory [memory_limit: used 512 MiB of 512 MiB]``."""
    spent = [] if report is None else [_spent(report, field) for field in OF_CODE.get(code, ())]
    numbers = ", ".join(filter(None, spent))
    brackets = f"{code}: used {numbers}" if numbers else "" if code in error else code
    return (f": {error}" if error else "") + (f" [{brackets}]" if brackets else "")


def _spent(report: Report, field: str) -> str:
    from swashplate import limits

    if field not in report.used:
        return ""
    most = report.limits.get(field)
    of = f" of {limits.shown(field, most)}" if most else ""
    return f"{limits.shown(field, report.used[field])}{of}"


def summary(report: Report | None) -> str:
    """What was used of what was allowed, and what was asked for and not granted, in one line; empty when nothing is known."""
    from swashplate import limits

    if report is None:
        return ""
    used = [f"{limits.NAMES.get(name, name)} {_spent(report, name)}" for name, amount in report.used.items() if amount]
    parts = {"used ": used, "not granted: ": report.capabilities.refused}
    return "; ".join(what + ", ".join(listed) for what, listed in parts.items() if listed)


def tell_log(report: Report | None) -> None:
    """On stderr, indented: the last lines of what the guest wrote there."""
    if report is None or not report.log_tail.strip():
        return
    output.note("\n".join(["its stderr ended with:", *(f"  {line}" for line in _last_lines(report))]))


def _last_lines(report: Report) -> list[str]:
    lines = report.log_tail.rstrip("\n").splitlines()[-LAST_LINES:]
    return [line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in lines]


def fields(report: Report | None) -> list[tuple[str, Any]]:
    """For ``task show``."""
    from swashplate import limits

    if report is None:
        return []
    return [
        ("ran", report.isolation),
        ("used", {limits.NAMES.get(name, name): _spent(report, name) for name in report.used}),
        ("granted", ", ".join(report.capabilities.granted)),
        ("not granted", ", ".join(report.capabilities.refused)),
        ("inputs", report.inputs_digest),
        ("output", report.output_digest),
        ("stderr", "\n".join(_last_lines(report))),
    ]
