"""Pushing: with our command, with oras and with skopeo, against the embedded registry."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
import time
from pathlib import Path

import oras.client
import pytest
from aiohttp import web

from proxy.addresses import endpoints
from proxy.auth import Credentials
from proxy.cli import PASSWORD_NAMES, USER_NAMES
from proxy.push import push
from proxy.reach import endpoints_for
from swashplate.blobs import sha256_digest
from swashplate.errors import ForbiddenError, InvalidRequestError, UnavailableError
from swashplate.references import parse
from tests.support.ports import free_port

BINARY = b"\0asm" + bytes(range(256)) * 400


@pytest.fixture
def wasm(tmp_path):
    path = tmp_path / "a folder" / "fl-client.wasm"
    path.parent.mkdir()
    path.write_bytes(BINARY)
    return path


async def command(*arguments: str, cwd: Path, **environ: str) -> tuple[int, str, str]:
    program = "import sys; from swashplate.cli import main; main()"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        cwd=cwd,
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), said.decode()


async def test_the_command_pushes_from_anywhere_and_prints_the_digests(registry, wasm, tmp_path):
    image = f"{registry.host}/fl-client-wasm:latest"
    status, out, said = await command("push", str(wasm), image, cwd=Path("/"))
    assert status == 0, said
    headers = (await registry.ask("HEAD", "/v2/fl-client-wasm/manifests/latest"))[1]
    assert out.splitlines()[:3] == [
        f"Pushed [registry] {image}",
        "ArtifactType: application/vnd.unknown.artifact.v1",
        f"Digest: {headers['Docker-Content-Digest']}",
    ]
    assert sha256_digest(BINARY) in out
    manifest = json.loads((await registry.ask("GET", "/v2/fl-client-wasm/manifests/latest"))[2])
    assert manifest["layers"] == [
        {
            "mediaType": "application/wasm",
            "digest": sha256_digest(BINARY),
            "size": len(BINARY),
            "annotations": {"org.opencontainers.image.title": "fl-client.wasm"},
        }
    ]
    status, _, said = await command("push", wasm.name, image, cwd=wasm.parent)
    assert status == 0, said


async def test_the_command_knows_the_local_registry_by_its_alias(registry, wasm, tmp_path):
    aliases = f"local-registry:5000={registry.url}"
    status, out, said = await command(
        "push", str(wasm), "local-registry:5000/app:v1", cwd=tmp_path, PROXY_REGISTRY_ALIASES=aliases
    )
    assert (status, said) == (0, "")
    assert out.startswith("Pushed [registry] local-registry:5000/app:v1\n")
    assert (await registry.ask("HEAD", "/v2/app/manifests/v1"))[0] == 200


async def test_a_mistake_is_one_sentence_and_exit_status_1(wasm, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for arguments, reason in [
        ((str(text), "localhost:5000/app:v1"), "is not WebAssembly"),
        ((str(tmp_path / "missing.wasm"), "localhost:5000/app:v1"), "No such file"),
        ((str(wasm), "localhost:5000/App:v1"), "must be lower case"),
        ((str(wasm), f"127.0.0.1:{free_port()}/app:v1"), ": Connection refused"),
    ]:
        status, out, said = await command("push", *arguments, cwd=tmp_path)
        assert (status, out) == (1, "")
        assert reason in said
        assert "Traceback" not in said


def test_an_unreachable_registry_is_said_within_seconds(wasm):
    began = time.monotonic()
    for host in (f"127.0.0.1:{free_port()}", "192.0.2.1:5000"):
        with pytest.raises(UnavailableError) as gone:
            push(wasm, parse(f"{host}/app:v1"), endpoints=endpoints())
        assert gone.value.code == "registry_unreachable"
    assert time.monotonic() - began < 15


@pytest.fixture
def no_stored_login(tmp_path, monkeypatch):
    for name in ("HOME", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in (*USER_NAMES, *PASSWORD_NAMES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{host}/token",service="x"', "None"])
async def test_a_registry_that_wants_a_login_is_not_asked_for_minutes(make_upstream, wasm, no_stored_login, challenge):
    upstream = await make_upstream(BINARY)
    headers = {"WWW-Authenticate": challenge.format(host=upstream.host)}
    upstream.guard = lambda _: web.Response(status=401, headers=headers)
    began = time.monotonic()
    for login, hint in ((Credentials(), "--username"), (Credentials(upstream.host, "me", "wrong"), "check the user")):
        with pytest.raises(ForbiddenError) as refused:
            await asyncio.to_thread(push, wasm, parse(upstream.image), endpoints=endpoints(), credentials=login)
        assert hint in (refused.value.hint or "")
    assert time.monotonic() - began < 15


async def test_a_push_shows_the_password_when_the_registry_wants_it(make_upstream, wasm, no_stored_login):
    """Only until the first upload: what the registry then keeps is another test's matter."""
    upstream = await make_upstream(BINARY)
    wanted = "Basic " + base64.b64encode(b"me:secret").decode()

    def guard(request):
        if request.headers.get("Authorization") == wanted:
            return web.Response(status=201, headers={"Location": "/v2/app/blobs/uploads/1"})
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    upstream.guard = guard
    pushed = await asyncio.to_thread(
        push,
        wasm,
        parse(upstream.image),
        endpoints=endpoints(),
        credentials=Credentials(upstream.host, "me", "secret"),
    )
    assert pushed.binary_digest == sha256_digest(BINARY)


