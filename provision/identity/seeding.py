"""The env file's credentials as records, so that who provisions over HTTP finds what is there already."""

from __future__ import annotations

from provision.brokers import hashed
from provision.credentials import Client as Provisioned
from provision.credentials import Credentials
from provision.identity.records import Channel, Client, Domain, Records
from swashplate.errors import ConfigurationError, InvalidRequestError

DOMAIN, CHANNEL = "fl-demo", "fl"


def seed(records: Records, credentials: Credentials, now: str) -> None:
    """Make domain ``fl-demo`` and channel ``fl`` what the env file says, which is the record of what takes part.

    What it does not name stays: other clients, and that a client was disabled. Who bore one of its names under another id
    is gone: those credentials are no longer in use. Raises ``ConfigurationError`` naming the variables that cannot be.
    """
    _domain(records, credentials.domain_id, now)
    _channel(records, credentials, now)
    for group in credentials.by_id():
        try:
            _client(records, credentials, group, now)
        except InvalidRequestError as error:
            first = group[0]
            raise ConfigurationError(f"{first.id_key}, {first.key_key}: {error.sentence}") from error


def _domain(records: Records, domain_id: str, now: str) -> None:
    if domain_id in records.domains:
        return
    for other in [each.id for each in records.domains.values() if each.route == DOMAIN]:
        records.remove_domain(other)
    records.add_domain(Domain(id=domain_id, name=DOMAIN, route=DOMAIN, created_at=now))


def _channel(records: Records, credentials: Credentials, now: str) -> None:
    domain_id, channel_id = credentials.domain_id, credentials.channel_id
    if channel_id in records.channels:
        records.channel(domain_id, channel_id)
        return
    for other in [each.id for each in records.channels_of(domain_id) if each.name == CHANNEL]:
        records.remove_channel(domain_id, other)
    records.add_channel(Channel(id=channel_id, domain_id=domain_id, name=CHANNEL, created_at=now))


def _client(records: Records, credentials: Credentials, group: list[Provisioned], now: str) -> None:
    """Services that run as one client have the rights of all of them."""
    domain_id, first = credentials.domain_id, group[0]
    names = {each.name for each in group}
    for other in records.clients_of(domain_id):
        if other.name in names and other.id != first.id:
            records.remove_client(domain_id, other.id)
    wanted = {"role": [each.role for each in group] if len(group) > 1 else first.role}
    known = records.clients.get(first.id)
    if known is None:
        records.add_client(
            Client(
                id=first.id,
                domain_id=domain_id,
                name=first.name,
                tags=("propeller", DOMAIN),
                metadata=wanted,
                created_at=now,
                key=hashed(first.key),
            )
        )
    else:
        known = records.client(domain_id, first.id)
        if not known.key.matches(first.key):
            known = known.changed(key=hashed(first.key), updated_at=now)
        records.replace_client(known.changed(name=first.name, metadata={**known.metadata, **wanted}))
    records.connect(domain_id, [first.id], [credentials.channel_id], ["publish", "subscribe"])
