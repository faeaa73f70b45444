"""What messages refuse, and what they say about it."""

import pytest

from swashplate.errors import InvalidRequestError
from swashplate.messages import InvokeRequest, Result, TaskCreate


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('{"env":{"":"x"}}', "field env: the name of a variable must not be empty"),
        ('{"env":{"A=B":"x"}}', "field env: the name of a variable must not contain '=': 'A=B'"),
        ('{"env":{"A":"x\\u0000"}}', "field env: variable 'A' must not contain NUL"),
        ('{"inputs":[1,true]}', "field inputs.1: an input is a string or a number"),
        ('{"inputs":[null]}', "field inputs.0: an input is a string or a number"),
        ('{"inputs":[1e400]}', "field inputs.0: numbers must be finite"),
    ],
)
def test_a_refused_variable_or_input_is_named_with_the_reason(body, sentence):
    for text, model in ((body, InvokeRequest), ('{"name":"a",' + body[1:], TaskCreate)):
        with pytest.raises(InvalidRequestError) as caught:
            model.decode(text)
        assert sentence in caught.value.sentence


def test_numbers_travel_as_text():
    assert TaskCreate.decode('{"name":"a","inputs":[2,-1.5,"x"]}').inputs == ["2", "-1.5", "x"]


def test_an_endless_reason_is_cut_and_a_short_one_is_not():
    said = Result(id="m", task_id="t", attempt=1, proplet_id="p", error="e" * 900_000, code="c" * 10_000)
    assert said.error == "e" * (16 * 1024 - 1) + "…"
    assert len(said.code) == 128
    assert Result(id="m", task_id="t", attempt=1, proplet_id="p", error="no", code="guest_exit").error == "no"
