"""What people type, and the id that they mean."""

import pytest

from swashplate.commands.naming import chosen
from swashplate.errors import InvalidRequestError, NotFoundError

KNOWN = [("3f2a-1", "add"), ("3f2b-2", "add"), ("91bc-3", "hello"), ("91", "short"), ("d1d1-4", "x"), ("77-5", "d1")]


@pytest.mark.parametrize(
    ("given", "full"),
    [("3f2a", "3f2a-1"), ("9", None), ("91", "91"), ("91b", "91bc-3"), ("hello", "91bc-3"), ("d1", "77-5")],
)
def test_a_beginning_that_one_id_has_a_whole_id_and_a_name_are_enough(given, full):
    if full is None:
        with pytest.raises(InvalidRequestError):
            chosen(given, KNOWN, "task")
    else:
        assert chosen(given, KNOWN, "task") == full


@pytest.mark.parametrize("given", ["3f2", "add"])
def test_several_candidates_are_named(given):
    with pytest.raises(InvalidRequestError) as caught:
        chosen(given, KNOWN, "task")
    assert caught.value.code == "ambiguous_id"
    assert "3f2a-1 (add), 3f2b-2 (add)" in caught.value.sentence


def test_tasks_of_one_name_are_counted_even_when_not_all_were_looked_at():
    with pytest.raises(InvalidRequestError, match="'add' could be 9 tasks") as caught:
        chosen("add", KNOWN, "task", beyond=7)
    assert caught.value.hint == "type the id of one"


def test_nothing_found_is_an_error_that_names_the_kind():
    with pytest.raises(NotFoundError) as caught:
        chosen("zz", KNOWN, "workflow")
    assert caught.value.code == "workflow_not_found"
    assert caught.value.hint == "swashplate workflow list shows them"
