"""What a guest writes to stderr, in the log of the proplet."""

from __future__ import annotations

import time

from proplet.runtime.guest_log import LONGEST_LINE, TAIL_BYTES, GuestLog

ROOM = 1 << 30
CUT = "stderr of the task was cut"


def lines(logged) -> list[str]:
    return [line["event"] for line in logged if line["event"] != CUT]


def test_lines_are_whole_however_they_come(logged):
    log = GuestLog("t", ROOM)
    for piece in (b"on", b"e\ntwo\nth", b"ree", b"\n\nfour"):
        log.feed(piece)
    assert lines(logged) == ["one", "two", "three"]
    log.close()
    assert lines(logged) == list(log.last) == ["one", "two", "three", "four"]
    assert (log.tail, log.received) == ("one\ntwo\nthree\n\nfour", 19)


def test_a_byte_costs_the_same_however_many_came_before_it():
    """Half a million of them in one line: copied for each byte, it was minutes."""
    log, began = GuestLog("t", ROOM), time.process_time()
    for _ in range(1 << 19):
        log.feed(b"x")
    assert time.process_time() - began < 5
    assert log.tail == "x" * TAIL_BYTES


def test_what_is_logged_is_bounded_by_the_limit_of_the_run(logged):
    log = GuestLog("t", 1000)
    for number in range(20):
        log.feed(b"%02d%s\n" % (number, b"x" * 98))
    assert [line[:2] for line in lines(logged)] == ["00", "01", "02", "03", "04"]
    assert [line["limit"] for line in logged if line["event"] == CUT] == [1000]


def test_a_line_that_never_ends_is_cut(logged):
    small, large = GuestLog("t", 500), GuestLog("t", ROOM)
    for _ in range(6):
        small.feed(b"x" * 100)
    assert [line["limit"] for line in logged if line["event"] == CUT] == [500]
    for _ in range(LONGEST_LINE // 100 + 1):
        large.feed(b"y" * 100)
    assert [len(line) for line in lines(logged)] == [(LONGEST_LINE // 100 + 1) * 100]
