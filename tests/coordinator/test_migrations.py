"""Databases from before are taken over with what is in them."""

from pathlib import Path

import pytest

from coordinator import model_store, store
from coordinator.model_store import ModelStore
from coordinator.states import RoundState
from coordinator.store import RoundStore
from swashplate.model_ref import ModelRef
from tests.support import schemas

OLD = Path(__file__).with_name("old")
KINDS = {"coordinator": "rounds", "model-registry": "models"}
SCHEMAS = pytest.mark.parametrize("schema", [store.SCHEMA, model_store.SCHEMA], ids=["rounds", "models"])


@SCHEMAS
async def test_migrated_and_fresh_databases_have_the_same_schema(schema, new_database):
    assert schemas.migrated(new_database(), schema) == await schemas.opened(new_database(), schema)


@SCHEMAS
async def test_a_database_that_was_taken_over_has_the_same_schema_as_a_fresh_one(schema, new_database):
    fresh = await schemas.opened(new_database(), schema)
    old = schemas.restored(new_database(), schema, OLD / f"{KINDS[schema.service]}_v0001.sql")
    assert await schemas.opened(old, schema) == fresh


async def test_rounds_are_there_and_go_on(new_database, tmp_path):
    url = schemas.restored(new_database(), store.SCHEMA, OLD / "rounds_v0001.sql")
    async with RoundStore(tmp_path, url) as rounds:
        total, page = await rounds.page(offset=0, limit=10)
        assert (total, [(each.id, updates) for each, updates in page]) == (3, [("r-2", 1), ("r-1", 1), ("r-0", 1)])
        [(unfinished, participants)] = await rounds.unfinished()
        assert (unfinished.id, list(participants)) == ("r-1", ["p-2", "p-1"])
        assert (await rounds.last_completed()).state is RoundState.COMPLETED
        assert [update.body for update in await rounds.updates("r-1")] == [b'{"w":[1,2,3],"b":1}']


async def test_models_are_there(new_database, tmp_path):
    url = schemas.restored(new_database(), model_store.SCHEMA, OLD / "models_v0001.sql")
    async with ModelStore(tmp_path, url) as models:
        assert await models.lines() == ["global_model", "other"]
        assert (await models.read(ModelRef("global_model", 1))).details == {"num_updates": 2}
        assert (await models.describe(ModelRef("global_model", 0)))[1]
