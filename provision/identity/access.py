"""From the records to the broker's users: who may connect, and what each may publish and read. Pure."""

from __future__ import annotations

from provision.brokers import User, legacy_grants, merged
from provision.identity.records import Client, Connection, Records, roles
from swashplate.topics import Grants, Topics, grants


def users(records: Records, *, legacy: bool = False) -> list[User]:
    """Every enabled client that is connected to an enabled channel; who is not listed cannot log in.

    ``legacy`` grants everybody the topics that Propeller's components share; a client's ``metadata.legacy`` grants them
    to it alone.
    """
    found: dict[str, list[Grants]] = {}
    for connection in records.connections.values():
        client, channel = records.clients[connection.client_id], records.channels[connection.channel_id]
        domain = records.domains[client.domain_id]
        if {client.status, channel.status, domain.status} == {"enabled"}:
            shared = legacy or client.metadata.get("legacy") is True
            topics = Topics(domain.id, channel.id)
            found.setdefault(client.id, []).append(_granted(client, connection, topics, legacy=shared))
    clients = {client_id: records.clients[client_id] for client_id in found}
    return [
        User(id=client.id, label=client.name, key=client.key, grants=merged(found[client.id]))
        for client in clients.values()
    ]


def _granted(client: Client, connection: Connection, topics: Topics, *, legacy: bool) -> Grants:
    known = roles(client)
    if known:
        lists = [grants(topics, role, client.id) for role in known]
        if legacy:
            lists += [legacy_grants(topics, role, client.id) for role in known]
        whole = merged(lists)
    else:  # the channel is all there is to go by, as in SuperMQ
        everything = (f"{topics.base}/#",)
        whole = Grants(publish=everything, subscribe=everything)
    return Grants(
        publish=whole.publish if "publish" in connection.types else (),
        subscribe=whole.subscribe if "subscribe" in connection.types else (),
    )
