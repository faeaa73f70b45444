"""The embedded registry as a process: what it confirmed survives, and it stays on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.addresses import endpoints
from proxy.oci import OciClient
from proxy.registry import RegistrySettings, serve
from swashplate.blobs import BlobStore
from swashplate.errors import ConfigurationError
from swashplate.references import parse
from tests.support.ports import free_port

BINARY = b"\0asm" + bytes(range(256)) * 4000


@asynccontextmanager
async def process(folder: Path, port: int):
    environ = os.environ | {"OCI_REGISTRY_DIR": str(folder), "OCI_REGISTRY_PORT": str(port)}
    log = folder.parent / "registry.log"
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy.registry", env=environ, stderr=output)
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/health"):
                        break
                except aiohttp.ClientError:
                    assert child.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_what_got_201_survives_a_kill_and_a_half_upload_does_not(tmp_path, make_registry, session):
    folder, port = tmp_path / "oci", free_port()
    running = type(await make_registry())(f"127.0.0.1:{port}", folder, session)
    async with process(folder, port) as child:
        digest = await running.push("app", "v1", BINARY)
        location = (await running.ask("POST", "/v2/app/blobs/uploads/"))[1]["Location"]
        await running.ask("PATCH", location, data=BINARY)
        child.send_signal(signal.SIGKILL)
        await child.wait()
    async with process(folder, port):
        assert (await running.ask("GET", "/v2/app/manifests/v1"))[1]["Docker-Content-Digest"] == digest
        assert (await running.ask("PATCH", location, data=BINARY))[0] == 404
        reference = parse(f"127.0.0.1:{port}/app:v1")
        client, store = OciClient(session, endpoints()), BlobStore(tmp_path / "pulled")
        binary = await client.resolve(reference)
        await client.fetch(reference, binary.digest, binary.size, store)
        assert store.read(binary.digest) == BINARY
    assert not list((folder / "blobs").glob(".incoming-*"))


async def test_a_signal_ends_it_cleanly(tmp_path):
    async with process(tmp_path / "oci", free_port()) as child:
        child.terminate()
        assert await child.wait() == 0


async def test_a_folder_serves_one_process(tmp_path):
    folder = tmp_path / "oci"
    async with process(folder, free_port()):
        environ = {"OCI_REGISTRY_DIR": str(folder), "OCI_REGISTRY_PORT": str(free_port())}
        with pytest.raises(ConfigurationError, match="in use"):
            await serve(RegistrySettings.load(environ), asyncio.Event())


async def test_it_does_not_open_up_beyond_this_machine_by_itself(tmp_path):
    environ = {"OCI_REGISTRY_DIR": str(tmp_path), "OCI_REGISTRY_HOST": "0.0.0.0"}
    with pytest.raises(ConfigurationError) as refused:
        await serve(RegistrySettings.load(environ), asyncio.Event())
    assert "OCI_REGISTRY_HTTP_INSECURE" in (refused.value.hint or "")
