"""What the identity service answers, as SuperMQ would."""

from __future__ import annotations

import pytest

from tests.support.identity import Identity
from tests.support.stack import poll

EVERYTHING = [
    ("domains", "GET", "/domains"),
    ("domains", "POST", "/domains"),
    ("domains", "GET", "/domains/d"),
    ("channels", "GET", "/d/channels"),
    ("channels", "POST", "/d/channels"),
    ("channels", "GET", "/d/channels/c"),
    ("channels", "POST", "/d/channels/connect"),
    ("channels", "POST", "/d/channels/disconnect"),
    ("clients", "GET", "/d/clients"),
    ("clients", "POST", "/d/clients"),
    ("clients", "GET", "/d/clients/c"),
    ("clients", "DELETE", "/d/clients/c"),
    ("clients", "PATCH", "/d/clients/c/secret"),
    ("clients", "POST", "/d/clients/c/enable"),
    ("clients", "POST", "/d/clients/c/disable"),
]


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """One service for every test that makes a domain of its own."""
    with Identity(tmp_path_factory.mktemp("identity")) as running:
        yield running.log_in()


@pytest.fixture
def domain(identity, request):
    return identity.domain("d-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[:200])


@pytest.mark.parametrize(("service", "method", "path"), EVERYTHING)
def test_nothing_is_told_or_done_without_a_token(identity, service, method, path):
    refresh = identity.call(
        "users", "POST", "/users/tokens/issue", {"username": "admin", "password": "12345678"}, token=""
    )[1]["refresh_token"]
    forged = identity.token[:-1] + ("0" if identity.token[-1] != "0" else "1")
    for token in ("", "nonsense", "tök", forged, refresh):
        status, answer = identity.call(service, method, path, {}, token=token)
        assert (status, answer["code"]) in {(401, "unauthorized"), (401, "invalid_token")}, answer


def test_an_expired_token_is_refused(tmp_path):
    with Identity(tmp_path, TOKEN_TTL="1ms") as identity:
        login = {"username": "admin", "password": "12345678"}
        _, told = identity.call("users", "POST", "/users/tokens/issue", login)

        def expired():
            status, answer = identity.call("domains", "GET", "/domains", token=told["access_token"])
            return (status, answer.get("code")) == (401, "expired_token")

        poll(expired, within=5)


def test_a_refresh_token_gets_new_tokens(identity):
    login = {"username": "admin", "password": "12345678"}
    _, answer = identity.call("users", "POST", "/users/tokens/issue", login)
    status, fresh = identity.call("users", "POST", "/users/tokens/refresh", token=answer["refresh_token"])
    assert status == 201
    assert identity.call("domains", "GET", "/domains", token=fresh["access_token"])[0] == 200
    assert identity.call("users", "POST", "/users/tokens/refresh", token=answer["access_token"])[0] == 401


@pytest.mark.parametrize(
    "login",
    [
        {"username": "admin", "password": "wrong"},
        {"username": "who", "password": "12345678"},
        {},
        {"username": "admin"},
    ],
)
def test_a_wrong_login_gets_no_token(identity, login):
    status, answer = identity.call("users", "POST", "/users/tokens/issue", login, token="")
    assert status == 401
    assert "access_token" not in answer


def test_each_port_has_its_own_routes_and_health(identity):
    for service in ("users", "domains", "channels", "clients"):
        assert identity.call(service, "GET", "/health", token="") == (200, {"status": "ok"})
    assert identity.call("users", "GET", "/domains")[0] == 404
    assert identity.call("domains", "GET", "/d/clients")[0] == 404
    assert identity.call("clients", "PUT", "/d/clients")[0] == 405


def test_a_route_is_given_to_one_domain(identity):
    made = identity.made("domains", "/domains", {"name": "one", "route": "taken"})
    assert identity.call("domains", "GET", f"/domains/{made['id']}") == (200, made)
    status, answer = identity.call("domains", "POST", "/domains", {"name": "two", "route": "taken"})
    assert status == 409
    assert "route" in answer["error"]


def test_a_key_is_in_the_answer_that_made_it_and_nowhere_else(identity, domain):
    made = identity.client(domain, "manager")
    key = made["credentials"]["secret"]
    assert len(key) == 64
    _, read = identity.call("clients", "GET", f"/{domain}/clients/{made['id']}")
    _, listed = identity.call("clients", "GET", f"/{domain}/clients")
    assert read == listed["clients"][0] == {**made, "credentials": {}}
    status, changed = identity.call(
        "clients", "PATCH", f"/{domain}/clients/{made['id']}/secret", {"secret": "one-of-our-own"}
    )
    assert (status, changed["credentials"]) == (200, {})
    for path in identity.folder.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes()
            assert b"one-of-our-own" not in path.read_bytes()


def test_an_id_and_a_key_can_be_brought_along_once(identity, domain):
    body = {"id": "of-my-own", "credentials": {"secret": "mine"}}
    made = identity.client(domain, "manager", **body)
    assert (made["id"], made["credentials"]["secret"]) == ("of-my-own", "mine")
    status, answer = identity.call("clients", "POST", f"/{domain}/clients", {"name": "other", **body})
    assert (status, answer["code"]) == (409, "id_taken")
    assert identity.call("clients", "DELETE", f"/{domain}/clients/of-my-own")[0] == 204
    identity.client(domain, "manager", **body)


def test_two_clients_may_have_one_name(identity, domain):
    assert identity.client(domain, "manager")["id"] != identity.client(domain, "manager")["id"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"name": 1}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"tags": "one"}, "tags"),
        ({"tags": [1]}, "tags"),
        ({"metadata": []}, "metadata"),
        ({"status": "asleep"}, "status"),
        ({"credentials": "x"}, "credentials"),
        ({"credentials": {"secret": 1}}, "secret"),
        ({"credentials": {"secret": "x" * 73}}, "key"),
        ({"credentials": {"secret": "a b"}}, "key"),
        ({"id": "a/b"}, "client id"),
        ({"id": "a:b"}, "client id"),
        ({"id": "+"}, "client id"),
        ({"id": "#"}, "client id"),
        ({"id": "a b"}, "client id"),
        ({"name": "proplet-1", "id": "server"}, "server"),
        ({"metadata": {"role": "proplett"}}, "role"),
        ({"metadata": {"role": ["manager", {}]}}, "role"),
        ({"metadata": {"role": []}}, "role"),
        (b"{", "JSON"),
        (b"[]", "object"),
    ],
)
def test_a_wrong_client_is_a_400_that_names_the_field_and_is_not_made(identity, domain, body, named):
    status, answer = identity.call("clients", "POST", f"/{domain}/clients", body)
    assert status == 400, answer
    assert named in answer["error"]
    assert identity.call("clients", "GET", f"/{domain}/clients?status=all")[1]["total"] == 0


