"""What is around this proplet: the services it uses, the datasets and the binaries it has at hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from proplet.settings import PropletSettings
from swashplate import logging
from swashplate.client import HttpClient
from swashplate.messages import ProcessUrls

log = logging.get("site")

LIST_TIMEOUT_S = 2.0
ANNOUNCE_WITHIN_S = 10.0
"""The announce is retained: it comes with the subscription, unless no manager has ever been on this channel."""


class Site:
    """A service's URL is the operator's setting, else what the manager announces, else empty."""

    def __init__(self, settings: PropletSettings, http: HttpClient, digests: Callable[[], list[str]]) -> None:
        self._settings = settings
        self._http = http
        self.digests = digests
        self.announced = ProcessUrls()
        http.trust(settings.data_store_url, settings.data_store_token.get_secret_value())
        self.datasets: list[str] = []
        self._unlisted = 0
        """How often in a row the data store did not answer."""
        self._manager_heard = asyncio.Event()

    def hear(self, urls: ProcessUrls) -> None:
        """What the manager announces."""
        self.announced = urls
        self._manager_heard.set()

    async def expect_manager(self, connected: asyncio.Event, topic: str) -> None:
        """Say once when no manager shows itself: that is how a wrong channel looks from here."""
        await connected.wait()
        try:
            async with asyncio.timeout(ANNOUNCE_WITHIN_S):
                await self._manager_heard.wait()
        except TimeoutError:
            log.warning(
                "no manager has announced itself",
                topic=topic,
                within_s=ANNOUNCE_WITHIN_S,
                hint="is the manager running? PROPLET_DOMAIN_ID and PROPLET_CHANNEL_ID must be the same as MANAGER_DOMAIN_ID"
                " and MANAGER_CHANNEL_ID",
            )
            await self._manager_heard.wait()
            log.info("the manager has announced itself", topic=topic)

    def coordinator_url(self) -> str:
        return (self._settings.coordinator_url or self.announced.coordinator).rstrip("/")

    def manager_url(self) -> str | None:
        """None until a manager has announced itself: it may name one."""
        known = (self._settings.manager_url or self.announced.manager).rstrip("/")
        return known if known or self._manager_heard.is_set() else None

    def model_registry_url(self) -> str:
        url = (self._settings.model_registry_url or self.announced.model_registry).rstrip("/")
        self._http.trust(url, self._settings.model_registry_token.get_secret_value())
        return url

    async def learn_datasets(self) -> bool:
        """Ask the data store for its names; True when they are news."""
        if not self._settings.data_store_url:
            return False
        url = self._settings.data_store_url.rstrip("/") + "/datasets"
        token = self._settings.data_store_token.get_secret_value()
        try:
            datasets = await asyncio.to_thread(_listed, url, token)
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            self._unlisted += 1
            if self._unlisted == 2:  # once means nothing: it may be starting, as we are
                log.info("the data store lists no datasets now", url=url, reason=str(error))
            return False
        self._unlisted = 0
        news = datasets != self.datasets
        self.datasets = datasets
        return news


def _listed(url: str, token: str) -> list[str]:
    """The names that a data store lists. Blocking, and without ``HttpClient``: many a proplet asks for nothing else over HTTP
    while it is idle, and is 7 MiB smaller without. Raises ``OSError``, ``HTTPException``, ``ValueError``, ``KeyError`` and
    ``TypeError``.
    """
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=LIST_TIMEOUT_S)) as connection:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        content = response.read()
    if response.status != 200:
        raise ValueError(f"{url} answered {response.status}")
    return sorted(str(name) for name in json.loads(content)["datasets"])
