"""A result that is too large for a message reaches whoever asks for it, whole, and goes with its task."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sqlite3
from contextlib import closing

import wasmtime

from manager.large_results import secret_in
from manager.latent import invocation_archive
from proplet.work import uploads
from tests.proplet.conftest import prints
from tests.support.wat import A_WHILE, prints_many

MANY = 20 << 20


SUM = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 18) (data (i32.const 64) "parents.json")
  (func (export "size") (result i32) (local $sum i32)
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 12) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
    (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 1048576))
    (loop $again
      (drop (call $read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 16)))
      (local.set $sum (i32.add (local.get $sum) (i32.load (i32.const 16))))
      (br_if $again (i32.load (i32.const 16))))
    (local.get $sum)))"""
"""How many bytes the parents' results have."""


def files_of(both) -> list[str]:
    """By name; folders may vanish while they are looked at."""
    return [name for _, _, names in os.walk(both.folder / "manager" / "attempts") for name in names]


async def test_twenty_megabytes_arrive_whole_and_go_with_the_task(both, client):
    async with both.manager(), both.proplet():
        task = await both.ended(client, prints_many(MANY))
        assert (task.status, task.results, task.results_omitted) == ("completed", None, True)
        found = await client.tasks.results(task.id)
        assert found.results == "a" * MANY
        assert [each.document["results_omitted"] for each in (await client.tasks.attempts(task.id)).items] == [True]
        assert len(files_of(both)) == 1
        await client.tasks.delete(task.id)

        async def gone() -> bool:
            return not files_of(both)

        await both.until(gone)
    assert not list((both.folder / "p1" / "results").iterdir())


async def test_bytes_that_are_no_text_are_replaced_as_in_small_results(both, client):
    async with both.manager(), both.proplet():
        task = await both.ended(client, prints_many(300_000, byte=0xFF))
        assert (await client.tasks.results(task.id)).results == "\ufffd" * 300_000


async def test_a_broadcast_shows_the_large_result_of_each_proplet(both, client):
    async with both.manager(), both.proplet("p1"), both.proplet("p2"):

        async def alive() -> bool:
            return len([each for each in (await client.proplets.list()).items if each.alive]) == 2

        await both.until(alive)
        task = await both.ended(client, prints_many(300_000), broadcast=True)
        assert (await client.tasks.results(task.id)).results == dict.fromkeys(("p1", "p2"), "a" * 300_000)


async def test_a_child_gets_the_large_result_of_its_parent(both, client):
    def task(name: str, wat: str, **fields) -> dict:
        return {"name": name, "file": base64.b64encode(bytes(wasmtime.wat2wasm(wat))).decode(), **fields}

    async with both.manager(), both.proplet():
        made = await client.workflows.create(
            [task("first", prints_many(1_000_000)), task("size", SUM, depends_on=["first"])], name="w"
        )
        await client.workflows.start(made.id)
        await client.workflows.wait(made.id, timeout=30)
        first, last = (await client.workflows.get(made.id)).tasks
        expected = json.dumps({first.id: "a" * 1_000_000}, separators=(",", ":"))
        assert last.results == str(len(expected)), last.document


async def test_the_manager_may_be_away_and_either_may_be_restarted_meanwhile(both, client):
    async with both.proplet():
        async with both.manager():
            task = await both.launch(client, prints_many(1_000_000, then=A_WHILE))
            while (await client.tasks.get(task.id)).status != "running":
                await asyncio.sleep(0.005)
        async with both.manager():
            task = await client.tasks.wait(task.id, timeout=30)
            assert (await client.tasks.results(task.id)).results == "a" * 1_000_000


async def test_an_unreachable_url_fails_the_attempt_and_names_the_setting(both, client, monkeypatch):
    monkeypatch.setattr(uploads, "AWAY_S", 0.2)
    async with both.manager(), both.proplet(MANAGER_URL="http://127.0.0.1:1"):
        task = await both.ended(client, prints_many(300_000))
        assert (task.status, task.code) == ("failed", "result_too_large")
        assert "MANAGER_ADVERTISED_URL" in task.error


async def test_more_than_the_manager_takes_fails_the_attempt_and_names_the_setting(both, client):
    both.settings["MANAGER_RESULT_LIMIT"] = "500000"
    async with both.manager(), both.proplet():
        task = await both.ended(client, prints_many(1_000_000))
        assert (task.status, task.code) == ("failed", "result_too_large")
        assert "MANAGER_RESULT_LIMIT" in task.error
        assert (await both.ended(client, prints_many(300_000))).status == "completed"


LOOPS = prints("", then="(loop $again (br $again))")


async def test_only_who_has_the_attempt_may_upload_and_only_what_was_announced(both, client):
    content = json.dumps("x" * 300_000).encode()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    async with both.manager() as manager, both.proplet():
        task = await both.launch(client, LOOPS)
        while (await client.tasks.get(task.id)).status != "running":
            await asyncio.sleep(0.005)

        async def put(body: bytes = content, *, proplet_id: str = "p1", token: str = "", named: str = digest):
            path = f"/blobs/{named}?task_id={task.id}&attempt=1&proplet_id={proplet_id}"
            return await both.raw("PUT", path, data=body, headers={"X-Attempt-Token": token})

        held = next(iter(manager.ledger.attempts_of(task.id)))
        large = manager.large
        other = large.token(held.changed(proplet_id="p2"))
        assert (await put())[0] == 403
        assert (await put(token=other))[1]["code"] == "token_mismatch"
        assert (await put(proplet_id="p2", token=other))[1]["code"] == "attempt_over"
        token = large.token(held)
        assert (await put(b"something else", token=token))[1]["code"] == "digest_mismatch"
        injected = b'1,"status":"failed"'
        named = "sha256:" + hashlib.sha256(injected).hexdigest()
        assert (await put(injected, token=token, named=named))[1]["code"] == "malformed_json"
        assert files_of(both) == []
        assert [(await put(token=token))[0] for _ in range(2)] == [204, 204]
        assert len(files_of(both)) == 1
        await client.tasks.stop(task.id)
        await client.tasks.wait(task.id, timeout=30)
        assert (await put(token=token))[1]["code"] == "attempt_over"
    assert secret_in(both.folder / "manager") == secret_in(both.folder / "manager")