def test_what_is_not_known_of_a_body_is_let_pass(identity, domain):
    assert "colour" not in identity.client(domain, "x", colour="red")


@pytest.mark.parametrize("service", ["channels", "clients"])
def test_nothing_is_made_or_found_in_a_domain_that_there_is_not(identity, service):
    for method, body in (("GET", None), ("POST", {"name": "x"})):
        status, answer = identity.call(service, method, f"/nowhere/{service}", body)
        assert (status, answer["code"]) == (404, "domain_not_found")


def test_nobody_reaches_into_another_domain(identity, domain):
    theirs = identity.domain("theirs")
    made = identity.client(theirs, "manager")["id"]
    assert identity.call("clients", "GET", f"/{domain}/clients/{made}")[0] == 404
    assert identity.call("clients", "DELETE", f"/{domain}/clients/{made}")[0] == 404
    assert identity.call("clients", "PATCH", f"/{domain}/clients/{made}/secret", {"secret": "x"})[0] == 404
    body = {"client_ids": [made], "channel_ids": [identity.channel(domain)], "types": ["publish"]}
    assert identity.call("channels", "POST", f"/{domain}/channels/connect", body)[0] == 404


def test_lists_come_in_pages(identity, domain):
    made = [identity.client(domain, f"proplet-{n}")["id"] for n in range(1, 13)]
    _, first = identity.call("clients", "GET", f"/{domain}/clients")
    _, second = identity.call("clients", "GET", f"/{domain}/clients?offset=10&limit=100")
    assert (first["total"], first["offset"], first["limit"]) == (12, 0, 10)
    assert [each["id"] for each in first["clients"] + second["clients"]] == made
    _, named = identity.call("clients", "GET", f"/{domain}/clients?name=proplet-1&limit=100")
    assert [each["name"] for each in named["clients"]] == ["proplet-1", "proplet-10", "proplet-11", "proplet-12"]
    for query in ("limit=101", "limit=0", "limit=x", "offset=-1", "status=asleep"):
        assert identity.call("clients", "GET", f"/{domain}/clients?{query}")[0] == 400


def test_a_disabled_client_is_listed_when_asked_for(identity, domain):
    made = identity.client(domain, "manager")["id"]
    status, answer = identity.call("clients", "POST", f"/{domain}/clients/{made}/disable")
    assert (status, answer["status"]) == (200, "disabled")
    assert identity.call("clients", "POST", f"/{domain}/clients/{made}/disable")[0] == 409
    totals = {
        query: identity.call("clients", "GET", f"/{domain}/clients{query}")[1]["total"]
        for query in ("", "?status=enabled", "?status=disabled", "?status=all")
    }
    assert totals == {"": 0, "?status=enabled": 0, "?status=disabled": 1, "?status=all": 1}
    assert identity.call("clients", "POST", f"/{domain}/clients/{made}/enable")[1]["status"] == "enabled"


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"types": []}, 400, "types"),
        ({"types": ["shout"]}, 400, "types"),
        ({"types": "publish"}, 400, "types"),
        ({"client_ids": []}, 400, "client_ids"),
        ({"channel_ids": [1]}, 400, "channel_ids"),
        ({"client_ids": ["nobody"]}, 404, "nobody"),
        ({"channel_ids": ["nowhere"]}, 404, "nowhere"),
    ],
)
def test_a_wrong_connection_connects_nobody(identity, domain, change, status, named):
    known, channel = identity.client(domain, "proplet-1")["id"], identity.channel(domain)
    body = {"client_ids": [known], "channel_ids": [channel], "types": ["publish"], **change}
    if change == {"client_ids": ["nobody"]}:
        body["client_ids"] = [known, "nobody"]
    found, answer = identity.call("channels", "POST", f"/{domain}/channels/connect", body)
    assert found == status, answer
    assert named in answer["error"]
    assert known not in (identity.broker_folder / "acl").read_text()


def test_connecting_again_changes_nothing(identity, domain):
    client, channel = identity.client(domain, "proplet-1")["id"], identity.channel(domain)
    identity.connect(domain, channel, client)
    before = (identity.broker_folder / "acl").stat()
    identity.connect(domain, channel, client)
    assert (identity.broker_folder / "acl").stat().st_ino == before.st_ino
