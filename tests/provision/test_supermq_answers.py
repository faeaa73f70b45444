"""What provisioning says about services that are not there, not themselves, or not in the mood."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import env_file, supermq_http
from provision.enrolment import choose_domain, find
from provision.provision_smq import addresses, parser
from swashplate.errors import ConfigurationError, ForbiddenError, SwashplateError, UnauthorizedError, UnavailableError
from tests.support import certificates
from tests.support.ports import free_port
from tests.support.supermq import front, identity, provision


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@contextmanager
def server(reply: bytes | None, tls: ssl.SSLContext | None = None):
    """A port that answers every connection with ``reply``, with nothing for None; yields the arguments that lead there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if reply is None:
                    held.append(connection)
                    continue
                try:
                    with tls.wrap_socket(connection, server_side=True) if tls else connection as open_connection:
                        open_connection.recv(65536)
                        open_connection.sendall(reply)
                        # Closing with something unread would throw the reply away.
                        open_connection.shutdown(socket.SHUT_WR)
                        while open_connection.recv(65536):
                            pass
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def at(port: int, scheme: str = "http") -> list[str]:
    return [
        part
        for service in ("users", "domains", "channels", "clients")
        for part in (f"--{service}-url", f"{scheme}://127.0.0.1:{port}")
    ]


def http(text: str, kind: str = "application/json", status: str = "200 OK", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n{more}Connection: close\r\n\r\n"
    )
    return (head + text).encode()


async def refusal(arguments: list[str], path: Path, *more: str) -> SwashplateError:
    """The error of a run that must not touch the env file."""
    path.write_text("A=1\n")
    with pytest.raises(SwashplateError) as raised:
        await provision(arguments, path, *more)
    assert path.read_text() == "A=1\n"
    assert [each.name for each in path.parent.glob(".env*")] == [".env"]
    return raised.value


async def test_a_service_that_is_not_there_is_named_after_the_wait(path, tmp_path, capsys):
    async with identity(tmp_path) as service:
        gone = free_port()
        error = await refusal([*service.arguments, "--channels-url", f"http://127.0.0.1:{gone}"], path, "--wait", "0.3")
        assert isinstance(error, UnavailableError)
        assert error.sentence.startswith(f"the channels service (http://127.0.0.1:{gone}) is not there after 0.3 s")
        assert f"nothing listens on port {gone}" in error.sentence
        assert await service.clients() == {}
    assert "waiting for the channels service" in capsys.readouterr().err


async def test_a_service_that_comes_while_it_is_waited_for_is_used(path, tmp_path):
    late = threading.Event()

    def not_yet(request, status, body):
        """The first question is answered as by a proxy in front of a service that starts."""
        if request.path == "/health" and not late.is_set():
            late.set()
            return 502, None
        return (404, None) if request.path == "/health" else (status, body)

    async with identity(tmp_path) as service, front(service, not_yet) as arguments:
        await provision(arguments, path)
    assert late.is_set()
    assert env_file.read(path)["MANAGER_CLIENT_ID"]


async def test_a_wrong_password_is_said_and_not_shown(path, tmp_path):
    async with identity(tmp_path) as service:
        error = await refusal([*service.arguments, "--user", "me", "--password", "wrong-one"], path)
    assert isinstance(error, UnauthorizedError)
    assert "refuses user 'me'" in error.sentence
    assert "SMQ_PASSWORD" in str(error.hint)
    assert "wrong-one" not in f"{error.sentence}{error.hint}"


async def test_what_a_user_may_not_do_is_named_with_the_services_reason(path, tmp_path):
    def forbids(request, status, body):
        if request.method == "POST" and request.path.endswith("/clients"):
            return 403, {"error": "", "message": "no\x1b[31m rights"}
        return status, body

    async with identity(tmp_path) as service, front(service, forbids) as arguments:
        error = await refusal(arguments, path)
    assert isinstance(error, ForbiddenError)
    assert "the clients service" in error.sentence
    assert error.sentence.endswith(": no [31m rights")


async def test_a_redirection_is_not_followed_with_the_token(path, tmp_path):
    def moved(request, status, body):
        return (307, None) if request.path == "/domains" else (status, body)

    async with identity(tmp_path) as service, front(service, moved) as arguments:
        error = await refusal(arguments, path)
    assert "the domains service" in error.sentence
    assert "with a redirection (307)" in error.sentence


async def test_a_list_without_end_or_total_comes_to_an_end(path, tmp_path):
    def forgetful(request, status, body):
        if request.method == "GET" and isinstance(body, dict) and "total" in body:
            del body["total"]
        return status, body

    async with identity(tmp_path) as service, front(service, forgetful) as arguments:
        await provision(arguments, path)
        before = path.read_bytes()
        await provision(arguments, path)
        assert path.read_bytes() == before


@pytest.mark.parametrize("record", [7, {}, {"id": 7}, {"id": ""}, {"id": "\ud800"}, {"id": "a\nb"}])
async def test_a_list_of_something_else_is_refused(path, tmp_path, record):
    def strange(request, status, body):
        return (200, {"total": 1, "domains": [record]}) if request.path == "/domains" else (status, body)

    async with identity(tmp_path) as service, front(service, strange) as arguments:
        assert "domains is no list of records with an id" in (await refusal(arguments, path)).sentence


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (http("<html>hello</html>", "text/html"), "something that is not JSON (text/html)"),
        (http("[1, 2]"), "it is no JSON object"),
        (http("{}"), "it has no access_token"),
        (http("[" * 100_000, "a\x1bb"), "something that is not JSON (a b)"),
        (http('{"access_token": "a\\r\\nX: y"}'), "it has no access_token"),
        (http("", status="404 Not Found"), "does not know POST /users/tokens/issue"),
        (http('{"a": 1}', status="429 Too Many Requests"), "with 429"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "closed the connection instead of answering GET /health"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"", "closed the connection instead of answering GET /health"),
        (http("", status="301 Moved", more="Location: https://elsewhere\r\n"), "answers /health with 301"),
    ],
)
async def test_another_program_on_the_port_is_told_from_a_service(path, reply, sentence):
    with server(reply) as port:
        error = await refusal(at(port), path, "--wait", "0.2")
    assert sentence in error.sentence
    assert f"http://127.0.0.1:{port}" in error.sentence
    assert error.hint


