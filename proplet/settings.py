"""The settings of the proplet and of the local data store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from swashplate.access import NO_TOKEN, HttpSettings, Token
from swashplate.errors import ConfigurationError
from swashplate.messages import MAX_QUEUE, MAX_SLOTS
from swashplate.mqtt_settings import MqttSettings
from swashplate.settings import Seconds, named_after, setting

MIB = 1 << 20
GIB = 1 << 30

MOST_STACK = 2 * MIB
"""More the runtime does not give, and ends the process that asks for it."""

Bytes = Annotated[int, Field(ge=1)]
Time = Annotated[Seconds, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class PropletSettings(MqttSettings, HttpSettings):
    """How a proplet reaches its broker and its site's services, and what it allows a task."""

    model_config = named_after("PROPLET")
    section: ClassVar[str] = "proplet"

    log_level: str = setting(
        "info", "PROPLET_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    data_store_url: str = setting("", "DATA_STORE_URL", help="The local data store, where datasets come from.")
    model_registry_url: str = setting(
        "", "MODEL_REGISTRY_URL", help="Where models come from; by default what the manager announces."
    )
    coordinator_url: str = setting(
        "",
        "COORDINATOR_URL",
        "MANAGER_COORDINATOR_URL",
        help="Where updates are posted; by default what the manager announces.",
    )
    manager_url: str = setting(
        "",
        "MANAGER_URL",
        help="Where results that are too large for a message are uploaded; by default what the manager announces.",
    )

    data_store_token: Token = setting(
        NO_TOKEN,
        "DATA_STORE_HTTP_READ_TOKEN",
        "DATA_STORE_HTTP_TOKEN",
        help="The data store's token, when it demands one.",
    )
    model_registry_token: Token = setting(
        NO_TOKEN,
        "MODEL_REGISTRY_HTTP_READ_TOKEN",
        "MODEL_REGISTRY_HTTP_TOKEN",
        help="The model registry's token, when it demands one.",
    )

    state_dir: Path = setting(
        Path(".swashplate/proplet"), "PROPLET_STATE_DIR", help="The journal, the binaries and the compiled modules."
    )
    task_dir: Path | None = setting(
        None,
        "PROPLET_TASK_DIR",
        help="Where running tasks keep their files; by default in memory, below /dev/shm, when that can be written.",
    )
    cache_bytes: Bytes = setting(
        GIB, "PROPLET_CACHE_BYTES", help="Binaries kept; above it the one used longest ago is dropped."
    )
    module_cache_bytes: Bytes = setting(
        GIB, "PROPLET_MODULE_CACHE_BYTES", help="Compiled binaries kept; above it the one used longest ago is dropped."
    )
    input_cache_bytes: Bytes = setting(
        256 * MIB,
        "PROPLET_INPUT_CACHE_BYTES",
        help="Models and datasets kept between tasks, where running tasks keep their files: by default in memory.",
    )

    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = setting(1, "PROPLET_SLOTS", help="How many tasks run at once.")
    queue: Annotated[int, Field(ge=0, le=MAX_QUEUE)] = setting(
        64, "PROPLET_QUEUE", help="How many further tasks may wait for a slot; beyond that a start is denied."
    )
    policy: Path | None = setting(
        None, "PROPLET_POLICY", help="The policy file: what is granted to which tasks. Without one, nothing is."
    )
    isolation: Literal["warm", "fork"] = setting(
        "warm",
        "PROPLET_ISOLATION",
        help="How a task runs of which the policy says nothing: warm, in a process that ran only its binary before, or"
        " fork, in one of its own.",
    )
    fetch_timeout: Seconds = setting(
        600.0,
        "PROPLET_FETCH_TIMEOUT",
        help="How long the binary of a daemon or a latent task may be on its way; other tasks have their own deadline.",
    )
    memory_limit: Bytes = setting(512 * MIB, "PROPLET_MEMORY_LIMIT", help="Bytes of memory that a task may have.")
    output_limit: Bytes = setting(
        64 * MIB, "PROPLET_OUTPUT_LIMIT", help="Bytes that a task may write to its stdout and to /out together."
    )
    output_files: Annotated[int, Field(ge=1)] = setting(
        10_000, "PROPLET_OUTPUT_FILES", help="How many files and directories a task may make in /out."
    )
    cpu_limit: Time = setting(
        3600.0, "PROPLET_CPU_LIMIT", help="Processor time that a task may use; a daemon may use any. 0: no limit."
    )
    wall_limit: Time = setting(
        86400.0,
        "PROPLET_WALL_LIMIT",
        help="How long a guest may run, whatever its task's timeout; a daemon may for ever. 0: no limit.",
    )
    table_limit: Annotated[int, Field(ge=1)] = setting(
        100_000, "PROPLET_TABLE_LIMIT", help="How many elements a guest's tables may have."
    )
    stack_limit: Annotated[int, Field(ge=16 * 1024, le=MOST_STACK)] = setting(
        512 * 1024, "PROPLET_STACK_LIMIT", help="Bytes of stack that a guest may have."
    )
    log_limit: Bytes = setting(
        MIB, "PROPLET_LOG_LIMIT", help="Bytes of a task's stderr that are kept, of each ten minutes."
    )

    compile_cpu: Seconds = setting(60.0, "PROPLET_COMPILE_CPU", help="Processor time that compiling a binary may take.")
    compile_memory: Bytes = setting(4 * GIB, "PROPLET_COMPILE_MEMORY", help="Bytes of memory that it may take.")
    compile_wall: Seconds = setting(120.0, "PROPLET_COMPILE_WALL", help="Time that it may take.")

    heartbeat: Seconds = setting(
        10.0, "PROPLET_LIVELINESS_INTERVAL", help="Time between reports until the manager announces its own."
    )
    metrics_interval: Seconds = setting(
        10.0, "PROPLET_METRICS_INTERVAL", help="Time between the reports of what the proplet uses."
    )
    monitoring: bool = setting(
        True, "PROPLET_ENABLE_MONITORING", help="Whether what the proplet and its tasks use is measured and reported."
    )
    name: str = setting("", "PROPLET_NAME", help="What people see it as; otherwise made from its id.")
    namespace: str = setting("default", "PROPLET_NAMESPACE", "PROPLET_MANAGER_K8S_NAMESPACE", help="Told to managers.")
    labels: str = setting("", "PROPLET_LABELS", help="What placement can ask for: site=berlin,gpu=none.")

    http_host: str = setting("127.0.0.1", "PROPLET_HTTP_HOST", help="Where /health and /metrics are served.")
    metrics_port: Port = setting(
        9092, "PROPLET_METRICS_PORT", help="The port of /health and /metrics, or the next free one; 0 serves neither."
    )

    def limits(self) -> dict[str, float]:
        """By the fields of ``RunLimits``; what is absent is not limited."""
        found = {
            "wall_s": self.wall_limit,
            "cpu_s": self.cpu_limit,
            "memory_bytes": self.memory_limit,
            "table_elements": self.table_limit,
            "stack_bytes": self.stack_limit,
            "output_bytes": self.output_limit,
            "output_files": self.output_files,
            "log_bytes": self.log_limit,
        }
        return {name: most for name, most in found.items() if most}

    def label_map(self) -> dict[str, str]:
        """Raises ``ConfigurationError`` naming the label that is not of the form key=value."""
        labels: dict[str, str] = {}
        for part in filter(None, (piece.strip() for piece in self.labels.split(","))):
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise ConfigurationError(f"setting PROPLET_LABELS: {part!r} is not of the form key=value")
            labels[key.strip()] = value.strip()
        return labels


class DataStoreSettings(HttpSettings):
    """Where the local data store keeps its datasets and whom it seeds."""

    model_config = named_after("DATA_STORE")

    log_level: str = setting(
        "info", "DATA_STORE_LOG_LEVEL", "LOG_LEVEL", help="What is logged: debug, info, warn or error."
    )
    http_host: str = setting("127.0.0.1", "DATA_STORE_HTTP_HOST", help="Where the data store is served.")
    http_port: Port = setting(8083, "DATA_STORE_PORT", help="The data store's port.")
    folder: Path = setting(Path(".swashplate/datasets"), "DATA_DIR", help="One file per dataset.")
    participants: str = setting(
        "", "FL_DATASET_PARTICIPANTS", help="Ids that get a small demo dataset at start, comma-separated."
    )
    first: str = setting("", "PROPLET_CLIENT_ID", "PROPLET_ENTITY_ID", help="Seeded when no list is given.")
    second: str = setting("", "PROPLET_2_CLIENT_ID", "PROPLET_2_ENTITY_ID", help="Seeded when no list is given.")
    third: str = setting("", "PROPLET_3_CLIENT_ID", "PROPLET_3_ENTITY_ID", help="Seeded when no list is given.")

    def seeded(self) -> list[str]:
        listed = [part.strip() for part in self.participants.split(",")]
        return [found for found in listed if found] or [i for i in (self.first, self.second, self.third) if i]