async def test_files_of_tasks_that_are_no_more_are_collected_at_the_start(both, client):
    async with both.manager(), both.proplet():
        task = await both.ended(client, prints_many(300_000))
    stray = both.folder / "manager" / "attempts" / "stray" / "1"
    stray.mkdir(parents=True)
    async with both.manager():
        assert not stray.exists()
        assert (await client.tasks.results(task.id)).results == "a" * 300_000


async def latent(both, client, wat: str, **fields):
    task = await both.launch(client, wat, latent=True, **fields)
    return await client.tasks.ready(task.id, timeout=30)


async def test_the_large_result_of_a_call_arrives_whole_and_goes_with_its_task(both, client):
    async with both.manager(), both.proplet():
        task = await latent(both, client, prints_many(1_000_000))
        answered = await client.tasks.invoke(task.id)  # its caller waited for the upload, too
        assert answered.results == "a" * 1_000_000
        assert answered.report.used["output_bytes"] == 1_000_000
        shown = await client.tasks.invocation(task.id, answered.invocation_id)
        assert (shown.results, shown.results_omitted) == (answered.results, False)
        assert shown.report == answered.report
        listed = (await client.tasks.invocations(task.id)).items
        assert [(each.results, each.results_omitted, each.report) for each in listed] == [(None, True, None)]
        await client.tasks.stop(task.id)
        await client.tasks.wait(task.id, timeout=30)
        assert len(files_of(both)) == 1
        await client.tasks.delete(task.id)

        async def gone() -> bool:
            return not files_of(both)

        await both.until(gone)
    assert not list((both.folder / "p1" / "results").iterdir())


async def test_a_large_result_goes_with_the_record_of_its_call(both, client, monkeypatch):
    monkeypatch.setattr(invocation_archive, "KEPT", 2)
    monkeypatch.setattr(invocation_archive, "PRUNED_EVERY", 1)
    async with both.manager(), both.proplet():
        task = await latent(both, client, prints_many(300_000))
        for _ in range(4):
            await client.tasks.invoke(task.id)

        async def pruned() -> bool:
            return len(files_of(both)) == 2

        await both.until(pruned)
        kept = [each.invocation_id for each in (await client.tasks.invocations(task.id)).items]
        assert [len((await client.tasks.invocation(task.id, each)).results) for each in kept] == [300_000] * 2
        await client.tasks.stop(task.id)


async def test_a_call_outlasts_restarts_of_both_between_its_result_and_the_upload(both, client):
    """Its deployment has ended by then, and the guest has run once."""
    async with both.manager(), both.proplet(MANAGER_URL="http://127.0.0.1:1"):
        task = await latent(both, client, prints_many(1_000_000), retries=1)
        called = await client.tasks.submit(task.id, timeout=60)

        async def has_result() -> bool:
            with closing(sqlite3.connect(both.folder / "p1" / "journal.db")) as journal:
                return bool(journal.execute("SELECT 1 FROM pending_result").fetchone())

        await both.until(has_result)
    async with both.manager() as manager, both.proplet():
        found = await client.tasks.wait_invocation(task.id, called.invocation_id, timeout=30)
        assert (found.status, found.results) == ("completed", "a" * 1_000_000)
        assert dict(manager.invocations.ended) == {"completed": 1}
        with closing(sqlite3.connect(both.folder / "manager" / "manager.db")) as database:
            assert database.execute("SELECT id, turn FROM invocations").fetchall() == [(called.invocation_id, 1)]
        again = await client.tasks.invoke(task.id)  # the next deployment is there
        assert again.results == found.results
        assert [each.code for each in (await client.tasks.attempts(task.id)).items] == ["proplet_restarted", ""]
        await client.tasks.stop(task.id)


async def test_only_who_was_given_the_call_may_upload_its_result(both, client):
    content = json.dumps("x" * 300_000).encode()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    async with both.manager() as manager, both.proplet():
        task = await latent(both, client, LOOPS)
        called = await client.tasks.submit(task.id, timeout=60)
        held = manager.ledger.invocation(called.invocation_id)

        async def put(token: str, *, invocation: str = called.invocation_id, proplet_id: str = "p1"):
            query = f"task_id={task.id}&attempt=1&proplet_id={proplet_id}&invocation_id={invocation}"
            path = f"/blobs/{digest}?{query}"
            return await both.raw("PUT", path, data=content, headers={"X-Attempt-Token": token})

        of_attempt = manager.large.token(next(iter(manager.ledger.attempts_of(task.id))))
        another_turn = manager.large.token(held.changed(turn=2))
        for refused in (
            await put(""),
            await put(of_attempt),
            await put(another_turn),
            await put(manager.large.token(held), proplet_id="p2"),
        ):
            assert (refused[0], refused[1]["code"]) == (403, "token_mismatch")
        assert (await put(another_turn, invocation=f"{held.id}.2"))[1]["code"] == "invocation_over"
        assert (await put(manager.large.token(held), invocation="../../x"))[0] == 400
        assert files_of(both) == []
        assert (await put(manager.large.token(held)))[0] == 204
        await client.tasks.stop(task.id)
        await client.tasks.wait_invocation(task.id, held.id, timeout=30)
        assert (await put(manager.large.token(held)))[1]["code"] == "invocation_over"
