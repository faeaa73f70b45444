"""Models and datasets: given to the guest as they are, and never made up."""

from __future__ import annotations

import json

import pytest
import wasmtime

MODEL = {"MODEL_URI": "fl/models/global_model_v0"}
DATA = [{"x": [0.1, 0.2, 0.3], "y": 1}, {"x": [0.4, 0.5, 0.6], "y": 0}]


def cat(path: str) -> str:
    """Prints the file ``path`` of the directory /in."""
    return f"""(module
      (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 4) (data (i32.const 100) "{path}")
      (func (export "_start") (local $failed i32)
        (local.set $failed (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const {len(path)})
          (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))
        (if (local.get $failed) (then (call $exit (local.get $failed))))
        (i32.store (i32.const 0) (i32.const 1000)) (i32.store (i32.const 4) (i32.const 200000))
        (drop (call $read (i32.load (i32.const 8)) (i32.const 0) (i32.const 1) (i32.const 20)))
        (i32.store (i32.const 4) (i32.load (i32.const 20)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 24)))))"""


ENVIRONMENT = """(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $get (i32.const 1000) (i32.const 8000)))
    (i32.store (i32.const 0) (i32.const 8000)) (i32.store (i32.const 4) (i32.load (i32.const 20)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 24)))))"""


def environment(text: str) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


async def test_the_dataset_is_a_file_of_the_guest(world, proplet, logged):
    world.site.datasets.put("ward-7", DATA)
    async with world.site.data_store():
        result = await world.manager.outcome(world.start(cat("data/dataset.json"), dataset="ward-7"))
    assert json.loads(result.results)["data"] == DATA
    url = world.site.url(world.site.data_store_port) + "/datasets/ward-7"
    assert await logged.until(f"Fetching dataset from Local Data Store: {url}")
    assert await logged.until("Successfully fetched dataset with 2 samples and passed to client")


async def test_the_model_is_a_file_of_the_guest(world, proplet, logged):
    async with world.site.registry():
        result = await world.manager.outcome(world.start(cat("model.json"), env=MODEL))
    assert json.loads(result.results) == {"w": [0.0, 0.0, 0.0], "b": 0.0}
    url = world.site.url(world.site.registry_port) + "/models/0"
    assert await logged.until(f"Fetching model from registry: {url}")


async def test_the_task_is_described_without_its_tokens(world, proplet):
    env = {"ROUND_ID": "r-1", "HYPERPARAMS": '{"lr": 0.5}'}
    start = world.start(cat("task.json"), env=env, tokens={"update": "secret"}, inputs=["a"])
    result = await world.manager.outcome(start)
    task = json.loads(result.results)
    assert task["hyperparams"] == {"lr": 0.5}
    assert (task["id"], task["round_id"], task["proplet_id"], task["inputs"]) == (start.id, "r-1", "proplet-1", ["a"])
    assert "secret" not in result.results


async def test_the_environment_is_the_tasks_own_and_nothing_else(world, proplet, monkeypatch):
    monkeypatch.setenv("PROPLET_CLIENT_KEY", "key-of-the-agent")
    start = world.start(ENVIRONMENT, env={"GREETING": "hello"}, tokens={"update": "secret"})
    found = environment((await world.manager.outcome(start)).results)
    assert found == {"GREETING": "hello", "TASK_ID": start.id, "PROPLET_ID": "proplet-1"}


async def test_a_deterministic_guest_is_not_told_what_differs_from_run_to_run(world, proplet):
    same = {"env": {"GREETING": "hello"}, "deterministic": True}
    found = environment((await world.manager.outcome(world.start(ENVIRONMENT, **same))).results)
    assert found == {"GREETING": "hello"}
    first, second = [await world.manager.outcome(world.start(cat("task.json"), **same)) for _ in range(2)]
    assert first.results == second.results
    assert json.loads(first.results)["name"] == "task"


