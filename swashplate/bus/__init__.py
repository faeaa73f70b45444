"""The message bus: MQTT behind one asyncio interface, and the same interface in memory."""

from swashplate.bus.address import BrokerAddress
from swashplate.bus.base import (
    Bus,
    BusError,
    Handler,
    PayloadTooLargeError,
    PublishTimeoutError,
    Received,
    SubscriptionRefusedError,
    Will,
)
from swashplate.bus.link import LinkHints
from swashplate.bus.memory import MemoryBroker, MemoryBus
from swashplate.bus.mqtt import MqttBus

__all__ = [
    "BrokerAddress",
    "Bus",
    "BusError",
    "Handler",
    "LinkHints",
    "MemoryBroker",
    "MemoryBus",
    "MqttBus",
    "PayloadTooLargeError",
    "PublishTimeoutError",
    "Received",
    "SubscriptionRefusedError",
    "Will",
]
