"""What holds on this machine: the policy file and the settings in one, ready to be asked about a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proplet.policy.document import Directory, Grant, Grants, PolicyFile
from proplet.policy.signatures import Verify
from swashplate import limits
from swashplate.errors import ConfigurationError
from swashplate.messages import RunLimits
from swashplate.messages.sandbox import Isolation

Amounts = Mapping[str, float]
"""By the field of ``RunLimits``; what is absent is not limited."""


@dataclass(frozen=True)
class Policy:
    """``limits`` are what a task has that asks for nothing, ``ceilings`` what none can exceed.

    ``standing`` are the ceilings of a task that runs until it is stopped: only those that the policy file itself names hold
    for its time. ``environ`` is what a task can be let see of it.
    """

    limits: Amounts
    ceilings: Amounts
    standing: Amounts
    isolation: Isolation = "warm"
    default: Grants = field(default_factory=Grants)
    grants: tuple[Grant, ...] = ()
    directories: Mapping[str, Directory] = field(default_factory=dict)
    signers: Mapping[str, Verify] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    def entries(self, image: str, digest: str, signers: frozenset[str]) -> list[Grants]:
        """What is said of such a task, in the order of the file."""
        return [self.default, *(grant for grant in self.grants if grant.is_for(image, digest, signers))]


TIMES = frozenset({"wall_s", "cpu_s"})


def amounts(said: RunLimits) -> dict[str, float]:
    return said.model_dump(exclude_none=True)


def combined(
    file: PolicyFile,
    settings: Amounts,
    isolation: Isolation,
    signers: Mapping[str, Verify],
    environ: Mapping[str, str],
) -> Policy:
    """``settings`` are both default and ceiling where the file does not say otherwise.

    Raises ``ConfigurationError`` for a default that is over its ceiling.
    """
    raised = amounts(file.ceilings)
    ceilings = {**settings, **raised}
    chosen = amounts(file.limits)
    for name, value in chosen.items():
        if value > ceilings.get(name, value):
            raise ConfigurationError(
                f"field limits.{limits.NAMES[name]}: {limits.shown(name, value)} is over the ceiling of"
                f" {limits.shown(name, ceilings[name])}",
                hint=f"raise ceilings.{limits.NAMES[name]}",
            )
    lowered = {name: min(settings.get(name, most), most) for name, most in ceilings.items()}
    return Policy(
        limits={**lowered, **chosen},
        ceilings=ceilings,
        standing={name: most for name, most in ceilings.items() if name in raised or name not in TIMES},
        isolation=isolation,
        default=file.default,
        grants=tuple(file.grant),
        directories=file.directories,
        signers=signers,
        environ=environ,
    )
