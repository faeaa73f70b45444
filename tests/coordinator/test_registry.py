"""The model registry over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from swashplate.blobs import sha256_digest
from swashplate.client import HttpClient
from swashplate.errors import UnavailableError
from tests.support.ports import free_port

MODEL = {"w": [0.5, -1, 2], "b": 0.25}


async def post(world, version, model, line=None):
    path = f"/lines/{line}/models" if line else "/models"
    return await world.call("POST", "registry", path, {"version": version, "model": model})


async def put_round(world, round_id, model, parent=0, line="global_model"):
    body = {"model": model, "parent_version": parent, "lineage": {"strategy": "fedavg"}}
    return await world.call("PUT", "registry", f"/lines/{line}/rounds/{round_id}/model", body)


async def describe(world, version=0, line="global_model"):
    return (await world.call("GET", "registry", f"/lines/{line}/models/{version}/description"))[1]


async def use(world, round_id, digest=None, line="global_model"):
    body = {"digest": digest or (await describe(world, line=line))["digest"]}
    return await world.call("PUT", "registry", f"/lines/{line}/models/0/uses/{round_id}", body)


async def test_the_zero_model_is_there_at_first_in_exactly_these_bytes(world):
    async with world.session.get(world.url("registry") + "/models/0") as response:
        body = await response.read()
        assert body == b'{"w":[0,0,0],"b":0}'
        assert response.headers["X-Model-Digest"] == sha256_digest(body)
        assert response.headers["ETag"] == f'"{sha256_digest(body)}"'
        assert response.content_type == "application/json"


async def test_a_reader_that_has_the_model_is_spared_it(world):
    url = world.url("registry") + "/models/0"
    async with world.session.get(url) as response:
        tag = response.headers["ETag"]
    async with world.session.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 304


async def test_posting_the_zero_model_of_the_guide_is_created(world):
    zero = {"w": [0.0, 0.0, 0.0], "b": 0.0}
    assert await post(world, 0, zero) == (201, {"version": 0, "status": "stored"})
    assert await world.call("GET", "registry", "/models/0") == (200, {"w": [0, 0, 0], "b": 0})


async def test_version_0_is_replaced_until_a_round_uses_it(world):
    assert (await post(world, 0, MODEL))[0] == 201
    assert (await world.call("GET", "registry", "/models/0"))[1] == MODEL
    assert (await use(world, "r-1"))[0] == 200
    assert (await post(world, 0, MODEL))[0] == 201
    status, body = await post(world, 0, {"w": [1, 1, 1], "b": 0})
    assert (status, body["code"]) == (409, "model_immutable")
    assert "r-1" in body["error"]
    assert body["hint"]
    assert (await world.call("GET", "registry", "/models/0"))[1] == MODEL


async def test_a_description_marks_nothing_and_says_what_can_still_change(world):
    zero = await describe(world)
    assert zero["digest"] == sha256_digest(b'{"w":[0,0,0],"b":0}')
    assert (zero["version"], zero["shapes"], zero["final"]) == (0, {"w": [3], "b": []}, False)
    assert (await post(world, 0, MODEL))[0] == 201
    assert (await post(world, 1, MODEL))[0] == 201
    assert (await describe(world, 1))["final"]
    assert not (await describe(world))["final"]
    await use(world, "r-1")
    assert (await describe(world))["final"]
    assert (await world.call("GET", "registry", "/models/7/description"))[1]["code"] == "model_not_found"


async def test_a_use_of_a_model_that_was_replaced_is_refused_and_marks_nothing(world):
    seen = (await describe(world))["digest"]
    await post(world, 0, MODEL)
    status, body = await use(world, "r-1", seen)
    assert (status, body["code"]) == (409, "base_replaced")
    assert "r-1" in body["error"]
    assert not (await describe(world))["final"]
    assert (await use(world, "r-1", "nonsense"))[0] == 400


async def test_versions_are_contiguous_and_immutable(world):
    assert (await post(world, 2, MODEL))[1]["code"] == "version_gap"
    assert (await post(world, 1, MODEL))[0] == 201
    assert (await post(world, 1, MODEL))[0] == 201
    status, body = await post(world, 1, {"w": [1], "b": 0})
    assert (status, body["code"]) == (409, "model_immutable")
    assert (await post(world, 2, MODEL))[0] == 201
    assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0, 1, 2]}


async def test_a_line_starts_at_version_0_and_stands_for_itself(world):
    status, body = await post(world, 1, MODEL, line="side")
    assert status == 409
    assert "version of side is 0" in body["hint"]
    assert (await world.call("GET", "registry", "/lines/side/models"))[0] == 404
    assert (await post(world, 0, MODEL, line="side"))[0] == 201
    assert (await world.call("GET", "registry", "/lines"))[1] == {"lines": ["global_model", "side"]}
    assert (await world.call("GET", "registry", "/lines/side/models"))[1] == {"versions": [0]}
    assert (await world.call("GET", "registry", "/lines/side/models/0"))[1] == MODEL
    assert (await world.call("GET", "registry", "/models/0"))[1] == {"w": [0, 0, 0], "b": 0}


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/models/7", 404, "Model not found"),
        ("/models/x", 400, "Invalid version"),
        ("/models/-1", 400, "Invalid version"),
        ("/models/1.0", 400, "Invalid version"),
        ("/models/99999999999999999999", 400, "Invalid version"),
        ("/models/7/lineage", 404, "Model not found"),
        ("/lines/nobody/models/0", 404, "Model not found"),
    ],
)
async def test_what_is_not_there_is_not_found(world, path, status, error):
    found, body = await world.call("GET", "registry", path)
    assert found == status
    assert body["error"].startswith(error)


@pytest.mark.parametrize("line", ["a.b", "a+b", "_x", "é", "x" * 200])
async def test_a_line_has_a_plain_name(world, line):
    assert (await post(world, 0, MODEL, line=line))[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{",
        '{"version":0}',
        '{"model":{"w":[1],"b":0}}',
        '{"version":-1,"model":{"w":[1],"b":0}}',
        '{"version":"0","model":{"w":[1],"b":0}}',
        '{"version":true,"model":{"w":[1],"b":0}}',
        '{"version":0,"model":null}',
        '{"version":0,"model":{}}',
        '{"version":0,"model":{"w":[],"b":0}}',
        '{"version":0,"model":{"w":null,"b":0}}',
        '{"version":0,"model":{"w":[1],"b":NaN}}',
        '{"version":0,"model":{"w":[1e999],"b":0}}',
        '{"version":0,"model":{"w":[[1],[2]],"b":0}}',
        '{"version":0,"model":{"w":[1],"b":0,"name":"x"}}',
        '{"version":0,"model":' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
async def test_a_body_that_is_no_model_is_refused_and_changes_nothing(world, body):
    assert (await world.call("POST", "registry", "/models", body))[0] == 400
    assert (await world.call("GET", "registry", "/models/0"))[1] == {"w": [0, 0, 0], "b": 0}


async def test_equal_tensors_have_equal_digests_whatever_their_text(world):
    await post(world, 0, {"b": 1e0, "w": [1.0, -0.0, 100.0]}, line="one")
    await post(world, 0, {"w": [1, 0, 1e2], "b": 1}, line="two")
    digests = [
        (await world.call("GET", "registry", f"/lines/{n}/models/0/lineage"))[1]["digest"] for n in ("one", "two")
    ]
    assert digests[0] == digests[1]


async def test_a_round_gets_the_next_version_once(world):
    first = await put_round(world, "r-1", MODEL)
    assert (first[0], first[1]["version"], first[1]["uri"]) == (201, 1, "fl/models/global_model_v1")
    assert await put_round(world, "r-1", MODEL) == (200, first[1])
    status, body = await put_round(world, "r-1", {"w": [1, 1, 1], "b": 0})
    assert (status, body["code"]) == (409, "round_model_conflict")
    assert (await put_round(world, "r-2", MODEL))[1]["version"] == 2
    assert (await put_round(world, "r-3", MODEL, parent=9))[0] == 404
    _, lineage = await world.call("GET", "registry", "/lines/global_model/models/1/lineage")
    assert (lineage["parent"], lineage["round_id"], lineage["details"]) == (0, "r-1", {"strategy": "fedavg"})


async def test_simultaneous_rounds_get_different_versions(world):
    answers = await asyncio.gather(*(put_round(world, f"r-{n}", MODEL) for n in range(10)))
    assert sorted(body["version"] for _, body in answers) == list(range(1, 11))


async def test_everything_is_there_after_a_restart(world):
    large = {"w": [i / 7 for i in range(30_000)], "b": 0}
    await post(world, 0, MODEL)
    await post(world, 0, large, line="large")
    first = await put_round(world, "r-1", MODEL)
    assert (await use(world, "r-2", line="large"))[0] == 200
    await world.stop("registry")
    await world.start("registry")
    assert (await world.call("GET", "registry", "/models/0"))[1] == MODEL
    assert (await world.call("GET", "registry", "/lines/large/models/0"))[1] == large
    assert await put_round(world, "r-1", MODEL) == (200, first[1])
    assert (await post(world, 0, MODEL, line="large"))[0] == 409


async def test_an_acknowledged_model_survives_kill_9(tmp_path: Path):
    port = free_port()
    environ = {**os.environ, "REGISTRY_PORT": str(port), "MODELS_DIR": str(tmp_path / "models")}

    async def begin():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "coordinator.registry", env=environ, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while True:
                try:
                    await http.request("GET", f"http://127.0.0.1:{port}/health")
                    return process
                except UnavailableError:
                    await asyncio.sleep(0.02)

    async with HttpClient() as http:
        for version in range(3):
            process = await begin()
            try:
                await http.post_json(f"http://127.0.0.1:{port}/models", {"version": version, "model": MODEL})
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
        process = await begin()
        try:
            assert await http.get_json(f"http://127.0.0.1:{port}/models") == {"versions": [0, 1, 2]}
            assert await http.get_json(f"http://127.0.0.1:{port}/models/2") == MODEL
        finally:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
