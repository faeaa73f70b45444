"""Finding or making the domain, the clients and the channel in SuperMQ, so that a second run finds what the first made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from provision.credentials import (
    Client,
    Credentials,
    complete,
    env_prefix,
    in_one_dialect,
    members,
    new_key,
    newer_names,
)
from provision.supermq import SuperMQ
from provision.supermq_http import printable
from swashplate.errors import ConflictError, UnavailableError
from swashplate.words import counted

DOMAIN = "fl-demo"
CHANNEL = "fl"
TAGS = ("propeller", "fl-demo")
TYPES = ("publish", "subscribe")

Record = dict[str, Any]


def enrol(api: SuperMQ, env: Mapping[str, str], proplets: int, say: Callable[[str], None]) -> Credentials:
    """Return the whole set, connected to the channel.

    ``env`` are the variables of the env file: what they name and SuperMQ has is taken before anything of the same name,
    because names of clients are not unique. Raises when ``env`` and the set could not stand in one file.
    """
    known = in_one_dialect(env)
    domain = _domain(api, known.get("MANAGER_DOMAIN_ID"), say)
    clients = _clients(api, domain, known, proplets, say)
    channel = _channel(api, domain, known.get("MANAGER_CHANNEL_ID"), say)
    api.connect(domain, [client.id for client in clients], channel, TYPES)
    say(f"connected {counted(len(clients), 'client')} to channel {CHANNEL}: {', '.join(TYPES)}")
    found = Credentials(domain, channel, tuple(clients))
    complete({**newer_names(env), **found.as_env()}, proplets)
    return found


def find(
    records: Sequence[Record], *, name: str, known: str | None, twins: Collection[str] = (), taken: Collection[str] = ()
) -> Record | None:
    """The record whose id is ``known``, unless one of ``twins`` has it; else one with the name that is not ``taken``.

    Of several with the name an enabled one is found, and of those the oldest, so that each run finds the same.
    """
    same = [record for record in records if record.get("name") == name and record["id"] not in taken]
    oldest = min(same, key=lambda r: (_disabled(r), str(r.get("created_at") or ""), r["id"]), default=None)
    return next((record for record in records if record["id"] == known and known not in twins), oldest)


def choose_domain(records: Sequence[Record], known: str | None) -> Record | None:
    """The domain of our route or name: the known one first, then by route, which is unique, then by name."""
    ours = [record for record in records if DOMAIN in (record.get("route"), record.get("name"))]
    return min(ours, key=lambda r: (r["id"] != known, _disabled(r), r.get("route") != DOMAIN, r["id"]), default=None)


def _domain(api: SuperMQ, known: str | None, say: Callable[[str], None]) -> str:
    found = choose_domain(api.domains(), known)
    if found is None:
        made = api.create_domain(DOMAIN, DOMAIN)
        if made is not None:
            return _new(made, f"domain {DOMAIN}", say)
        found = choose_domain(api.domains(), known)
    if found is None:
        raise ConflictError(
            f"the route {DOMAIN!r} belongs to a domain that this user cannot see",
            hint="take a user that administrates it: --user",
        )
    return _reused(found, f"domain {DOMAIN}", say)


def _channel(api: SuperMQ, domain: str, known: str | None, say: Callable[[str], None]) -> str:
    look = partial(find, name=CHANNEL, known=known)
    found = look(api.channels(domain))
    if found is None:
        made = api.create_channel(domain, CHANNEL)
        if made is not None:
            return _new(made, f"channel {CHANNEL}", say)
        found = look(api.channels(domain))
    if found is None:
        raise _unseen(f"channel {CHANNEL}")
    return _reused(found, f"channel {CHANNEL}", say)


def _clients(
    api: SuperMQ, domain: str, known: Mapping[str, str], proplets: int, say: Callable[[str], None]
) -> list[Client]:
    there = api.clients(domain)
    wanted = members(range(1, proplets + 1))
    ids = {name: known.get(f"{env_prefix(name)}_CLIENT_ID", "") for name, _ in wanted}
    clients: list[Client] = []
    for name, role in wanted:
        what = f"client {name}"
        # Services may share a client when the env file says so; two proplets may not.
        twins = {client.id for client in clients if client.role == role}
        taken = {client.id for client in clients} | (set(ids.values()) - {ids[name]})
        look = partial(find, name=name, known=ids[name], twins=twins, taken=taken)
        found = look(there)
        made = None if found else api.create_client(domain, name, TAGS, {"role": role})
        if made is not None:
            id_, key = _new(made, what, say), _secret(made)
        else:
            found = found or look(api.clients(domain))
            if found is None:
                raise _unseen(what)
            id_ = _reused(found, what, say)
            # The service shows the key or does not; where it does, that one is the truth.
            key = _secret(api.client(domain, id_))
            if not key and id_ == ids[name]:
                key = known.get(f"{env_prefix(name)}_CLIENT_KEY", "")
            key = key or next((client.key for client in clients if client.id == id_), "")
        if not key:
            key = new_key()
            api.set_secret(domain, id_, key)
            say(f"{what}: a new key, because the env file has none for it; whoever used the old one is shut out")
        clients.append(Client(name, role, id_, key))
    return clients


def _secret(record: Record) -> str:
    credentials = record.get("credentials")
    secret = credentials.get("secret") if isinstance(credentials, dict) else None
    return secret if isinstance(secret, str) else ""


def _disabled(record: Record) -> bool:
    return bool(record.get("status", "enabled") != "enabled")


def _new(record: Record, what: str, say: Callable[[str], None]) -> str:
    say(f"{what}: made")
    return str(record["id"])


def _reused(record: Record, what: str, say: Callable[[str], None]) -> str:
    if _disabled(record):
        raise ConflictError(
            f"{what} exists and is {printable(str(record['status']))} (id {record['id']})",
            hint="somebody shut it out on purpose: enable it in SuperMQ, or remove it there and run this again",
        )
    say(f"{what}: reused")
    return str(record["id"])


def _unseen(what: str) -> UnavailableError:
    return UnavailableError(
        f"SuperMQ says that {what} exists, and does not list it",
        hint="take a user that administrates the domain: --user",
    )
