"""What a registry asks for, read from its headers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.auth import Challenge, Credentials, choose, parse_challenge


def test_a_bearer_challenge_names_realm_service_and_scope():
    header = 'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:a/b:pull,push"'
    assert parse_challenge(header) == Challenge(
        "bearer", "https://ghcr.io/token", "ghcr.io", "repository:a/b:pull,push"
    )


def test_values_may_be_unquoted_escaped_and_spaced():
    assert parse_challenge(r'bearer realm = "a\"b" , service=x') == Challenge("bearer", 'a"b', "x")


def test_bearer_is_preferred_and_unknown_schemes_are_passed_over():
    assert choose(["Negotiate", 'Basic realm="r"', 'Bearer realm="t"']) == Challenge("bearer", "t")
    assert choose(['Basic realm="r"']) == Challenge("basic", "r")
    assert choose(["Negotiate"]) is None


@given(st.text(max_size=60))
def test_any_header_is_read_without_an_error(header):
    parse_challenge(header)


def test_credentials_do_not_show_in_a_traceback():
    assert "secret" not in repr(Credentials("ghcr.io", "me", "secret"))
