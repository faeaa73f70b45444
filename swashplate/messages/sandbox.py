"""Under which terms a guest runs: what it may use, what it may reach, how it is kept apart; and what came of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from swashplate.messages.base import Digest, JsonObject, Message

Amount = Annotated[int, Field(ge=1, lt=2**63)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86400)]


class RunLimits(Message):
    """What one run may use at most. What is absent is the proplet's default; more than its ceiling is refused there.

    ``wall_s`` counts from the guest's first instruction, ``cpu_s`` the processor time of the process that runs it;
    ``output_bytes`` are those of stdout and ``/out`` together, ``log_bytes`` those of stderr; ``fuel`` is about one unit
    for each instruction, and only counted when it is given.
    """

    wall_s: Seconds | None = None
    cpu_s: Seconds | None = None
    memory_bytes: Amount | None = None
    table_elements: Amount | None = None
    stack_bytes: Amount | None = None
    output_bytes: Amount | None = None
    output_files: Amount | None = None
    log_bytes: Amount | None = None
    fuel: Amount | None = None


def _guest_path(path: str) -> str:
    parts = path.split("/")
    if not path.startswith("/") or any(part in {"", ".", ".."} for part in parts[1:]) or "\0" in path:
        raise ValueError("must be an absolute path without empty, . or .. parts")
    if parts[1] in {"in", "out"}:
        raise ValueError("/in and /out are the task's own")
    return path


class Directory(Message):
    """``name`` is what the proplet's policy calls it, ``path`` where the guest finds it."""

    name: str = Field(min_length=1, max_length=64)
    path: Annotated[str, AfterValidator(_guest_path), Field(max_length=1024)]
    write: bool = False


class GuestCapabilities(Message):
    """What a guest asks for beyond its own files. Each is refused unless the proplet's policy grants it.

    ``env`` names variables of the proplet's environment, ``http`` hosts (``name`` or ``name:port``). ``clock`` and
    ``random`` are there unless they are taken away.
    """

    directories: list[Directory] = Field(default_factory=list, max_length=32)
    env: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default_factory=list, max_length=64)
    http: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default_factory=list, max_length=64)
    clock: bool = True
    random: bool = True

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        paths = [directory.path for directory in self.directories]
        if len(set(paths)) != len(paths):
            raise ValueError("directories must have distinct paths")
        return self


Isolation = Literal["warm", "fork"]
"""``warm``: in a process that ran only this binary before; ``fork``: in one of its own, which ends with it."""


NOTHING_ASKED = GuestCapabilities()


class RunTerms(Message):
    """The part of a task, and of its start, that says how its guest runs.

    ``isolation`` empty leaves it to the proplet's policy. ``deterministic`` gives a fixed clock and random numbers made
    from ``seed``, so that the same binary and inputs give the same output bytes on any machine. ``signatures`` are base64
    Ed25519 signatures of the binary's digest, by the name of their signer.
    """

    limits: RunLimits = RunLimits()
    isolation: Literal["", "warm", "fork"] = ""
    deterministic: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    capabilities: GuestCapabilities = Field(default_factory=lambda: NOTHING_ASKED)
    signatures: dict[str, str] = Field(default_factory=dict, max_length=16)


class Granted(Message):
    """What was asked of the policy, and what it said: each entry reads like ``env REGION`` or ``directory scans at /data``."""

    asked: list[str] = Field(default_factory=list)
    granted: list[str] = Field(default_factory=list)
    refused: list[str] = Field(default_factory=list)


class RunReport(Message):
    """How a run went. ``limits`` and ``used`` have the same names, those of ``RunLimits``; what was not measured is absent.

    ``log_tail`` is the end of the guest's stderr. The digests are of what the run depended on and of what it gave.
    """

    isolation: Isolation = "warm"
    deterministic: bool = False
    limits: dict[str, float] = Field(default_factory=dict)
    used: dict[str, float] = Field(default_factory=dict)
    capabilities: Granted = Field(default_factory=Granted)
    log_tail: str = ""
    inputs_digest: Digest | None = None
    output_digest: Digest | None = None
    details: JsonObject = Field(default_factory=dict)
