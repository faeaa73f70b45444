"""The local data store: checked when stored, durable when answered, served as it is."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from proplet.data_store.app import DataStoreApi, seed
from proplet.data_store.datasets import COUNTED_BYTES, Datasets
from proplet.settings import DataStoreSettings
from swashplate.http import HttpService
from tests.support.ports import free_port

ROWS = [{"x": [0.1, 0.2], "y": 1}, {"x": [0.3, 0.4], "y": 0}]


class Client:
    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base, self.session = base, session

    async def get(self, path: str, **headers: str):
        async with self.session.get(self.base + path, headers=headers) as response:
            return response.status, await response.read(), response.headers

    async def post(self, path: str, body, **more):
        text = io.BytesIO((body if isinstance(body, str) else json.dumps(body)).encode())
        headers = {"Content-Type": "application/json"}
        async with self.session.post(self.base + path, data=text, headers=headers, **more) as response:
            return response.status, json.loads(await response.read())


@asynccontextmanager
async def store(folder, **options):
    port = free_port()
    service = HttpService("data_store", DataStoreApi(Datasets(folder), **options).routes())
    async with service.serving("127.0.0.1", port), aiohttp.ClientSession() as session:
        yield Client(f"http://127.0.0.1:{port}", session)


@pytest.fixture
async def client(tmp_path):
    async with store(tmp_path) as serving:
        yield serving


async def test_what_was_stored_is_served(client):
    assert await client.post("/datasets/ward-7", {"data": ROWS, "proplet_id": "liar", "size": 99}) == (
        201,
        {"proplet_id": "ward-7", "size": 2, "status": "stored"},
    )
    status, content, headers = await client.get("/datasets/ward-7")
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert json.loads(content) == {
        "schema": "fl-demo-dataset-v1",
        "proplet_id": "ward-7",
        "client_id": "ward-7",
        "data": ROWS,
        "size": 2,
    }


async def test_datasets_are_listed(client):
    for name in ("b", "a"):
        await client.post(f"/datasets/{name}", {"data": ROWS})
    status, content, _ = await client.get("/datasets")
    assert status == 200
    assert json.loads(content) == {"datasets": ["a", "b"], "clients": ["a", "b"], "count": 2}


async def test_an_unknown_dataset_is_not_found(client, logged):
    status, content, _ = await client.get("/datasets/nobody")
    assert (status, json.loads(content)["error"], json.loads(content)["code"]) == (
        404,
        "Dataset not found",
        "dataset_not_found",
    )
    assert await logged.until("Dataset missing")


async def test_an_unchanged_dataset_is_not_sent_again(client):
    await client.post("/datasets/d", {"data": ROWS})
    _, _, headers = await client.get("/datasets/d")
    status, content, _ = await client.get("/datasets/d", **{"If-None-Match": headers["ETag"]})
    assert (status, content) == (304, b"")
    await client.post("/datasets/d", {"data": ROWS[:1]})
    status, _, again = await client.get("/datasets/d", **{"If-None-Match": headers["ETag"]})
    assert status == 200
    assert again["ETag"] != headers["ETag"]


async def test_a_large_dataset_is_served_whole(client):
    rows = [{"x": [i / 7, i / 3], "y": i % 2} for i in range(60_000)]
    assert (await client.post("/datasets/large", {"data": rows}))[0] == 201
    _, content, headers = await client.get("/datasets/large")
    assert len(content) > 1 << 20
    assert json.loads(content)["data"] == rows
    assert headers["X-Dataset-Rows"] == "60000"


async def test_a_file_too_large_to_be_counted_is_served_as_it_is(client, tmp_path):
    content = b'{"data":[{"x":[1],"y":1}]' + b" " * COUNTED_BYTES + b"}"
    (tmp_path / "huge.json").write_bytes(content)
    status, served, headers = await client.get("/datasets/huge")
    assert (status, served) == (200, content)
    assert headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert headers["Content-Length"] == str(len(content))
    assert "X-Dataset-Rows" not in headers


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "body"),
        ({}, "data"),
        ({"data": []}, "data"),
        ({"data": {}}, "data"),
        ({"data": [{"x": [], "y": 1}]}, "data.0.x"),
        ({"data": [{"x": [1.0]}]}, "data.0.y"),
        ({"data": [{"x": ["1"], "y": 1}]}, "data.0.x.0"),
        ({"data": [{"x": [True], "y": 1}]}, "data.0.x.0"),
        ({"data": [{"x": [1.0], "y": None}]}, "data.0.y"),
        ('{"data": [{"x": [NaN], "y": 1}]}', "data.0.x.0"),
        ('{"data": [{"x": [1e999], "y": 1}]}', "data.0.x.0"),
        ({"data": [{"x": [1.0], "y": 1}, {"x": [1.0, 2.0], "y": 1}]}, "data.1.x has 2 features"),
        ({"data": ROWS, "schema": 7}, "schema"),
    ],
)
async def test_a_bad_dataset_is_refused_and_changes_nothing(client, body, reason):
    await client.post("/datasets/d", {"data": ROWS})
    status, answer = await client.post("/datasets/d", body)
    assert status == 400
    assert reason in answer["error"]
    assert json.loads((await client.get("/datasets/d"))[1])["data"] == ROWS


@pytest.mark.parametrize("name", ["..%2F..%2Fescape", "a.b", "%2e%2e", "a%20b", "%00", "x" * 300, "é" * 120, "a%2Fb"])
async def test_a_name_that_could_leave_the_folder_is_refused(client, tmp_path, name):
    from yarl import URL

    base = URL(client.base + "/datasets/" + name, encoded=True)
    async with client.session.post(base, json={"data": ROWS}) as response:
        assert response.status in {400, 404}
    async with client.session.get(base) as response:
        assert response.status in {400, 404}
    assert list(tmp_path.iterdir()) == []


async def test_a_body_over_the_limit_is_refused(tmp_path):
    async with store(tmp_path, limit=1000) as client:
        status, answer = await client.post("/datasets/d", {"data": ROWS * 100})
        assert (status, answer["code"]) == (413, "too_large")
    assert list(tmp_path.iterdir()) == []


async def test_concurrent_posts_leave_one_whole_dataset(client):
    bodies = [{"data": [{"x": [float(i)], "y": 0}] * (i + 1)} for i in range(20)]
    assert {status for status, _ in await asyncio.gather(*(client.post("/datasets/d", b) for b in bodies))} == {201}
    assert json.loads((await client.get("/datasets/d"))[1])["data"] in [b["data"] for b in bodies]


def test_seeding_never_overwrites(tmp_path, logged):
    datasets = Datasets(tmp_path)
    datasets.put("a", ROWS)
    seed(datasets, ["a", "b"])
    assert json.loads((tmp_path / "a.json").read_text())["data"] == ROWS
    assert json.loads((tmp_path / "b.json").read_text())["size"] == 64
    assert [line["event"] for line in logged] == ["Dataset already exists, skipping", "Dataset seeded"]


def test_participants_are_listed_or_the_provisioned_proplets():
    listed = DataStoreSettings.load({"FL_DATASET_PARTICIPANTS": " a, b,", "PROPLET_CLIENT_ID": "c"})
    assert listed.seeded() == ["a", "b"]
    provisioned = DataStoreSettings.load(
        {"PROPLET_ENTITY_ID": "c", "PROPLET_2_CLIENT_ID": "", "PROPLET_3_CLIENT_ID": "e"}
    )
    assert provisioned.seeded() == ["c", "e"]


async def test_the_process_keeps_what_it_answered_through_a_kill(tmp_path):
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(tmp_path / "data"),
        "DATA_STORE_PORT": str(port),
        "FL_DATASET_PARTICIPANTS": "one",
    }
    base = f"http://127.0.0.1:{port}"

    @asynccontextmanager
    async def process():
        with subprocess.Popen(
            [sys.executable, "-m", "proplet.data_store"], env=environment, stderr=subprocess.PIPE
        ) as running:
            await asyncio.to_thread(lambda: next(line for line in running.stderr if b"serving HTTP" in line))
            async with aiohttp.ClientSession() as session:
                yield running, Client(base, session)
            running.kill()

    async with process() as (running, client):
        assert (await client.post("/datasets/two", {"data": ROWS}))[0] == 201
        running.send_signal(signal.SIGKILL)
    async with process() as (running, client):
        assert json.loads((await client.get("/datasets"))[1])["datasets"] == ["one", "two"]
        assert json.loads((await client.get("/datasets/two"))[1])["data"] == ROWS
        assert (await client.get("/health"))[0] == 200
        running.terminate()
        assert await asyncio.to_thread(running.wait, 10) == 0


def test_it_refuses_to_listen_beyond_this_machine_unless_told(tmp_path):
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "DATA_STORE_HTTP_HOST": "0.0.0.0"}
    refused = subprocess.run(
        [sys.executable, "-m", "proplet.data_store"], env=environment, check=False, capture_output=True, timeout=30
    )
    assert refused.returncode == 1
    assert b"DATA_STORE_HTTP_INSECURE" in refused.stderr
