"""The embedded broker's configuration: who may connect, and which topics each may publish and read.

nats-server speaks MQTT over its own subjects, so the access lists of ``swashplate.topics`` are translated. What is not
granted is denied. Nothing below ``$MQTT`` or ``$JS`` is granted: since 2.12.3 the server does what QoS 1 and 2, retained
messages, wills and persistent sessions need on those subjects by itself, and refuses them to clients.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from provision.brokers.common import HEADER_ROOM, Place, User
from swashplate.errors import ConfigurationError

CONFIG = "nats.conf"

NOBODY = "$"
"""No client's id: ``swashplate.topics.level`` refuses it."""
_NOBODYS_KEY = "$2a$04$" + "." * 53


def subjects(topic_filter: str) -> tuple[str, ...]:
    """Translate an MQTT topic filter to the NATS subjects that a permission must list.

    ``X/#`` needs two, because to MQTT it includes ``X`` itself and ``X.>`` does not. Levels are expected to be ones that
    ``swashplate.topics.level`` accepts: a dot or a NATS wildcard in one would change its meaning.
    """
    levels = ["*" if part == "+" else part for part in topic_filter.split("/")]
    if levels[-1] != "#":
        return (".".join(levels),)
    parent = ".".join(levels[:-1])
    return (parent, f"{parent}.>") if parent else (">",)


def config(users: Iterable[User], place: Place, *, server_name: str = "swashplate") -> str:
    """The text of a nats-server configuration with an MQTT listener.

    ``server_name`` must stay the same for one folder: the server finds its sessions by it.
    """
    listed = "\n".join(_user(user) for user in users)
    pid_file = f"pid_file: {_quoted(os.fspath(place.pid_file))}\n" if place.pid_file else ""
    # The server counts the headers in which it keeps topic and QoS against the payload's limit.
    return f"""\
# Written by Swashplate's provisioning; it is written again, so changes here do not last.
server_name: {_quoted(server_name)}
{pid_file}
# The server cannot be told not to listen for its own protocol: a free port of this machine then, where no user below
# may log in, as each is for MQTT only.
host: "127.0.0.1"
port: -1

max_payload: {place.max_payload + HEADER_ROOM}

jetstream {{
  store_dir: {_quoted(os.fspath(place.folder / "store"))}
  sync_interval: always
}}

mqtt {{
  host: {_quoted(place.host)}
  port: {place.port}
  ack_wait: "{place.ack_wait_s}s"
}}

authorization {{
  timeout: 10
  default_permissions: {{ publish: {{ deny: ">" }}, subscribe: {{ deny: ">" }} }}
  users: [
    # Without any user the server would let everybody in. This one has no key: the hash is of nothing that is known.
    {{ user: {_quoted(NOBODY)}, password: {_quoted(_NOBODYS_KEY)}, permissions: {{ publish: {_permission(())}, subscribe: {_permission(())} }} }}
{listed}
  ]
}}
"""


def _user(user: User) -> str:
    return f"""\
    {{ # {json.dumps(user.label)}
      user: {_quoted(user.id)}
      password: {_quoted(user.key.nats)}
      allowed_connection_types: ["MQTT"]
      permissions: {{
        publish: {_permission(user.grants.publish)}
        subscribe: {_permission(user.grants.subscribe)}
      }}
    }}"""


def _permission(patterns: Iterable[str]) -> str:
    """An empty ``allow`` would allow everything."""
    names = dict.fromkeys(subject for pattern in patterns for subject in subjects(pattern))
    if not names:
        return '{ deny: ">" }'
    return "{ allow: [" + ", ".join(_quoted(name) for name in names) + "] }"


def _quoted(text: str) -> str:
    if not text.isprintable():
        raise ConfigurationError(f"the broker's configuration cannot hold {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
