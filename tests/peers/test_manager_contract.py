"""The manager's HTTP as Propeller's clients know it, line by line: routes, fields, codes, defaults.

Where a row has ``differs``, the existing manager does something else that nobody should rely on; what stands in the row
is what ours does instead.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.coordinator.conftest import World as CoordinatorWorld
from tests.manager.conftest import NAMES, FakeProplet, World

PROPLET = "4f1e5a0c-6f5e-4f6e-9a57-0c9fbb8f7f10"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
NEVER = "0001-01-01T00:00:00Z"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
WASM = b"\0asm\1\0\0\0"
LONG_WASM = WASM + bytes(range(100))
ALWAYS = {
    "id": str,
    "name": str,
    "state": int,
    "cli_args": (list, type(None)),
    "daemon": bool,
    "encrypted": bool,
    **dict.fromkeys(("start_time", "finish_time", "created_at", "updated_at", "next_run"), TIME),
}
"""What every task shows."""
IMAGE = "registry/image:1"
NEW = {"name": "t", "image_url": IMAGE}
ROUND = {
    "round_id": "r-2",
    "model_ref": "fl/models/global_model_v0",
    "participants": ["p-1"],
    "task_wasm_image": "registry.example/fl-client:latest",
}


@dataclass(frozen=True)
class Row:
    """``shows``: field → value, type, or pattern of a text; ``lacks``: fields that must not be there."""

    line: str
    method: str
    path: str
    status: int
    body: Any = None
    shows: dict[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    sends: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    differs: str = ""

    def __str__(self) -> str:
        return f"{self.line}: {self.method} {self.path} {self.status}"


PAGE = {"offset": 0, "limit": 100, "total": 0}


def post(line: str, body: dict[str, Any], status: int, **more: Any) -> Row:
    return Row(line, "POST", "/tasks", status, body, **more)


def refused(line: str, named: str, **fields: Any) -> Row:
    return post(line, {**NEW, **fields}, 400, shows={"error": re.compile(rf".*\b{named}\b.*"), "code": str})


GENERAL = [
    Row(
        "health",
        "GET",
        "/health",
        200,
        shows={
            "status": "pass",
            "version": str,
            "commit": str,
            "description": "manager service",
            "build_time": str,
            "instance_id": str,
        },
    ),
    Row("unknown route", "GET", "/nowhere", 404, shows={"error": str, "code": str}, differs="plain text"),
    Row("wrong method", "PATCH", "/tasks", 405, shows={"error": str}, headers={"Allow": ".*POST.*"}, differs="empty"),
    Row("unknown task", "GET", f"/tasks/{UNKNOWN}", 404, shows={"error": re.compile(".*no task.*")}),
    Row("no UUID", "GET", "/tasks/add-1", 404, shows={"error": str}, differs="400: proplet-1 cannot be asked for"),
    Row("content type", "POST", "/tasks", 400, NEW, {"error": str}, sends={"Content-Type": "text/plain"}),
    Row(
        "content type with a charset",
        "POST",
        "/tasks",
        201,
        NEW,
        ALWAYS,
        sends={"Content-Type": "application/json; charset=utf-8"},
    ),
]
CREATE = [
    post("always there", NEW, 201, shows={**ALWAYS, "state": 0}, headers={"Location": "/tasks/[0-9a-f-]{36}"}),
    post("zero times", NEW, 201, shows=dict.fromkeys(("start_time", "finish_time", "next_run"), NEVER)),
    post(
        "empty is left out",
        NEW,
        201,
        shows={"priority": 50, "kind": "standard"},
        lacks=(
            *(
                "file",
                "inputs",
                "env",
                "latent",
                "kbs_resource_path",
                "proplet_id",
                "depends_on",
                "run_if",
                "workflow_id",
            ),
            *("job_id", "results", "error", "monitoring_profile", "mode", "schedule", "is_recurring", "timezone"),
            *("broadcast", "metadata", "hal_storage_path"),
        ),
    ),
    post(
        "every field comes back",
        {
            **NEW,
            "kind": "federated",
            "mode": "train",
            "inputs": ["a"],
            "cli_args": ["--dir", "."],
            "env": {"A": "1"},
            "daemon": True,
            "encrypted": True,
            "kbs_resource_path": "k",
            "hal_storage_path": "/h",
            "priority": 7,
            "metadata": {"a": {"b": [1]}},
            "monitoring_profile": {"enabled": True, "interval": 2_000_000_000},
        },
        201,
        shows={
            "kind": "federated",
            "mode": "train",
            "inputs": ["a"],
            "cli_args": ["--dir", "."],
            "env": {"A": "1"},
            "daemon": True,
            "encrypted": True,
            "kbs_resource_path": "k",
            "hal_storage_path": "/h",
            "priority": 7,
            "metadata": {"a": {"b": [1]}},
            "monitoring_profile": dict,
        },
    ),
    post("numbers become texts", {**NEW, "inputs": [2, 40.5, "x"]}, 201, shows={"inputs": ["2", "40.5", "x"]}),
    post("a short file", {"name": "t", "file": base64.b64encode(WASM).decode()}, 201, shows={"file": "AGFzbQEAAAA="}),
    post(
        "a file is redacted",
        {"name": "t", "file": base64.b64encode(LONG_WASM).decode()},
        201,
        shows={"file": "AGFzbQEAAA<REDACTED>" + base64.b64encode(LONG_WASM).decode()[-10:]},
    ),
    post("latent", {**NEW, "latent": True}, 201, shows={"latent": True}),
    post("broadcast", {**NEW, "broadcast": True}, 201, shows={"broadcast": True}),
    post("pinned", {**NEW, "proplet_id": PROPLET}, 201, shows={"proplet_id": PROPLET}),
    post(
        "id and created_at are ours",
        {**NEW, "id": UNKNOWN, "created_at": "2001-01-01T00:00:00Z"},
        201,
        shows={"id": re.compile(f"(?!{UNKNOWN})[0-9a-f-]{{36}}"), "created_at": re.compile("(?!2001)20.*")},
    ),
    post(
        "a state is not taken",
        {**NEW, "state": 3, "results": "42"},
        201,
        shows={"state": 0},
        lacks=("results",),
        differs="takes both as they are",
    ),
    post("priority 0 is 0", {**NEW, "priority": 0}, 201, shows={"priority": 0}, differs="makes it 50"),
    post("a name is needed", {"image_url": IMAGE}, 400, shows={"error": re.compile(".*name.*")}),
    post("no text for a number", {**NEW, "priority": "7"}, 400, shows={"error": re.compile(".*priority.*")}),
    refused("an empty name", "name", name=""),
    refused("inputs are texts or numbers", "inputs", inputs=[True]),
    refused("inputs are no objects", "inputs", inputs=[{}]),
    refused("a wrong run_if", "run_if", run_if="always"),
    refused("a wrong kind", "kind", kind="magic"),
    refused("a wrong mode", "mode", mode="guess"),
    refused("priority over 100", "priority", priority=101),
    refused("priority below 0", "priority", priority=-1),
    refused("broadcast and proplet_id", "broadcast", broadcast=True, proplet_id=PROPLET),
    refused("metadata over 1 MiB", "metadata", metadata={"a": "x" * (1 << 20)}),
    refused("a file that is not base64", "file", image_url="", file="!"),
    refused("a file that is not WASM", "file", image_url="", file="AAAA"),
    Row(
        "depends_on needs its parents",
        "POST",
        "/tasks",
        400,
        {**NEW, "depends_on": [UNKNOWN]},
        {"error": str, "hint": str},
        differs="500",
    ),
]
READ = [
    Row(
        "the list",
        "GET",
        "/tasks",
        200,
        shows={"offset": 0, "limit": 100, "total": 3, "tasks": list},
    ),
    Row("a page", "GET", "/tasks?offset=1&limit=1", 200, shows={"offset": 1, "limit": 1, "total": 3}),
    Row("limit 0", "GET", "/tasks?limit=0", 400, shows={"error": re.compile(".*limit.*")}),
    Row("limit 101", "GET", "/tasks?limit=101", 400, shows={"error": re.compile(".*limit.*")}),
    Row("no number", "GET", "/tasks?offset=x", 400, shows={"error": re.compile(".*offset.*")}),
    Row("a negative offset", "GET", "/tasks?offset=-1", 400, shows={"error": re.compile(".*offset.*")}),
    Row("metadata", "GET", '/tasks?metadata={"site":"north"}', 200, shows={"total": 1}),
    Row("metadata, every key", "GET", '/tasks?metadata={"site":"north","n":2}', 200, shows={"total": 0}),
    Row("metadata, exactly", "GET", '/tasks?metadata={"n":1,"site":"north"}', 200, shows={"total": 1}),
    Row("metadata, no object", "GET", "/tasks?metadata=[]", 400, shows={"error": re.compile(".*metadata.*")}),
    Row("by status", "GET", "/tasks?status=completed", 200, shows={"total": 1}),
    Row("by a wrong status", "GET", "/tasks?status=done", 400, shows={"error": re.compile(".*status.*")}),
    Row("by name", "GET", "/tasks?name=pending", 200, shows={"total": 1}),
    Row("by job", "GET", f"/tasks?job_id={UNKNOWN}", 200, shows={"total": 0, "tasks": []}),
    Row("one task", "GET", "/tasks/{pending}", 200, shows={**ALWAYS, "name": "pending", "state": 0}),
    Row(
        "one that is over",
        "GET",
        "/tasks/{completed}",
        200,
        shows={"state": 3, "status": "completed", "results": "42", "proplet_id": PROPLET, "finish_time": TIME},
    ),
    Row("results", "GET", "/tasks/{completed}/results", 200, shows={"results": "42"}),
    Row("no results", "GET", "/tasks/{pending}/results", 200, shows={"results": None}, differs="an empty body"),
    Row("results of nobody", "GET", f"/tasks/{UNKNOWN}/results", 404, shows={"error": str}),
    Row("the proplets", "GET", "/proplets", 200, shows={"offset": 0, "limit": 100, "total": 1, "proplets": list}),
    Row("active ones", "GET", "/proplets?status=active", 200, shows={"total": 1}),
    Row("inactive ones", "GET", "/proplets?status=inactive", 200, shows={"total": 0}),
    Row("another status", "GET", "/proplets?status=tired", 400, shows={"error": re.compile(".*status.*")}),
    Row(
        "one proplet",
        "GET",
        f"/proplets/{PROPLET}",
        200,
        shows={"id": PROPLET, "name": str, "task_count": 1, "alive": True, "last_alive_at": TIME, "metadata": dict},
    ),
    Row("no proplet", "GET", f"/proplets/{UNKNOWN}", 404, shows={"error": str}),
    Row(
        "an SDF document",
        "GET",
        f"/proplets/{PROPLET}/sdf",
        200,
        shows={
            "info": {"title": re.compile(rf"Propeller Proplet: .* \({PROPLET}\)"), "version": "1.0"},
            "sdfThing": {"Proplet": {"sdfProperty": dict, "sdfAction": dict, "sdfEvent": dict, "sdfData": dict}},
        },
    ),
    Row("its metrics", "GET", f"/proplets/{PROPLET}/metrics", 200, shows={**PAGE, "metrics": []}),
    Row(
        "metrics of nobody",
        "GET",
        f"/proplets/{UNKNOWN}/metrics",
        404,
        shows={"error": str},
        differs="200 with an empty page",
    ),
    Row("a task's metrics", "GET", "/tasks/{completed}/metrics", 200, shows={**PAGE, "metrics": []}),
    Row(
        "a page of metrics",
        "GET",
        f"/proplets/{PROPLET}/metrics?offset=3&limit=2",
        200,
        shows={"offset": 3, "limit": 2},
    ),
    Row(
        "when it reported",
        "GET",
        f"/proplets/{PROPLET}/alive-history",
        200,
        shows={"offset": 0, "limit": 100, "total": int, "history": list},
    ),
    Row(
        "a busy proplet is not deleted", "DELETE", f"/proplets/{PROPLET}", 409, shows={"error": re.compile(".*task.*")}
    ),
    Row("no proplet to delete", "DELETE", f"/proplets/{UNKNOWN}", 404, shows={"error": str}),
    Row(
        "what is not latent is not called",
        "POST",
        "/tasks/{pending}/invoke",
        409,
        {"inputs": ["1"]},
        {"error": str, "code": "not_latent"},
        differs="500",
    ),
    Row("nobody is called", "POST", f"/tasks/{UNKNOWN}/invoke", 404, shows={"error": str}),
]
CHANGE = [
    Row("a name", "PUT", "/tasks/{pending}", 200, {"name": "other"}, {**ALWAYS, "name": "other", "priority": 7}),
    Row(
        "all that can be changed",
        "PUT",
        "/tasks/{pending}",
        200,
        {"inputs": [1], "priority": 8, "metadata": {"a": 1}, "file": base64.b64encode(WASM).decode()},
        {"inputs": ["1"], "priority": 8, "metadata": {"a": 1}, "file": "AGFzbQEAAAA=", "name": "pending"},
    ),
    Row("nothing", "PUT", "/tasks/{pending}", 200, {}, {"name": "pending", "priority": 7, "inputs": ["a"]}),
    Row("unknown fields", "PUT", "/tasks/{pending}", 200, {"state": 3, "id": UNKNOWN}, {"state": 0, "name": "pending"}),
    Row(
        "what it names is checked",
        "PUT",
        "/tasks/{pending}",
        400,
        {"priority": 101},
        {"error": re.compile(".*priority.*")},
        differs="takes anything",
    ),
    Row("of nobody", "PUT", f"/tasks/{UNKNOWN}", 404, {}, {"error": str}),
    Row("delete", "DELETE", "/tasks/{pending}", 204),
    Row("delete nobody", "DELETE", f"/tasks/{UNKNOWN}", 404, shows={"error": str}),
    Row("start", "POST", "/tasks/{pending}/start", 200, shows={"started": True}),
    Row(
        "start again",
        "POST",
        "/tasks/{completed}/start",
        200,
        shows={"started": True},
        differs="500 entity already exists",
    ),
    Row("start nobody", "POST", f"/tasks/{UNKNOWN}/start", 404, shows={"error": str}),
    Row("stop", "POST", "/tasks/{running}/stop", 200, shows={"stopped": True}),
    Row("stop what does not run", "POST", "/tasks/{pending}/stop", 409, shows={"error": str}, differs="404"),
    Row("stop nobody", "POST", f"/tasks/{UNKNOWN}/stop", 404, shows={"error": str}),
]
LEARNING = [
    Row(
        "a round",
        "POST",
        "/fl/experiments",
        200,
        ROUND,
        {"experiment_id": str, "round_id": "r-2", "status": "configured"},
    ),
    *(
        Row(
            f"no {name}",
            "POST",
            "/fl/experiments",
            400,
            {k: v for k, v in ROUND.items() if k != name},
            {"error": re.compile(f".*{name}.*")},
            differs="500",
        )
        for name in ROUND
    ),
    Row(
        "what to do",
        "GET",
        "/fl/task?round_id=r-1&proplet_id=p-1",
        200,
        shows={"task": {"round_id": "r-1", "model_ref": ROUND["model_ref"], "config": dict, "hyperparams": dict}},
    ),
    Row("of no round", "GET", "/fl/task", 400, shows={"error": re.compile(".*round_id.*")}),
    Row("an update in CBOR", "POST", "/fl/update_cbor", 415, shows={"error": str, "hint": str}, differs="takes it"),
    Row(
        "is it over?",
        "GET",
        "/fl/rounds/r-1/complete",
        200,
        shows={"status": {"round_id": "r-1", "completed": False, "num_updates": 0, "k_of_n": 3}},
        differs="always zero values",
    ),
    Row("a round that is not", "GET", "/fl/rounds/none/complete", 404, shows={"error": str}),
]


def holds(found: Any, wanted: Any, where: str) -> None:
    """``found`` is as ``wanted`` says: a value, a type, a pattern, or an object of such."""
    if isinstance(wanted, re.Pattern):
        assert isinstance(found, str), where
        assert wanted.fullmatch(found), f"{where}: {found!r} is not {wanted.pattern}"
    elif isinstance(wanted, type | tuple):
        assert isinstance(found, wanted), f"{where}: {found!r} is not {wanted}"
    elif isinstance(wanted, dict) and wanted and isinstance(found, dict):
        for name, inner in wanted.items():
            assert name in found, f"{where}: {name} is missing"
            holds(found[name], inner, f"{where}.{name}")
    else:
        assert found == wanted, f"{where}: {found!r} is not {wanted!r}"


@asynccontextmanager
async def manager(folder, *, coordinator: bool = False):
    async with aiohttp.ClientSession() as session:
        world = World(folder / "manager", session)
        world.folder.mkdir()
        await world.proxy.bus.subscribe(NAMES.resolve_request, world.proxy.answer)
        async with world.proxy.bus:
            if not coordinator:
                async with world.manager():
                    yield world, None
                return
            learning = CoordinatorWorld(folder)
            learning.session = session
            world.coordinator_url = learning.url("coordinator")
            await learning.start()
            try:
                async with world.manager():
                    yield world, learning
            finally:
                await learning.stop()


async def check(world: World, row: Row, path: str, body: Any) -> None:
    data = None if body is None else io.BytesIO(json.dumps(body).encode())
    async with world.session.request(row.method, world.url + path, data=data, headers=row.sends) as response:
        text = await response.text()
    assert response.status == row.status, text
    for name, pattern in row.headers.items():
        assert re.fullmatch(pattern, response.headers[name])
    if row.status == 204:
        assert text == ""
        return
    assert response.content_type == "application/json"
    assert text.endswith("\n")
    shown = json.loads(text)
    holds(shown, row.shows, row.line)
    assert [name for name in row.lacks if name in shown] == []


async def check_all(world: World, rows: list[Row], ids: dict[str, str]) -> None:
    """Of rows that do not disturb each other."""
    wrong = []
    for row in rows:
        try:
            await check(world, row, filled(row.path, ids), row.body)
        except AssertionError as error:
            wrong.append(f"{row}: {error}")
    assert not wrong, "\n\n".join(wrong)


def filled(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"{(\w+)}", lambda found: ids[found[1]], path)


async def prepared(world: World, proplet: FakeProplet) -> dict[str, str]:
    """A task that is completed, one that runs, and one that was not started."""
    completed = await world.launch(name="completed", metadata={"site": "north", "n": 1})
    start = await proplet.started()
    await proplet.status(start, "accepted")
    await proplet.result(start, "42")
    await world.ended(completed["id"])
    running = await world.launch(name="running", metadata={"site": "south"}, daemon=True)
    await proplet.status(await proplet.started(), "accepted")
    _, pending = await world.call("POST", "/tasks", {**NEW, "name": "pending", "priority": 7, "inputs": ["a"]})
    return {"completed": completed["id"], "running": running["id"], "pending": pending["id"]}


@pytest.mark.parametrize("rows", [GENERAL, CREATE], ids=["general", "create"])
async def test_what_needs_no_tasks(tmp_path, rows):
    async with manager(tmp_path) as (world, _):
        await check_all(world, rows, {})


async def test_what_is_only_read(tmp_path):
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET) as proplet:
        await check_all(world, READ, await prepared(world, proplet))


@pytest.mark.parametrize("row", CHANGE, ids=str)
async def test_what_changes_a_task(tmp_path, row):
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET) as proplet:
        await check(world, row, filled(row.path, await prepared(world, proplet)), row.body)


async def test_learning(tmp_path):
    async with manager(tmp_path, coordinator=True) as (world, learning):
        assert (await learning.configure())[0] == 201
        await check_all(world, LEARNING, {})
        update = {
            "round_id": "r-1",
            "proplet_id": "p-1",
            "base_model_uri": ROUND["model_ref"],
            "num_samples": 3,
            "metrics": {},
            "update": {"w": [1, 2, 3], "b": 1},
            "received_at": "2026-01-01T00:00:00Z",
        }
        sends = {"Content-Type": "application/json", "X-Attempt-Token": learning.token("p-1")}
        row = Row("an update", "POST", "/fl/update", 200, update, {"status": "accepted"}, sends=sends)
        await check(world, row, row.path, row.body)


async def test_health_answers_head(tmp_path):
    async with manager(tmp_path) as (world, _), world.session.head(f"{world.url}/health") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_an_update_without_a_schedule_keeps_it(tmp_path):
    """The existing manager clears schedule, next_run and is_recurring then."""
    schedule = {"schedule": "*/5 * * * *", "is_recurring": True, "timezone": "Europe/Berlin"}
    async with manager(tmp_path) as (world, _):
        _, made = await world.call("POST", "/tasks", {**NEW, **schedule})
        _, changed = await world.call("PUT", f"/tasks/{made['id']}", {"name": "other"})
    assert {name: changed[name] for name in schedule} == schedule
    assert changed["next_run"] == made["next_run"]


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [("add.wasm", LONG_WASM, 200), ("add.txt", LONG_WASM, 400), ("add.wasm", b"\x7fELF", 400)],
)
async def test_upload(tmp_path, name, content, status):
    async with manager(tmp_path) as (world, _):
        _, made = await world.call("POST", "/tasks", {"name": "t"})
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(content), filename=name)
        async with world.session.put(f"{world.url}/tasks/{made['id']}/upload", data=form) as response:
            shown = await response.json()
        assert response.status == status, shown
        if status == 200:
            holds(shown, {**ALWAYS, "id": made["id"], "file": re.compile("AGFzbQEAAA<REDACTED>.{10}")}, "upload")
            async with world.session.get(f"{world.url}/blobs/{shown['digest']}") as blob:
                assert await blob.read() == content
        else:
            holds(shown, {"error": re.compile(".*file.*"), "code": "not_wasm"}, "upload")


async def test_an_upload_keeps_the_schedule(tmp_path):
    async with manager(tmp_path) as (world, _):
        _, made = await world.call("POST", "/tasks", {"name": "t", "schedule": "* * * * *", "is_recurring": True})
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(WASM), filename="a.wasm")
        async with world.session.put(f"{world.url}/tasks/{made['id']}/upload", data=form) as response:
            assert (await response.json())["schedule"] == "* * * * *"


async def test_a_stop_ends_the_task(tmp_path):
    """The existing manager leaves it as Running."""
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET) as proplet:
        task = await world.launch()
        start = await proplet.started()
        await proplet.status(start, "accepted")
        await world.call("POST", f"/tasks/{task['id']}/stop")
        await proplet.stops.get()
        await proplet.result(start, error="stopped", code="stopped")
        ended = await world.ended(task["id"])
    assert (ended["state"], ended["status"]) == (6, "interrupted")


async def test_a_finished_task_does_not_count_for_its_proplet(tmp_path):
    """The existing manager counts it until it is stopped."""
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET) as proplet:
        task = await world.launch()
        assert (await world.call("GET", f"/proplets/{PROPLET}"))[1]["task_count"] == 1
        await proplet.result(await proplet.started(), "42")
        await world.ended(task["id"])
        await world.until(lambda shown: shown["task_count"] == 0, f"/proplets/{PROPLET}")


async def test_a_latent_task_is_called(tmp_path):
    """The existing manager cuts the connection after 15 s and gives up after 30."""
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET) as proplet:
        task = await world.launch(latent=True)
        start = await proplet.started()
        await proplet.status(start, "accepted")
        await proplet.status(start, "ready")
        await world.until(lambda shown: shown["state"] == 2, f"/tasks/{task['id']}")
        calling = asyncio.create_task(world.call("POST", f"/tasks/{task['id']}/invoke", {"inputs": ["2", "40"]}))
        invoke = await proplet.invoked()
        assert invoke.inputs == ["2", "40"]
        await proplet.invoke_result(invoke, "42")
        status, shown = await calling
    assert status == 200
    holds(shown, {"invoked": True, "results": "42"}, "invoke")


async def test_a_proplet_without_tasks_is_deleted(tmp_path):
    """The existing manager deletes one that lives, too; it is there again with its next report."""
    path = f"/proplets/{PROPLET}"
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET):
        await check(world, Row("alive", "DELETE", path, 409, shows={"error": str, "hint": str}), path, None)
        assert (await world.call("POST", f"{path}/cordon"))[0] == 200
        await check(world, Row("cordoned", "DELETE", path, 204), path, None)
        assert (await world.call("GET", path))[0] == 404
