"""The proplets that the manager knows, and which of them live.

A proplet is known by what arrives on its own topics; it lives while its reports come and no last will has told otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sortedcontainers import SortedDict

from manager.fleet.proplet import Proplet, is_alive, patience
from manager.fleet.remembered import Remembered
from swashplate import logging, topics
from swashplate.bus import Bus, Received
from swashplate.database import Database
from swashplate.errors import InvalidRequestError, NotFoundError
from swashplate.messages import PROPLET_IDS_HINT, Alive, Announce, PropletCreate
from swashplate.service import Tasks

log = logging.get("proplets")

LOOK_AGAIN_S = 1.0
STRANGER_S = 60.0


class Proplets:
    """Listens to create and alive; asks every proplet to report by a retained announce."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        names: topics.Topics,
        announce: Announce,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._remembered = Remembered(database)
        self._topics = names
        self._announce = announce
        self._known: SortedDict[str, Proplet] = SortedDict()
        self._asked_at = float("-inf")
        self._asked: dict[str, float] = {}
        """When each stranger was asked to register."""
        self._gone: dict[str, str] = {}
        """The last life of each proplet that ended, by its id."""
        self._joined: list[Callable[[str], Awaitable[None]]] = []
        self._report_hooks: list[Callable[[str, Alive], Awaitable[None]]] = []
        self._changed: list[Callable[[str], Awaitable[None]]] = []
        self._alive: set[str] = set()
        self._work = Tasks(log)
        self._switched: list[Callable[[str], Awaitable[None]]] = []

    def on_join(self, hook: Callable[[str], Awaitable[None]]) -> None:
        """Called with the id of a proplet that has just (re)connected."""
        self._joined.append(hook)

    def on_report(self, hook: Callable[[str, Alive], Awaitable[None]]) -> None:
        """Called with the id of a proplet and with what its heartbeat says."""
        self._report_hooks.append(hook)

    def on_change(self, hook: Callable[[str], Awaitable[None]]) -> None:
        """Called with the id of a proplet that is alive no more, or again, or that may be given something or not."""
        self._changed.append(hook)

    def on_switch(self, hook: Callable[[str], Awaitable[None]]) -> None:
        """Called with the id of a legacy proplet that has begun to use topics of its own."""
        self._switched.append(hook)

    async def open(self) -> None:
        """Load what is known and declare the subscriptions; call before the bus connects."""
        self._known.update((proplet.id, proplet) for proplet in await self._remembered.load())
        await self._bus.subscribe(self._topics.every_proplet("create"), self._created)
        await self._bus.subscribe(self._topics.every_proplet("alive"), self._reported)
        self._bus.on_connect(self._say_hello)
        self._remembered.open()
        self._work.start(self._watch(), "who is alive")

    async def close(self) -> None:
        await self._work.close()
        await self._remembered.close()

    async def _watch(self) -> None:
        """Nothing arrives when a proplet falls silent."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            now = self._clock()
            alive = {p.id for p in self._known.values() if is_alive(p, now, self._announce.heartbeat_s)}
            changed, self._alive = alive ^ self._alive, alive
            for proplet_id in changed:
                await self._tell_changed(proplet_id)

    async def _tell_changed(self, proplet_id: str) -> None:
        for hook in self._changed:
            await hook(proplet_id)

    async def _say_hello(self) -> None:
        await self._bus.publish(self._topics.announce, self._announce.encode(), retain=True)

    async def _ask_who_lives(self) -> None:
        """A life that did not register speaks: an announce makes every proplet register again. At most one a heartbeat."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= self._announce.heartbeat_s:
            self._asked_at = now
            await self._say_hello()

    async def _ask_stranger(self, proplet_id: str) -> None:
        """It was deleted, or its create is still on its way, or was refused. Whoever never registers must not make all
        others do so again and again.
        """
        now = asyncio.get_running_loop().time()
        if now - self._asked.get(proplet_id, float("-inf")) >= STRANGER_S:
            self._asked[proplet_id] = now
            await self._ask_who_lives()

    def list(self) -> list[Proplet]:
        """By id."""
        return list(self._known.values())

    def get(self, proplet_id: str) -> Proplet:
        try:
            found: Proplet = self._known[proplet_id]
        except KeyError:
            raise NotFoundError(
                f"there is no proplet {proplet_id}", code="proplet_not_found", hint=PROPLET_IDS_HINT
            ) from None
        return found

    def known(self, proplet_id: str) -> Proplet | None:
        found: Proplet | None = self._known.get(proplet_id)
        return found

    def is_legacy(self, proplet_id: str) -> bool:
        proplet = self._known.get(proplet_id)
        return proplet is not None and proplet.legacy

    def patience(self, proplet: Proplet) -> float:
        return patience(proplet, self._announce.heartbeat_s)

    def alive(self, proplet: Proplet) -> bool:
        return is_alive(proplet, self._clock(), self._announce.heartbeat_s)

    @staticmethod
    def sender(message: Received) -> str:
        """The id in ``…/control/proplet/{id}/{kind}``, which the broker's access list vouches for."""
        return message.topic.split("/")[-2]

    @classmethod
    def checked_sender(cls, message: Received, claimed: str) -> str:
        """Raises ``InvalidRequestError`` when ``claimed`` is somebody else."""
        sender = cls.sender(message)
        if sender != claimed:
            raise InvalidRequestError(f"{sender} speaks as {claimed}", code="wrong_sender")
        return sender

    async def _created(self, message: Received) -> None:
        said = PropletCreate.decode(message.payload)
        self.checked_sender(message, said.proplet_id)
        proplet = self._known.get(said.proplet_id) or Proplet(id=said.proplet_id)
        was_legacy, proplet.legacy = proplet.legacy, False
        proplet.namespace, proplet.metadata, proplet.capabilities = said.namespace, said.metadata, said.capabilities
        gone = self._gone.get(said.proplet_id) == said.instance
        proplet.instance, proplet.last_seen, proplet.offline = said.instance, self._clock(), gone
        await self.register(proplet)
        for hook in self._switched if was_legacy else ():
            await hook(proplet.id)

    async def register(self, proplet: Proplet) -> None:
        """From now on it is known. A crash before that is written loses nothing: every announce makes it register again."""
        known = proplet.id in self._known
        self._known[proplet.id] = proplet
        self._asked.pop(proplet.id, None)
        self._remembered.save_soon(proplet)
        what = "proplet connected" if known else "proplet registered"
        log.info(what, proplet_id=proplet.id, name=proplet.name, legacy=proplet.legacy)
        self._alive.add(proplet.id)
        for hook in self._joined:
            await hook(proplet.id)

    async def cordon(self, proplet_id: str, *, cordoned: bool, draining: bool) -> Proplet:
        """Durable when this returns; in memory it counts at once. Raises ``NotFoundError``."""
        proplet = self.get(proplet_id)
        proplet.cordoned, proplet.draining = cordoned, draining
        await self._tell_changed(proplet_id)
        await self._remembered.save(proplet)
        return proplet

    async def delete(self, proplet_id: str) -> None:
        """From now on it is a stranger. When it reports again, it is asked to register again."""
        del self._known[proplet_id]
        self._gone.pop(proplet_id, None)
        self._asked.pop(proplet_id, None)
        await self._remembered.delete(proplet_id)

    async def heard(self, proplet: Proplet) -> None:
        """It has just reported that it lives. Who looked while it was overdue believes it gone, and is told."""
        now, was_alive = self._clock(), self.alive(proplet)
        proplet.last_seen, proplet.offline = now, False
        proplet.history.append(now)
        if not was_alive:
            self._alive.add(proplet.id)
            await self._tell_changed(proplet.id)

    async def lost(self, proplet: Proplet) -> None:
        """Its last will came."""
        proplet.offline = True
        log.warning("proplet went offline", proplet_id=proplet.id, name=proplet.name)
        await self._tell_changed(proplet.id)

    async def _reported(self, message: Received) -> None:
        said = Alive.decode(message.payload)
        sender = self.sender(message)
        if said.status == "offline":
            # Its create may still be on its way here: topics are handled independently.
            self._gone[sender] = said.instance
        proplet = self._known.get(sender)
        if said.proplet_id != sender:
            log.debug("report of somebody else", proplet_id=sender, claimed=said.proplet_id)
            return
        if proplet is None:
            log.debug("report of an unregistered proplet", proplet_id=sender)
            if said.status == "alive":
                await self._ask_stranger(sender)
            return
        if said.status == "offline":
            # A last will of an earlier life must not take down the present one.
            if said.instance == proplet.instance and not proplet.offline:
                await self.lost(proplet)
            return
        if self._gone.get(sender) == said.instance:  # it was cut off, and is back
            del self._gone[sender]
        if said.instance != proplet.instance:
            await self._ask_stranger(sender)
        else:
            proplet.running, proplet.free_slots = len(said.running), said.free_slots
            await self.heard(proplet)
            for hook in self._report_hooks:
                await hook(proplet.id, said)
