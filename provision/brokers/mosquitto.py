"""mosquitto's three files: the configuration, the password file and the access lists.

Measured on 2.0.11: a SUBSCRIBE that the access list denies is accepted, and filtered when a message is delivered. There
is no ``use_username_as_clientid``, which would keep a stranger from taking over a session whose name he knows: manager
and coordinator have a second connection with the same user, and the two would throw each other out. The session's name
is a secret instead (``service.stable_client_id``).
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterable

from provision.brokers.common import HEADER_ROOM, Place, User
from swashplate.errors import ConfigurationError

CONFIG, PASSWORDS, ACCESS, STORE = "mosquitto.conf", "passwords", "acl", "mosquitto"

MANY = 1_000_000
"""Not 0 for "no limit": 2.0.11 then throws out whoever publishes something that its access list denies."""


def config(place: Place) -> str:
    """The text of the configuration. It names no user: those are in the two files that a reload reads again."""
    lines = [
        "# Written by Swashplate's provisioning; it is written again, so changes here do not last.",
        f"listener {place.port} {place.host}",
        "allow_anonymous false",
        f"password_file {_path(place, PASSWORDS)}",
        f"acl_file {_path(place, ACCESS)}",
        "",
        "# Without these it forgets what it has acknowledged, or drops what waits for somebody who is away. It saves everything",
        "# it knows each time: after every change, a task costs it 4 to 17 ms of CPU. Ours is sent again until it is confirmed.",
        "persistence true",
        f"persistence_location {_path(place, STORE)}/",
        "autosave_on_changes false",
        "autosave_interval 1",
        f"max_queued_messages {MANY}",
        "# Whoever acknowledges once it is on the disk would otherwise have 20 messages for each time that takes.",
        "max_inflight_messages 1000",
        "",
        f"max_packet_size {place.max_payload + HEADER_ROOM}",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "# Started as root it would become another user, who cannot read the files above.",
        f"user {_current_user()}",
    ]
    if place.pid_file:
        # That it reads its files again is told as information, and so is, alas, each time it saves its database.
        lines += [f"pid_file {_plain(os.fspath(place.pid_file))}", "log_type information"]
    return "\n".join(lines) + "\n"


def passwords(users: Iterable[User]) -> str:
    return "".join(f"{_name(user.id)}:{user.key.mosquitto}\n" for user in users)


def access(users: Iterable[User]) -> str:
    blocks = []
    for user in users:
        lines = [f"# {json.dumps(user.label)}", f"user {_name(user.id)}"]
        lines += [f"topic write {_plain(pattern)}" for pattern in user.grants.publish]
        lines += [f"topic read {_plain(pattern)}" for pattern in user.grants.subscribe]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _path(place: Place, name: str) -> str:
    return _plain(os.fspath(place.folder / name))


def _name(user: str) -> str:
    if ":" in user:
        raise ConfigurationError(f"mosquitto cannot have a user {user!r}: a colon ends the name")
    return _plain(user)


def _plain(text: str) -> str:
    """A line of mosquitto's files has no quotes: it ends with the line, less the spaces around."""
    if not text.isprintable() or text != text.strip():
        raise ConfigurationError(f"mosquitto's files cannot hold {text!r}")
    return text


def _current_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without a name: not root then, and the line is not looked at
        return "nobody"
