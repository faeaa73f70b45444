"""Parameters say what they take, and take nothing else."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from swashplate.errors import InvalidRequestError
from swashplate.http import OFFSET, Choice, JsonObject, Seconds, Text, limit_of

LIMIT = limit_of(100)
WAIT = Seconds(name="wait", text="", high=300)
STATUS = Choice(name="status", text="", choices=("active", "inactive"))
METADATA = JsonObject(name="metadata", text="")
NAME = Text(name="name", text="", shortest=1, longest=5, pattern="[a-z]+")
KEY = Text(name="Idempotency-Key", text="", place="header", required=True)


def request(query: str = "", **headers: str):
    return make_mocked_request("GET", f"/x?{query}", headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    ("parameter", "query", "expected"),
    [
        (OFFSET, "", 0),
        (OFFSET, "offset=7", 7),
        (LIMIT, "", 100),
        (LIMIT, "limit=1", 1),
        (WAIT, "", 0),
        (WAIT, "wait=1.5", 1.5),
        (STATUS, "", ""),
        (STATUS, "status=inactive", "inactive"),
        (METADATA, "", None),
        (METADATA, 'metadata={"a":[1]}', {"a": [1]}),
        (NAME, "name=abc", "abc"),
    ],
)
def test_a_parameter_reads_itself(parameter, query, expected):
    assert parameter.of(request(query)) == expected


@pytest.mark.parametrize(
    ("parameter", "query", "reason"),
    [
        (LIMIT, "limit=0", "query parameter limit must be between 1 and 100, got '0'"),
        (LIMIT, "limit=101", "between 1 and 100"),
        (LIMIT, "limit=", "a whole number"),
        (LIMIT, "limit=1.0", "a whole number"),
        (LIMIT, "limit=+1", "a whole number"),
        (LIMIT, "limit=1_0", "a whole number"),
        (LIMIT, "limit=%EF%BC%91", "a whole number"),
        (LIMIT, "limit=1&limit=2", "query parameter limit is given 2 times"),
        (OFFSET, "offset=-1", "between 0 and"),
        (OFFSET, "offset=" + "9" * 5000, "a whole number"),
        (OFFSET, "offset=9007199254740992", "between 0 and"),
        (WAIT, "wait=nan", "seconds"),
        (WAIT, "wait=inf", "seconds"),
        (WAIT, "wait=-1", "seconds"),
        (WAIT, "wait=300.5", "between 0 and 300 seconds"),
        (STATUS, "status=Active", "must be active or inactive"),
        (STATUS, "status=", "must be active or inactive"),
        (METADATA, "metadata={", "a JSON object"),
        (METADATA, "metadata=[]", "a JSON object"),
        (METADATA, 'metadata={"a":1,"a":2}', "field a: the key is given twice"),
        (METADATA, 'metadata={"a":NaN}', "field a: numbers must be finite"),
        (METADATA, "metadata=" + '{"a":' * 5000, "a JSON object"),
        (NAME, "name=", "1 to 5 characters"),
        (NAME, "name=abcdef", "1 to 5 characters"),
        (NAME, "name=A", "like"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason(parameter, query, reason):
    with pytest.raises(InvalidRequestError) as caught:
        parameter.of(request(query))
    assert parameter.name in caught.value.sentence
    assert reason in caught.value.sentence


def test_a_header_is_a_parameter_too():
    assert KEY.of(request(Idempotency_Key="k")) == "k"
    with pytest.raises(InvalidRequestError, match="header Idempotency-Key is required"):
        KEY.of(request())
