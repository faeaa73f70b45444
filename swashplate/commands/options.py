"""The options that describe a task: declared once, for every command that creates or changes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from swashplate.commands import values
from swashplate.commands.completing import proplet_ids


class Kind(StrEnum):
    standard = "standard"
    federated = "federated"


class Mode(StrEnum):
    infer = "infer"
    train = "train"


class Restart(StrEnum):
    never = "never"
    on_failure = "on_failure"
    always = "always"


class Isolation(StrEnum):
    warm = "warm"
    fork = "fork"


class RunIf(StrEnum):
    success = "success"
    failure = "failure"


class MissedRun(StrEnum):
    skip = "skip"
    run_once = "run_once"


_WHAT, _WHERE, _HOW, _WHEN = "What runs", "Where it runs", "How it runs", "When it runs"
_MAY = "What it may do"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002  # it is what people read as help
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


OPTIONS: dict[str, Any] = {
    "image_url": Annotated[
        str | None, _option("--image", "--image-url", help="An image, as an OCI reference.", panel=_WHAT)
    ],
    "file": Annotated[Path | None, _option("--file", "-f", help="A .wasm file.", panel=_WHAT)],
    "invoke": Annotated[
        str | None,
        _option(
            "--invoke",
            metavar="FUNCTION",
            help="Call this exported function; of a component also instance#function.",
            panel=_WHAT,
        ),
    ],
    "inputs": Annotated[
        list[str] | None, _option("--input", "--inputs", help="An input; again for each further one.", panel=_WHAT)
    ],
    "cli_args": Annotated[
        list[str] | None,
        _option("--cli-arg", "--cli-args", help="An argument to the runtime; again for more.", panel=_WHAT),
    ],
    "env": Annotated[
        list[str] | None,
        _option("--env", "-e", metavar="K=V", help="What the guest finds in its environment.", panel=_WHAT),
    ],
    "dataset": Annotated[str | None, _option("--dataset", help="The site's dataset that it reads.", panel=_WHAT)],
    "kind": Annotated[Kind | None, _option("--kind", help="federated: a round's task.", panel=_WHAT)],
    "mode": Annotated[Mode | None, _option("--mode", help="Infer or train.", panel=_WHAT)],
    "metadata": Annotated[
        list[str] | None,
        _option("--metadata", metavar="K=V", help="Anything to find it by; K:=JSON for what is no text.", panel=_WHAT),
    ],
    "encrypted": Annotated[
        bool | None, _option("--encrypted/--not-encrypted", help="The image is encrypted.", panel=_WHAT)
    ],
    "kbs_resource_path": Annotated[
        str | None, _option("--kbs-resource-path", help="Where an encrypted image's key is kept.", panel=_WHAT)
    ],
    "tokens": Annotated[
        list[str] | None,
        _option(
            "--token", metavar="K=V", help="A secret that proves the proplet's messages; not the guest's.", panel=_WHAT
        ),
    ],
    "proplet_id": Annotated[
        str | None,
        _option(
            "--on",
            "--proplet-id",
            metavar="PROPLET",
            help="On this one: its id, a beginning of it, or its name.",
            panel=_WHERE,
            autocompletion=proplet_ids,
        ),
    ],
    "broadcast": Annotated[
        bool | None, _option("--broadcast/--no-broadcast", help="On every living proplet.", panel=_WHERE)
    ],
    "selector": Annotated[
        list[str] | None, _option("--selector", "-l", metavar="K=V", help="A label that the proplet has.", panel=_WHERE)
    ],
    "memory_bytes": Annotated[
        str | None,
        _option("--memory", metavar="SIZE", help="Memory that the proplet has, such as 512MiB.", panel=_WHERE),
    ],
    "wasm_features": Annotated[
        list[str] | None, _option("--wasm-feature", help="A WASM feature that the proplet knows.", panel=_WHERE)
    ],
    "hal_storage_path": Annotated[
        str | None, _option("--hal-storage-path", help="The folder for the guest's hardware layer.", panel=_WHERE)
    ],
    "timeout_s": Annotated[
        str | None,
        _option("--timeout", metavar="DURATION", help="For one attempt, such as 90s; default 300s.", panel=_HOW),
    ],
    "retries": Annotated[
        int | None, _option("--retries", help="Further attempts after one that was lost; default 0.", panel=_HOW)
    ],
    "priority": Annotated[
        int | None, _option("--priority", min=0, max=100, help="Higher goes first; default 50.", panel=_HOW)
    ],
    "daemon": Annotated[bool | None, _option("--daemon/--no-daemon", help="Runs until it is stopped.", panel=_HOW)],
    "restart": Annotated[Restart | None, _option("--restart", help="What to do when a daemon ends.", panel=_HOW)],
    "latent": Annotated[
        bool | None,
        _option("--latent/--no-latent", help="Deployed and ready for `swashplate task invoke`.", panel=_HOW),
    ],
    "concurrency": Annotated[
        int | None,
        _option("--concurrency", min=0, help="Calls of a latent task at once; 0: the proplet's slots.", panel=_HOW),
    ],
    "monitoring_profile": Annotated[
        str | None, _option("--monitoring", metavar="JSON", help="What is measured, as the API has it.", panel=_HOW)
    ],
    "monitor_every": Annotated[
        str | None, _option("--monitor-every", metavar="DURATION", help="Measure it so often, such as 2s.", panel=_HOW)
    ],
    "limits": Annotated[
        list[str] | None,
        _option(
            "--limit",
            metavar="NAME=MOST",
            help="wall or cpu (2s), memory, stack, output or log (64MiB), files, table or fuel (1000); again for more.",
            panel=_MAY,
        ),
    ],
    "isolation": Annotated[
        Isolation | None, _option("--isolation", help="fork: in a process of its own, which ends with it.", panel=_MAY)
    ],
    "deterministic": Annotated[
        bool | None,
        _option("--deterministic/--not-deterministic", help="Equal inputs give equal output bytes.", panel=_MAY),
    ],
    "seed": Annotated[
        int | None, _option("--seed", min=0, help="What a deterministic task's random numbers are made of.", panel=_MAY)
    ],
    "allow_dir": Annotated[
        list[str] | None,
        _option(
            "--allow-dir",
            metavar="NAME:/PATH[:rw]",
            help="A directory that the proplet's policy names, and where the guest finds it.",
            panel=_MAY,
        ),
    ],
    "allow_env": Annotated[
        list[str] | None, _option("--allow-env", metavar="NAME", help="A variable of the proplet's own.", panel=_MAY)
    ],
    "allow_http": Annotated[
        list[str] | None, _option("--allow-http", metavar="HOST", help="A host that it may call.", panel=_MAY)
    ],
    "clock": Annotated[bool | None, _option("--clock/--no-clock", help="Whether it can tell the time.", panel=_MAY)],
    "random": Annotated[
        bool | None, _option("--random/--no-random", help="Whether it gets random numbers.", panel=_MAY)
    ],
    "signatures": Annotated[
        list[str] | None,
        _option(
            "--signature", metavar="SIGNER=SIGNATURE", help="Of the binary, as `swashplate sign` prints it.", panel=_MAY
        ),
    ],
    "schedule": Annotated[
        str | None,
        _option("--schedule", metavar="CRON", help="Five fields, such as '*/5 * * * *'; '' for none.", panel=_WHEN),
    ],
    "timezone": Annotated[
        str | None, _option("--timezone", help="The schedule's zone, such as Europe/Paris; default UTC.", panel=_WHEN)
    ],
    "is_recurring": Annotated[
        bool | None, _option("--recurring/--once", help="At every time of the schedule, or only the next.", panel=_WHEN)
    ],
    "missed_run": Annotated[
        MissedRun | None, _option("--missed-run", help="What to do when the manager was down at its time.", panel=_WHEN)
    ],
    "depends_on": Annotated[
        list[str] | None, _option("--depends-on", metavar="TASK", help="After this task of its workflow.", panel=_WHEN)
    ],
    "run_if": Annotated[
        RunIf | None, _option("--run-if", help="Only if those before it succeeded, or if one failed.", panel=_WHEN)
    ],
    "workflow_id": Annotated[
        str | None, _option("--workflow", "--workflow-id", help="The workflow it belongs to.", panel=_WHEN)
    ],
    "job_id": Annotated[str | None, _option("--job", "--job-id", help="The job it belongs to.", panel=_WHEN)],
}
"""Field of ``TaskCreate`` → its option; ``invoke`` and ``monitor_every`` are short for a part of another field, and those in
``_CAPABILITIES`` are its ``capabilities``."""
_CAPABILITIES = {
    "allow_dir": "directories",
    "allow_env": "env",
    "allow_http": "http",
    "clock": "clock",
    "random": "random",
}

_NANOSECONDS = 1_000_000_000


def fields_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the API out of the options that were given; ``file`` stays a path, ``proplet_id`` as it was typed."""
    read: dict[str, Callable[[Any], Any]] = {
        "env": lambda v: values.pairs(v, "--env"),
        "selector": lambda v: values.pairs(v, "--selector"),
        "tokens": lambda v: values.pairs(v, "--token"),
        "metadata": lambda v: values.typed_pairs(v, "--metadata"),
        "memory_bytes": values.size,
        "timeout_s": values.duration,
        "monitoring_profile": lambda v: values.as_json(v, "--monitoring"),
        "limits": values.limits,
        "signatures": lambda v: values.pairs(v, "--signature"),
        "allow_dir": lambda v: [values.directory(text) for text in v],
    }
    found: dict[str, Any] = {
        name: read[name](value) if name in read else value.value if isinstance(value, StrEnum) else value
        for name, value in given.items()
        if value is not None and value != []
    }
    invoke = found.pop("invoke", None)
    if invoke:
        found["cli_args"] = [*found.get("cli_args", ()), "--invoke", invoke]
    asked = {field: found.pop(name) for name, field in _CAPABILITIES.items() if name in found}
    if asked:
        found["capabilities"] = asked
    every = found.pop("monitor_every", None)
    if every:
        profile: Any = found.get("monitoring_profile") or {}
        profile = {**profile, "interval": round(values.duration(every) * _NANOSECONDS)}
        found["monitoring_profile"] = profile
    return found


def task_options(*absent: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, in place of its parameter ``fields``, every option but ``absent``; it is called with ``fields``."""
    offered = {name: option for name, option in OPTIONS.items() if name not in absent}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            options = {name: given.pop(name) for name in offered}
            command(**given, fields=fields_of(options))

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "fields"]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in offered.items()
        ]
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        wrapped.__signature__ = inspect.Signature([*keyword, *more])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
        return wrapped

    return decorate
