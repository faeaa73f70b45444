"""The message bus: MQTT behind one asyncio interface, and the same interface in memory."""

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
from swashplate.bus.memory import MemoryBroker, MemoryBus
from swashplate.bus.mqtt import BrokerAddress, MqttBus

__all__ = [
    "BrokerAddress",
    "Bus",
    "BusError",
    "Handler",
    "MemoryBroker",
    "MemoryBus",
    "MqttBus",
    "PayloadTooLargeError",
    "PublishTimeoutError",
    "Received",
    "SubscriptionRefusedError",
    "Will",
]
