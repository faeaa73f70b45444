"""What a task is given: its model, its dataset, its environment. Nothing is made up in place of what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from proplet.runtime.task_folder import TaskFolder
from proplet.supply.assembly import Wanted
from proplet.supply.binaries import Binaries
from proplet.supply.fetch import Fetcher
from proplet.supply.input_cache import SMALL_BYTES, InputCache, Kept
from swashplate import logging
from swashplate.errors import ConfigurationError, InvalidRequestError, NotFoundError, SwashplateError, UnavailableError
from swashplate.messages import Start
from swashplate.model_ref import ModelRef
from swashplate.topics import level

log = logging.get("inputs")

MODEL, DATASET, PARENTS = "model.json", "data/dataset.json", "parents.json"
PARENTS_IN_ENV_BYTES = 64 << 10
AWAY_S = 15.0
"""How long a service of the site that does not answer is waited for, before it costs an attempt."""
VARIABLES = {MODEL: "MODEL_DATA", DATASET: "DATASET_DATA"}

First = TypeVar("First")
Second = TypeVar("Second")


async def together(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """Both results; when one fails, the other is cancelled and over before this returns."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Inputs:
    """``data_store_url`` and ``model_registry_url`` are empty when neither the operator nor the manager named one."""

    def __init__(
        self,
        cache: InputCache,
        proplet_id: str,
        fetcher: Fetcher,
        binaries: Binaries,
        data_store_url: str,
        model_registry_url: Callable[[], str],
    ) -> None:
        self._cache = cache
        self._proplet_id = proplet_id
        self._fetcher = fetcher
        self._binaries = binaries
        self._data_store_url = data_store_url.rstrip("/")
        self._model_registry_url = model_registry_url

    async def gather(self, start: Start, folder: TaskFolder) -> dict[str, str]:
        """Fill the task's ``/in`` and return its environment.

        Raises ``SwashplateError`` with the code of what is missing or wrong.
        """
        folder.describe(_described(start, self._proplet_id))
        env = {**start.env, **_names(start, self._proplet_id)}
        if start.parents or start.parents_digest is not None:
            env |= await self._parents(start, folder)
        model, dataset = None, None
        if start.env.get("MODEL_URI") or self._dataset_of(start):
            model, dataset = await together(self._model(start, folder), self._dataset(start, folder))
        given = {name: kept for name, kept in ((MODEL, model), (DATASET, dataset)) if kept is not None}
        if sum(kept.size for kept in given.values()) <= SMALL_BYTES:
            env |= {VARIABLES[name]: folder.given(name) for name in given}
        return env

    async def _model(self, start: Start, folder: TaskFolder) -> Kept | None:
        uri = start.env.get("MODEL_URI", "")
        if not uri:
            return None
        reference = ModelRef.parse(uri)
        base = self._model_registry_url().rstrip("/")
        if not base:
            raise ConfigurationError(
                "the task names a model, but this proplet knows no model registry", hint="set MODEL_REGISTRY_URL"
            )
        url = base + reference.read_path
        log.info("Fetching model from registry: %s", url)
        # Version 0 may be replaced until a round has used it; every later version is immutable.
        kept = await self._named(url, "model", "model_registry_unreachable", start, immutable=reference.version > 0)
        folder.give(MODEL, kept.path)
        return kept

    async def _parents(self, start: Start, folder: TaskFolder) -> dict[str, str]:
        """Give the parents' results as ``/in/parents.json``, and in the environment when they are small."""
        digest = start.parents_digest
        if digest is None:
            folder.write(PARENTS, to_json(start.parents))
        else:
            with self._binaries.in_use(digest):
                parents = Wanted(digest, start.parents_size, wasm=False)
                fetched = await self._fetcher.fetch(parents, endless=start.timeout_s is None)
                await asyncio.to_thread(folder.give, PARENTS, fetched)  # on another file system it is a copy
            self._binaries.drop_unused(digest)  # no other task has these parents
        small = folder.size_of(PARENTS) <= PARENTS_IN_ENV_BYTES
        return {"PARENT_RESULTS": folder.given(PARENTS)} if small else {}

    def _dataset_of(self, start: Start) -> str:
        return start.dataset or (self._proplet_id if start.kind == "federated" else "")

    async def _dataset(self, start: Start, folder: TaskFolder) -> Kept | None:
        name = self._dataset_of(start)
        if not name:
            return None
        if not self._data_store_url:
            raise ConfigurationError(
                f"the task needs dataset {name}, but this proplet knows no data store", hint="set DATA_STORE_URL"
            )
        url = f"{self._data_store_url}/datasets/{level(name, 'dataset')}"
        log.info("Fetching dataset from Local Data Store: %s", url)
        kept = await self._named(url, "dataset", "data_store_unreachable", start)
        folder.give(DATASET, kept.path)
        if kept.rows == 0 or (kept.rows is None and kept.small):
            raise InvalidRequestError(f"{url} has no samples", code="dataset_invalid")
        samples = "an unknown number of" if kept.rows is None else kept.rows
        log.info("Successfully fetched dataset with %s samples and passed to client", samples, size=kept.size)
        return kept

    async def _named(self, url: str, what: str, unreachable: str, start: Start, *, immutable: bool = False) -> Kept:
        """``InputCache.get`` with codes that say which input it was, and with the patience that the task's time allows."""
        try:
            return await self._cache.get(url, immutable=immutable, patience=_patience(start))
        except UnavailableError as error:
            raise UnavailableError(error.sentence, code=unreachable) from error
        except NotFoundError as error:
            raise NotFoundError(f"{url}: {error.sentence}", code=f"{what}_not_found", hint=error.hint) from error
        except InvalidRequestError as error:
            raise InvalidRequestError(error.sentence, code=f"{what}_invalid") from error
        except SwashplateError as error:
            raise SwashplateError(f"{url}: {error.sentence}", code=f"{what}_refused") from error


def _patience(start: Start) -> float:
    return AWAY_S if start.timeout_s is None else min(AWAY_S, start.timeout_s / 4)


def _names(start: Start, proplet_id: str) -> dict[str, str]:
    """Who runs what, which is not the same twice: a deterministic guest sees it only where its update must say who learned."""
    if start.deterministic:
        return {"PROPLET_ID": proplet_id} if start.kind == "federated" else {}
    return {"TASK_ID": start.id, "PROPLET_ID": proplet_id}


def _described(start: Start, proplet_id: str) -> dict[str, Any]:
    """The content of ``/in/task.json``. Tokens are not part of it."""
    names = _names(start, proplet_id)
    task: dict[str, Any] = {
        "id": names.get("TASK_ID"),
        "attempt": None if start.deterministic else start.attempt,
        "name": start.name,
        "kind": start.kind,
        "inputs": start.inputs,
        "dataset": start.dataset,
        "proplet_id": names.get("PROPLET_ID"),
        "round_id": start.env.get("ROUND_ID"),
        "model_uri": start.env.get("MODEL_URI"),
    }
    try:
        task["hyperparams"] = from_json(start.env.get("HYPERPARAMS", "null"), allow_inf_nan=False)
    except ValueError:
        task["hyperparams"] = None  # the guest still has the text, and says what is wrong with it
    return task
