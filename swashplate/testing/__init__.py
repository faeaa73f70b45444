"""For tests of whole systems: virtual time, processes that can be killed, a broker and a disk that fail as real ones do."""

from swashplate.testing.broker import Faults, FaultyBroker
from swashplate.testing.bus import FaultyBus
from swashplate.testing.disk import Disk, Pace, VirtualDatabase
from swashplate.testing.loop import StalledError, VirtualLoop, run, virtual_loop
from swashplate.testing.machine import EPOCH, virtual_machine
from swashplate.testing.process import Process

__all__ = [
    "EPOCH",
    "Disk",
    "Faults",
    "FaultyBroker",
    "FaultyBus",
    "Pace",
    "Process",
    "StalledError",
    "VirtualDatabase",
    "VirtualLoop",
    "run",
    "virtual_loop",
    "virtual_machine",
]
