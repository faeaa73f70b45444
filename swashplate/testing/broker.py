"""A broker in memory where every hop takes time and may go wrong, within what MQTT 3.1.1 allows.

QoS 0 is lost at times, and always on a connection that breaks. QoS 1 is sent again after a reconnect, in order, until it is
acknowledged: it comes once or more, and it is lost only with the session or with the process that had not handed it over.
One topic of one publisher keeps its order on one connection; different topics overtake each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from swashplate import topics
from swashplate.bus import Received, Will
from swashplate.bus.memory import AccessList

if TYPE_CHECKING:
    from swashplate.testing.bus import FaultyBus

TIE_S = 1e-6

_matches = lru_cache(maxsize=65536)(topics.matches)


@dataclass(frozen=True, slots=True)
class Faults:
    """Times are seconds, the rest are shares of all messages. ``slow`` messages take up to ``slow_s`` for a hop; ``loss`` is
    of QoS 0, ``duplicate`` of QoS 1. The default is a network that is only a little slow.
    """

    fastest_s: float = 0.000_2
    slowest_s: float = 0.002
    slow: float = 0.0
    slow_s: float = 1.0
    loss: float = 0.0
    duplicate: float = 0.0


@dataclass
class Session:
    """What the broker keeps for a client. ``unacknowledged`` are its QoS 1 messages, in order."""

    client_id: str
    clean: bool
    patterns: dict[str, int] = field(default_factory=dict)
    unacknowledged: dict[int, Received] = field(default_factory=dict)
    link: Link | None = None


@dataclass(eq=False)
class Link:
    """One connection, from its CONNECT to its end. ``flows`` is over as soon as it breaks, which either side notices later."""

    bus: FaultyBus
    session: Session
    will: Will | None
    flows: bool = True
    last: dict[tuple[str, str], float] = field(default_factory=dict)
    """When the last message of each direction and topic arrives."""


class FaultyBroker:
    """``stop`` and ``start`` it, ``cut`` connections, ``partition`` clients; clients are ``FaultyBus``. All that is left to
    chance is taken from ``source``. ``trace`` is told what happens, in one line each.
    """

    def __init__(
        self,
        source: random.Random,
        faults: Faults | None = None,
        *,
        allows: AccessList | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.trace = trace
        self.running = True
        self.retained: dict[str, bytes] = {}
        self.sessions: dict[str, Session] = {}
        self.on_publish: Callable[[str, str, bytes], object] = lambda _client_id, _topic, _payload: None
        """Called with everything that reaches the broker: by whom, on which topic, and what."""
        self._allows = allows
        self._source = source
        self._away: dict[str, float] = {}
        self._number = 0
        self._context = copy_context()  # what is on its way outlives the process that sent it

    # Faults, as the simulation decides them.

    def stop(self, *, forget: bool) -> None:
        """The broker dies. With ``forget`` it had nothing on a disk: no session and no retained message comes back."""
        self.running = False
        for session in list(self.sessions.values()):
            if session.link is not None:
                self._break(session.link, noticed_by_client=self._hop())
                session.link = None
            if session.clean or forget:
                del self.sessions[session.client_id]
        if forget:
            self.retained.clear()
        self._tell(f"broker dies{', forgetting everything' if forget else ''}")

    def start(self) -> None:
        self.running = True
        self._tell("broker is back")

    def cut(self, client_id: str, *, client_after: float = 0.0, broker_after: float = 0.0) -> None:
        """Nothing passes any more; the client and the broker notice after so many seconds. The broker then says the will."""
        session = self.sessions.get(client_id)
        if session is None or session.link is None or not session.link.flows:
            return
        self._tell(f"{client_id} is cut off")
        link = session.link
        self._break(link, noticed_by_client=client_after)
        self._later(broker_after, self._end, link, True)

    def partition(self, client_id: str, seconds: float, *, broker_after: float = 0.0) -> None:
        """Cut, and out of reach for so long."""
        self._away[client_id] = asyncio.get_running_loop().time() + seconds
        self.cut(client_id, broker_after=broker_after)

    def reachable(self, client_id: str) -> bool:
        return self.running and self._away.get(client_id, 0.0) <= asyncio.get_running_loop().time()

    # What a client does; called by FaultyBus.

    def connect(self, bus: FaultyBus) -> Link:
        """An older connection of the same client id is ended, with its will."""
        known = self.sessions.get(bus.client_id)
        if known is not None and known.link is not None:
            self._break(known.link, noticed_by_client=0.0)
            self._end(known.link, True)
            known = self.sessions.get(bus.client_id)
        if known is None or known.clean or bus.clean_session:
            known = Session(bus.client_id, bus.clean_session)
            self.sessions[bus.client_id] = known
        link = known.link = Link(bus, known, bus.will)
        self._tell(f"{bus.client_id} connects")
        for number, message in list(known.unacknowledged.items()):
            self._send(link, number, message)
        return link

    def subscribe(self, link: Link, pattern: str, qos: int, granted: Callable[[bool], None]) -> None:
        self._carry(link, "up", "", self._subscribed, link, pattern, qos, granted)

    def unsubscribe(self, link: Link, pattern: str) -> None:
        self._carry(link, "up", "", lambda: link.session.patterns.pop(pattern, None))

    def publish(self, link: Link, topic: str, payload: bytes, *, qos: int, retain: bool, number: int) -> None:
        """``number`` is the client's own, for the acknowledgement of QoS 1."""
        if qos == 0 and self._source.random() < self.faults.loss:
            self._tell(f"{link.session.client_id} ✗ {topic} (lost)")
            return
        self._carry(link, "up", topic, self._published, link, topic, payload, qos, retain, number)

    def disconnect(self, link: Link) -> None:
        """With a goodbye, after what was sent before it."""
        now = asyncio.get_running_loop().time()
        last = max((due for (way, _), due in link.last.items() if way == "up"), default=now)
        self._later(max(0.0, last - now) + TIE_S, self._end, link, False)

    # What happens at the broker.

    def _subscribed(self, link: Link, pattern: str, qos: int, granted: Callable[[bool], None]) -> None:
        client_id = link.session.client_id
        allowed = self._allows is None or self._allows(client_id, "subscribe", pattern)
        if allowed:
            link.session.patterns[pattern] = qos
            for topic, payload in list(self.retained.items()):
                if _matches(pattern, topic) and self._may(client_id, "deliver", topic):
                    self._deliver(link.session, Received(topic, payload, retain=True), qos)
        self._carry(link, "down", "", granted, allowed)

    def _published(self, link: Link, topic: str, payload: bytes, qos: int, retain: bool, number: int) -> None:
        self.route(link.session.client_id, topic, payload, qos=qos, retain=retain)
        if qos:
            self._carry(link, "down", "", link.bus.acknowledged, number)

    def route(self, client_id: str, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """To everybody who subscribed."""
        if not self._may(client_id, "publish", topic):
            return
        self.on_publish(client_id, topic, payload)
        if retain:
            if payload:
                self.retained[topic] = payload
            else:
                self.retained.pop(topic, None)
        message = Received(topic, payload)
        for session in self.sessions.values():
            granted = [wish for pattern, wish in session.patterns.items() if _matches(pattern, topic)]
            if granted and self._may(session.client_id, "deliver", topic):
                self._deliver(session, message, min(qos, max(granted)))

    def _deliver(self, session: Session, message: Received, qos: int) -> None:
        if qos:
            self._number += 1
            session.unacknowledged[self._number] = message
            if session.link is not None:
                self._send(session.link, self._number, message)
        elif session.link is not None:
            self._send(session.link, None, message)

    def _send(self, link: Link, number: int | None, message: Received) -> None:
        if number is None and self._source.random() < self.faults.loss:
            self._tell(f"✗ {message.topic} → {link.session.client_id} (lost)")
            return
        self._carry(link, "down", message.topic, self._arrived, link, number, message)
        if number is not None and self.faults.duplicate and self._source.random() < self.faults.duplicate:
            self._carry(link, "down", message.topic, self._arrived, link, number, message)

    def _arrived(self, link: Link, number: int | None, message: Received) -> None:
        if self.trace is not None:
            self.trace(f"→ {link.session.client_id}  {_shown(message)}")
        if number is None:
            link.bus.arrived(message, None)
        else:
            link.bus.arrived(message, lambda: self._carry(link, "up", "", self._settled, link.session, number))

    @staticmethod
    def _settled(session: Session, number: int) -> None:
        session.unacknowledged.pop(number, None)

    def _end(self, link: Link, unexpected: bool) -> None:
        """The broker knows that this connection is over."""
        link.flows = False
        if link.session.link is not link:
            return
        link.session.link = None
        if link.session.clean and self.sessions.get(link.session.client_id) is link.session:
            del self.sessions[link.session.client_id]
        if unexpected and link.will is not None and self.running:
            self._tell(f"the will of {link.session.client_id}")
            self.route(link.session.client_id, link.will.topic, link.will.payload, qos=link.will.qos)

    # Time.

    def _break(self, link: Link, *, noticed_by_client: float) -> None:
        link.flows = False
        self._later(noticed_by_client, link.bus.lost, link)

    def _hop(self) -> float:
        faults, chance = self.faults, self._source.random()
        if chance < faults.slow:
            return self._source.uniform(faults.slowest_s, faults.slow_s)
        return faults.fastest_s + chance * (faults.slowest_s - faults.fastest_s)

    def _carry(self, link: Link, way: str, topic: str, then: Callable[..., object], *args: object) -> None:
        """One hop on a connection: in order per direction and topic, and not at all once it is broken."""
        loop = asyncio.get_running_loop()
        due = max(loop.time() + self._hop(), link.last.get((way, topic), 0.0) + TIE_S)
        link.last[way, topic] = due
        loop.call_at(due, self._pass, link, then, args, context=self._context)

    def _pass(self, link: Link, then: Callable[..., object], args: tuple[object, ...]) -> None:
        if link.flows and self.running:
            then(*args)

    def _later(self, seconds: float, then: Callable[..., object], *args: object) -> None:
        asyncio.get_running_loop().call_later(seconds, then, *args, context=self._context)

    def _may(self, client_id: str, what: str, topic: str) -> bool:
        return self._allows is None or self._allows(client_id, what, topic)

    def _tell(self, line: str) -> None:
        if self.trace is not None:
            self.trace(line)


def _shown(message: Received) -> str:
    text = message.payload[:240].decode(errors="replace")
    return f"{'/'.join(message.topic.split('/')[4:])} {text}"
