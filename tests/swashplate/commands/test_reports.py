"""What is told of a run that failed."""

import pytest

from swashplate.client import Report
from swashplate.commands import reports

MIB = 1 << 20
REPORT = Report(
    limits={"memory_bytes": 512.0 * MIB, "wall_s": 2.0, "output_files": 10_000.0, "output_bytes": 64.0 * MIB},
    used={"memory_bytes": 512.0 * MIB, "wall_s": 2.013, "output_files": 10_001.0, "fuel": 7.0},
    log_tail="".join(f"line {n}\n" for n in range(100)),
)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("memory_limit", " [memory_limit: used 512 MiB of 512 MiB]"),
        ("deadline", " [deadline: used 2.01 s of 2 s]"),
        ("file_limit", " [file_limit: used 10001 of 10000]"),
        ("fuel_exhausted", " [fuel_exhausted: used 7]"),
        ("cpu_limit", " [cpu_limit]"),
        ("trap:unreachable", " [trap:unreachable]"),
        ("", ""),
    ],
)
def test_a_limit_is_told_with_what_was_used_of_it(code, said):
    assert reports.reason("over", code, REPORT) == f": over{said}"


def test_a_run_without_a_report_is_told_by_its_code():
    assert reports.reason("", "memory_limit", None) == " [memory_limit]"
    assert reports.reason("p1 denied: no_slot", "no_slot", None) == ": p1 denied: no_slot"


def test_the_last_lines_of_stderr_are_told_below(capsys):
    reports.tell_log(REPORT)
    told = capsys.readouterr().err.splitlines()
    assert told == ["its stderr ended with:", *(f"  line {n}" for n in range(90, 100))]
    reports.tell_log(Report())
    assert capsys.readouterr().err == ""
