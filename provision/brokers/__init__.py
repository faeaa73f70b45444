"""The brokers that we run: what their configuration says about who may connect, publish and read."""

from __future__ import annotations

from provision.brokers.common import MAX_PAYLOAD, HashedKey, Kind, Place, User, hashed, legacy_grants, merged
from provision.brokers.files import broker_files, write_broker_files
from provision.brokers.running import Broker

__all__ = [
    "MAX_PAYLOAD",
    "Broker",
    "HashedKey",
    "Kind",
    "Place",
    "User",
    "broker_files",
    "hashed",
    "legacy_grants",
    "merged",
    "write_broker_files",
]
