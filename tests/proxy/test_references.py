"""Image references: what is accepted, what is refused and why, and where a registry is spoken to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.addresses import endpoints, registry_name
from swashplate.errors import ConfigurationError, InvalidRequestError
from swashplate.references import Reference, is_repository, parse

DIGEST = "sha256:" + "0a" * 32

hosts = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5}){0,2}", fullmatch=True),
    st.sampled_from(["[::1]", "127.0.0.1", "localhost"]),
)
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
repositories = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}(/[a-z0-9]+){0,2}", fullmatch=True)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)


@given(hosts, ports, repositories, tags)
def test_every_valid_reference_survives_a_round_trip(host, port, repository, tag):
    parsed = parse(f"{host}{port}/{repository}:{tag}")
    assert parsed == Reference(f"{host}{port}", repository, tag)
    assert parse(str(parsed)) == parsed


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_refused_with_a_code(text):
    try:
        parsed = parse(text)
    except InvalidRequestError as error:
        code = error.code
    else:
        assert is_repository(parsed.repository)
        assert ".." not in parsed.repository.split("/")
        return
    assert code == "invalid_reference"


def test_the_tag_is_latest_when_none_is_given():
    assert parse("ghcr.io/owner/app").selector == "latest"


def test_a_digest_decides_over_a_tag():
    parsed = parse(f"ghcr.io/owner/app:v1@{DIGEST}")
    assert parsed.selector == DIGEST
    assert str(parsed) == f"ghcr.io/owner/app@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("app", "it names no registry"),
        ("app:latest", "it names no registry"),
        ("https://ghcr.io/owner/app", "has no scheme"),
        ("ghcr.io/Owner/app:latest", "invalid repository 'Owner/app': it must be lower case"),
        ("ghcr.io/", "invalid repository '': it is empty"),
        ("ghcr.io/a//b", "invalid repository 'a//b'"),
        ("ghcr.io/../etc/passwd", "invalid repository '../etc/passwd'"),
        ("ghcr.io/a/../../etc", "invalid repository"),
        ("ghcr.io/" + "a" * 256, "longer than 255"),
        ("ghcr.io/app:", "invalid tag ''"),
        ("ghcr.io/app:v 1", "space"),
        ("ghcr.io/app:" + "a" * 129, "invalid tag"),
        ("ghcr.io/app@sha256:abc", "invalid digest 'sha256:abc'"),
        ("ghcr.io/app@sha512:" + "0" * 128, "invalid digest"),
        ("ghcr.io:0/app", "invalid port '0'"),
        ("ghcr.io:70000/app", "invalid port '70000'"),
        ("ghcr.io:/app", "invalid port ''"),
        ("user@ghcr.io/app", "invalid digest"),
        ("/app", "invalid registry '': it is empty"),
        ("[::zz]/app", "not an IPv6 address"),
        ("ghcr.io/app\n", "control character"),
    ],
)
def test_a_wrong_reference_says_what_is_wrong(text, reason):
    with pytest.raises(InvalidRequestError) as refused:
        parse(text)
    assert reason in refused.value.sentence
    assert refused.value.code == "invalid_reference"


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("ghcr.io", "https://ghcr.io"),
        ("ghcr.io:443", "https://ghcr.io:443"),
        ("docker.io", "https://registry-1.docker.io"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.9.9.9", "http://127.9.9.9"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("localhost.example.org", "https://localhost.example.org"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
    ],
)
def test_tls_is_the_rule_except_on_this_machine(registry, url):
    assert endpoints().url(registry) == url


def test_a_registry_url_with_http_is_spoken_to_without_tls():
    known = endpoints(registry_url="http://lab:5000")
    assert known.url("lab:5000") == "http://lab:5000"
    assert known.url("lab:5001") == "https://lab:5001"


def test_a_registry_url_with_https_is_spoken_to_with_tls_whatever_else_is_said():
    known = endpoints(registry_url="https://localhost:5443/", plain_http="localhost:5443")
    assert known.url("localhost:5443") == "https://localhost:5443"


def test_the_registry_among_containers_speaks_plain_http_unless_its_url_says_otherwise():
    assert endpoints(registry_url="ghcr.io").url("local-registry:5000") == "http://local-registry:5000"
    known = endpoints(registry_url="https://local-registry:5000")
    assert known.url("local-registry:5000") == "https://local-registry:5000"


@pytest.mark.parametrize("url", ["docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_has_one_address_under_all_its_names(url):
    known = endpoints(registry_url=url)
    assert known.url(registry_name(url)) == known.url("docker.io") == "https://registry-1.docker.io"


def test_upper_case_is_answered_with_the_spelling_that_works():
    for rest in ("", ":v1", "@sha256:" + "0" * 64):
        with pytest.raises(InvalidRequestError) as refused:
            parse(f"ghcr.io/YourName/fl-client-wasm{rest}")
        assert refused.value.hint == f"write ghcr.io/yourname/fl-client-wasm{rest}"


def test_plain_http_hosts_are_named_one_by_one():
    known = endpoints(plain_http="lab:5000, http://other")
    assert known.url("lab:5000") == "http://lab:5000"
    assert known.url("other") == "http://other"
    assert known.url("lab") == "https://lab"


def test_aliases_make_both_names_of_the_local_registry_mean_the_same():
    known = endpoints(
        aliases="local-registry:5000=http://127.0.0.1:5100,localhost:5000=http://127.0.0.1:5100/,hub=ghcr.io"
    )
    assert known.url("local-registry:5000") == known.url("localhost:5000") == "http://127.0.0.1:5100"
    assert known.url("hub") == "https://ghcr.io"


def test_a_short_docker_hub_name_is_in_library():
    assert endpoints().base(parse("docker.io/wasm")) == "https://registry-1.docker.io/v2/library/wasm"
    assert endpoints().base(parse("docker.io/me/wasm")) == "https://registry-1.docker.io/v2/me/wasm"


@pytest.mark.parametrize(
    "wrong",
    [
        {"aliases": "local-registry:5000"},
        {"aliases": "a b=http://x"},
        {"aliases": "x=ftp://y"},
        {"registry_url": "ftp://ghcr.io"},
        {"registry_url": "http://"},
        {"plain_http": "user@host"},
    ],
)
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ConfigurationError, match="setting PROXY_"):
        endpoints(**wrong)
