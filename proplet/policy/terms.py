"""What one task gets of what it asks for, or why it is not taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from proplet.policy.document import Grants
from proplet.policy.policy import TIMES, Amounts, Policy, amounts
from proplet.policy.signatures import decoded
from proplet.sandbox.frames import Limits
from swashplate import limits
from swashplate.errors import ForbiddenError
from swashplate.messages import Directory, Granted, Start
from swashplate.messages.sandbox import Isolation

Said = TypeVar("Said")


class RefusedError(ForbiddenError):
    """The policy of this machine does not allow it; that of another may."""

    default_code = "capability_refused"


@dataclass(frozen=True)
class Terms:
    """``allowed`` are the limits by the fields of ``RunLimits``; the other fields are those of ``frames.Job``."""

    allowed: Amounts
    limits: Limits
    isolation: Isolation
    deterministic: bool
    seed: int
    clock: bool
    random: bool
    directories: list[tuple[str, str, bool]]
    env: dict[str, str]
    granted: Granted


def resolved(start: Start, policy: Policy) -> Terms:
    """Raises ``RefusedError`` naming everything that is not granted, or the first limit that is over its ceiling."""
    allowed = _allowed(start, policy)
    asked = start.capabilities
    if asked.http:
        raise RefusedError(
            f"HTTP to {', '.join(asked.http)} is not granted: no proplet can hold a guest to named hosts",
            code="http_unsupported",
            hint="give it what it needs as inputs, a dataset or a directory",
        )
    entries = policy.entries(start.image_url, start.digest, _signers(start, policy))
    isolation = _last((each.isolation for each in entries), otherwise=policy.isolation)
    clock = _last((each.clock for each in entries), otherwise=True)
    random = _last((each.random for each in entries), otherwise=True)
    directories = {wish: _directory(wish, policy, entries) for wish in asked.directories}
    variables = {name for each in entries for name in each.env}
    env = {name: policy.environ[name] for name in asked.env if name in variables and name in policy.environ}
    wishes = {
        **{_named(wish): found is not None for wish, found in directories.items()},
        **{f"env {name}": name in env for name in asked.env},
        **({"isolation warm": isolation == "warm"} if start.isolation == "warm" else {}),
    }
    refused = [wish for wish, granted in wishes.items() if not granted]
    if refused:
        unset = {f"env {name}" for name in variables if name not in policy.environ}
        named = (f"{wish}, which is not set there" if wish in unset else wish for wish in refused)
        raise RefusedError(f"this proplet's policy does not grant {', '.join(named)}")
    taken = [
        name
        for name, wanted, there in (("clock", asked.clock, clock), ("random", asked.random, random))
        if wanted and not there
    ]
    return Terms(
        allowed=allowed,
        limits=_frame(allowed),
        isolation=start.isolation or isolation,
        deterministic=start.deterministic,
        seed=start.seed,
        clock=clock and asked.clock,
        random=random and asked.random,
        directories=[found for found in directories.values() if found is not None],
        env=env,
        granted=Granted(asked=list(wishes), granted=list(wishes), refused=taken),
    )


def _allowed(start: Start, policy: Policy) -> Amounts:
    """A daemon runs until it is stopped: of time it has what it asks for, or what the policy file says."""
    ceilings, usual = policy.ceilings, policy.limits
    if start.daemon:
        ceilings, usual = policy.standing, {name: most for name, most in usual.items() if name not in TIMES}
    asked = amounts(start.limits)
    for name, value in asked.items():
        if value > ceilings.get(name, value):
            raise RefusedError(
                f"limit {limits.NAMES[name]}: {limits.shown(name, value)} asked,"
                f" at most {limits.shown(name, ceilings[name])} allowed here ({name})",
                code="limit_over_ceiling",
            )
    return {**ceilings, **usual, **asked}


def _frame(allowed: Amounts) -> Limits:
    def whole(name: str) -> int:
        return int(allowed.get(name, 0))

    return Limits(
        memory=whole("memory_bytes"),
        output=whole("output_bytes"),
        files=whole("output_files"),
        wall_s=allowed.get("wall_s", 0.0),
        cpu_s=allowed.get("cpu_s", 0.0),
        table_elements=whole("table_elements"),
        stack=whole("stack_bytes"),
        log=whole("log_bytes"),
        fuel=whole("fuel"),
    )


def _signers(start: Start, policy: Policy) -> frozenset[str]:
    """Who signed the binary, of those that are known here. Raises ``RefusedError`` for a wrong signature."""
    known = [name for name in start.signatures if name in policy.signers]
    for name in known:
        if not policy.signers[name](start.digest, decoded(start.signatures[name])):
            raise RefusedError(
                f"the signature that is said to be of {name} is not, or not of this binary", code="signature_invalid"
            )
    return frozenset(known)


def _directory(wish: Directory, policy: Policy, entries: Iterable[Grants]) -> tuple[str, str, bool] | None:
    found = {each.directories[wish.name] for each in entries if wish.name in each.directories}
    if not found or (wish.write and "write" not in found):
        return None
    return policy.directories[wish.name].path, wish.path, wish.write


def _named(wish: Directory) -> str:
    return f"directory {wish.name} at {wish.path}{' to write' if wish.write else ''}"


def _last(said: Iterable[Said | None], *, otherwise: Said) -> Said:
    """What was said last."""
    return next((each for each in reversed(list(said)) if each is not None), otherwise)
