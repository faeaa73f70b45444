"""Rounds whose guest lives in a private registry: Debian's docker-registry with an htpasswd file."""

from __future__ import annotations

import json
import time
from typing import Any

import oras.client
import pytest

from client_wasm.demo import GUEST
from proxy.addresses import endpoints
from proxy.auth import Credentials
from proxy.push import push
from swashplate.blobs import sha256_digest
from swashplate.references import parse
from tests.support.docker_registry import PASSWORD, USER, DockerRegistry
from tests.support.stack import Stack, poll

MAX_BINARY = 200_000
CUSTOM_SECTION = b"\x00\x05\x04note"
"""Ignored by every runtime, but it makes another binary."""
REASON_WITHIN = 25.0
"""Seconds; a round's own time is 60."""


@pytest.fixture(scope="module")
def registry(docker_registry_program, tmp_path_factory):
    with DockerRegistry(docker_registry_program, tmp_path_factory.mktemp("images") / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def stack(registry, tmp_path_factory, nats_server):
    env = (
        "PROXY_AUTHENTICATE=true\n"
        f"PROXY_REGISTRY_URL=http://{registry.host}\n"
        f"PROXY_REGISTRY_USERNAME={USER}\n"
        f'PROXY_REGISTRY_PASSWORD="{PASSWORD}"  # a comment\n'
        "PROXY_REGISTRY_PATIENCE=2s\n"
        f"PROXY_MAX_BINARY_BYTES={MAX_BINARY}\n"
    )
    with Stack(tmp_path_factory.mktemp("stack"), proplets=2, env=env) as running:
        yield running


@pytest.fixture
def push_guest(registry, tmp_path):
    def push_it(name: str, content: bytes) -> str:
        """The reference; the tag means this content from now on."""
        file = tmp_path / "fl-client.wasm"
        file.write_bytes(content)
        image = f"{registry.host}/{name}"
        credentials = Credentials(registry.host, USER, PASSWORD)
        push(file, parse(image), endpoints=endpoints(), credentials=credentials)
        return image

    return push_it


def begin(stack: Stack, image: str, **changes: Any) -> str:
    experiment = stack.experiment(task_wasm_image=image, k_of_n=2, **changes)
    status, body = stack.post("manager", "/fl/experiments", experiment)
    assert status == 200, body
    return str(experiment["round_id"])


def tasks_of(stack: Stack, round_id: str) -> list[dict[str, Any]]:
    tasks = stack.get("manager", "/tasks?limit=100")["tasks"]
    return [task for task in tasks if task["name"].startswith(f"fl-round-{round_id}-")]


def said_by_proxy(stack: Stack, phrase: str, image: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in stack.log("proxy").splitlines() if line.startswith("{"))
    return [line for line in lines if line["msg"] == phrase and line.get("container") == image]


def test_rounds_run_from_a_private_registry_and_follow_a_tag_that_moves(stack, push_guest):
    for content in (GUEST.read_bytes(), GUEST.read_bytes() + CUSTOM_SECTION):
        image = push_guest("octocat/fl-client-wasm:latest", content)
        round_id = begin(stack, image)
        assert stack.complete(round_id)["status"] == "completed"
        assert {task["digest"] for task in tasks_of(stack, round_id)} == {sha256_digest(content)}
    assert said_by_proxy(stack, "successfully sent all chunks", image)
    assert f"Requesting binary from registry: {image}" in stack.log("proplet-1")
    assert f"Assembled binary for app '{image}'" in stack.log("proplet-1")
    assert PASSWORD not in stack.log("proxy")


def test_a_digest_names_its_image_whatever_the_tag_means_now(stack, registry, push_guest):
    image = push_guest("octocat/pinned:v1", GUEST.read_bytes())
    digest = sha256_digest(registry.manifest("octocat/pinned", "v1").content)
    push_guest("octocat/pinned:v1", GUEST.read_bytes() + CUSTOM_SECTION)
    for reference in (f"{image.removesuffix(':v1')}@{digest}", f"{image}@{digest}"):
        round_id = begin(stack, reference)
        assert stack.complete(round_id)["status"] == "completed"
        assert {task["digest"] for task in tasks_of(stack, round_id)} == {sha256_digest(GUEST.read_bytes())}


def test_a_registry_that_is_down_at_the_start_and_comes_back_does_not_cost_the_round(stack, registry, push_guest):
    image = push_guest("octocat/late:v1", GUEST.read_bytes() + CUSTOM_SECTION * 2)
    registry.stop()
    try:
        round_id = begin(stack, image)
        poll(lambda: len(said_by_proxy(stack, "no answer from the registry, trying again", image)) > 2)
    finally:
        registry.start()
    assert stack.complete(round_id)["status"] == "completed"


def test_the_guides_names_of_the_local_registry_mean_the_embedded_one_beside_a_private_one(stack):
    stack.push(GUEST, "fl-client-wasm:latest")
    for name in ("local-registry:5000", "localhost:5000"):
        round_id = begin(stack, f"{name}/fl-client-wasm:latest")
        assert stack.complete(round_id)["status"] == "completed"


def failure(stack: Stack, image: str, **changes: Any) -> tuple[str, str, str]:
    """What the round, a task of it and the proxy's log say, within seconds."""
    began = time.monotonic()
    round_id = begin(stack, image, **changes)
    ended = stack.complete(round_id, within=REASON_WITHIN)
    assert ended["status"] == "failed"
    assert time.monotonic() - began < REASON_WITHIN
    [task, *_] = [task for task in tasks_of(stack, round_id) if task["status"] == "failed"]
    logged = said_by_proxy(stack, "failed to fetch container", image)[-1]
    return ended["error"], task["error"], f"{logged['error']} {logged.get('hint')}"


def test_an_image_that_nobody_could_name_is_refused_when_the_round_is_asked_for(stack, registry):
    experiment = stack.experiment(task_wasm_image=f"{registry.host}/OctoCat/guest:v1", k_of_n=2)
    status, body = stack.post("manager", "/fl/experiments", experiment)
    assert status == 409
    assert "field image_url" in body["error"]
    assert "must be lower case" in body["error"]


def test_a_registry_that_stays_down_fails_the_round_with_the_reason(stack, registry):
    """After a quarter of the round's time."""
    registry.stop()
    try:
        for said in failure(stack, f"{registry.host}/octocat/down:v1", timeout_s=32):
            assert "Connection refused" in said
            assert "local-registry:5000" in said
    finally:
        registry.start()


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("{host}/octocat/nothing:v1", ["404 Not Found", "spelled exactly"]),
        ("{host}/octocat/guest:nothing", ["404 Not Found", "check the tag"]),
        ("{other}/octocat/guest:v1", ["401 Unauthorized", "PROXY_AUTHENTICATE=true", "PROXY_REGISTRY_URL={other}"]),
        ("{host}/octocat/large:v1", [f"over the limit of {MAX_BINARY} bytes", "PROXY_MAX_BINARY_BYTES"]),
        ("{host}/octocat/text:v1", ["is not WebAssembly"]),
    ],
)
def test_an_image_that_cannot_be_had_fails_the_round_with_the_reason(
    stack, registry, push_guest, tmp_path, image, parts
):
    push_guest("octocat/guest:v1", GUEST.read_bytes())
    push_guest("octocat/large:v1", GUEST.read_bytes() + bytes(MAX_BINARY))
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    client = oras.client.OrasClient(insecure=True, hostname=registry.host, auth_backend="basic")
    client.auth.set_basic_auth(USER, PASSWORD)
    target = f"{registry.host}/octocat/text:v1"
    client.push(target=target, files=[f"{text}:application/wasm"], disable_path_validation=True)
    names = {"host": registry.host, "other": registry.host.replace("127.0.0.1", "localhost")}
    for said in failure(stack, image.format(**names)):
        for part in parts:
            assert part.format(**names) in said
