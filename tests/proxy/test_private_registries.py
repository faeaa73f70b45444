"""Registries that ask who we are: one with GitHub's manners, and Debian's docker-registry with an htpasswd file."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from pathlib import Path

import oras.client
import pytest

from proxy.addresses import endpoints
from proxy.auth import Credentials, may_see_password
from proxy.cli import PASSWORD_NAMES, USER_NAMES
from proxy.oci import OciClient
from proxy.push import push
from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import ForbiddenError, NotFoundError, SwashplateError, UnavailableError
from swashplate.references import parse
from tests.support import certificates
from tests.support.docker_registry import PASSWORD, USER, DockerRegistry
from tests.support.ghcr import Ghcr

BINARY = b"\0asm" + bytes(range(256)) * 400
DIGEST = sha256_digest(BINARY)


@pytest.fixture
def wasm(tmp_path):
    path = tmp_path / "fl-client.wasm"
    path.write_bytes(BINARY)
    return path


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", *USER_NAMES, *PASSWORD_NAMES):
        monkeypatch.delenv(name, raising=False)


# GitHub's manners


def login(ghcr: Ghcr, user: str = "octocat") -> Credentials:
    return Credentials(ghcr.host, user, ghcr.users.get(user.lower(), ("wrong",))[0])


async def push_to(ghcr: Ghcr, wasm: Path, credentials: Credentials | None = None, name: str = "octocat/app:v1"):
    reference = parse(f"{ghcr.host}/{name}")
    credentials = credentials or login(ghcr)
    return await asyncio.to_thread(push, wasm, reference, endpoints=endpoints(), credentials=credentials)


def client_of(ghcr: Ghcr, session, credentials: Credentials | None = None) -> OciClient:
    return OciClient(session, endpoints(), credentials=credentials)


async def test_a_private_package_is_pushed_and_pulled_with_an_access_token(ghcr, wasm, session, tmp_path):
    assert (await push_to(ghcr, wasm)).binary_digest == DIGEST
    assert ("octocat", "repository:octocat/app:pull,push") in ghcr.asked
    ghcr.asked.clear()
    client, store, image = (
        client_of(ghcr, session, login(ghcr)),
        BlobStore(tmp_path / "b"),
        parse(f"{ghcr.host}/octocat/app:v1"),
    )
    binary = await client.resolve(image)
    await client.fetch(image, binary.digest, binary.size, store)
    assert store.read(DIGEST) == BINARY
    assert ghcr.asked == [("octocat", "repository:octocat/app:pull")]


async def test_a_token_that_expired_between_manifest_and_blob_is_renewed(ghcr, wasm, session, tmp_path):
    await push_to(ghcr, wasm)
    client, store, image = (
        client_of(ghcr, session, login(ghcr)),
        BlobStore(tmp_path / "b"),
        parse(f"{ghcr.host}/octocat/app:v1"),
    )
    binary = await client.resolve(image)
    ghcr.expire_tokens()
    await client.fetch(image, binary.digest, binary.size, store)
    assert store.read(DIGEST) == BINARY


async def test_a_private_package_without_a_login_says_what_to_set(ghcr, wasm, session):
    await push_to(ghcr, wasm)
    with pytest.raises(ForbiddenError, match="401 Unauthorized: authentication required") as refused:
        await client_of(ghcr, session).resolve(parse(f"{ghcr.host}/octocat/app:v1"))
    hint = refused.value.hint or ""
    for part in (
        "PROXY_AUTHENTICATE=true",
        f"PROXY_REGISTRY_URL={ghcr.host}",
        "lower case",
        "read:packages",
        "exactly",
    ):
        assert part in hint
    ghcr.public.add("octocat/app")
    assert (await client_of(ghcr, session).resolve(parse(f"{ghcr.host}/octocat/app:v1"))).digest == DIGEST


@pytest.mark.parametrize("user", ["narrow", "Octocat", "stranger"])
async def test_a_login_that_is_not_accepted_says_what_to_check(ghcr, wasm, session, user):
    await push_to(ghcr, wasm)
    with pytest.raises(ForbiddenError, match="403 Forbidden") as refused:
        await client_of(ghcr, session, login(ghcr, user)).resolve(parse(f"{ghcr.host}/octocat/app:v1"))
    assert refused.value.code == "image_forbidden"
    hint = refused.value.hint or ""
    for part in ("PROXY_REGISTRY_USERNAME", "lower case", "read:packages", "exactly"):
        assert part in hint


@pytest.mark.parametrize(("status", "error"), [(401, ForbiddenError), (403, ForbiddenError), (404, NotFoundError)])
async def test_a_package_of_somebody_else_is_refused_however_the_registry_puts_it(ghcr, wasm, session, status, error):
    await push_to(ghcr, wasm)
    ghcr.hides_with = status
    with pytest.raises(error, match=str(status)) as refused:
        await client_of(ghcr, session, login(ghcr, "reader")).resolve(parse(f"{ghcr.host}/octocat/app:v1"))
    assert refused.value.retryable is False
    assert "exactly" in (refused.value.hint or "")


async def test_a_right_that_is_granted_later_is_used_at_once(ghcr, wasm, session):
    await push_to(ghcr, wasm)
    client, image = client_of(ghcr, session, login(ghcr, "reader")), parse(f"{ghcr.host}/octocat/app:v1")
    with pytest.raises(ForbiddenError):
        await client.resolve(image)
    ghcr.public.add("octocat/app")
    assert (await client.resolve(image)).digest == DIGEST


async def test_a_push_without_the_scope_for_it_is_refused(ghcr, wasm):
    with pytest.raises(ForbiddenError, match="403 denied") as refused:
        await push_to(ghcr, wasm, login(ghcr, "reader"), "reader/app:v1")
    assert "scopes" in (refused.value.hint or "")


# Who may see the password


REGISTRY = "https://registry.example.org:5000"


@pytest.mark.parametrize(
    ("realm", "registry", "allowed"),
    [
        ("https://registry.example.org/token", REGISTRY, True),
        ("https://registry.example.org:5001/token", REGISTRY, True),
        ("http://registry.example.org/token", REGISTRY, False),
        ("https://example.org/token", REGISTRY, False),
        ("https://registry.example.org.evil.test/token", REGISTRY, False),
        ("https://registry.example.org@evil.test/token", REGISTRY, False),
        ("https://auth.named.test/token", REGISTRY, True),
        ("http://auth.named.test/token", REGISTRY, False),
        ("http://lab.named.test:81/token", REGISTRY, True),
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://auth.docker.io.evil.test/token", "https://registry-1.docker.io", False),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
        ("http://localhost:1/token", "http://localhost:5000", True),
        ("http://evil.test/token", "http://localhost:5000", False),
        ("ftp://localhost/token", "http://localhost:5000", False),
        ("https://[bad/token", REGISTRY, False),
        ("/token", REGISTRY, False),
        ("", REGISTRY, False),
    ],
)
def test_the_password_goes_to_the_registrys_own_host_and_to_services_that_somebody_named(realm, registry, allowed):
    named = frozenset({"https://auth.named.test", "http://lab.named.test:81"})
    assert may_see_password(realm, registry, named) is allowed


async def test_a_registry_that_points_elsewhere_for_the_token_does_not_get_the_password_sent_there(
    ghcr, wasm, session, make_upstream
):
    thief = await make_upstream(b"")
    ghcr.realm = f"http://{thief.host.replace('127.0.0.1', 'localhost')}/token"
    with pytest.raises(ForbiddenError, match="wants the password sent to") as refused:
        await client_of(ghcr, session, login(ghcr)).resolve(parse(f"{ghcr.host}/octocat/app:v1"))
    assert "PROXY_REGISTRY_TOKEN_SERVICES" in (refused.value.hint or "")
    with pytest.raises(ForbiddenError, match="wants the password sent to") as refused:
        await push_to(ghcr, wasm)
    assert "--token-service" in (refused.value.hint or "")
    assert thief.seen == []


@pytest.mark.parametrize("realm", ["http://[bad", "https://", "no url", "http://127.0.0.1:0/"])
async def test_a_token_service_that_is_none_is_a_refusal(ghcr, session, realm):
    ghcr.realm = realm
    for credentials in (None, login(ghcr)):
        with pytest.raises(SwashplateError) as refused:
            await client_of(ghcr, session, credentials).resolve(parse(f"{ghcr.host}/octocat/app:v1"))
        assert refused.value.code in {"image_forbidden", "registry_unreachable"}


# docker-registry


@pytest.fixture
def docker_registry(docker_registry_program, tmp_path):
    with DockerRegistry(docker_registry_program, tmp_path / "docker-registry") as running:
        yield running


async def command(*arguments: str, stdin: str = "", **environ: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "swashplate",
        *arguments,
        env=os.environ | environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await child.communicate(stdin.encode())
    assert child.returncode is not None
    return child.returncode, out.decode(), said.decode()


def docker_config(folder: Path, registry: str, password: str = PASSWORD) -> None:
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))


async def test_the_command_pushes_with_a_password_from_standard_input_or_the_environment(docker_registry, wasm):
    image = f"{docker_registry.host}/octocat/app"
    status, _, said = await command("push", str(wasm), f"{image}:v1")
    assert status == 1
    assert "--password-stdin" in said
    stdin = ("--username", USER, "--password-stdin")
    status, out, said = await command("push", str(wasm), f"{image}:v1", *stdin, stdin=f"{PASSWORD}\n")
    assert (status, said) == (0, "")
    manifest = docker_registry.manifest("octocat/app", "v1")
    assert out.splitlines()[:3] == [
        f"Pushed [registry] {image}:v1",
        "ArtifactType: application/vnd.unknown.artifact.v1",
        f"Digest: {sha256_digest(manifest.content)}",
    ]
    assert [layer["digest"] for layer in manifest.json()["layers"]] == [DIGEST]
    for user, password in (("REGISTRY_USERNAME", "REGISTRY_PASSWORD"), ("ORAS_USER", "ORAS_PASSWORD")):
        status, _, said = await command(
            "push", str(wasm), f"{image}:{user.lower()}", **{user: USER, password: PASSWORD}
        )
        assert (status, said) == (0, "")
        assert docker_registry.manifest("octocat/app", user.lower()).status_code == 200


async def test_the_command_uses_what_docker_login_stored(docker_registry, wasm, tmp_path):
    image = f"{docker_registry.host}/octocat/app:v1"
    docker_config(tmp_path / ".docker", docker_registry.host)
    assert (await command("push", str(wasm), image))[0] == 0
    status, out, _ = await command("image", "inspect", image.replace("127.0.0.1", "localhost"))
    assert status == 0
    assert DIGEST in out
    docker_config(tmp_path / "elsewhere", docker_registry.host, "wrong")
    status, _, said = await command("image", "inspect", image, DOCKER_CONFIG=str(tmp_path / "elsewhere"))
    assert status == 1
    assert "401" in said


async def test_inspect_prints_the_manifest_by_tag_and_by_digest(docker_registry, wasm):
    login = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}
    image = f"{docker_registry.host}/octocat/app"
    await command("push", str(wasm), f"{image}:v1", **login)
    manifest = docker_registry.manifest("octocat/app", "v1")
    digest = sha256_digest(manifest.content)
    for reference in (f"{image}:v1", f"{image}@{digest}", f"{image}:moved@{digest}"):
        status, out, said = await command("image", "inspect", reference, **login)
        assert (status, said) == (0, "")
        shown, _, told = out.partition("\nDigest: ")
        assert json.loads(shown) == manifest.json()
        assert told.splitlines() == [
            digest,
            "MediaType: application/vnd.oci.image.manifest.v1+json",
            f"Size: {len(manifest.content)} bytes",
            f"Binary: {DIGEST} ({len(BINARY)} bytes, application/wasm)",
        ]
    status, out, _ = await command("image", "inspect", "--raw", f"{image}:v1", **login)
    assert out.encode() == manifest.content


async def test_inspect_says_what_is_wrong_in_a_sentence(docker_registry, ghcr, wasm):
    await push_to(ghcr, wasm)
    login = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}
    host = docker_registry.host
    cases = [
        (f"{host}/octocat/app:v1", {}, "401 Unauthorized"),
        (f"{host}/octocat/app:v1", login | {"REGISTRY_PASSWORD": "wrong"}, "401 Unauthorized"),
        (f"{host}/octocat/app:v1", {"REGISTRY_USERNAME": USER}, "without a password"),
        (f"{host}/octocat/app:v1", login, "404 Not Found"),
        (f"{host}/OctoCat/app:v1", login, f"write {host}/octocat/app:v1"),
        (
            f"{ghcr.host}/octocat/app:v1",
            {"REGISTRY_USERNAME": "narrow", "REGISTRY_PASSWORD": "ghp_none"},
            "403 Forbidden",
        ),
        ("127.0.0.1:1/octocat/app:v1", {}, "Connection refused"),
    ]
    answers = await asyncio.gather(*(command("image", "inspect", image, **environ) for image, environ, _ in cases))
    for (_, _, reason), (status, out, said) in zip(cases, answers, strict=True):
        assert (status, out) == (1, ""), reason
        assert reason in said
        assert "hint: " in said
        assert "Traceback" not in said
    status, _, said = await command("push", str(wasm), f"{host}/app:v1", "--username", USER, "--password-stdin")
    assert status == 1
    assert "standard input is empty" in said


@pytest.mark.parametrize("content", ["{bad", "[]", '{"auths": []}', '{"auths": {"HOST": {"auth": "?"}}}'])
async def test_a_broken_file_of_logins_is_named(docker_registry, wasm, tmp_path, content):
    (tmp_path / ".docker").mkdir()
    path = tmp_path / ".docker" / "config.json"
    path.write_text(content.replace("HOST", docker_registry.host))
    status, _, said = await command("push", str(wasm), f"{docker_registry.host}/app:v1")
    assert status == 1
    assert "Traceback" not in said
    assert str(path) in said or "wants a user" in said


async def test_a_credential_helper_is_asked(docker_registry, wasm, tmp_path):
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        f'#!/bin/sh\nread host; [ "$host" = "{docker_registry.host}" ] || exit 1\n'
        f'echo \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    (tmp_path / ".docker").mkdir()
    path = f"{helper.parent}:{os.environ['PATH']}"
    for config in ({"credsStore": "test"}, {"credHelpers": {docker_registry.host: "test"}}):
        (tmp_path / ".docker" / "config.json").write_text(json.dumps(config))
        status, _, said = await command("push", str(wasm), f"{docker_registry.host}/app:v1", PATH=path)
        assert (status, said) == (0, "")


async def test_oras_pushes_what_we_resolve(docker_registry, wasm, session):
    def push_with_oras() -> None:
        client = oras.client.OrasClient(insecure=True, hostname=docker_registry.host, auth_backend="basic")
        client.auth.set_basic_auth(USER, PASSWORD)
        target = f"{docker_registry.host}/octocat/app:oras"
        client.push(target=target, files=[f"{wasm}:application/wasm"], disable_path_validation=True)

    await asyncio.to_thread(push_with_oras)
    client = OciClient(session, endpoints(), credentials=Credentials(docker_registry.host, USER, PASSWORD))
    assert (await client.resolve(parse(f"{docker_registry.host}/octocat/app:oras"))).digest == DIGEST


async def test_skopeo_copies_between_the_embedded_registry_and_docker_registry(
    registry, docker_registry, skopeo, wasm, session
):
    async def copy(source: str, target: str, *options: str) -> None:
        child = await asyncio.create_subprocess_exec(
            skopeo,
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            *options,
            f"docker://{source}",
            f"docker://{target}",
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await child.communicate()
        assert child.returncode == 0, said.decode()

    await asyncio.to_thread(push, wasm, parse(f"{registry.host}/app:v1"), endpoints=endpoints())
    login = f"{USER}:{PASSWORD}"
    theirs = f"{docker_registry.host}/octocat/app:v1"
    await copy(f"{registry.host}/app:v1", theirs, f"--dest-creds={login}")
    await copy(theirs, f"{registry.host}/back/app:v1", f"--src-creds={login}")
    theirs_digest = sha256_digest(docker_registry.manifest("octocat/app", "v1").content)
    for repository in ("app", "back/app"):
        headers = (await registry.ask("HEAD", f"/v2/{repository}/manifests/v1"))[1]
        assert headers["Docker-Content-Digest"] == theirs_digest


async def test_docker_registrys_blobs_are_fetched_with_the_login(docker_registry, wasm, session, tmp_path):
    image = parse(f"{docker_registry.host}/octocat/app:v1")
    credentials = Credentials(docker_registry.host, USER, PASSWORD)
    await asyncio.to_thread(push, wasm, image, endpoints=endpoints(), credentials=credentials)
    client, store = OciClient(session, endpoints(), credentials=credentials), BlobStore(tmp_path / "b")
    binary = await client.resolve(image)
    await client.fetch(image, binary.digest, binary.size, store)
    assert store.read(DIGEST) == BINARY


# TLS


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "certificates"
    folder.mkdir()
    return certificates.make_certificates(folder)


@pytest.fixture
def tls_registry(docker_registry_program, authority, tmp_path):
    with DockerRegistry(docker_registry_program, tmp_path / "tls-registry", authority) as running:
        yield running


async def test_a_registry_with_tls_is_trusted_by_the_authority_that_is_named(tls_registry, authority, wasm):
    image = f"{tls_registry.host}/octocat/app:v1"
    environ = {
        "PROXY_REGISTRY_ALIASES": f"{tls_registry.host}={tls_registry.url}",
        "REGISTRY_USERNAME": USER,
        "REGISTRY_PASSWORD": PASSWORD,
    }
    commands = (("push", str(wasm), image), ("image", "inspect", image))
    for status, _, said in await asyncio.gather(*(command(*words, **environ) for words in commands)):
        assert status == 1
        assert "unable to get local issuer certificate" in said
        assert "SSL_CERT_FILE" in said
        assert "REQUESTS_CA_BUNDLE" in said
    trusted = {"SSL_CERT_FILE": str(authority.ca), "REQUESTS_CA_BUNDLE": str(authority.ca)}
    for words in commands:
        status, out, said = await command(*words, **environ, **trusted)
        assert (status, said) == (0, "")
        assert DIGEST in out


async def test_a_registry_that_speaks_the_other_protocol_is_not_asked_again(
    docker_registry, tls_registry, wasm, session
):
    with_tls, without = parse(f"{tls_registry.host}/app:v1"), parse("lab:1/app:v1")
    wrong = endpoints(aliases=f"lab:1=https://{docker_registry.host}")
    for reference, known, proxy_hint, command_hint in (
        (with_tls, endpoints(), "https:// into PROXY_REGISTRY_URL", "leave --plain-http away"),
        (without, wrong, "PROXY_PLAIN_HTTP=lab:1", "--plain-http"),
    ):
        with pytest.raises(UnavailableError) as refused:
            await OciClient(session, known).resolve(reference)
        assert refused.value.retryable is False
        assert proxy_hint in (refused.value.hint or "")
        with pytest.raises(UnavailableError) as refused:
            await asyncio.to_thread(push, wasm, reference, endpoints=known)
        assert command_hint in (refused.value.hint or "")
