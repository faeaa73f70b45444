"""The old chunk protocol and the kept results, each by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proplet.legacy_fetch import LegacyAssembly
from proplet.legacy_results import Kept, Shelf
from swashplate.errors import IntegrityError, InvalidRequestError, TooLargeError
from swashplate.messages.legacy import LegacyChunk


def chunk(content: bytes, index: int, total: int) -> LegacyChunk:
    return LegacyChunk.of(content, app_name="a", chunk_idx=index, total_chunks=total)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9), st.data())
def test_chunks_in_any_order_and_twice_make_the_binary(pieces, data):
    order = data.draw(st.permutations(range(len(pieces))))
    again = data.draw(st.lists(st.sampled_from(order), max_size=5))
    assembly = LegacyAssembly("a", 1000)
    for index in (*order[:-1], *(i for i in again if i != order[-1])):
        assembly.take(chunk(pieces[index], index, len(pieces)))
        assert not assembly.complete
    assembly.take(chunk(pieces[order[-1]], order[-1], len(pieces)))
    assert assembly.complete
    assert assembly.content() == b"".join(pieces)


@pytest.mark.parametrize(("index", "total"), [(1, 3), (2, 2), (5, 2)])
def test_a_chunk_that_contradicts_the_others_is_refused(index, total):
    assembly = LegacyAssembly("a", 1000)
    assembly.take(chunk(b"x", 0, 2))
    with pytest.raises(IntegrityError):
        assembly.take(chunk(b"x", index, total))


def test_a_binary_over_the_limit_is_refused_before_it_is_whole():
    assembly = LegacyAssembly("a", 10)
    assembly.take(chunk(b"x" * 10, 0, 3))
    with pytest.raises(TooLargeError):
        assembly.take(chunk(b"x", 1, 3))


def test_a_chunk_that_is_not_base64_is_refused():
    with pytest.raises(InvalidRequestError):
        LegacyAssembly("a", 10).take(LegacyChunk(app_name="a", chunk_idx=0, total_chunks=1, data="?"))


async def test_results_stay_on_the_shelf_until_forgotten(tmp_path):
    shelf = Shelf(tmp_path / "legacy")
    await shelf.keep(Kept("../../t", b"{}", b"update"))
    await shelf.keep(Kept("u", b'{"a": 1}'))
    await shelf.keep(Kept("u", b'{"a": 2}'))
    shelf.close()
    again = Shelf(tmp_path / "legacy")
    assert {kept.task_id: kept for kept in await again.left()} == {
        "../../t": Kept("../../t", b"{}", b"update"),
        "u": Kept("u", b'{"a": 2}'),
    }
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "legacy").iterdir()} == {0o600}
    await again.forget("u")
    await again.forget("never kept")
    (tmp_path / "legacy" / "altered.json").write_text('{"task_id": 1}')
    assert [kept.task_id for kept in await again.left()] == ["../../t"]
    again.close()
