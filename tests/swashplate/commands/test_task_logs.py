"""A log on the command line: whole lines, and what is missing told where it is missing."""

from __future__ import annotations

from swashplate.client import LogPart
from swashplate.commands.task_logs import Lines


def test_lines_are_put_together_and_what_is_missing_stands_where_it_is_missing():
    written: list[str] = []
    lines = Lines(written.append, "p1 | ")
    for text, dropped in (("one\ntw", 0), ("o\nthr", 0), ("five\n", 7), ("end", 0)):
        lines.feed(LogPart(text=text, dropped=dropped))
    assert written == ["p1 | one", "p1 | two", "p1 | thr", "p1 | [7 bytes missing here]", "p1 | five"]
    lines.end()
    assert written[-1] == "p1 | end"


def test_a_line_that_is_not_over_goes_on_elsewhere():
    first: list[str] = []
    second: list[str] = []
    lines = Lines(first.append)
    lines.feed(LogPart(text="one\ntw"))
    following = lines.going_on(second.append)
    lines.end()
    following.feed(LogPart(text="o\n"))
    assert (first, second) == (["one"], ["two"])
