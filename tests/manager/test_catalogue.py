"""Tasks found and counted, beside a list that is searched the slow way."""

import json
import random
import uuid
from itertools import count

import pytest

from benchmarks.full_store import fill
from manager.state import store
from manager.state.catalogue import Filter, facets_of, find
from manager.state.records import Group, GroupState, Task, spec_text
from manager.state.states import TaskState
from manager.state.tables import SCHEMA, task_counts, task_metadata, tasks
from swashplate.database import Database
from swashplate.messages import TaskCreate

_seq = count(1)


def task(name="add", state=TaskState.COMPLETED, metadata=None, **fields):
    spec = TaskCreate(name=name, image_url="x:1", metadata=metadata or {})
    return Task(str(uuid.uuid4()), next(_seq), spec, spec_text(spec), state, 1.0, 1.0, **fields)


async def write(database, *records, erased=()):
    await database.run(lambda db: store.write(db, records, {Task: [each.id for each in erased]}))


async def seqs(database, offset=0, limit=100, **wanted):
    return await database.run(lambda db: find(db, Filter(**wanted), offset, limit))


@pytest.fixture
async def database(database_url):
    async with Database(database_url, SCHEMA) as opened:
        yield opened


def fits(each, wanted):
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in each.spec.metadata.items()}
    return (
        wanted.get("state") in {None, int(each.state)}
        and wanted.get("name") in {None, each.spec.name}
        and wanted.get("group_id") in {None, each.group_id}
        and all(metadata.get(k) == json.dumps(v, sort_keys=True) for k, v in wanted.get("metadata", {}).items())
    )


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_every_question_is_answered_as_a_slow_search_would(database, seed):
    chance = random.Random(seed)
    alive = {}

    def some_metadata():
        return {key: chance.choice(["a", "b", 1, None, [1, {"x": 2}], ""]) for key in chance.sample("kmn", 2)}

    for _ in range(25):
        batch = {}
        for _ in range(chance.randrange(8)):
            made = task(chance.choice(["add", "sub"]), metadata=some_metadata(), group_id=chance.choice([None, "g"]))
            batch[made.id] = made
        for known in chance.sample(list(alive.values()), min(len(alive), 4)):
            changed = known.changed(state=chance.choice(list(TaskState)))
            if chance.random() < 0.4:
                spec = known.spec.model_copy(update={"name": chance.choice("xyz"), "metadata": some_metadata()})
                changed = changed.specified(spec)
            batch[known.id] = changed
        erased = [each for each in chance.sample(list(alive.values()), min(len(alive), 2)) if each.id not in batch]
        await write(database, *batch.values(), erased=erased)
        alive |= batch
        for each in erased:
            del alive[each.id]

    for wanted in [
        {},
        {"state": int(TaskState.FAILED)},
        {"name": "add"},
        {"name": "nobody"},
        {"group_id": "g"},
        {"metadata": {"k": "a"}},
        {"metadata": {"k": [1, {"x": 2}]}},
        {"metadata": {"k": None}},
        {"metadata": {"k": "a", "m": "b"}},
        {"metadata": {"absent": 1}},
        {"name": "add", "state": int(TaskState.COMPLETED)},
        {"name": "x", "metadata": {"k": "a"}},
        {"state": int(TaskState.RUNNING), "metadata": {"n": 1}},
        {"group_id": "g", "metadata": {"k": "b"}, "state": int(TaskState.COMPLETED)},
    ]:
        expected = sorted((each.seq for each in alive.values() if fits(each, wanted)), reverse=True)
        last = len(expected)
        for offset, limit in [(0, 100), (0, 3), (2, 5), (max(0, last - 2), 2), (last, 5), (10**6, 1)]:
            assert await seqs(database, offset, limit, **wanted) == (
                len(expected),
                expected[offset : offset + limit],
            ), wanted


async def test_what_is_written_twice_counts_once(database):
    """A batch is written again when it is not known whether it had been."""
    made = task(metadata={"k": 1})
    await write(database, made)
    await write(database, made)
    assert await seqs(database) == (1, [made.seq])
    assert await seqs(database, metadata={"k": 1}) == (1, [made.seq])
    await write(database, erased=[made])
    await write(database, erased=[made])
    assert await seqs(database) == (0, [])


async def test_nothing_is_left_of_what_nobody_has(database):
    made = [task(name=f"only-{n}", metadata={"id": n}) for n in range(5)]
    await write(database, *made)
    await write(database, erased=made)
    assert await database.run(lambda db: db.execute(task_metadata.select()).all()) == []
    left = await database.run(lambda db: db.execute(task_counts.select()).all())
    assert {(row.facet, row.n) for row in left} == {("", 0)}


@pytest.mark.parametrize(
    "value", ["x" * 100_000, {"deep": ["x" * 5000]}, "ü\0\u2028", "sha256:0", 1e300, -0.5, True, "quote\"'\\"]
)
async def test_any_value_is_found_by_itself_alone(database, value):
    made = task(metadata={"k": value, "y" * 5000: value})
    await write(database, made, task(metadata={"k": "x" * 100_001}))
    assert await seqs(database, metadata={"k": value}) == (1, [made.seq])
    assert await seqs(database, metadata={"y" * 5000: value, "k": value}) == (1, [made.seq])


def test_numbers_are_the_same_however_they_are_written():
    assert facets_of("t", {"k": [1.0, {"n": 2.0}]}) == facets_of("t", {"k": [1, {"n": 2}]})
    assert facets_of("t", {"k": 1}) != facets_of("t", {"k": True})
    assert facets_of("t", {"k": 1}) != facets_of("t", {"k": "1"})


async def test_a_large_batch_is_written_whole(database):
    made = [task(metadata={"n": n, "all": True}) for n in range(2500)]
    await write(database, *made, Group("g", "job", "j", "parallel", GroupState.PENDING, 1.0, 1.0))
    assert (await seqs(database, metadata={"all": True}))[0] == 2500
    await write(database, erased=made)
    assert await seqs(database) == (0, [])


async def test_the_benchmark_s_store_is_what_the_manager_would_have_written(new_database):
    filled, written = new_database(), new_database()
    await fill(filled, 120)

    def all_of(table):
        return lambda db: {tuple(row) for row in db.execute(table.select())}

    async with Database(filled, SCHEMA) as database:
        total, found = await database.run(lambda db: store.list_tasks(db, 0, 1000))
        expected = [await database.run(all_of(table)) for table in (tasks, task_metadata, task_counts)]
        attempts = await database.run(lambda db: store.attempts_of(db, found[0].id))
    assert total == len(found) == 120
    assert [(each.number, each.result) for each in attempts] == [(1, found[0].result)]
    async with Database(written, SCHEMA) as database:
        await write(database, *found)
        assert [await database.run(all_of(table)) for table in (tasks, task_metadata, task_counts)] == expected


async def test_an_error_with_a_nul_does_not_keep_a_batch_from_being_written(database):
    failed = task(state=TaskState.FAILED, error="the guest said a\0b")
    await write(database, failed)
    (read,) = await database.run(lambda db: store.tasks_with(db, [failed.id]))
    assert read.error == "the guest said a\N{REPLACEMENT CHARACTER}b"