async def test_small_inputs_are_in_the_environment_too(world, proplet):
    world.site.datasets.put("proplet-1", DATA)
    async with world.site.data_store(), world.site.registry():
        start = world.start(ENVIRONMENT, env=MODEL, dataset="proplet-1")
        found = environment((await world.manager.outcome(start)).results)
    assert json.loads(found["MODEL_DATA"]) == {"w": [0.0, 0.0, 0.0], "b": 0.0}
    assert json.loads(found["DATASET_DATA"])["data"] == DATA


async def test_large_inputs_are_files_only(world, proplet, logged):
    world.site.datasets.put("large", [{"x": [0.123456789] * 1000, "y": 1}] * 400)
    async with world.site.data_store():
        start = world.start(ENVIRONMENT, dataset="large")
        found = environment((await world.manager.outcome(start)).results)
    assert "DATASET_DATA" not in found
    assert await logged.until("Successfully fetched dataset with 400 samples")


async def test_a_dataset_is_sent_again_only_when_it_changed(world, proplet, logged):
    world.site.datasets.put("d", DATA)
    guest = cat("data/dataset.json")
    async with world.site.data_store():
        for _ in range(2):
            await world.manager.outcome(world.start(guest, dataset="d"))
        world.site.datasets.put("d", DATA[:1])
        result = await world.manager.outcome(world.start(guest, dataset="d"))
    assert json.loads(result.results)["data"] == DATA[:1]
    served = [line.get("unchanged", False) for line in logged if line["event"] == "Dataset served"]
    assert served == [False, True, False]


async def test_a_later_model_version_is_fetched_once(world, proplet):
    world.site.models["global_model", 1] = {"w": [1], "b": 1}
    async with world.site.registry():
        for version in (0, 1, 1, 0):
            env = {"MODEL_URI": f"fl/models/global_model_v{version}"}
            await world.manager.outcome(world.start(cat("model.json"), env=env))
    asked = [path.rpartition("/")[2] for path in world.site.model_requests]
    assert asked == ["0", "1", "0"]


@pytest.mark.parametrize(
    ("fields", "code", "retryable"),
    [
        ({"dataset": "nobody"}, "dataset_not_found", False),
        ({"kind": "federated"}, "dataset_not_found", False),
        ({"dataset": "../../etc/passwd"}, "invalid_id", False),
        ({"env": {"MODEL_URI": "fl/models/global_model_v7"}}, "model_not_found", False),
        ({"env": {"MODEL_URI": "nonsense"}}, "invalid_model_ref", False),
        ({"env": {"MODEL_URI": "fl/models/broken_v1"}}, "model_invalid", False),
        ({"env": {"MODEL_URI": "fl/models/nan_v1"}}, "model_invalid", False),
        ({"env": {"MODEL_URI": "fl/models/list_v1"}}, "model_invalid", False),
    ],
)
async def test_what_is_missing_or_wrong_fails_the_task(world, proplet, guests, fields, code, retryable):
    world.site.models |= {("broken", 1): "{", ("nan", 1): '{"w": [NaN]}', ("list", 1): "[1, 2]"}
    async with world.site.data_store(), world.site.registry():
        result = await world.manager.outcome(world.start(guests["prints"]("no"), **fields))
    assert (result.code, result.retryable) == (code, retryable)


async def test_a_dataset_without_rows_is_invalid(world, proplet, guests):
    (world.tmp_path / "datasets" / "empty.json").write_text('{"data": []}')
    (world.tmp_path / "datasets" / "none.json").write_text("{}")
    async with world.site.data_store():
        for name in ("empty", "none"):
            result = await world.manager.outcome(world.start(guests["prints"]("no"), dataset=name))
            assert result.code == "dataset_invalid"


async def test_services_that_do_not_answer_may_be_tried_again(world, proplet, guests):
    result = await world.manager.outcome(world.start(guests["prints"]("no"), dataset="d", timeout_s=2))
    assert (result.code, result.retryable) == ("data_store_unreachable", True)
    result = await world.manager.outcome(world.start(guests["prints"]("no"), env=MODEL, timeout_s=2))
    assert (result.code, result.retryable) == ("model_registry_unreachable", True)


