"""The rooms of this folder, wired together: what a start goes through until there is a result."""

from __future__ import annotations

import time
from collections.abc import Callable

from manager.fleet.proplets import Proplets
from manager.large_results import Stored
from manager.state.ledger import Ledger
from manager.work.acks import Acks
from manager.work.attempts import Attempts
from manager.work.dialects import Dialect
from manager.work.dispatch import Dispatch
from manager.work.followers import Followers
from manager.work.images import Images
from manager.work.inbox import Inbox
from manager.work.leases import Leases
from manager.work.load import Load
from manager.work.offers import Offers
from manager.work.placement import Strategy
from manager.work.stops import Stops
from swashplate.bus import Bus
from swashplate.database import Database
from swashplate.topics import Topics


class Work:
    """``dialect_of`` says how the proplet with this id is spoken to; ``stored`` finds a result that was uploaded."""

    def __init__(
        self,
        bus: Bus,
        names: Topics,
        database: Database,
        ledger: Ledger,
        proplets: Proplets,
        dialect_of: Callable[[str], Dialect],
        stored: Stored,
        *,
        image_timeout_s: float,
        silence_s: float,
        strategy: Strategy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        images = Images(bus, names, timeout=image_timeout_s)
        offers = Offers(bus, ledger, dialect_of)
        stops = Stops(bus, ledger, dialect_of, clock=clock)
        self.load = Load(proplets, clock)
        self.dispatch = Dispatch(ledger, images, self.load, offers, strategy=strategy, clock=clock)
        self.leases = Leases(bus, database, ledger, proplets, self.load, silence_s=silence_s, clock=clock)
        self.followers = Followers(ledger)
        self.attempts = Attempts(
            ledger, proplets, self.load, self.dispatch, offers, self.leases, stops, self.followers, clock=clock
        )
        self.acks = Acks(bus, names, ledger)
        inbox = Inbox(bus, names, ledger, proplets, self.load, self.attempts, self.acks, stored)
        self.opened = (images, offers, stops, self.attempts, inbox, self.leases)
        self.closed = (self.leases, offers, self.dispatch, stops, self.attempts, inbox)
