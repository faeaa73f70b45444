"""The three services that a round needs: the manager, the model registry and the aggregator, as the coordinator sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from coordinator.messages import ModelDescription, ModelUse, StoredRoundModel
from coordinator.records import ReceivedUpdate
from swashplate.client import HttpClient
from swashplate.errors import ConflictError, UnavailableError
from swashplate.messages import TaskCreate
from swashplate.model_ref import ModelRef

ASK_S = 5
LONG = 600
"""Seconds for a request that carries whole models."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the manager describes it; ``status`` in lower case."""

    id: str
    status: str
    error: str
    digest: str


class NotNowError(UnavailableError):
    """The task cannot be launched now; later it may."""


class ManagerPeer:
    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def launch(self, task: TaskCreate, key: str) -> Task:
        """Create and start the task, once per ``key``.

        Raises ``NotNowError`` when it may be tried again, another ``SwashplateError`` when the manager will never do it.
        """
        try:
            _, content = await self._http.request(
                "POST", f"{self._url}/tasks", body=task.encode(), headers={"Idempotency-Key": key}, timeout=10
            )
            return _task(content)
        except NotNowError:
            raise
        except UnavailableError as error:
            raise NotNowError(error.sentence, code="manager_unavailable") from error
        except ConflictError as error:
            if error.code == "proplet_not_alive":
                raise NotNowError(error.sentence, code=error.code) from error
            raise

    async def task(self, task_id: str, *, timeout: float) -> Task:
        """How a task stands; raises ``SwashplateError``, also after ``timeout`` seconds."""
        _, content = await self._http.request("GET", f"{self._url}/tasks/{quote(task_id, safe='')}", timeout=timeout)
        return _task(content)

    async def is_legacy(self, proplet_id: str) -> bool:
        """Does this proplet know nothing but Propeller's protocol? Raises ``SwashplateError``."""
        url = f"{self._url}/proplets/{quote(proplet_id, safe='')}"
        _, content = await self._http.request("GET", url, timeout=ASK_S)
        try:
            shown = json.loads(content)
        except ValueError as error:
            raise UnavailableError("the manager's answer is not a proplet", code="manager_unavailable") from error
        return isinstance(shown, dict) and shown.get("legacy") is True


def _task(content: bytes) -> Task:
    try:
        answer: dict[str, Any] = json.loads(content)
        return Task(
            id=str(answer["id"]),
            status=str(answer.get("status", "")).lower(),
            error=str(answer.get("error") or ""),
            digest=str(answer.get("digest") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotNowError("the manager's answer is not a task", code="manager_unavailable") from error


class RegistryPeer:
    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def describe(self, ref: ModelRef) -> ModelDescription:
        """Changes nothing; raises ``NotFoundError`` or ``UnavailableError``."""
        _, content = await self._http.request("GET", f"{self._url}{ref.path}/description")
        return ModelDescription.decode(content)

    async def use(self, ref: ModelRef, digest: str, round_id: str) -> None:
        """Note that the round starts from ``ref``, which then never changes.

        Raises ``ConflictError`` with code ``base_replaced`` when it no longer has this digest.
        """
        url = f"{self._url}{ref.path}/uses/{quote(round_id, safe='')}"
        await self._http.request("PUT", url, body=ModelUse(digest=digest).encode())

    async def store(self, base: ModelRef, round_id: str, model: bytes, lineage: dict[str, Any]) -> StoredRoundModel:
        """Store the JSON ``model`` that the round made from ``base``, once per round; the registry picks the version."""
        about = json.dumps({"parent_version": base.version, "lineage": lineage})
        body = about[:-1].encode() + b',"model":' + model.strip() + b"}"
        url = f"{self._url}/lines/{base.line}/rounds/{quote(round_id, safe='')}/model"
        _, content = await self._http.request("PUT", url, body=body, timeout=LONG)
        return StoredRoundModel.decode(content)


class AggregatorPeer:
    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def aggregate(self, updates: Iterable[ReceivedUpdate]) -> bytes:
        """The JSON of the new model."""
        body = await asyncio.to_thread(_together, updates)
        _, content = await self._http.request("POST", f"{self._url}/aggregate", body=body, timeout=LONG)
        return content


def _together(updates: Iterable[ReceivedUpdate]) -> bytes:
    """What the aggregator is sent. Each update may have megabytes: they are copied once."""
    pieces: list[bytes] = []
    for update in updates:
        about = b'%b{"proplet_id":%b,"num_samples":%d,"update":'
        separator = b"}," if pieces else b'{"updates":['
        pieces += [about % (separator, json.dumps(update.proplet_id).encode(), update.key.num_samples), update.body]
    return b"".join([*pieces, b"}]}"])
