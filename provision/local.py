"""Provisioning for a broker that we run: we are the authority, so the env file is the whole record."""

from __future__ import annotations

from pathlib import Path

from provision import env_file as env
from provision import files
from provision.brokers import Broker, Kind, Place
from provision.credentials import Credentials, complete
from provision.identity import access
from provision.identity.records import Records, now
from provision.identity.seeding import seed
from provision.identity.store import Store
from swashplate.errors import ConfigurationError


def provision_local(env_file: Path, proplets: int) -> tuple[Credentials, bool]:
    """Complete the identity set in ``env_file``; return it and whether the file changed.

    Runs at the same time wait for each other, so all of them return the same set.
    """
    with files.locked(env_file):
        credentials = complete(env.read(env_file), proplets)
        changed = env.update(env_file, credentials.as_env())
    return credentials, changed


async def prepare_broker(
    state_dir: Path, credentials: Credentials, *, broker: str, host: str, port: int, legacy: bool
) -> bool:
    """Make ``credentials`` known to the identity service below ``state_dir`` and to its broker, running or not.

    Returns whether the broker's files changed.
    """
    try:
        kind = Kind(broker)
    except ValueError as error:
        raise ConfigurationError(f"there is no broker {broker!r}", hint=f"one of {', '.join(Kind)}") from error
    folder = (state_dir / "broker").absolute()
    place = Place(folder, host, port, pid_file=folder / "broker.pid")
    changed = False

    async def publish(before: Records, after: Records) -> None:
        nonlocal changed
        users = [access.users(records, legacy=legacy) for records in (before, after)]
        changed |= await Broker(kind, place).give(*users)

    store = Store(state_dir / "identity", publish)
    await store.change(lambda records: seed(records, credentials, now()))
    await store.publish()
    return changed
