"""A task's life through the manager's real HTTP, bus and database."""

import asyncio
import base64
import threading
import time

import pytest

from manager.api.views import TaskPage
from manager.state import store
from manager.state.store import MOST_LISTED_RESULT
from swashplate.blobs import BlobStore
from swashplate.messages import Alive, PropletCreate, TaskCreate
from swashplate.messages.tasks import WASM_MAGIC

LONG_WASM = base64.b64encode(b"\0asm\1\0\0\0" + bytes(100)).decode()
WASM = base64.b64encode(b"\0asm\1\0\0\0").decode()


async def test_a_task_runs_on_its_proplet_and_its_result_is_kept(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(inputs=["1", 2], env={"A": "b"}, proplet_id="p1")
        start = await p1.started()
        assert (start.id, start.attempt, start.digest) == (task["id"], 1, "sha256:" + "ab" * 32)
        assert start.inputs == ["1", "2"]
        await p1.acknowledged(await p1.status(start, "accepted"))
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["state"] == 2
        await p1.acknowledged(await p1.result(start, {"sum": 3}))
        ended = await world.ended(task["id"])
        assert (ended["state"], ended["results"]) == (3, {"sum": 3})
        assert (await world.call("GET", f"/tasks/{task['id']}/results"))[1]["results"] == {"sum": 3}


async def test_a_task_goes_to_the_least_loaded_proplet(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        made = {(await world.launch())["id"], (await world.launch())["id"]}
        assert {(await p1.started()).id, (await p2.started()).id} == made


async def test_a_created_task_waits_for_its_start(world):
    async with world.manager(), world.proplet("p1") as p1:
        _, task = await world.call("POST", "/tasks", {"name": "t", "image_url": "registry/image:1"})
        assert task["status"] == "pending"
        assert p1.starts.empty()
        status, _ = await world.call("POST", f"/tasks/{task['id']}/start")
        assert status == 200
        start = await p1.started()
        status, body = await world.call("POST", f"/tasks/{task['id']}/start")
        assert (status, body["code"]) == (409, "task_active")
        await p1.result(start, "done")
        await world.ended(task["id"])
        assert (await world.call("POST", f"/tasks/{task['id']}/start"))[0] == 200
        assert (await p1.started()).attempt == 2
        _, runs = await world.call("GET", f"/tasks/{task['id']}/attempts")
        assert [run["attempt"] for run in runs["attempts"]] == [1, 2]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"image_url": "i"}, "name"),
        ({"name": "t", "start": True, "broadcast": True, "proplet_id": "p"}, "broadcast"),
        ({"name": "t", "image_url": "i", "latent": True, "daemon": True}, "daemon"),
        ({"name": "t", "image_url": "i", "run_if": "sometimes"}, "run_if"),
        ({"name": "t", "image_url": "i", "depends_on": ["x"]}, "depends_on"),
        ({"name": "t", "image_url": "i", "file": WASM}, "image_url"),
        ({"name": "t", "image_url": "i", "priority": 101}, "priority"),
        ({"name": "t", "image_url": "i", "inputs": [{}]}, "inputs"),
        ({"name": "t", "image_url": "i", "inputs": [True]}, "inputs"),
        ({"name": "t", "image_url": "i", "env": {"A=B": "c"}}, "A=B"),
        ({"name": "t", "image_url": "i", "env": {"A": "x" * 200_000}}, "env"),
        ({"name": "t", "image_url": "i", "timeout_s": 0}, "timeout_s"),
        ({"name": "t", "image_url": "i", "retries": -1}, "retries"),
        ({"name": "t", "file": "%%%"}, "file"),
        ({"name": "t", "file": base64.b64encode(b"ELF").decode()}, "file"),
        ({"name": 7, "image_url": "i"}, "name"),
        ({"name": "t", "image_url": "i", "inputs": ["a\0b"]}, "NUL"),
        ({"name": "t", "image_url": "i", "env": {"A": "\u20ac" * 70_000}}, "bytes"),
    ],
)
async def test_a_wrong_task_is_a_400_and_changes_nothing(world, body, named):
    async with world.manager():
        status, answer = await world.call("POST", "/tasks", body)
        assert status == 400
        assert named in answer["error"]
        assert (await world.call("GET", "/tasks"))[1]["total"] == 0