async def test_a_service_that_comes_back_in_time_costs_no_attempt(world, proplet, logged):
    world.site.datasets.put("d", DATA)
    start = world.start(cat("data/dataset.json"), dataset="d", env=MODEL)
    await world.manager.start(start)
    await logged.until("no answer, trying again")
    async with world.site.data_store(), world.site.registry():
        assert json.loads((await world.manager.result(start.id)).results)["data"] == DATA


async def test_a_missing_setting_is_a_configuration_error(world, guests):
    async with world.proplet(DATA_STORE_URL="", MODEL_REGISTRY_URL=""):
        result = await world.manager.outcome(world.start(guests["prints"]("no"), dataset="d"))
        assert result.code == "configuration"
        result = await world.manager.outcome(world.start(guests["prints"]("no"), env=MODEL))
        assert result.code == "configuration"


async def test_announced_services_are_used_where_no_setting_names_them(world, guests):
    urls = {"model_registry": world.site.url(world.site.registry_port)}
    announce = json.dumps({"heartbeat_s": 10, "urls": urls}).encode()
    await world.manager.bus.publish("m/d/c/c/control/manager/announce", announce, retain=True)
    async with world.site.registry(), world.proplet(MODEL_REGISTRY_URL=""):
        assert (await world.manager.outcome(world.start(cat("model.json"), env=MODEL))).error is None


async def test_tasks_run_on_after_their_folders_were_swept_away(world, proplet):
    world.site.datasets.put("d", DATA)
    async with world.site.data_store():
        for life in ("first", "second"):
            result = await world.manager.outcome(world.start(cat("data/dataset.json"), dataset="d"))
            assert json.loads(result.results)["data"] == DATA
            (world.tmp_path / "tasks").rename(world.tmp_path / f"swept-{life}")


async def test_nothing_of_a_task_is_left_behind(world, guests):
    async with world.proplet() as proplet:
        await world.manager.outcome(world.start(guests["prints"]("x")))
        await world.manager.outcome(world.start(guests["loops"], timeout_s=0.3))
        root = world.tmp_path / "tasks"
        assert proplet.agent.running == 0
    assert not root.exists()


def test_the_guests_of_this_file_compile():
    for guest in (cat("x"), ENVIRONMENT):
        wasmtime.Module(wasmtime.Engine(), guest)


PARENTS = {"first": {"w": [1, 2.5]}, "second": "done"}


async def test_the_parents_results_are_a_file(world, proplet):
    result = await world.manager.outcome(world.start(cat("parents.json"), parents=PARENTS))
    assert json.loads(result.results) == PARENTS


async def test_a_dataset_is_linked_and_not_copied(world, proplet, guests):
    world.site.datasets.put("d", DATA)
    async with world.site.data_store():
        await world.manager.start(world.start(guests["loops"], dataset="d"))
        await world.manager.until(lambda: [each for each in world.manager.progress if each.stage == "running"])
    [given] = (world.tmp_path / "tasks").glob("task-*/in/data/dataset.json")
    [kept] = (world.tmp_path / "tasks" / "cache").iterdir()
    assert given.samefile(kept)


async def test_large_parents_results_come_as_a_blob_that_is_verified(world, proplet):
    content = json.dumps({"first": "x" * 100_000}).encode()
    fields = {"parents_digest": world.proxy.put(content), "parents_size": len(content)}
    result = await world.manager.outcome(world.start(cat("parents.json"), **fields))
    assert json.loads(result.results) == json.loads(content)
    assert (await world.manager.outcome(world.start(cat("parents.json"), **fields))).error is None
    world.proxy.altered = {0}
    assert (await world.manager.outcome(world.start(cat("parents.json"), **fields))).code == "digest_mismatch"


@pytest.mark.parametrize(("size", "given"), [(1000, True), (70_000, False)])
async def test_small_parents_results_are_in_the_environment_too(world, proplet, size, given):
    start = world.start(ENVIRONMENT, parents={"first": "x" * size})
    printed = (await world.manager.outcome(start)).results
    assert ("PARENT_RESULTS={" in printed) is given


async def test_a_task_without_parents_has_no_such_file(world, proplet):
    assert (await world.manager.outcome(world.start(cat("parents.json")))).error == "process exited with status 44"
