"""Jobs and workflows as people write them down: YAML or JSON, checked before anything is sent."""

from __future__ import annotations

import base64
import difflib
import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swashplate.errors import InvalidRequestError

STANDARD_INPUT = "-"
_SHORTHANDS = {"invoke", "image", "id"}
"""What a task may say besides the fields of ``TaskCreate``."""


def load(path: Path, allowed: set[str]) -> dict[str, Any]:
    """The definition in a file, ready to be sent; a bare list is its tasks.

    ``file`` of a task may be a path that ends in .wasm, from the definition's folder on; ``invoke`` names an exported function,
    ``image`` is ``image_url``. Raises ``InvalidRequestError`` naming the place of what is wrong.
    """
    document = _parsed(path)
    if isinstance(document, list):
        document = {"tasks": document}
    if not isinstance(document, dict):
        raise InvalidRequestError(f"{path}: expected an object with the field tasks, or a list of tasks")
    _only(document, allowed, str(path))
    tasks = document.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise InvalidRequestError(f"{path}: the field tasks must be a list of at least one task")
    folder = Path() if str(path) == STANDARD_INPUT else path.parent
    return {**document, "tasks": [_task(task, f"{path}: task {n}", folder) for n, task in enumerate(tasks, 1)]}


def _parsed(path: Path) -> Any:
    import yaml

    try:
        text = sys.stdin.read() if str(path) == STANDARD_INPUT else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}", code="unreadable_file") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is not UTF-8 text: {error}") from error
    try:
        return yaml.load(text, _loader())  # noqa: S506  # a SafeLoader; JSON is YAML, too
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidRequestError(f"{path}{where}: {error.problem or error}", code="malformed_yaml") from error
    except yaml.YAMLError as error:
        raise InvalidRequestError(f"{path}: {error}", code="malformed_yaml") from error


@functools.cache
def _loader() -> type[Any]:
    """PyYAML's safe loader less what surprises: ``on`` and ``no`` are text, so are dates and ``1:30``, as in YAML 1.2."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    ours = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "timestamp")}
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in ours]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)$", re.IGNORECASE), list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
    return Loader


def _only(found: Mapping[Any, Any], allowed: set[str], where: str) -> None:
    for name in found:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, 1)
            raise InvalidRequestError(
                f"{where}: there is no field {name!r}",
                code="unknown_field",
                hint=f"is {near[0]} meant?" if near else f"the fields are {', '.join(sorted(allowed))}",
            )


def _task(task: Any, where: str, folder: Path) -> dict[str, Any]:
    from swashplate.client.tasks import wasm_bytes
    from swashplate.messages import TaskCreate

    if not isinstance(task, dict):
        raise InvalidRequestError(f"{where}: expected an object")
    if isinstance(task.get("name"), str):
        where += f" ({task['name']})"
    _only(task, (set(TaskCreate.model_fields) - {"start"}) | _SHORTHANDS, where)
    sent = dict(task)
    if "image" in sent:
        sent["image_url"] = sent.pop("image")
    if "invoke" in sent:
        sent["cli_args"] = [*(sent.get("cli_args") or ()), "--invoke", str(sent.pop("invoke"))]
    if isinstance(sent.get("env"), dict):  # YAML reads 1 and true; an environment holds text
        sent["env"] = {key: value if isinstance(value, str) else _text(value) for key, value in sent["env"].items()}
    if str(sent.get("file", "")).endswith(".wasm"):
        try:
            sent["file"] = base64.b64encode(wasm_bytes(folder / sent["file"])).decode()
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{where}: field file: {error.sentence}", code=error.code) from error
    return sent


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
