"""What the API shows of proplets: the shape of each answer."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from manager.api.views import Time
from swashplate.messages import Capabilities, Message


class PropletView(Message):
    """``task_count`` are the open attempts that it was given; ``free_slots`` how many more it has slots for now."""

    id: str
    name: str
    namespace: str
    task_count: int
    alive: bool
    legacy: bool = Field(description="It speaks the topics that all proplets share.")
    cordoned: bool = Field(description="It is given nothing new.")
    draining: bool = Field(description="What has no end of its own is moved elsewhere.")
    free_slots: int
    last_alive_at: str = Time
    running: int = Field(description="How many attempts it said that it runs.")
    metadata: dict[str, Any]
    capabilities: Capabilities


class Page(Message):
    offset: int
    limit: int
    total: int = Field(description="How many there are without offset and limit.")


class PropletPage(Page):
    proplets: list[PropletView]


class Cordoned(Message):
    """It is durable."""

    id: str
    cordoned: bool
    draining: bool
    task_count: int = Field(description="The open attempts that it still has.")


class AliveHistory(Page):
    """When its reports came: RFC 3339, newest first."""

    history: list[str]


class PropletSample(Message):
    proplet_id: str
    namespace: str
    timestamp: str
    cpu_metrics: dict[str, Any]
    memory_metrics: dict[str, Any]


class PropletSamples(Page):
    metrics: list[PropletSample]


class TaskSample(Message):
    """``metrics`` is one sample, ``aggregated`` what the samples so far come to."""

    task_id: str
    proplet_id: str
    attempt: int = Field(default=0, description="Absent where the proplet cannot tell.")
    timestamp: str
    metrics: dict[str, Any]
    aggregated: dict[str, Any] | None = None


class TaskSamples(Page):
    metrics: list[TaskSample]


class Sdf(Message):
    """A document of the Semantic Definition Format."""

    model_config = ConfigDict(extra="allow")

    info: dict[str, Any]
