"""The files of a broker: made of its users, and replaced only when they say something else than before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from provision import files
from provision.brokers import mosquitto, nats
from provision.brokers.common import Kind, Place, User
from swashplate.errors import ConfigurationError


def config_file(kind: Kind) -> str:
    """What the broker is started with."""
    return nats.CONFIG if kind is Kind.EMBEDDED else mosquitto.CONFIG


def broker_files(kind: Kind, users: Iterable[User], place: Place) -> dict[str, str]:
    """Name → text of every file that the broker reads."""
    listed = sorted(users, key=lambda user: user.id)
    if kind is Kind.EMBEDDED:
        return {nats.CONFIG: nats.config(listed, place)}
    return {
        mosquitto.CONFIG: mosquitto.config(place),
        mosquitto.PASSWORDS: mosquitto.passwords(listed),
        mosquitto.ACCESS: mosquitto.access(listed),
    }


def write_broker_files(kind: Kind, users: Iterable[User], place: Place) -> bool:
    """Write each file in one step, readable by the owner only; return whether any is another one than before."""
    folders = [place.folder]
    if kind is Kind.MOSQUITTO:
        folders.append(place.folder / mosquitto.STORE)  # it does not make the folder of its database itself
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"cannot create {folder}: {error.strerror}") from error
    texts = broker_files(kind, users, place)
    changed = [_write(files.resolved(place.folder / name), text.encode()) for name, text in texts.items()]
    return any(changed)


def _write(target: Path, content: bytes) -> bool:
    if files.read_bytes(target) == content:
        files.tighten(target)
        return False
    files.write_private(target, content)
    return True