async def test_unknown_ids_are_404(world):
    async with world.manager():
        for method, path in (
            ("GET", "/tasks/x"),
            ("POST", "/tasks/x/start"),
            ("POST", "/tasks/x/stop"),
            ("GET", "/tasks/x/results"),
            ("GET", "/tasks/x/attempts"),
            ("GET", "/proplets/x"),
            ("GET", "/blobs/sha256:" + "0" * 64),
        ):
            assert (await world.call(method, path))[0] == 404, path
        assert (await world.call("GET", "/blobs/..%2f..%2fmanager.db"))[0] in {400, 404}


async def test_a_pinned_proplet_must_be_known_and_alive(world):
    async with world.manager():
        body = {"name": "t", "image_url": "registry/image:1", "start": True, "proplet_id": "p1"}
        status, answer = await world.call("POST", "/tasks", body)
        assert (status, answer["code"]) == (404, "proplet_not_found")
        async with world.proplet("p1") as p1:
            p1.bus.drop()
            await world.until(lambda shown: not shown["alive"], "/proplets/p1")
            status, answer = await world.call("POST", "/tasks", body)
            assert (status, answer["code"]) == (409, "proplet_not_alive")
        assert (await world.call("GET", "/tasks"))[1]["total"] == 0


async def test_the_same_idempotency_key_gives_the_same_task_and_launches_nothing_twice(world):
    async with world.manager(), world.proplet("p1") as p1:
        body = {"name": "t", "image_url": "registry/image:1", "start": True, "timeout_s": 60}
        first = await world.call("POST", "/tasks", body, **{"Idempotency-Key": "k"})
        again = await world.call("POST", "/tasks", {**body, "timeout_s": 50}, **{"Idempotency-Key": "k"})
        assert (first[0], again[0]) == (201, 200)
        assert first[1]["id"] == again[1]["id"]
        other = await world.call("POST", "/tasks", {**body, "name": "u"}, **{"Idempotency-Key": "k"})
        assert (other[0], other[1]["code"]) == (409, "idempotency_conflict")
        await p1.result(await p1.started(), 1)
        await world.ended(first[1]["id"])
        assert p1.starts.empty()


async def test_requests_that_race_with_one_key_make_one_task(world):
    async with world.manager(), world.proplet("p1"):
        body = {"name": "t", "image_url": "registry/image:1", "start": True}
        found = await asyncio.gather(
            *(world.call("POST", "/tasks", body, **{"Idempotency-Key": "k"}) for _ in range(8))
        )
        assert len({task["id"] for _, task in found}) == 1
        assert sorted(status for status, _ in found) == [200] * 7 + [201]


