from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swashplate.dotenv import parse, values


@given(st.binary())
def test_no_byte_of_a_file_is_lost(content):
    assert b"\n".join(line.raw for line in parse(content)) == content
    assert set(values(content)) == {line.key for line in parse(content) if line.active}


@pytest.mark.parametrize(
    ("raw", "key", "active", "value", "comment"),
    [
        (b"K=v", "K", True, "v", ""),
        (b"K=v # why \r", "K", True, "v", "# why"),
        (b"K='v'# why", "K", True, "v", "# why"),
        (b'  export K = "a # b" # c', "K", True, "a # b", "# c"),
        (b"K=#v", "K", True, "#v", ""),
        (b"K= #v", "K", True, "", "#v"),
        (b'K="unclosed # c', "K", True, '"unclosed', "# c"),
        (b"# K=v # why", "K", False, "v", "# why"),
        (b"# prose", None, False, "", ""),
        (b"1K=v", None, False, "", ""),
        (b"", None, False, "", ""),
    ],
)
def test_a_line_is_taken_apart(raw, key, active, value, comment):
    [line] = parse(raw)
    assert (line.key, line.active, line.value, line.comment) == (key, active, value, comment)
