"""The policy file read from the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli
from pydantic import ValidationError

from proplet.policy.document import PolicyFile
from proplet.policy.policy import Amounts, Policy, combined
from proplet.policy.signatures import Verify, verifier
from swashplate.errors import ConfigurationError
from swashplate.messages.sandbox import Isolation

MACHINE = (Path("/proc"), Path("/sys"), Path("/dev/mem"))
"""A guest that is let in there, or further up, is let into the memory of the process that runs it."""


@dataclass(frozen=True)
class Loaded:
    """``content`` is that of the file, empty without one; ``digest`` is its sha256 in hexadecimal."""

    policy: Policy
    file: PolicyFile
    content: bytes = b""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def content_of(path: Path) -> bytes:
    """Raises ``ConfigurationError`` naming the file and the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"policy {path}: cannot be read: {error.strerror}", hint="PROPLET_POLICY names it"
        ) from error


def load(
    path: Path | None,
    settings: Amounts,
    isolation: Isolation,
    environ: Mapping[str, str],
    own: Iterable[Path] = (),
) -> Loaded:
    """Without a file nothing is granted. ``own`` are the proplet's folders: its key, its journal, other tasks' files.

    Raises ``ConfigurationError`` naming the file, the field and the reason.
    """
    if path is None:
        return Loaded(combined(PolicyFile(), settings, isolation, {}, environ), PolicyFile())
    content = content_of(path)
    try:
        file = _parsed(content, own)
        signers = {name: _verifier(name, signer.public_key) for name, signer in file.signers.items()}
        return Loaded(combined(file, settings, isolation, signers, environ), file, content)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy {path}: {error.sentence}", hint=error.hint) from error


def _parsed(content: bytes, own: Iterable[Path]) -> PolicyFile:
    try:
        file = PolicyFile.model_validate(tomli.loads(content.decode("utf-8")))
    except ValidationError as error:
        raise _sentence(error) from error
    except (ValueError, RecursionError) as error:  # also numbers too long, and what is nested too deeply
        raise ConfigurationError(f"is not TOML: {error}") from error
    for name, directory in file.directories.items():
        if not Path(directory.path).is_dir():
            raise ConfigurationError(f"field directories.{name}.path: {directory.path} is no directory")
        found = Path(directory.path).resolve()
        for kept in (*MACHINE, *(folder.resolve() for folder in own)):
            if found.is_relative_to(kept) or kept.is_relative_to(found):
                raise ConfigurationError(f"field directories.{name}.path: {found} has {kept} in it, or lies in it")
    return file


def _sentence(error: ValidationError) -> ConfigurationError:
    """The first wrong field and the reason; the entries of a list are counted from one."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    unknown = first["type"] == "extra_forbidden"
    reason = "there is no such field" if unknown else str(first["msg"]).removeprefix("Value error, ")
    return ConfigurationError(f"field {where}: {reason}" if where else reason)


def _verifier(name: str, public_key: str) -> Verify:
    try:
        return verifier(public_key)
    except ValueError as error:
        raise ConfigurationError(f"field signers.{name}.public_key: {error}") from error
