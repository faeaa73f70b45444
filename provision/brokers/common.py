"""What the brokers that we run have in common: users with hashed keys and access lists, and where a broker lives."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import bcrypt
from pydantic import BaseModel, ConfigDict

from swashplate.errors import InvalidRequestError
from swashplate.topics import ROUND_NEXT, Grants, Topics

MAX_PAYLOAD = 8 * 1024 * 1024
HEADER_ROOM = 128 * 1024
"""Bytes above the payload for topic and headers; an MQTT topic has at most 65,535."""

MAX_KEY_BYTES = 72
"""bcrypt looks no further."""

# A key of ours has 256 random bits: no number of rounds makes it harder to guess, and each is paid at every connect, in
# the one thread that serves everybody. See docs/decisions/hashed-keys.md.
_PBKDF2_ROUNDS = 1000
_BCRYPT_ROUNDS = 4
_SALT_BYTES = 12

_LEGACY_SAYS = ("create", "alive", "results", "invoke_results", "metrics", "task_metrics")
_LEGACY_HEARS = ("start", "stop", "invoke", "registry")


class Kind(StrEnum):
    """The brokers that we can configure."""

    EMBEDDED = "embedded"
    MOSQUITTO = "mosquitto"


class HashedKey(BaseModel):
    """A key in the form that each broker checks; the key itself is nowhere."""

    model_config = ConfigDict(frozen=True)

    mosquitto: str
    """PBKDF2-SHA512 as mosquitto writes it: ``$7$rounds$salt$hash``."""
    nats: str
    """bcrypt."""

    def matches(self, key: str) -> bool:
        _, _, rounds, salt, digest = self.mosquitto.split("$")
        found = _pbkdf2(key, int(rounds), base64.b64decode(salt))
        return hmac.compare_digest(found, base64.b64decode(digest))


def hashed(key: str) -> HashedKey:
    """Raises ``InvalidRequestError`` for what cannot be a key."""
    if not key or any(c.isspace() or not c.isprintable() for c in key):
        raise InvalidRequestError("a key must not be empty nor contain spaces or unprintable characters")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidRequestError(f"a key must have at most {MAX_KEY_BYTES} bytes")
    salt = os.urandom(_SALT_BYTES)
    digest = _pbkdf2(key, _PBKDF2_ROUNDS, salt)
    return HashedKey(
        mosquitto=f"$7${_PBKDF2_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}",
        nats=bcrypt.hashpw(key.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS, b"2a")).decode(),
    )


def _pbkdf2(key: str, rounds: int, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", key.encode(), salt, rounds)


@dataclass(frozen=True)
class User:
    """Who may connect with which key, and what it may publish and subscribe; anything else is denied."""

    id: str
    label: str
    """For people who read the file."""
    key: HashedKey
    grants: Grants


@dataclass(frozen=True)
class Place:
    """Where a broker listens and keeps its files.

    ``max_payload``: bytes of the largest MQTT payload that passes; a publisher of a larger one is disconnected.
    ``pid_file``: written by the broker, so that a reload can be asked for.
    ``ack_wait_s``: seconds after which nats-server delivers a QoS 1 message again that a client has not acknowledged;
    mosquitto does it when the client connects again.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 1883
    pid_file: Path | None = None
    max_payload: int = MAX_PAYLOAD
    ack_wait_s: int = 10


def merged(lists: Iterable[Grants]) -> Grants:
    """Everything that any of ``lists`` grants, each once, in order."""
    found = list(lists)
    return Grants(
        publish=tuple(dict.fromkeys(each for grants in found for each in grants.publish)),
        subscribe=tuple(dict.fromkeys(each for grants in found for each in grants.subscribe)),
    )


def narrowed(before: Iterable[User], after: Iterable[User]) -> set[str]:
    """Who keeps the key and loses a right: a live subscription of theirs would outlast the change."""
    left = {user.id: user for user in after}
    found = set()
    for user in before:
        now = left.get(user.id)
        if now is None or now.key != user.key:
            continue
        if not {*user.grants.publish} <= {*now.grants.publish} or not {*user.grants.subscribe} <= {
            *now.grants.subscribe
        }:
            found.add(user.id)
    return found


def legacy_grants(topics: Topics, role: str, client_id: str) -> Grants:
    """What a Propeller component of that role needs besides: the topics that all proplets share."""
    control, registry = f"{topics.base}/control", f"{topics.base}/registry"
    match role:
        case "proplet":
            return Grants(
                publish=(
                    *(f"{control}/proplet/{kind}" for kind in _LEGACY_SAYS),
                    f"{registry}/proplet",
                    f"fl/rounds/+/updates/{client_id}",
                ),
                subscribe=(
                    *(f"{control}/manager/{kind}" for kind in _LEGACY_HEARS),
                    f"{registry}/server",
                    ROUND_NEXT,
                ),
            )
        case "manager":
            return Grants(publish=(), subscribe=(f"{topics.base}/#",))
        case "proxy":
            return Grants(publish=(f"{control}/proplet/alive",), subscribe=())
    return Grants(publish=(), subscribe=())
