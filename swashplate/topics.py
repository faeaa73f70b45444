"""Every MQTT topic, built in this one module. Levels that come from outside are checked here.

``B`` is the base ``m/{domain}/c/{channel}``. See ARCHITECTURE.md for who publishes and who reads each topic.
"""

from __future__ import annotations

from dataclasses import dataclass

from swashplate.errors import InvalidRequestError

ROUND_START = "fl/rounds/start"
ROUND_NEXT = "fl/rounds/next"

SHARED_QOS = 2
"""What Propeller's components publish and subscribe their shared topics with; none of it is retained."""

MAX_LEVEL_BYTES = 256
_BAD_IN_LEVEL = frozenset("/+#*>.$ ")
"""A dot is a level separator inside the embedded broker, a slash is one everywhere. Of all that is space only this one is
printable.
"""


def level(value: str, what: str = "id") -> str:
    """Return ``value`` when it can stand as one topic level, else raise ``InvalidRequestError`` naming ``what``."""
    if not value:
        raise InvalidRequestError(f"{what} must not be empty", code="invalid_id")
    if len(value.encode(errors="replace")) > MAX_LEVEL_BYTES:
        raise InvalidRequestError(f"{what} must be at most {MAX_LEVEL_BYTES} bytes", code="invalid_id")
    if not value.isprintable() or not _BAD_IN_LEVEL.isdisjoint(value):
        bad = next(c for c in value if c in _BAD_IN_LEVEL or not c.isprintable())
        raise InvalidRequestError(f"{what} must not contain {bad!r}: {value!r}", code="invalid_id")
    return value


def last_level(topic: str) -> str:
    return topic.rpartition("/")[2]


def matches(pattern: str, topic: str) -> bool:
    """Does ``topic`` match the MQTT 3.1.1 subscription ``pattern`` (section 4.7)?"""
    want, have = pattern.split("/"), topic.split("/")
    if have[0].startswith("$") and want[0] in {"+", "#"}:
        return False
    for i, part in enumerate(want):
        if part == "#":
            return True
        if i >= len(have) or part not in {"+", have[i]}:
            return False
    return len(want) == len(have)


def overlap(one: str, other: str) -> bool:
    """Is there a topic that both subscription patterns match?"""
    a, b = one.split("/"), other.split("/")
    for i in range(max(len(a), len(b))):
        if (i < len(a) and a[i] == "#") or (i < len(b) and b[i] == "#"):
            return True
        if i >= len(a) or i >= len(b):
            return False
        if a[i] != b[i] and "+" not in (a[i], b[i]):
            return False
    return True


@dataclass(frozen=True)
class Topics:
    """The topics of one domain and channel."""

    domain: str
    channel: str

    def __post_init__(self) -> None:
        level(self.domain, "domain id")
        level(self.channel, "channel id")

    @property
    def base(self) -> str:
        return f"m/{self.domain}/c/{self.channel}"

    @property
    def announce(self) -> str:
        return f"{self.base}/control/manager/announce"

    def proplet(self, proplet_id: str, kind: str) -> str:
        """What a proplet says: create, alive, status, results, invoke_results, metrics, task_metrics."""
        return f"{self.base}/control/proplet/{level(proplet_id, 'proplet id')}/{level(kind, 'kind')}"

    def every_proplet(self, kind: str) -> str:
        return f"{self.base}/control/proplet/+/{level(kind, 'kind')}"

    def to_proplet(self, proplet_id: str, kind: str) -> str:
        """What the manager says to one proplet: start, stop, invoke, ack."""
        return f"{self.base}/control/manager/{level(proplet_id, 'proplet id')}/{level(kind, 'kind')}"

    @property
    def resolve_request(self) -> str:
        return f"{self.base}/registry/manager"

    @property
    def resolve_reply(self) -> str:
        return f"{self.base}/registry/server/manager"

    def blob_request(self, proplet_id: str) -> str:
        return f"{self.base}/registry/proplet/{level(proplet_id, 'proplet id')}"

    @property
    def every_blob_request(self) -> str:
        return f"{self.base}/registry/proplet/+"

    def blob_reply(self, proplet_id: str) -> str:
        return f"{self.base}/registry/server/{level(proplet_id, 'proplet id')}"

    def chunk(self, digest_hex: str, index: int) -> str:
        return f"{self.base}/registry/blobs/{level(digest_hex, 'digest')}/{index}"

    def chunks_of(self, digest_hex: str) -> str:
        return f"{self.base}/registry/blobs/{level(digest_hex, 'digest')}/+"

    # The topics that all of Propeller's components share: who speaks, and who is meant, is in the payload alone.

    def shared_from_proplets(self, kind: str) -> str:
        """What any proplet says: create, alive, results, invoke_results, metrics, task_metrics."""
        return f"{self.base}/control/proplet/{level(kind, 'kind')}"

    @property
    def everything_shared_from_proplets(self) -> str:
        return f"{self.base}/control/proplet/+"

    def shared_to_proplets(self, kind: str) -> str:
        """What the manager says to all of them: start, stop, invoke."""
        return f"{self.base}/control/manager/{level(kind, 'kind')}"

    @property
    def shared_blob_request(self) -> str:
        return f"{self.base}/registry/proplet"

    @property
    def shared_chunks(self) -> str:
        return f"{self.base}/registry/server"

    @property
    def round_start(self) -> str:
        return f"{self.base}/{ROUND_START}"

    @property
    def round_next(self) -> str:
        return f"{self.base}/{ROUND_NEXT}"

    def round_task(self, round_id: str, proplet_id: str) -> str:
        """How a round's task ended, from the manager to the coordinator."""
        return f"{self.base}/fl/rounds/{level(round_id, 'round id')}/tasks/{level(proplet_id, 'proplet id')}"

    @property
    def every_round_task(self) -> str:
        return f"{self.base}/fl/rounds/+/tasks/+"


@dataclass(frozen=True)
class Grants:
    """What one client may publish and subscribe; anything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def grants(topics: Topics, role: str, client_id: str) -> Grants:
    """The access list of a client: ``role`` is manager, proplet, proxy or coordinator."""
    base, announce = topics.base, topics.announce
    # No `match`: provision/provision_smq.py reaches this module with whatever python3 a machine has.
    if role == "proplet":
        return Grants(
            publish=(f"{base}/control/proplet/{client_id}/#", topics.blob_request(client_id)),
            subscribe=(
                f"{base}/control/manager/{client_id}/#",
                announce,
                topics.blob_reply(client_id),
                f"{base}/registry/blobs/#",
                topics.round_next,
            ),
        )
    if role == "manager":
        both = (f"{base}/control/#", f"{base}/fl/#", "fl/rounds/#")
        return Grants(publish=(*both, topics.resolve_request), subscribe=(*both, topics.resolve_reply))
    if role == "proxy":
        return Grants(publish=(f"{base}/registry/#",), subscribe=(f"{base}/registry/#", announce))
    if role == "coordinator":
        rounds = (f"{base}/fl/#", "fl/rounds/#")
        return Grants(publish=rounds, subscribe=(*rounds, announce))
    raise ValueError(f"no access list for role {role!r}")
