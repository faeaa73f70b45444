"""Provisioning for the embedded broker: we are the authority, so the env file is the whole record."""

from __future__ import annotations

from pathlib import Path

from provision import env_file as env
from provision import files
from provision.credentials import Credentials, complete


def provision_local(env_file: Path, proplets: int) -> tuple[Credentials, bool]:
    """Complete the identity set in ``env_file``; return it and whether the file changed.

    Runs at the same time wait for each other, so all of them return the same set.
    """
    with files.locked(env_file):
        credentials = complete(env.read(env_file), proplets)
        changed = env.update(env_file, credentials.as_env())
    return credentials, changed