async def test_a_service_that_never_answers_is_given_up_on(path, tmp_path, monkeypatch):
    monkeypatch.setattr(supermq_http, "ANSWER_WITHIN_S", 0.3)
    with server(None) as port:
        error = await refusal(at(port), path, "--wait", "0.3")
    assert "did not answer GET /health" in error.sentence
    async with identity(tmp_path, "hang@3") as service:
        error = await refusal(service.arguments, path)
        assert "the domains service" in error.sentence
        assert "did not answer POST /domains within 0.3 s" in error.sentence
        await provision(service.arguments, path)
        assert len(await service.all("domains", "/domains")) == 1


async def test_a_late_answer_is_an_answer(path, tmp_path):
    async with identity(tmp_path, "delay@5=300") as service:
        await provision(service.arguments, path)
        assert all(len(ids) == 1 for ids in (await service.clients()).values())


async def test_tls_is_checked_and_its_failures_told_apart(path, tmp_path_factory, monkeypatch):
    certs = certificates.make_certificates(tmp_path_factory.mktemp("certificates"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs.server, certs.server_key)
    with server(http("{}"), context) as port:
        error = await refusal(at(port, "https"), path, "--wait", "0.2")
        assert "is not trusted" in error.sentence
        assert "SSL_CERT_FILE" in str(error.hint)
        monkeypatch.setenv("SSL_CERT_FILE", str(certs.ca))
        assert "it has no access_token" in (await refusal(at(port, "https"), path, "--wait", "0.2")).sentence
    with server(http("{}")) as port:
        error = await refusal(at(port, "https"), path, "--wait", "0.2")
        assert "does not speak TLS" in error.sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--users-url", "localhost:9002"], "the URL of the users service must be http://HOST:PORT"),
        (["--users-url", "ftp://localhost"], "the URL of the users service must be http://HOST:PORT"),
        (
            ["--clients-url", "http://localhost:99999"],
            "the URL of the clients service, 'http://localhost:99999', is wrong",
        ),
        (["--domains-url", "http://me:secret@localhost"], "must not contain a user"),
        (["--url", "http://localhost:9002"], "--url must not have a port"),
        (["--port-offset", "60000"], "is wrong"),
        (["--channels-url", "http://[::1"], "is wrong"),
        (["--channels-url", "http://local host"], "must not contain"),
        (["--channels-url", "http://localhost/\xe9"], "must not contain"),
    ],
)
def test_a_url_that_cannot_be_is_named(arguments, sentence):
    with pytest.raises(ConfigurationError) as raised:
        addresses(parser("x", Path(".env"), {}).parse_intermixed_args(arguments))
    assert sentence in raised.value.sentence


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf"])
async def test_a_wait_that_cannot_be_is_named(path, seconds):
    error = await refusal([], path, "--wait", seconds)
    assert error.sentence.startswith("--wait must be between 0 and 3600 seconds")


async def test_a_host_that_cannot_be_is_named(path):
    error = await refusal(["--users-url", "http://a..b"], path, "--wait", "0")
    assert error.sentence.startswith("the users service (http://a..b) is not there")


@pytest.mark.parametrize(
    ("environ", "arguments", "found"),
    [
        ({}, [], ["http://localhost:9002", "http://localhost:9003", "http://localhost:9005", "http://localhost:9006"]),
        (
            {"SMQ_URL": "https://smq.example/api/", "SMQ_CLIENTS_URL": "http://c:1", "SMQ_USERS_URL": ""},
            ["--port-offset", "100", "--channels-url", "http://d:2"],
            ["https://smq.example:9102/api", "https://smq.example:9103/api", "http://d:2", "http://c:1"],
        ),
        ({"SMQ_URL": "http://x"}, ["--url", "http://[::1]"], [f"http://[::1]:900{n}" for n in (2, 3, 5, 6)]),
    ],
)
def test_where_the_services_are_comes_from_options_then_the_environment(environ, arguments, found):
    options = parser("x", Path(".env"), environ).parse_intermixed_args(arguments)
    assert [each.url for each in addresses(options).values()] == found


records = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from("abcdef")},
        optional={
            "name": st.sampled_from(["manager", "proxy", "fl-demo"]),
            "route": st.sampled_from(["fl-demo", "x"]),
            "status": st.sampled_from(["enabled", "disabled"]),
            "created_at": st.sampled_from(["1", "2", None]),
        },
    ),
    unique_by=lambda record: record["id"],
)


@given(records, st.sampled_from("abcxyz"), st.sets(st.sampled_from("abc")), st.randoms())
def test_the_same_record_is_found_whatever_the_order(listed, known, taken, random):
    found = find(listed, name="manager", known=known, taken=taken)
    shuffled = random.sample(listed, len(listed))
    assert find(shuffled, name="manager", known=known, taken=taken) == found
    assert choose_domain(shuffled, known) == choose_domain(listed, known)
    ids = {record["id"]: record for record in listed}
    free = [r for r in listed if r.get("name") == "manager" and r["id"] not in taken]
    if known in ids:
        assert found == ids[known]
    elif found is None:
        assert not free
    else:
        assert found in free
        assert found.get("status") != "disabled" or all(r.get("status") == "disabled" for r in free)