async def test_an_image_that_cannot_be_had_fails_the_task_with_its_code(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(image_url="registry/none:1")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("failed", "image_not_found")
        assert p1.starts.empty()


async def test_an_empty_binary_fails_the_task_at_once(world):
    async with world.manager(), world.proplet("p1"):
        world.proxy.size = 0
        ended = await world.ended((await world.launch())["id"])
        assert (ended["status"], ended["code"]) == ("failed", "not_wasm")


async def test_a_life_that_never_registered_is_asked_to(world):
    """Somebody else registered with the proplet's key; the true one is known again as soon as it reports."""
    async with world.manager(), world.proplet("p1") as p1:
        asked = asyncio.Event()

        async def hear(_) -> None:
            asked.set()

        await p1.bus.subscribe("m/d/c/c/control/manager/announce", hear)
        await asyncio.wait_for(asked.wait(), 10)
        asked.clear()
        await p1.say("create", PropletCreate(proplet_id="p1", instance="a thief"))
        async with asyncio.timeout(10):
            while not asked.is_set():
                await p1.say("alive", Alive(proplet_id="p1", instance=p1.instance, status="alive"))
                await asyncio.sleep(0.01)


async def test_a_tag_is_looked_up_again_for_every_start(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        await p1.result(await p1.started(), 1)
        await world.ended(task["id"])
        world.proxy.images["registry/image:1"] = "sha256:" + "cd" * 32
        await world.call("POST", f"/tasks/{task['id']}/start")
        assert (await p1.started()).digest == "sha256:" + "cd" * 32


async def test_an_uploaded_file_travels_as_a_digest_only(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(image_url="", file=LONG_WASM)
        start = await p1.started()
        assert start.image_url == ""
        async with world.session.get(f"{world.url}/blobs/{start.digest}") as response:
            assert await response.read() == base64.b64decode(LONG_WASM)
        assert LONG_WASM not in start.model_dump_json()
        assert LONG_WASM not in str(task)
        assert world.proxy.asked == []


async def test_a_registry_that_is_away_for_a_while_costs_no_attempt(world):
    async with world.manager(), world.proplet("p1") as p1:
        world.proxy.registry_away = True
        await world.launch()
        async with asyncio.timeout(10):
            while len(world.proxy.asked) < 2:
                await asyncio.sleep(0.01)
        world.proxy.registry_away = False
        assert (await p1.started()).attempt == 1


async def test_a_registry_that_stays_away_is_the_tasks_error(world):
    async with world.manager(), world.proplet("p1"):
        world.proxy.registry_away = True
        ended = await world.ended((await world.launch(timeout_s=1, retries=2))["id"])
        assert (ended["status"], ended["code"], ended["attempt"]) == ("failed", "registry_unreachable", 1)
        assert "no route to the registry" in ended["error"]


async def test_a_retryable_failure_is_tried_again_and_a_final_one_is_not(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(retries=2)
        for attempt in (1, 2):
            start = await p1.started()
            assert start.attempt == attempt
            await p1.result(start, error="lost", code="proplet_restarted", retryable=True)
        start = await p1.started()
        await p1.result(start, error="bad input", code="guest_exit", retryable=False)
        ended = await world.ended(task["id"])
        assert (ended["attempt"], ended["error"], ended["code"]) == (3, "bad input", "guest_exit")


async def test_a_denied_start_goes_to_another_proplet_and_costs_no_retry(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch()
        start = await asyncio.wait_for(_first_start(p1, p2), 10)
        first, second = (p1, p2) if start.proplet_id == "p1" else (p2, p1)
        await first.status(start, "denied", code="no_slot", reason="full")
        again = await second.started()
        assert (again.id, again.attempt) == (task["id"], 2)
        await second.result(again, "done")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["results"]) == ("completed", "done")
        _, runs = await world.call("GET", f"/tasks/{task['id']}/attempts")
        assert [(each["attempt"], each["status"], each["run"]) for each in runs["attempts"]] == [
            (1, "denied", 1),
            (2, "completed", 1),
        ]


async def test_a_full_proplet_is_asked_again_after_its_next_report(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        await p1.status(await p1.started(), "denied", code="no_slot", reason="full")
        waiting = await world.until(lambda shown: "slot" in shown.get("waiting", ""), f"/tasks/{task['id']}")
        assert waiting["status"] == "scheduled"
        await p1.alive(free_slots=1)
        await p1.result(await p1.started(), 1)
        assert (await world.ended(task["id"]))["status"] == "completed"


async def test_a_start_that_no_proplet_could_take_fails(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch()
        start = await asyncio.wait_for(_first_start(p1, p2), 10)
        await (p1 if start.proplet_id == "p1" else p2).status(start, "denied", code="invalid_start", reason="no")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"], ended["attempt"]) == ("failed", "invalid_start", 1)


async def test_what_was_stopped_at_the_proplet_is_interrupted(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(retries=5)
        await p1.result(await p1.started(), error="stopped", code="stopped", retryable=False)
        assert (await world.ended(task["id"]))["state"] == 6


async def test_a_stop_reaches_the_proplet_and_its_word_interrupts_the_task(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(retries=5)
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        assert (await asyncio.wait_for(p1.stops.get(), 10)).id == task["id"]
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
        await p1.result(start, error="stopped", code="stopped", retryable=False)
        assert (await world.ended(task["id"]))["state"] == 6
        status, body = await world.call("POST", f"/tasks/{task['id']}/stop")
        assert (status, body["code"]) == (409, "task_not_active")


async def test_a_task_that_no_proplet_has_accepted_is_interrupted_at_once(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        assert (await world.ended(task["id"]))["state"] == 6
        await p1.acknowledged(await p1.result(start, "too late"))
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["state"] == 6


async def test_a_stranger_cannot_report_anothers_result(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch(proplet_id="p1")
        start = await p1.started()
        await p2.acknowledged(await p2.result(start, "forged"))
        await p2.acknowledged(await p2.status(start, "accepted"))
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "scheduled"
        await p1.result(start, "true")
        assert (await world.ended(task["id"]))["results"] == "true"


async def test_a_result_counts_once_and_every_repetition_is_acknowledged(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        for value in ("first", "second", "third"):
            await p1.acknowledged(await p1.result(start, value))
        assert (await world.ended(task["id"]))["results"] == "first"


async def test_a_start_that_was_not_accepted_goes_out_again_when_the_proplet_is_back(world, monkeypatch):
    monkeypatch.setattr("manager.work.offers.AGAIN_S", 3600)
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        first = await p1.started()
        p1.bus.drop()
        await p1.bus.reconnect()
        again = await p1.started()
        assert (first.id, first.attempt) == (again.id, again.attempt)
        await p1.result(again, 1)
        assert (await world.ended(task["id"]))["attempt"] == 1


async def test_an_attempt_without_a_result_ends_with_its_lease(world, monkeypatch):
    monkeypatch.setattr("manager.work.dispatch.LEASE_GRACE_S", 0.05)
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(timeout_s=0.1)
        await p1.status(await p1.started(), "accepted")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("failed", "lease_expired")


async def test_a_restarted_manager_sends_an_unaccepted_start_again_under_the_same_attempt(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch()
            await p1.started()
        async with world.manager():
            again = await p1.started()
            assert (again.id, again.attempt) == (task["id"], 1)
            await p1.result(again, "late")
            assert (await world.ended(task["id"]))["results"] == "late"


async def test_a_result_published_while_the_manager_is_away_is_recorded_after_its_restart(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch()
            start = await p1.started()
            await p1.acknowledged(await p1.status(start, "accepted"))
        message_id = await p1.result(start, "kept")
        async with world.manager():
            await p1.acknowledged(message_id)
            assert (await world.ended(task["id"]))["results"] == "kept"


async def test_an_accepted_attempt_keeps_running_over_a_restart_of_the_manager(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch()
            start = await p1.started()
            await p1.acknowledged(await p1.status(start, "accepted"))
        async with world.manager():
            assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
            await p1.acknowledged(await p1.result(start, "done"))
            assert (await world.ended(task["id"]))["status"] == "completed"
            assert p1.starts.empty()


async def test_a_last_will_takes_a_proplet_offline_at_once(world):
    async with world.manager(), world.proplet("p1") as p1:
        p1.bus.drop()
        shown = await world.until(lambda shown: not shown["alive"], "/proplets/p1")
        assert shown["id"] == "p1"


async def test_the_last_will_of_an_earlier_life_does_not_count(world):
    async with world.manager(), world.proplet("p1") as p1:
        await p1.say("alive", Alive(proplet_id="p1", instance="an earlier life", status="offline"))
        await p1.register()
        await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        assert (await world.call("GET", "/proplets/p1"))[1]["alive"] is True


async def _any_start(world, proplet):
    await world.launch(proplet_id=proplet.id)
    return await proplet.started()


async def test_a_last_will_that_overtakes_its_create_still_counts(world):
    """Topics are handled independently, so a kept session may deliver them in another order."""
    async with world.manager(), world.proplet("p1") as p1:
        await p1.say("alive", Alive(proplet_id="p1", instance="second life", status="offline"))
        await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        await p1.say("create", PropletCreate(proplet_id="p1", instance="second life"))
        await world.until(lambda shown: not shown["alive"], "/proplets/p1")
        await p1.say("alive", Alive(proplet_id="p1", instance="second life", status="alive"))
        await world.until(lambda shown: shown["alive"], "/proplets/p1")


async def test_a_proplet_that_stops_reporting_is_offline_after_three_heartbeats(world):
    world.heartbeat_s = "50ms"
    async with world.manager(), world.proplet("p1"):
        assert await world.until(lambda shown: not shown["alive"], "/proplets/p1")


async def test_a_proplet_cannot_register_another(world):
    async with world.manager(), world.proplet("p1") as p1:
        await p1.say("create", PropletCreate(proplet_id="p2", instance="x"))
        await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        assert (await world.call("GET", "/proplets"))[1]["total"] == 1


async def test_a_report_alone_makes_no_proplet(world):
    async with world.manager(), world.proplet("p1") as p1:
        await p1.bus.publish(
            "m/d/c/c/control/proplet/ghost/alive", Alive(proplet_id="ghost", instance="x", status="offline").encode()
        )
        await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        assert (await world.call("GET", "/proplets"))[1]["total"] == 1


async def test_known_proplets_and_tasks_survive_a_restart(world):
    async with world.manager(), world.proplet("p1"):
        await world.launch()
    async with world.manager():
        _, shown = await world.call("GET", "/proplets")
        assert [(p["id"], p["alive"]) for p in shown["proplets"]] == [("p1", False)]
        assert (await world.call("GET", "/proplets?status=active"))[1]["total"] == 0
        assert (await world.call("GET", "/tasks"))[1]["total"] == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "offset=-1"])
async def test_a_wrong_page_is_a_400(world, query):
    async with world.manager():
        assert (await world.call("GET", f"/tasks?{query}"))[0] == 400


async def test_health_tells_the_version_and_goes_down_with_the_broker(world):
    async with world.manager():
        status, body = await world.call("GET", "/health")
        assert (status, body["status"], body["instance_id"]) == (200, "pass", "manager")
        world.broker._online["manager"].drop()
        status, body = await world.call("GET", "/health")
        assert status == 503
        assert "broker" in body["down"]


async def _first_start(*proplets):
    """The next start, whoever is given it."""
    waiting = [asyncio.ensure_future(proplet.starts.get()) for proplet in proplets]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    (first,) = done
    return first.result()


def stored(world):
    return sorted(file.name for file in (world.folder / "blobs").iterdir())


async def test_the_binary_of_a_refused_request_is_not_kept_and_neither_is_one_that_was_replaced(world):
    async with world.manager():
        refused = {"name": "t", "file": WASM}
        for body in ({"schedule": "never"}, {"proplet_id": "nobody", "start": True}):
            assert (await world.call("POST", "/tasks", refused | body))[0] in {400, 404}
        body = {"tasks": [refused, refused | {"timezone": "Nowhere"}]}
        assert (await world.call("POST", "/workflows", body))[0] == 400
        assert stored(world) == []
        _, task = await world.call("POST", "/tasks", {"name": "t", "image_url": "registry/image:1"})
        path = f"/tasks/{task['id']}"
        assert (await world.call("PUT", path, {"file": WASM, "schedule": "never"}))[0] == 400
        assert stored(world) == []
        first = (await world.call("PUT", path, {"file": WASM}))[1]["digest"]
        second = (await world.call("PUT", path, {"file": LONG_WASM}))[1]["digest"]
        assert first != second
        assert stored(world) == [second.removeprefix("sha256:")]


async def test_what_a_killed_manager_had_stored_for_nobody_is_removed_at_the_next_start(world):
    folder = world.folder / "blobs"
    async with world.manager():
        _, task = await world.call("POST", "/tasks", {"name": "t", "file": WASM})
    orphan = BlobStore(folder).put(b"\0asm written, and then the process was killed")
    assert len(stored(world)) == 2
    async with world.manager():
        assert stored(world) == [task["digest"].removeprefix("sha256:")]
        status, _ = await world.call("GET", f"/blobs/{orphan}")
        assert status == 404
        async with world.session.get(f"{world.url}/blobs/{task['digest']}") as response:
            assert response.status == 200


async def test_a_list_leaves_long_results_out_and_says_so(world):
    short, long = "s" * (MOST_LISTED_RESULT - 2), "l" * MOST_LISTED_RESULT  # two quotes each
    async with world.manager(), world.proplet("p1") as p1:
        for result in (short, long):
            task = await world.launch()
            await p1.result(await p1.started(), result)
            await world.ended(task["id"])
        _, page = await world.call("GET", "/tasks")
        left_out, whole = page["tasks"]
        assert whole["results"] == short
        assert "results_omitted" not in whole
        assert left_out["results_omitted"] is True
        assert "results" not in left_out
        TaskPage.model_validate(page)
        _, shown = await world.call("GET", f"/tasks/{left_out['id']}")
        assert shown["results"] == long
        assert "results_omitted" not in shown
        assert (await world.call("GET", f"/tasks/{left_out['id']}/results"))[1]["results"] == long


async def test_a_binary_stays_when_its_only_task_goes_while_another_is_given_it(world, monkeypatch):
    monkeypatch.setattr("manager.state.ledger.RECENT", 0)
    asked, go_on, is_used = threading.Event(), threading.Event(), store.is_used

    def slowly(db, digest):
        used = is_used(db, digest)
        asked.set()
        go_on.wait(10)
        return used

    async with world.manager():
        _, first = await world.call("POST", "/tasks", {"name": "t", "file": WASM})
        _, second = await world.call("POST", "/tasks", {"name": "t"})
        monkeypatch.setattr(store, "is_used", slowly)
        deleting = asyncio.create_task(world.call("DELETE", f"/tasks/{first['id']}"))
        await asyncio.to_thread(asked.wait, 10)
        changing = asyncio.create_task(world.call("PUT", f"/tasks/{second['id']}", {"file": WASM}))
        async with world.session.get(f"{world.url}/openapi.json"):  # it has been taken by now
            go_on.set()
        assert (await deleting)[0] == 204
        assert (await changing)[0] == 200
        assert (await world.call("GET", f"/tasks/{second['id']}"))[1]["file"]
        assert stored(world) == [first["digest"].removeprefix("sha256:")]


async def test_a_repetition_under_one_key_makes_one_task_though_the_first_is_not_written_yet(world, monkeypatch):
    monkeypatch.setattr("manager.state.commits.ANSWER_S", 0.3)
    begun, go_on, write = threading.Event(), threading.Event(), store.write

    def slowly(*args):
        begun.set()
        go_on.wait(10)
        write(*args)

    looked, keep, put = threading.Event(), threading.Event(), BlobStore.put

    def kept_late(*args):
        looked.set()
        keep.wait(10)
        return put(*args)

    monkeypatch.setattr(BlobStore, "put", kept_late)
    body, key = {"name": "t", "file": WASM}, {"Idempotency-Key": "k"}
    async with world.manager():
        first = asyncio.create_task(world.call("POST", "/tasks", body, **key))
        await asyncio.to_thread(looked.wait, 10)
        monkeypatch.setattr(store, "write", slowly)
        other = asyncio.create_task(world.call("POST", "/tasks", {"name": "other"}))
        await asyncio.to_thread(begun.wait, 10)
        keep.set()
        assert (await first)[0] == 503  # its batch waits for the other's
        again = asyncio.create_task(world.call("POST", "/tasks", body, **key))
        for _ in range(10):  # it is being handled by then
            await world.call("GET", "/proplets")
        go_on.set()
        assert (await again)[0] == 200
        await other
        assert (await world.call("GET", "/tasks?name=t"))[1]["total"] == 1


async def test_a_large_file_that_comes_again_is_looked_through_beside_the_event_loop(world):
    spec = TaskCreate(name="t", file=base64.b64encode(WASM_MAGIC + bytes(24 << 20)).decode())
    async with world.manager() as manager:
        first, _ = await manager.tasks.create(spec, key="k")
        again = asyncio.create_task(manager.tasks.create(spec, key="k"))
        began = latest = time.perf_counter()
        longest = 0.0
        while not again.done():
            await asyncio.sleep(0)
            longest, latest = max(longest, time.perf_counter() - latest), time.perf_counter()
        assert (await again) == (first, False)
        assert longest < (latest - began) / 2


async def test_a_new_run_does_not_end_with_what_went_wrong_with_the_image_of_the_last(world):
    world.proxy.registry_away = True
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(image_url="registry/none:1")
        path = f"/tasks/{task['id']}"
        await world.call("POST", f"{path}/stop")
        assert (await world.call("PUT", path, {"image_url": "registry/image:1"}))[0] == 200
        assert (await world.call("POST", f"{path}/start"))[0] == 200
        world.proxy.registry_away = False
        await p1.result(await p1.started(), "done")
        assert (await world.ended(task["id"]))["status"] == "completed"


async def test_the_attempt_that_runs_shows_its_stage(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        await p1.status(start, "progress", stage="fetching")
        path = f"/tasks/{task['id']}/attempts"
        shown = await world.until(lambda found: "stage" in found["attempts"][0], path)
        assert shown["attempts"][0]["stage"] == "fetching"
        await p1.acknowledged(await p1.result(start, "done"))
        await world.until(lambda found: "stage" not in found["attempts"][0], path)
