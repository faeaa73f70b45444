"""How a running stack is: asked of its services, its broker, and the manager about the proplets."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swashplate.client import HttpClient
from swashplate.errors import SwashplateError
from swashplate.stack.environment import read_env, token_for_reading


@dataclass
class Health:
    states: dict[str, str] = field(default_factory=dict)
    """By service and proplet: ``ok``, ``alive``, or what is wrong."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the policy that a proplet says it goes by: the beginning of its sha256. Without one it has none, or is not known."""


async def look(description: dict[str, Any]) -> Health:
    found = Health()
    known = {**read_env(Path(description["env_file"])), **os.environ}
    tokens = {description["urls"]["manager"]: token_for_reading(known, "MANAGER")}
    async with HttpClient(timeout=5, tokens=tokens) as client:

        async def ask(name: str, url: str) -> None:
            try:
                await client.get_json(f"{url}/health")
                found.states[name] = "ok"
            except SwashplateError as error:
                found.states[name] = f"down: {error.sentence}"

        await asyncio.gather(*(ask(name, url) for name, url in description["urls"].items()))
        found.states["broker"] = await _broker(description["broker"])
        alive: dict[str, Any] = {}
        otherwise = "offline"
        url = f"{description['urls']['manager']}/proplets?status=active&limit=10000"
        try:
            alive = {proplet["id"]: proplet["metadata"] for proplet in (await client.get_json(url))["proplets"]}
        except SwashplateError as error:  # its token is not ours, say: then nobody is known to be alive
            otherwise = f"unknown: {error.sentence}"
    for name, proplet_id in description["proplets"].items():
        found.states[name] = "alive" if proplet_id in alive else otherwise
        said = str(alive.get(proplet_id, {}).get("policy", "")).split()
        if said:
            found.digests[name] = said[-1]
    return found


async def _broker(address: str) -> str:
    where = urlsplit(address)
    try:
        _, writer = await asyncio.open_connection(where.hostname, where.port)
    except OSError as error:
        return f"down: {error}"
    writer.close()
    return "ok"
