"""What people read."""

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from swashplate.commands import output

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ms"), (0.0304, "30 ms"), (4.23, "4.2 s"), (12, "12 s"), (180, "3 min"), (7200, "2 h"), (5 * 86400, "5 d")],
)
def test_durations_are_short(value, text):
    assert output.seconds(value) == text


def test_moments_are_told_from_now():
    assert output.ago(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert output.ago(NOW + timedelta(seconds=57), NOW) == "in 57 s"
    assert output.ago(None) == ""
    assert output.took(NOW, NOW + timedelta(milliseconds=7)) == "7 ms"


def test_a_guest_cannot_steer_a_terminal():
    assert output.clean("\x1b[2Jx\x07\r\n") == "\\x1b[2Jx\\x07\\r\n"


@pytest.mark.parametrize(
    ("widths", "yielding", "room", "fitted"),
    [
        ([8, 40, 90], {1, 2}, 200, [8, 40, 90]),
        ([8, 40, 90], {1, 2}, 68, [8, 30, 30]),
        ([8, 10, 90], {1, 2}, 68, [8, 10, 50]),
        ([8, 40, 90], {1, 2}, 0, [8, output.NARROWEST, output.NARROWEST]),
    ],
)
def test_wide_columns_share_what_the_others_leave(widths, yielding, room, fitted):
    assert output.fitting(widths, yielding, room) == fitted


TABLE = (
    "from swashplate.commands import output; output.table(('id', 'remark'),"
    " [('7e235865-0000', 'much too long ' * 20 + '\\nin two lines')], wrap=('remark',))"
)


def test_a_pipe_gets_whole_lines_and_a_narrow_terminal_whole_ids():
    piped = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True, check=True).stdout
    assert piped.splitlines()[1].endswith("too long in two lines")
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm", "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", TABLE], stdout=follower, env=environment, check=True)
    os.close(follower)
    row = next(line for line in os.read(leader, 1 << 16).decode().splitlines() if "7e235865" in line)
    os.close(leader)
    assert row.split()[0] == "7e235865-0000"
    assert row.rstrip().endswith("…")
    assert len(row.rstrip()) <= 40