async def test_a_push_to_a_digest_is_refused(wasm):
    with pytest.raises(InvalidRequestError, match="to a tag"):
        push(wasm, parse(f"localhost:5000/app@{sha256_digest(b'')}"), endpoints=endpoints())


def test_local_registry_is_this_machine_where_no_name_server_knows_it():
    local = parse("local-registry:5000/app")
    assert endpoints_for(local, plain_http=False, environ={}).url(local.registry) == "http://127.0.0.1:5000"
    known = endpoints_for(
        local, plain_http=False, environ={"PROXY_REGISTRY_ALIASES": "local-registry:5000=https://a:1"}
    )
    assert known.url(local.registry) == "https://a:1"
    hub = parse("ghcr.io/app")
    assert endpoints_for(hub, plain_http=False, environ={}).url(hub.registry) == "https://ghcr.io"


@pytest.mark.parametrize("chunked", [False, True])
async def test_oras_pushes_and_pulls(registry, wasm, tmp_path, chunked):
    def round_trip() -> list[str]:
        client = oras.client.OrasClient(insecure=True)
        image = f"{registry.host}/group/app:v1"
        client.push(
            target=image,
            files=[f"{wasm}:application/wasm"],
            disable_path_validation=True,
            do_chunked=chunked,
            chunk_size=10_000,
        )
        assert client.get_tags(image) == ["v1"]
        return client.pull(target=image, outdir=str(tmp_path / "pulled"))

    pulled = await asyncio.to_thread(round_trip)
    assert [Path(path).read_bytes() for path in pulled] == [BINARY]


async def run(*arguments: str) -> str:
    child = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, said = await child.communicate()
    assert child.returncode == 0, said.decode()
    return out.decode()


@pytest.mark.parametrize("layout", ["oci:{}:v1", "dir:{}"])
async def test_skopeo_copies_out_of_and_into_the_registry(registry, skopeo, tmp_path, layout):
    digest = await registry.push("app", "v1", BINARY)
    kept = layout.format(tmp_path / "layout")
    source, target = f"docker://{registry.host}/app:v1", f"docker://{registry.host}/copied/app:v2"
    await run(skopeo, "copy", "--src-tls-verify=false", source, kept)
    await run(skopeo, "copy", "--dest-tls-verify=false", kept, target)
    headers = (await registry.ask("HEAD", "/v2/copied/app/manifests/v2"))[1]
    assert headers["Docker-Content-Digest"] == digest
    assert '"v2"' in await run(skopeo, "list-tags", "--tls-verify=false", f"docker://{registry.host}/copied/app")
    await run(skopeo, "delete", "--tls-verify=false", target)
    assert (await registry.ask("HEAD", "/v2/copied/app/manifests/v2"))[0] == 404


async def test_skopeo_pushes_into_an_empty_registry(make_registry, registry, skopeo, tmp_path):
    """The copy above finds its blobs already there; here they travel."""
    await registry.push("app", "v1", BINARY)
    layout = f"oci:{tmp_path / 'layout'}:v1"
    await run(skopeo, "copy", "--src-tls-verify=false", f"docker://{registry.host}/app:v1", layout)
    shutil.rmtree(registry.folder)
    empty = await make_registry()
    await run(skopeo, "copy", "--dest-tls-verify=false", layout, f"docker://{empty.host}/app:v1")
    assert (await empty.ask("GET", f"/v2/app/blobs/{sha256_digest(BINARY)}"))[2] == BINARY
