"""The embedded broker's configuration: who may connect, and which topics each may publish and read.

nats-server speaks MQTT over its own subjects, so the access lists of ``swashplate.topics`` are translated. What is not
granted is denied. Nothing below ``$MQTT`` or ``$JS`` is granted: since 2.12.3 the server does what QoS 1 and 2, retained
messages, wills and persistent sessions need on those subjects by itself, and refuses them to clients.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from provision import files
from provision.credentials import Client, Credentials
from swashplate.errors import ConfigurationError
from swashplate.topics import ROUND_NEXT, Grants, Topics, grants

MAX_PAYLOAD = 8 * 1024 * 1024

# The server counts the headers in which it keeps topic and QoS against the limit, and disconnects above it. An MQTT
# topic has at most 65,535 bytes.
_HEADER_ROOM = 128 * 1024

_LEGACY_SAYS = ("create", "alive", "results", "invoke_results", "metrics", "task_metrics")
_LEGACY_HEARS = ("start", "stop", "invoke", "registry")


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


def nats_config(
    topics: Topics,
    credentials: Credentials,
    *,
    host: str,
    port: int,
    store_dir: Path,
    legacy: bool = False,
    server_name: str = "swashplate",
    max_payload: int = MAX_PAYLOAD,
    ack_wait_s: int = 10,
) -> str:
    """The text of a nats-server configuration with an MQTT listener on ``host``:``port``.

    ``max_payload``: bytes of the largest MQTT payload that passes; a publisher of a larger one is disconnected.
    ``ack_wait_s``: seconds after which a QoS 1 message that a client has not acknowledged is delivered to it again.
    ``server_name`` must stay the same for one ``store_dir``: the server finds its sessions by it.
    ``legacy`` also grants the topics that Propeller's components share.
    """
    users = "\n".join(_user(topics, group, legacy=legacy) for group in _by_id(credentials.clients))
    return f"""\
# Written by `swashplate provision`; it is written again from the env file, so changes here do not last.
server_name: {_quoted(server_name)}

# The server cannot be told not to listen for its own protocol: a free port of this machine then, where no user below
# may log in, as each is for MQTT only.
host: "127.0.0.1"
port: -1

max_payload: {max_payload + _HEADER_ROOM}

jetstream {{
  store_dir: {_quoted(os.fspath(store_dir))}
  sync_interval: always
}}

mqtt {{
  host: {_quoted(host)}
  port: {port}
  ack_wait: "{ack_wait_s}s"
}}

authorization {{
  timeout: 10
  default_permissions: {{ publish: {{ deny: ">" }}, subscribe: {{ deny: ">" }} }}
  users: [
{users}
  ]
}}
"""


def write_nats_config(path: Path, text: str) -> bool:
    """Write the configuration, readable by the owner only; return whether it is another one than before."""
    target = files.resolved(path)
    content = text.encode("utf-8")
    if files.read_bytes(target) == content:
        files.tighten(target)
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot create {target.parent}: {error.strerror}") from error
    files.write_private(target, content)
    return True


def _by_id(clients: Iterable[Client]) -> list[list[Client]]:
    """Services that run as one client are one user with the rights of all of them."""
    groups: dict[str, list[Client]] = {}
    for client in clients:
        groups.setdefault(client.id, []).append(client)
    return list(groups.values())


def _user(topics: Topics, group: list[Client], *, legacy: bool) -> str:
    client = group[0]
    if client.key.startswith("$2"):
        raise ConfigurationError(f"{client.key_key} looks like a bcrypt hash; the broker would take it for one")
    lists = [grants(topics, c.role, c.id) for c in group]
    if legacy:
        lists += [legacy_grants(topics, c.role, c.id) for c in group]
    publish = _allow(pattern for each in lists for pattern in each.publish)
    subscribe = _allow(pattern for each in lists for pattern in each.subscribe)
    return f"""\
    {{ # {", ".join(c.name for c in group)}
      user: {_quoted(client.id)}
      password: {_quoted(client.key)}
      allowed_connection_types: ["MQTT"]
      permissions: {{
        publish: {{ allow: {publish} }}
        subscribe: {{ allow: {subscribe} }}
      }}
    }}"""


def _allow(patterns: Iterable[str]) -> str:
    names = dict.fromkeys(subject for pattern in patterns for subject in subjects(pattern))
    return "[" + ", ".join(_quoted(name) for name in names) + "]"


def _quoted(text: str) -> str:
    if not text.isprintable():
        raise ConfigurationError(f"the broker's configuration cannot hold {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
