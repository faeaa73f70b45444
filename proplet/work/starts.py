"""Starts and invocations: whether they can be run at all, and what a call makes of a start. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swashplate.errors import InvalidRequestError
from swashplate.messages import Invoke, Start


def checked(start: Start) -> Start:
    """Raises ``InvalidRequestError`` for what cannot be run, or for text that no guest can be given."""
    if not start.id or not start.name:
        raise InvalidRequestError("Start: id and name must not be empty")
    if start.timeout_s is None and not start.daemon and not start.latent:
        raise InvalidRequestError("Start: timeout_s may be absent for a daemon and a latent task only")
    if start.latent and (start.daemon or start.kind == "federated"):
        raise InvalidRequestError("Start: a latent task is neither a daemon nor federated")
    _check_text("Start", (start.name, *start.inputs, *start.cli_args), start.env)
    return start


def checked_invoke(invoke: Invoke) -> Invoke:
    """Raises ``InvalidRequestError`` for text that no guest can be given."""
    _check_text("Invoke", invoke.inputs, invoke.env)
    return invoke


def _check_text(what: str, texts: Iterable[str], env: Mapping[str, str]) -> None:
    for text in (*texts, *env.values()):
        if "\0" in text:
            raise InvalidRequestError(f"{what}: name, inputs, cli_args and env must not contain NUL")
    for key in env:
        if not key or "=" in key or "\0" in key:
            raise InvalidRequestError(f"{what}: {key!r} is not a usable environment entry")


def called(start: Start, invoke: Invoke) -> Start:
    """What one call of a latent task runs."""
    changes = {
        "inputs": invoke.inputs or start.inputs,
        "env": {**start.env, **invoke.env},
        "timeout_s": invoke.timeout_s,
        "latent": False,
        "tokens": invoke.tokens,
    }
    return start.model_copy(update=changes)
